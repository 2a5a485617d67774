//! The real daemon dies at every call of its host while it starts and deletes VMs over device-mapper,
//! loop devices and taps; after each recovery the kernel holds what it held before. Skipped, with the
//! reason, where these do not work; the lab is where they do.

use banger_tests::{Act, Home, die_everywhere, skipped};
use serde_json::json;

fn die_everywhere_over_dm_and_tap(vmm: &str) {
    if skipped() || !Home::new().works(&[vmm, "dm-snapshot", "tap"]) {
        return;
    }
    for act in [Act::Start, Act::DeleteRunning] {
        let backends = json!({"vmm": vmm, "disk": "dm-snapshot", "network": "tap"});
        die_everywhere(act, backends);
    }
}

#[test]
fn as_root_a_death_at_any_call_with_qemu_leaves_the_kernel_as_it_was() {
    die_everywhere_over_dm_and_tap("qemu");
}

#[test]
fn as_root_a_death_at_any_call_with_firecracker_leaves_the_kernel_as_it_was() {
    die_everywhere_over_dm_and_tap("firecracker");
}
