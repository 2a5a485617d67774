//! VMs as rows.

use banger_daemon::protocol::VmInfo;
use jiff::Timestamp;

use crate::age;
use crate::size;
use crate::table::table;
use crate::verb::workspace::carry::short;

/// One row a VM, in the order given. What was carried into them is a column only if there is any.
pub(crate) fn vm_table(vms: &[VmInfo], now: Timestamp) -> String {
    let rows: Vec<_> = vms.iter().map(|vm| row(vm, now)).collect();
    let head = ["NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "SSH", "AGE"];
    if vms.iter().all(|vm| vm.workspace.is_none()) {
        return table(head, &rows);
    }
    let [a, b, c, d, e, f, g] = head;
    let rows: Vec<_> = rows
        .into_iter()
        .zip(vms)
        .map(|([a, b, c, d, e, f, g], vm)| [a, b, c, d, e, f, g, workspace(vm)])
        .collect();
    table([a, b, c, d, e, f, g, "WORKSPACE"], &rows)
}

fn workspace(vm: &VmInfo) -> String {
    match &vm.workspace {
        None => "-".to_owned(),
        Some(workspace) => format!("{}@{}", workspace.name, short(&workspace.head)),
    }
}

/// How it is, and where that is not all, why.
pub(crate) fn state(vm: &VmInfo) -> String {
    let state = &vm.state;
    match (&vm.paused, vm.restarts) {
        (Some(reason), _) => format!("{state}: {reason}"),
        (None, 0) => state.clone(),
        (None, _) if state == "stopped" => state.clone(),
        (None, 1) => format!("{state}: it rebooted once"),
        (None, times) => format!("{state}: it rebooted {times} times in a row"),
    }
}

fn row(vm: &VmInfo, now: Timestamp) -> [String; 7] {
    [
        vm.name.clone(),
        state(vm),
        vm.image.clone(),
        vm.vcpus.to_string(),
        size::shown(vm.memory_mib),
        vm.ssh_port
            .map_or_else(|| "-".to_owned(), |port| format!("127.0.0.1:{port}")),
        age::since(&vm.created_at, now),
    ]
}
