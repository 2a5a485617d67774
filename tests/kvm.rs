//! Where KVM works, QEMU's guests run on the processor itself. Skipped, with the reason, where it does not;
//! the lab is where it does.

use banger_tests::{Home, alone, as_an_administrator_sees_it, skipped};

#[test]
fn a_guest_runs_on_the_processor_where_kvm_works() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::new();
    if !home.has("kvm") {
        return;
    }
    let before = as_an_administrator_sees_it();
    home.ok(&[
        "vm", "run", "--detach", "--vmm", "qemu", "--vcpu", "1", "--name", "box",
    ]);
    let monitor = home.monitor("box");
    let words = std::fs::read(format!("/proc/{monitor}/cmdline")).expect("it runs");
    let words: Vec<_> = words.split(|byte| *byte == 0).collect();
    assert!(
        words
            .windows(2)
            .any(|pair| pair == [b"-accel", b"kvm".as_slice()]),
        "process {monitor}"
    );
    assert_eq!(
        home.ok(&["vm", "exec", "box", "--", "systemd-detect-virt"]),
        "kvm\n"
    );
    home.ok(&["vm", "delete", "box"]);
    assert_eq!(as_an_administrator_sees_it(), before);
    home.rig.assert_nothing_left();
}
