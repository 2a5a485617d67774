//! Firecracker over dm-snapshot and tap, as a user has it, by `banger` and its daemon. Skipped, with the
//! reason, where it does not work; the lab is where it does.

use banger_tests::{
    Home, alone, as_an_administrator_sees_it, die_everywhere_over_dm_and_tap, eventually, kill,
    skipped, text,
};
use serde_json::Value;

#[test]
fn as_root_firecracker_by_the_command_from_run_to_delete() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::new();
    // Not in the command, which is as a user gives it: an emulated lab bears guests of one processor.
    home.configure("[defaults]\nvcpus = 1\n");
    if !home.works(&["firecracker", "dm-snapshot", "tap"]) {
        return;
    }
    let before = as_an_administrator_sees_it();
    let ran = home.banger(&[
        "vm",
        "run",
        "--vmm",
        "firecracker",
        "--disk",
        "dm-snapshot",
        "--network",
        "tap",
        "--name",
        "box",
        "--",
        "cat",
        "/etc/hostname",
    ]);
    assert_eq!(text(&ran.stdout), "box\n", "{}", text(&ran.stderr));

    let shown = home.json(&["vm", "show", "box"]);
    let folder = home.rig.config.state_dir.join("vms");
    let folder = std::fs::read_dir(folder).expect("VMs").next().expect("one");
    let handles = folder.expect("an entry").path().join("handles.json");
    let handles = std::fs::read_to_string(handles).expect("it is there");
    println!("handles.json: {handles}");
    let handles: Value = serde_json::from_str(&handles).expect("it is JSON");
    assert!(handles["pid"].is_u64(), "{shown}");
    assert_eq!(handles["tap_device"], "tap0");
    for device in ["base_loop", "cow_loop", "dm_dev"] {
        let path = handles[device].as_str().expect("a device");
        assert!(std::path::Path::new(path).exists(), "{device}: {path}");
    }

    // The daemon is killed; the next call starts another, which knows the VM and reaches it.
    let daemon = home.daemon();
    kill(daemon);
    let listed = home.vm("box").expect("it is listed");
    assert_eq!(listed["state"], "running", "{listed}");
    assert_eq!(listed["pid"], handles["pid"]);
    assert_ne!(home.daemon(), daemon);
    assert_eq!(home.ok(&["vm", "exec", "box", "--", "hostname"]), "box\n");
    assert_eq!(
        home.ok(&["vm", "ssh", "box", "--", "echo by ssh"]),
        "by ssh\n"
    );
    let status = home.banger(&["vm", "exec", "box", "--", "sh", "-c", "exit 42"]);
    assert_eq!(status.status.code(), Some(42));

    // The monitor is killed; it is noticed, released, and starts again with what was written.
    home.ok(&[
        "vm",
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "echo kept >/root/kept; sync",
    ]);
    kill(home.monitor("box"));
    home.becomes("box", "stopped");
    eventually("the kernel holds nothing", || {
        as_an_administrator_sees_it() == before
    });
    home.ok(&["vm", "start", "box"]);
    assert_eq!(
        home.ok(&["vm", "exec", "box", "--", "cat", "/root/kept"]),
        "kept\n"
    );

    home.ok(&["vm", "delete", "box"]);
    assert_eq!(as_an_administrator_sees_it(), before);
    home.rig.assert_nothing_left();
}

#[test]
fn as_root_a_death_at_any_call_with_firecracker_leaves_the_kernel_as_it_was() {
    die_everywhere_over_dm_and_tap("firecracker");
}
