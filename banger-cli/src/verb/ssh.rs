//! `banger vm ssh`.

use std::ffi::OsString;

use banger_daemon::protocol::{VmParams, VmSsh};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::ssh::{Terminal, become_ssh, shell_line};
use crate::verb::completion::vm_names;

#[derive(Args, Debug)]
pub(crate) struct SshArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// What to run instead of a shell: one word is a line for the guest's shell, several are a command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Becomes ssh.
pub(crate) async fn ssh(
    arguments: &SshArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let line = shell_line(&arguments.command)?;
    let mut daemon = Daemon::open(screen).await?;
    let vm = arguments.name.clone();
    let access = daemon.call::<VmSsh>(VmParams { vm }).await?;
    Err(become_ssh(&access, Terminal::as_ours(), line.as_deref()))
}
