//! `banger vm list` and `banger ps`.

use banger_daemon::protocol::{Nothing, VmInfo, VmList};
use clap::Args;
use jiff::Timestamp;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::vm_table::vm_table;

#[derive(Args, Debug)]
pub(crate) struct ListArguments {
    /// Print an array of VMs
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PsArguments {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,

    /// Print an array of VMs
    #[arg(long)]
    json: bool,
}

/// All VMs by name.
pub(crate) async fn list(
    arguments: &ListArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let vms = vms(screen).await?;
    show(&vms, arguments.json, screen)
}

/// The VMs that have a process.
pub(crate) async fn ps(
    arguments: &PsArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut vms = vms(screen).await?;
    if !arguments.all {
        vms.retain(|vm| matches!(vm.state.as_str(), "running" | "unresponsive"));
    }
    show(&vms, arguments.json, screen)
}

async fn vms(screen: &Screen) -> Result<Vec<VmInfo>, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    Ok(daemon.call::<VmList>(Nothing {}).await?.vms)
}

fn show(vms: &[VmInfo], json: bool, screen: &Screen) -> Result<ExitStatus, CommandError> {
    if json {
        screen.json(&vms)?;
    } else {
        screen.data(&vm_table(vms, Timestamp::now()))?;
    }
    Ok(ExitStatus::SUCCESS)
}
