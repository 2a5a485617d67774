//! `banger vm list` and `banger ps`.

use banger_daemon::protocol::{VmFilter, VmInfo, VmList, VmListParams};
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

    #[command(flatten)]
    labels: LabelFilter,
}

/// Which VMs, by the words that their owner has kept with them.
#[derive(Args, Debug)]
pub(crate) struct LabelFilter {
    /// Only those with this label, of whatever value if none is given; all, if it is repeated
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    labels: Vec<String>,
}

impl LabelFilter {
    /// Says whether a VM has every label that was asked for.
    pub(crate) fn fits(&self, vm: &VmInfo) -> bool {
        self.labels
            .iter()
            .all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => vm.labels.get(key).is_some_and(|found| found == value),
                None => vm.labels.contains_key(wanted),
            })
    }
}

#[derive(Args, Debug)]
pub(crate) struct PsArguments {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,

    /// Print an array of VMs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    labels: LabelFilter,
}

/// All VMs by name.
pub(crate) async fn list(
    arguments: &ListArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut vms = vms(None, screen).await?;
    vms.retain(|vm| arguments.labels.fits(vm));
    show(&vms, arguments.json, screen)
}

/// The VMs that have a process, or are about to have one again.
pub(crate) async fn ps(
    arguments: &PsArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let only = (!arguments.all).then_some(VmFilter::Running);
    let mut vms = vms(only, screen).await?;
    vms.retain(|vm| arguments.labels.fits(vm));
    if !arguments.all {
        let there = ["running", "paused", "unresponsive", "restarting"];
        vms.retain(|vm| there.contains(&vm.state.as_str()));
    }
    show(&vms, arguments.json, screen)
}

async fn vms(only: Option<VmFilter>, screen: &Screen) -> Result<Vec<VmInfo>, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    Ok(daemon.call::<VmList>(VmListParams { only }).await?.vms)
}

fn show(vms: &[VmInfo], json: bool, screen: &Screen) -> Result<ExitStatus, CommandError> {
    if json {
        screen.json(&vms)?;
    } else {
        screen.data(&vm_table(vms, Timestamp::now()))?;
    }
    Ok(ExitStatus::SUCCESS)
}
