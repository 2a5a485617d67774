//! The real daemon dies at every call of its host while it starts and deletes VMs over device-mapper,
//! loop devices and taps; after each recovery the kernel holds what it held before. Skipped, with the
//! reason, where these do not work; the lab is where they do.

use banger_tests::die_everywhere_over_dm_and_tap;

#[test]
fn as_root_a_death_at_any_call_with_qemu_leaves_the_kernel_as_it_was() {
    die_everywhere_over_dm_and_tap("qemu");
}
