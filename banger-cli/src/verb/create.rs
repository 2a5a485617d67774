//! `banger vm create`.

use banger_daemon::protocol::{CreateParams, VmCreate, VmInfo};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::environment::Label;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::size::Size;
use crate::verb::completion::image_names;

#[derive(Args, Debug)]
pub(crate) struct CreateArguments {
    /// What to call them; one VM with a made-up name if none is given
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// The same as NAME, as `vm run` has it
    #[arg(long, hide = true, conflicts_with = "names")]
    name: Option<String>,

    #[command(flatten)]
    machine: MachineArguments,
}

/// What a VM is to be like; what is left out is the daemon's default.
#[derive(Args, Debug)]
#[command(next_help_heading = "The machine")]
pub(crate) struct MachineArguments {
    /// The image it boots from
    #[arg(long, value_name = "IMAGE", add = ArgValueCandidates::new(image_names))]
    image: Option<String>,

    /// Virtual processors
    #[arg(long, value_name = "N")]
    vcpu: Option<u32>,

    /// Memory: 512M, 4G; a bare number is MiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,

    /// The size of its own disk, mounted at /root
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<Size>,

    /// The network: auto, user, tap or none
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,

    /// Let it reach the internet; on the network user that is more: this host's loopback and networks too
    #[arg(long)]
    nat: bool,

    /// Let it reach nothing, whatever the configuration says
    #[arg(long, conflicts_with = "nat")]
    no_nat: bool,

    /// The monitor: auto, qemu or firecracker
    #[arg(long, value_name = "VMM")]
    vmm: Option<String>,

    /// The root disk: auto, overlay, dm-snapshot or file
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,

    /// Let it run machines of its own (QEMU; emulated if need be)
    #[arg(long)]
    nested: bool,

    /// A word of yours to keep with it; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

impl MachineArguments {
    /// As the daemon wants to hear it.
    pub(crate) fn params(&self, name: Option<&str>) -> CreateParams {
        CreateParams {
            name: name.map(str::to_owned),
            image: self.image.clone(),
            vcpus: self.vcpu,
            memory_mib: self.memory.map(|size| size.mib),
            work_disk_mib: self.disk_size.map(|size| size.mib),
            vmm: chosen(self.vmm.as_deref()),
            disk: chosen(self.disk.as_deref()),
            network: chosen(self.network.as_deref()),
            nat: match (self.nat, self.no_nat) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
            ephemeral: false,
            nested: self.nested,
            labels: self
                .labels
                .iter()
                .map(|label| (label.key.clone(), label.value.clone()))
                .collect(),
        }
    }
}

/// Says once what an open guest on QEMU's own network can do, which nobody expects.
pub(crate) fn warn_of_nat(vm: &VmInfo, screen: &Screen) {
    if vm.nat && vm.network == "user" {
        screen.say(format!(
            "{} reaches the internet, and with it services on this host's own loopback and networks",
            vm.name
        ));
    }
}

/// `auto` is what is picked if nothing is said.
fn chosen(backend: Option<&str>) -> Option<String> {
    backend.filter(|&name| name != "auto").map(str::to_owned)
}

/// Creates them one after the other and prints the name of each that is there then.
pub(crate) async fn create(
    arguments: &CreateArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut names: Vec<Option<&str>> = arguments.names.iter().map(|n| Some(n.as_str())).collect();
    if names.is_empty() {
        names.push(arguments.name.as_deref());
    }
    let mut daemon = Daemon::open(screen).await?;
    let mut failed = None;
    for name in &names {
        match daemon
            .call::<VmCreate>(arguments.machine.params(*name))
            .await
        {
            Ok(vm) => {
                warn_of_nat(&vm, screen);
                screen.data(&format!("{}\n", vm.name))?;
            }
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                screen.error(&error);
                failed = Some(CommandError::already_told());
            }
        }
    }
    failed.map_or(Ok(ExitStatus::SUCCESS), Err)
}
