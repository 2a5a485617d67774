//! `banger vm session …`.

pub(crate) mod attach;
pub(crate) mod change;
pub(crate) mod logs;
pub(crate) mod look;
pub(crate) mod send;
pub(crate) mod start;

use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::arguments::SessionCommand;
use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::verb::completion::vm_names;

/// What a session is, for the help.
pub(crate) const HELP: &str = "\
A session is a command that runs on in the VM whatever becomes of the daemon, of banger and of
the terminal. What it writes is kept in the VM, where its disk is the only limit; deleting the
session frees it.

Examples:
  banger vm session start box --name web --cwd /root/repo -- make serve
  banger vm session logs box web -f
  banger vm session start box --name agent --stdin pipe -- ./agent
  banger vm session send box agent --message '{\"id\": 1}'
  banger vm session attach box agent";

/// Which session.
#[derive(Args, Debug)]
pub(crate) struct SessionName {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    vm: String,

    /// The session's name, or at least four digits of its id
    session: String,
}

/// Does what was typed.
pub(crate) async fn run(
    command: &SessionCommand,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    match command {
        SessionCommand::Start(arguments) => start::start(arguments, screen).await,
        SessionCommand::List(arguments) => look::list(arguments, screen).await,
        SessionCommand::Show(arguments) => look::show(arguments, screen).await,
        SessionCommand::Logs(arguments) => logs::logs(arguments, screen).await,
        SessionCommand::Send(arguments) => send::send(arguments, screen).await,
        SessionCommand::Attach(arguments) => attach::attach(arguments, screen).await,
        SessionCommand::Stop(arguments) => change::stop(arguments, screen).await,
        SessionCommand::Kill(arguments) => change::kill(arguments, screen).await,
        SessionCommand::Delete(arguments) => change::delete(arguments, screen).await,
    }
}
