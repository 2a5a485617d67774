//! `banger vm show`.

use std::fmt::Display;

use banger_daemon::protocol::{VmInfo, VmParams, VmShow};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::age::to_the_second;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::size;
use crate::verb::completion::vm_names;
use crate::verb::workspace::carry::{short, shown};
use crate::vm_table::state;

#[derive(Args, Debug)]
pub(crate) struct ShowArguments {
    /// The VMs' names, or at least four digits of their ids
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(vm_names))]
    names: Vec<String>,

    /// Print an array of VMs, also for one
    #[arg(long)]
    json: bool,
}

/// Shows those that are there, and tells of those that are not.
pub(crate) async fn show(
    arguments: &ShowArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let mut vms = Vec::new();
    let mut errors = Vec::new();
    for name in &arguments.names {
        match daemon.call::<VmShow>(VmParams { vm: name.clone() }).await {
            Ok(vm) => vms.push(vm),
            Err(error) => errors.push(error),
        }
    }
    if arguments.json {
        screen.json(&vms)?;
    } else {
        let texts: Vec<_> = vms.iter().map(described).collect();
        screen.data(&texts.join("\n"))?;
    }
    for error in &errors {
        screen.error(error);
    }
    if errors.is_empty() {
        Ok(ExitStatus::SUCCESS)
    } else {
        Err(CommandError::already_told())
    }
}

/// One line a fact; what is not so now is left out.
fn described(vm: &VmInfo) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn Display| {
        let value = value.to_string();
        let value = banger_session::printable(&value);
        text.push_str(&format!("{:<16}{value}\n", format!("{key}:")));
    };
    line("name", &vm.name);
    line("id", &vm.id);
    line("state", &state(vm));
    if let Some(at) = &vm.restart_at {
        line("starts again", &to_the_second(at));
    }
    if let Some(reason) = &vm.stop_reason {
        line("ended", reason);
    }
    if let Some(error) = &vm.last_error {
        line("last error", error);
    }
    line("image", &vm.image);
    line("cpus", &vm.vcpus);
    line("memory", &size::shown(vm.memory_mib));
    line("disk size", &size::shown(vm.work_disk_mib));
    line("monitor", &vm.vmm);
    line("root disk", &vm.disk);
    let internet = if vm.nat { "reaches" } else { "does not reach" };
    line(
        "network",
        &format!("{}, {internet} the internet", vm.network),
    );
    if vm.ephemeral {
        line("lifetime", &"deleted with the client that runs it");
    }
    for (key, value) in &vm.labels {
        line("label", &format!("{key}={value}"));
    }
    if let Some(workspace) = &vm.workspace {
        let (from, to) = (shown(&workspace.host_root), shown(&workspace.guest_path));
        line(
            "workspace",
            &format!("{from} at {}, in {to}", short(&workspace.head)),
        );
    }
    line("host name", &vm.dns_name);
    if let Some(address) = &vm.guest_ip {
        line("address inside", address);
    }
    if let Some(port) = vm.ssh_port {
        line("ssh", &format!("127.0.0.1:{port}"));
    }
    if let Some(pid) = vm.pid {
        line("process", &pid);
    }
    line("folder", &vm.vm_dir.display());
    line("console", &vm.console_log.display());
    line("control socket", &vm.api_socket.display());
    line("created", &to_the_second(&vm.created_at));
    line("changed", &to_the_second(&vm.updated_at));
    text
}
