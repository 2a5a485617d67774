//! VMs as rows.

use banger_daemon::protocol::VmInfo;
use jiff::Timestamp;

use crate::age;
use crate::size;
use crate::table::table;

/// One row a VM, in the order given.
pub(crate) fn vm_table(vms: &[VmInfo], now: Timestamp) -> String {
    let rows: Vec<_> = vms.iter().map(|vm| row(vm, now)).collect();
    table(
        ["NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "SSH", "AGE"],
        &rows,
    )
}

fn row(vm: &VmInfo, now: Timestamp) -> [String; 7] {
    [
        vm.name.clone(),
        vm.state.clone(),
        vm.image.clone(),
        vm.vcpus.to_string(),
        size::shown(vm.memory_mib),
        vm.ssh_port
            .map_or_else(|| "-".to_owned(), |port| format!("127.0.0.1:{port}")),
        age::since(&vm.created_at, now),
    ]
}
