//! `banger vm exec`.

use std::ffi::OsString;

use banger_daemon::protocol::{VmParams, VmSsh, WorkspaceRefresh};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::{self, CommandOptions, Signals, Way, words};
use crate::screen::Screen;
use crate::ssh::{Terminal, become_ssh, command_line};
use crate::verb::completion::vm_names;
use crate::verb::workspace::carry::summary;

#[derive(Args, Debug)]
#[command(after_help = "\
Ctrl-C, SIGTERM, SIGHUP and SIGQUIT go to the command and all its children; a second Ctrl-C
within a second ends banger itself, and so does any other of them that comes twice. For exit
statuses see: banger --help")]
pub(crate) struct ExecArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// The command and its arguments, passed on byte for byte
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,

    /// Bring the VM's workspace up to date first, if the repository here has changed
    #[arg(long)]
    auto_prepare: bool,

    #[command(flatten)]
    options: CommandOptions,
}

/// Runs the command and ends as it does.
pub(crate) async fn exec(
    arguments: &ExecArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let options = &arguments.options;
    match options.way()? {
        Way::Streams => {
            let params = options.params(&arguments.name, &arguments.command, None)?;
            let mut signals = Signals::catch()?;
            let mut daemon = signals.or(Daemon::open(screen), || None).await?;
            if arguments.auto_prepare {
                let refreshed = refresh(&arguments.name, &mut daemon, screen);
                signals.or(refreshed, || None).await?;
            }
            guest_command::stream(&mut daemon, &mut signals, params).await
        }
        Way::Terminal => {
            let mut daemon = Daemon::open(screen).await?;
            let vm = arguments.name.clone();
            if arguments.auto_prepare {
                refresh(&vm, &mut daemon, screen).await?;
            }
            let access = daemon.call::<VmSsh>(VmParams { vm }).await?;
            let home = access.workspace.clone().map(Vec::from);
            let line = command_line(
                words(&arguments.command),
                &options.variables()?,
                options.folder(home.as_deref()),
            )?;
            Err(become_ssh(&access, Terminal::ForCommand, Some(&line)))
        }
    }
}

/// Brings the VM's workspace up to date if the repository here has changed, as it was carried before.
async fn refresh(vm: &str, daemon: &mut Daemon<'_>, screen: &Screen) -> Result<(), CommandError> {
    let params = VmParams { vm: vm.to_owned() };
    if let Some(answer) = daemon.call::<WorkspaceRefresh>(params).await? {
        screen.say(summary(&answer, vm));
    }
    Ok(())
}
