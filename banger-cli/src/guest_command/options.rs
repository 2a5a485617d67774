//! How a command is to be run in a guest.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;

use banger_daemon::protocol::ExecParams;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::command_error::CommandError;
use crate::environment::Variable;

/// The flags that `vm run` and `vm exec` share; their short forms are docker's.
#[derive(Args, Debug)]
#[command(next_help_heading = "The command")]
pub(crate) struct CommandOptions {
    /// Set a variable; KEY alone takes the value it has here; may be repeated
    #[arg(
        short,
        long,
        value_name = "KEY=VALUE",
        value_parser = OsStringValueParser::new().try_map(|given| Variable::try_from(given.as_os_str()))
    )]
    env: Vec<Variable>,

    /// The folder in the guest to run in [default: the workspace, or /root]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,

    /// Give it a terminal: ours
    #[arg(short, long)]
    tty: bool,

    /// Pass on standard input even if it is a terminal; from a file or a pipe it always is
    #[arg(short, long)]
    interactive: bool,

    /// Pass on no input, as loops that read a list need it: the command reads /dev/null
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    no_stdin: bool,
}

/// The two ways into a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Three streams and a status.
    Streams,
    /// Under ssh, on our terminal.
    Terminal,
}

impl CommandOptions {
    /// Which way to take.
    ///
    /// # Errors
    ///
    /// A terminal is wanted and there is none.
    pub(crate) fn way(&self) -> Result<Way, CommandError> {
        match (self.tty, io::stdin().is_terminal()) {
            (false, _) => Ok(Way::Streams),
            (true, true) => Ok(Way::Terminal),
            (true, false) => Err(CommandError::new("--tty: standard input is not a terminal")
                .hint("leave it out: input, output and exit status pass through without it")),
        }
    }

    /// The request for `command` in `vm`, by streams; in `home` unless a folder was asked for.
    pub(crate) fn params(
        &self,
        vm: &str,
        command: &[OsString],
        home: Option<&[u8]>,
    ) -> Result<ExecParams, CommandError> {
        let env = self.variables()?.into_iter();
        Ok(ExecParams {
            vm: vm.to_owned(),
            argv: words(command).map(|word| word.to_vec().into()).collect(),
            env: env.map(|(name, value)| (name, value.into())).collect(),
            cwd: self.folder(home).map(|folder| folder.to_vec().into()),
            in_workspace: true,
            stdin_closed: self.no_stdin || (!self.interactive && io::stdin().is_terminal()),
        })
    }

    /// The variables to set, in the order given.
    pub(crate) fn variables(&self) -> Result<Vec<(String, Vec<u8>)>, CommandError> {
        self.env
            .iter()
            .map(|variable| variable.resolve(|name| std::env::var_os(name)))
            .collect()
    }

    /// The folder to run in: the one that was asked for, else `home`.
    pub(crate) fn folder<'a>(&'a self, home: Option<&'a [u8]>) -> Option<&'a [u8]> {
        self.workdir.as_deref().map(OsStr::as_bytes).or(home)
    }
}

/// A command byte for byte.
pub(crate) fn words(command: &[OsString]) -> impl Iterator<Item = &[u8]> {
    command.iter().map(|word| word.as_bytes())
}
