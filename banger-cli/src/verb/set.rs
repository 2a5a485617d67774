//! `banger vm set`.

use banger_daemon::protocol::{SetParams, VmSet};
use clap::{ArgGroup, Args};
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::environment::Label;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::size::Size;
use crate::verb::change::outcome;
use crate::verb::completion::vm_names;
use crate::verb::each::each;

#[derive(Args, Debug)]
#[command(
    override_usage = "banger vm set [OPTIONS] <NAME>...",
    after_help = "\
Processors, memory and disk are changed while the VM is stopped; labels at any time. The disk
only grows, and its file system grows with it at the next start.",
    group = ArgGroup::new("what").required(true).multiple(true)
)]
pub(crate) struct SetArguments {
    /// The VMs' names, or at least four digits of their ids
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(vm_names))]
    names: Vec<String>,

    /// Virtual processors
    #[arg(long, value_name = "N", group = "what")]
    vcpu: Option<u32>,

    /// Memory: 512M, 4G; a bare number is MiB
    #[arg(long, value_name = "SIZE", group = "what")]
    memory: Option<Size>,

    /// The size of its own disk, mounted at /root
    #[arg(long, value_name = "SIZE", group = "what")]
    disk_size: Option<Size>,

    /// A word of yours to keep with it; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", group = "what")]
    labels: Vec<Label>,

    /// A word of yours to take away; may be repeated
    #[arg(long = "unlabel", value_name = "KEY", group = "what")]
    unlabels: Vec<String>,
}

/// Changes each in turn: one that fails is told of and does not keep the others from it.
pub(crate) async fn set(
    arguments: &SetArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    each(&arguments.names, screen, async |name| {
        Ok(outcome(
            &daemon.call::<VmSet>(arguments.params(name)).await?,
        ))
    })
    .await
}

impl SetArguments {
    fn params(&self, vm: &str) -> SetParams {
        let labels = self.labels.iter();
        let mut labels: std::collections::BTreeMap<_, _> = labels
            .map(|label| (label.key.clone(), Some(label.value.clone())))
            .collect();
        labels.extend(self.unlabels.iter().map(|key| (key.clone(), None)));
        SetParams {
            vm: vm.to_owned(),
            vcpus: self.vcpu,
            memory_mib: self.memory.map(|size| size.mib),
            work_disk_mib: self.disk_size.map(|size| size.mib),
            labels,
            keep: false,
        }
    }
}
