//! What can be typed.

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::exit::{self, ExitStatus};
use crate::screen::Talk;
use crate::verb;

/// Real Linux machines in one command.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version,
    after_help = exit::HELP,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,

    #[command(flatten)]
    talk: TalkArguments,
}

#[derive(Args, Debug)]
struct TalkArguments {
    /// Say nothing but errors
    #[arg(short, long, global = true, action = ArgAction::SetTrue, display_order = 100)]
    quiet: bool,

    /// Also say what happens behind the scenes
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "quiet",
        display_order = 100
    )]
    verbose: bool,
}

/// The first word.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run, start, stop and look at VMs
    #[command(subcommand, disable_help_subcommand = true)]
    Vm(VmCommand),
    /// List the VMs that run
    Ps(verb::list::PsArguments),
    /// Make, list and delete what VMs boot from
    #[command(subcommand, disable_help_subcommand = true)]
    Image(ImageCommand),
    /// Let ssh, scp, rsync, git and editors reach VMs as NAME.vm
    SshConfig(verb::ssh_config::SshConfigArguments),
    /// Say what works on this host, what is picked and why; fails if no VM can be run
    Doctor(verb::doctor::DoctorArguments),
    /// Look after bangerd, which keeps the VMs
    #[command(subcommand, disable_help_subcommand = true)]
    Daemon(DaemonCommand),
    /// Write a completion script, to be used as: source <(banger completion bash)
    Completion(verb::completion::CompletionArguments),
    /// What ssh calls.
    #[command(hide = true)]
    Internal(verb::internal::InternalArguments),
}

/// `banger vm …`.
#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Create and start a VM, and run a command or a shell in it
    Run(Box<verb::run::RunArguments>),
    /// Create VMs without starting them
    Create(Box<verb::create::CreateArguments>),
    /// Start VMs, and wait until they can be used
    Start(verb::change::NamesArguments),
    /// Stop VMs so that nothing is lost
    Stop(verb::change::StopArguments),
    /// Stop and start VMs
    Restart(verb::change::NamesArguments),
    /// End VMs at once, as pulling the plug would
    Kill(verb::change::NamesArguments),
    /// Delete VMs and their disks, running or not
    #[command(visible_alias = "rm")]
    Delete(verb::change::NamesArguments),
    /// Delete VMs that are stopped
    Prune(verb::prune::PruneArguments),
    /// Change the processors, memory, disk or labels of VMs
    Set(verb::set::SetArguments),
    /// List all VMs
    #[command(visible_alias = "ls")]
    List(verb::list::ListArguments),
    /// Show all there is to know about VMs
    Show(verb::show::ShowArguments),
    /// Say what running VMs use of this host
    Stats(verb::stats::StatsArguments),
    /// Print what a VM wrote to its serial console
    Logs(verb::logs::LogsArguments),
    /// Run a command in a running VM
    Exec(verb::exec::ExecArguments),
    /// Open a shell in a running VM
    Ssh(verb::ssh::SshArguments),
    /// Copy files and folders into a running VM or out of it
    Cp(verb::cp::CpArguments),
    /// Make ports of a running VM reachable on this host's loopback
    PortForward(verb::port_forward::PortForwardArguments),
    /// Sit at the serial console of a running VM, also if its ssh is dead
    Console(verb::console::ConsoleArguments),
    /// Long-lived commands in a VM, which need nobody to run on
    #[command(
        subcommand,
        disable_help_subcommand = true,
        after_help = verb::session::HELP
    )]
    Session(SessionCommand),
    /// A git repository of this host in a VM, and its changes back
    #[command(
        subcommand,
        disable_help_subcommand = true,
        after_help = verb::workspace::HELP
    )]
    Workspace(WorkspaceCommand),
}

/// `banger vm workspace …`.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Carry a repository into a running VM
    Prepare(Box<verb::workspace::prepare::PrepareArguments>),
    /// Write what changed in it as a patch
    Export(verb::workspace::export::ExportArguments),
    /// Merge what changed in it into the repository here
    Apply(verb::workspace::apply::ApplyArguments),
    /// Show what was carried in, and whether the repository here has moved on
    Show(verb::workspace::show::ShowArguments),
}

/// `banger vm session …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Start a command in a running VM, and return once it runs
    Start(Box<verb::session::start::StartArguments>),
    /// List a VM's sessions, oldest first
    #[command(visible_alias = "ls")]
    List(verb::session::look::ListArguments),
    /// Show all there is to know about a session
    Show(verb::session::look::ShowArguments),
    /// Print what a session wrote, also after its VM has stopped
    Logs(verb::session::logs::LogsArguments),
    /// Write to a session's standard input
    Send(verb::session::send::SendArguments),
    /// Put a session's streams on ours, until it ends or is left
    Attach(verb::session::attach::AttachArguments),
    /// End a session: TERM to all its processes, and after a while KILL
    Stop(verb::session::change::StopArguments),
    /// Send a signal to all processes of a session
    Kill(verb::session::change::KillArguments),
    /// Delete a session and its logs, ending it first
    #[command(visible_alias = "rm")]
    Delete(verb::session::change::DeleteArguments),
}

/// `banger image …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image of Debian packages
    Build(verb::image::make::BuildArguments),
    /// Make an image of a root file system and a kernel that are there already
    Register(verb::image::make::RegisterArguments),
    /// List all images
    #[command(visible_alias = "ls")]
    List(verb::image::look::ListArguments),
    /// Show all there is to know about images
    Show(verb::image::look::ShowArguments),
    /// Delete images that no VM boots from
    #[command(visible_alias = "rm")]
    Delete(verb::image::change::DeleteArguments),
}

/// `banger daemon …`.
#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Show the daemon that runs; starts none
    Status(verb::daemon::StatusArguments),
    /// End the daemon; the VMs run on
    Stop,
    /// Make the records and the host agree again
    Reconcile(verb::daemon::ReconcileArguments),
}

impl Arguments {
    /// How much is to be said.
    pub(crate) fn talk(&self) -> Talk {
        match &self.talk {
            TalkArguments { quiet: true, .. } => Talk::Quiet,
            TalkArguments { verbose: true, .. } => Talk::Verbose,
            TalkArguments { .. } => Talk::Usual,
        }
    }
}

impl Command {
    /// What it means when banger itself fails: where a guest's status passes through, not 1.
    pub(crate) fn status_of_failure(&self) -> ExitStatus {
        match self {
            Command::Vm(
                VmCommand::Run(_)
                | VmCommand::Exec(_)
                | VmCommand::Ssh(_)
                | VmCommand::Session(SessionCommand::Attach(_)),
            ) => ExitStatus::NOT_THE_GUESTS,
            _ => ExitStatus::FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
