//! The whole thing as a user has it: `banger` and the daemon that it starts, over real VMs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use banger_tests::{Home, alone, binary, kill, skipped, text};

#[test]
fn run_passes_streams_and_status_through_and_leaves_nothing() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::new();
    let mut child = home
        .command(&[
            "vm",
            "run",
            "--rm",
            "--",
            "sh",
            "-c",
            "cat; echo err >&2; exit 42",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it has one");
    stdin.write_all(b"from the host\n").expect("it is written");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(42), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "from the host\n",
        "stdout is data only"
    );
    assert!(
        text(&output.stderr).ends_with("err\n"),
        "{}",
        text(&output.stderr)
    );
    let listed = home.banger(&["vm", "list", "--json"]);
    let vms: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(vms, serde_json::json!([]), "nothing is listed");
    home.rig.assert_nothing_left();

    // A client that is killed in the middle takes its VM with it.
    let mut child = home
        .command(&[
            "vm",
            "run",
            "--rm",
            "--",
            "sh",
            "-c",
            "echo ready; sleep 1000",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it has one");
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("it says something");
    assert_eq!(line, "ready\n");
    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
    home.rig.assert_nothing_left();
}

#[test]
fn a_vm_outlives_a_killed_daemon_and_is_reached_and_deleted_through_the_next() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::new();
    let output = home.banger(&["vm", "run", "--name", "box", "--", "hostname"]);
    assert_eq!(text(&output.stdout), "box\n", "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("box runs on"),
        "{}",
        text(&output.stderr)
    );

    let before = home.daemon();
    kill(before);
    let output = home.banger(&["vm", "exec", "box", "--", "hostname"]);
    assert_eq!(text(&output.stdout), "box\n", "{}", text(&output.stderr));
    assert_ne!(home.daemon(), before, "another daemon was started");
    let ssh = home.banger(&["vm", "ssh", "box", "--", "echo by ssh"]);
    assert_eq!(text(&ssh.stdout), "by ssh\n", "{}", text(&ssh.stderr));

    let taken = home.banger(&["vm", "create", "box"]);
    assert_ne!(taken.status.code(), Some(0));
    assert!(
        text(&taken.stderr).contains("already a VM named box"),
        "{}",
        text(&taken.stderr)
    );

    let deleted = home.banger(&["vm", "delete", "box"]);
    assert_eq!(deleted.status.code(), Some(0), "{}", text(&deleted.stderr));
    home.rig.assert_nothing_left();
}

#[test]
fn an_ordinary_user_boots_the_same_machine() {
    if skipped() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: this whole run is an ordinary user's already");
        return;
    }
    let _turn = alone();
    // `nobody` must reach the programs and the image: copies, because a checkout may lie in a home
    // folder that is closed to others.
    let open = tempfile::Builder::new()
        .prefix("bgr-user-")
        .tempdir_in("/tmp")
        .expect("a folder");
    let home = Home::new();
    let images = std::fs::canonicalize(home.rig.config.state_dir.join("images")).expect("images");
    for (from, to) in [
        (binary("banger"), "banger"),
        (binary("bangerd"), "bangerd"),
        (images, "state/images"),
    ] {
        std::fs::create_dir_all(open.path().join("state")).expect("a folder");
        let copied = Command::new("cp")
            .args(["-r", "--sparse=always", "--reflink=auto"])
            .args([&from, &open.path().join(to)])
            .status();
        assert!(
            copied.is_ok_and(|status| status.success()),
            "{} is copied",
            from.display()
        );
    }
    let nobody = "65534:65534";
    let owned = Command::new("chown")
        .args(["-R", nobody])
        .arg(open.path())
        .status();
    assert!(owned.is_ok_and(|status| status.success()));
    let run = |arguments: &[&str]| as_nobody(open.path(), arguments);
    let output = run(&["vm", "run", "--rm", "--", "id", "-un"]);
    assert_eq!(text(&output.stdout), "root\n", "{}", text(&output.stderr));
    let stopped = run(&["daemon", "stop"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", text(&stopped.stderr));
    let left = std::fs::read_dir(open.path().join("state/vms"))
        .expect("it is there")
        .count();
    assert_eq!(left, 0, "VM folders are left");
}

fn as_nobody(folder: &Path, arguments: &[&str]) -> Output {
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(folder.join("banger"))
        .args(arguments)
        .env("HOME", folder)
        .env("BANGER_STATE_DIR", folder.join("state"))
        .env("BANGER_RUNTIME_DIR", folder.join("run"))
        .env("BANGER_CONFIG_DIR", folder.join("config"))
        .stdin(Stdio::null())
        .output()
        .expect("setpriv starts")
}
