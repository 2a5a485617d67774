//! The verbs, one file each; `change` holds those that differ in one word only.

pub(crate) mod change;
pub(crate) mod completion;
pub(crate) mod console;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod daemon;
pub(crate) mod doctor;
mod each;
pub(crate) mod exec;
pub(crate) mod image;
pub(crate) mod internal;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod port_forward;
pub(crate) mod prune;
pub(crate) mod run;
pub(crate) mod session;
pub(crate) mod set;
pub(crate) mod show;
pub(crate) mod ssh;
pub(crate) mod ssh_config;
pub(crate) mod stats;
pub(crate) mod workspace;

use crate::arguments::{Command, DaemonCommand, VmCommand};
use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::screen::Screen;

use change::Change;

/// Does what was typed.
pub(crate) async fn run(command: &Command, screen: &Screen) -> Result<ExitStatus, CommandError> {
    match command {
        Command::Vm(command) => vm(command, screen).await,
        Command::Ps(arguments) => list::ps(arguments, screen).await,
        Command::Image(command) => image::run(command, screen).await,
        Command::Daemon(DaemonCommand::Status(arguments)) => {
            daemon::status(arguments, screen).await
        }
        Command::Daemon(DaemonCommand::Stop) => daemon::stop(screen).await,
        Command::Daemon(DaemonCommand::Reconcile(arguments)) => {
            daemon::reconcile(arguments, screen).await
        }
        Command::Doctor(arguments) => doctor::doctor(arguments, screen).await,
        Command::SshConfig(arguments) => ssh_config::ssh_config(arguments, screen).await,
        Command::Internal(arguments) => internal::internal(arguments, screen).await,
        Command::Completion(arguments) => completion::completion(arguments, screen),
    }
}

async fn vm(command: &VmCommand, screen: &Screen) -> Result<ExitStatus, CommandError> {
    match command {
        VmCommand::Run(arguments) => run::run(arguments, screen).await,
        VmCommand::Create(arguments) => create::create(arguments, screen).await,
        VmCommand::Start(arguments) => change::change(Change::Start, arguments, screen).await,
        VmCommand::Stop(arguments) => change::stop(arguments, screen).await,
        VmCommand::Kill(arguments) => change::change(Change::Kill, arguments, screen).await,
        VmCommand::Restart(arguments) => change::change(Change::Restart, arguments, screen).await,
        VmCommand::Delete(arguments) => change::change(Change::Delete, arguments, screen).await,
        VmCommand::List(arguments) => list::list(arguments, screen).await,
        VmCommand::Show(arguments) => show::show(arguments, screen).await,
        VmCommand::Exec(arguments) => exec::exec(arguments, screen).await,
        VmCommand::Ssh(arguments) => ssh::ssh(arguments, screen).await,
        VmCommand::Console(arguments) => console::console(arguments, screen).await,
        VmCommand::Stats(arguments) => stats::stats(arguments, screen).await,
        VmCommand::Set(arguments) => set::set(arguments, screen).await,
        VmCommand::Cp(arguments) => cp::cp(arguments, screen).await,
        VmCommand::PortForward(arguments) => port_forward::port_forward(arguments, screen).await,
        VmCommand::Logs(arguments) => logs::logs(arguments, screen).await,
        VmCommand::Prune(arguments) => prune::prune(arguments, screen).await,
        VmCommand::Session(command) => session::run(command, screen).await,
        VmCommand::Workspace(command) => workspace::run(command, screen).await,
    }
}
