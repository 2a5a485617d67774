//! `banger vm session start`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use banger_daemon::protocol::{SessionStart, SessionStartParams, StdinWord};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use clap_complete::ArgValueCandidates;

use super::look::state_of;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::environment::{Label, Variable};
use crate::exit::ExitStatus;
use crate::guest_command::words;
use crate::screen::Screen;
use crate::verb::completion::vm_names;

#[derive(Args, Debug)]
#[command(after_help = "\
Prints the session's name. It returns once the command runs, or has ended at once. What is
missing (the folder, the command, a required command) fails it and is named; the record of a
failed session is kept until it is deleted.")]
pub(crate) struct StartArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    vm: String,

    /// The command and its arguments, passed on byte for byte
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// What to call it; made of the command's name if left out
    #[arg(long)]
    name: Option<String>,

    /// The folder in the guest to run in [default: /root]
    #[arg(short = 'w', long, alias = "workdir", value_name = "DIR")]
    cwd: Option<OsString>,

    /// Set a variable; KEY alone takes the value it has here; may be repeated
    #[arg(
        short,
        long,
        value_name = "KEY=VALUE",
        value_parser = OsStringValueParser::new().try_map(|given| Variable::try_from(given.as_os_str()))
    )]
    env: Vec<Variable>,

    /// What it reads: nothing, or what send and attach write
    #[arg(long, value_name = "MODE", default_value = "closed")]
    stdin: Stdin,

    /// A command that the guest must have for it; may be repeated
    #[arg(long, value_name = "COMMAND")]
    require: Vec<String>,

    /// A word of yours to keep with it; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<Label>,

    /// Print the session as an object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stdin {
    Closed,
    Pipe,
}

/// Starts it, and says what it is called.
pub(crate) async fn start(
    arguments: &StartArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut env = Vec::new();
    for variable in &arguments.env {
        let (name, value) = variable.resolve(|name| std::env::var_os(name))?;
        env.push((name, value.into()));
    }
    let tags = arguments.tag.iter();
    let params = SessionStartParams {
        vm: arguments.vm.clone(),
        name: arguments.name.clone(),
        argv: words(&arguments.command)
            .map(|word| word.to_vec().into())
            .collect(),
        env,
        cwd: arguments
            .cwd
            .as_deref()
            .map(OsStr::as_bytes)
            .map(|cwd| cwd.to_vec().into()),
        stdin: match arguments.stdin {
            Stdin::Closed => StdinWord::Closed,
            Stdin::Pipe => StdinWord::Pipe,
        },
        required: arguments.require.clone(),
        tags: tags
            .map(|tag| (tag.key.clone(), tag.value.clone()))
            .collect(),
    };
    let mut daemon = Daemon::open(screen).await?;
    let session = daemon.call::<SessionStart>(params).await?;
    if arguments.json {
        screen.json(&session)?;
    } else {
        screen.data(&format!("{}\n", session.name))?;
        if session.status != "running" {
            screen.say(format_args!("{}: {}", session.name, state_of(&session)));
        }
    }
    Ok(ExitStatus::SUCCESS)
}
