//! A host whose disk is full, for real: a small file system for the VM's disks, and a QEMU that fills it.

use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::{Home, alone, eventually, kill, skipped, text};

/// A file system of its own at a folder, in memory, for as long as it lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount; says so.
    fn at(folder: &Path, mebibytes: u64) -> Option<Self> {
        std::fs::create_dir_all(folder).expect("a folder");
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder)
            .output()
            .expect("mount starts");
        if !mounted.status.success() {
            println!("SKIP: cannot mount: {}", text(&mounted.stderr));
            return None;
        }
        Some(SmallDisk(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that failed may have left a monitor on it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn as_root_a_guest_that_fills_the_host_is_paused_told_and_goes_on_and_nothing_is_lost() {
    if skipped() {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    // The guests' disks shall fill their file system, which has less than the default reserve.
    home.configure("reserve = 0\n");
    let vms = home.rig.config.state_dir.join("vms");
    let Some(_small) = SmallDisk::at(&vms, 160) else {
        return;
    };
    home.ok(&[
        "vm",
        "create",
        "box",
        "--vcpu",
        "1",
        "--memory",
        "256M",
        "--disk-size",
        "512M",
    ]);
    home.ok(&["vm", "start", "box"]);
    home.ok(&[
        "vm",
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "echo precious > /root/before; sync",
    ]);
    // Something else takes the room, so that what the guest writes finds none.
    let ballast = vms.join("ballast");
    std::fs::write(&ballast, vec![1; 64 << 20]).expect("there is room yet");
    let said = home.rig.folder().join("said");
    let mut beside = home
        .command(&["vm", "exec", "box", "--", "sleep", "1000"])
        .stderr(std::fs::File::create(&said).expect("a file"))
        .spawn()
        .expect("it starts");
    let fill = "dd if=/dev/urandom of=/root/fill bs=1M count=200 && sync";
    home.ok(&[
        "vm", "session", "start", "box", "--name", "fill", "--", "sh", "-c", fill,
    ]);
    home.becomes("box", "paused");
    let vm = home.vm("box").expect("it is there");
    assert_eq!(vm["paused"], "the host's disk is full");
    let listed = home.ok(&["ps"]);
    assert!(
        listed.contains("paused: the host's disk is full"),
        "{listed}"
    );
    let shown = home.ok(&["vm", "show", "box"]);
    assert!(shown.contains("paused: the host's disk is full"), "{shown}");
    let doctor = text(&home.banger(&["doctor"]).stdout);
    assert!(
        doctor.contains("paused: the host's disk is full"),
        "{doctor}"
    );
    for verb in [
        vec!["vm", "exec", "box", "--", "true"],
        vec!["vm", "cp", "box:/etc/hostname", "."],
        vec!["vm", "session", "start", "box", "--", "true"],
    ] {
        let refused = home.banger(&verb);
        assert!(!refused.status.success(), "{verb:?}");
        let told = text(&refused.stderr);
        assert!(
            told.contains("is paused: the host's disk is full"),
            "{verb:?}: {told}"
        );
    }
    eventually("a command at work says why it waits", || {
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        said.contains("VM box is paused: the host's disk is full")
    });

    // The next daemon finds it so, and lets it go on when there is room.
    kill(home.daemon());
    assert_eq!(home.state("box").as_deref(), Some("paused"));
    std::fs::remove_file(&ballast).expect("it is removed");
    let grown = Command::new("mount")
        .args(["-o", "remount,size=700m"])
        .arg(&vms)
        .status();
    assert!(grown.is_ok_and(|status| status.success()), "it grows");
    home.becomes("box", "running");
    eventually("all is written", || {
        let session = home.json(&["vm", "session", "show", "box", "fill"]);
        session["status"] == "exited" && session["exit_code"] == 0
    });
    let size = home.ok(&["vm", "exec", "box", "--", "stat", "-c", "%s", "/root/fill"]);
    assert_eq!(size.trim(), (200_u64 << 20).to_string());
    // Its daemon was killed.
    let _ = beside.wait();
    let kept = home.ok(&["vm", "exec", "box", "--", "cat", "/root/before"]);
    assert_eq!(kept, "precious\n");
    let errors = home.ok(&[
        "vm",
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "dmesg | grep -ci 'I/O error' || :",
    ]);
    assert_eq!(errors.trim(), "0", "the guest saw none");
    home.ok(&["vm", "delete", "box"]);
}
