//! `banger` and the real daemon, over simulated machines: what a user does from start to end.

use std::fs;
use std::io::Read;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use banger_daemon::protocol::{Status, VmInfo};
use insta::assert_snapshot;

use crate::banger::{Run, World};

/// A world whose daemon, started by `banger` itself, simulates.
pub(crate) struct Simulated {
    world: World,
}

impl Simulated {
    pub(crate) fn new() -> Self {
        let scratch = tempfile::Builder::new().prefix("bcli-").tempdir().unwrap();
        let daemon = scratch.path().join("bangerd");
        let script = format!("#!/bin/sh\nexec '{}' --sim \"$@\"\n", bangerd().display());
        fs::write(&daemon, script).unwrap();
        fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).unwrap();
        Simulated {
            world: World::in_folder(scratch, &daemon),
        }
    }

    /// A world in which `box` runs.
    pub(crate) fn with_box() -> Self {
        let world = Simulated::new();
        let run = world.banger(&["vm", "create", "box"]);
        assert_eq!(run.status, Some(0), "{run}");
        let run = world.banger(&["vm", "start", "box"]);
        assert_eq!(run.status, Some(0), "{run}");
        world
    }

    fn vms(&self) -> Vec<VmInfo> {
        let run = self.banger(&["vm", "list", "--json"]);
        assert_eq!(run.status, Some(0), "{run}");
        serde_json::from_slice(&run.stdout).unwrap()
    }
}

impl Deref for Simulated {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.world.banger(&["daemon", "stop"]);
    }
}

/// The daemon beside the `banger` under test; built if it is not there.
fn bangerd() -> &'static Path {
    static BANGERD: OnceLock<PathBuf> = OnceLock::new();
    BANGERD.get_or_init(|| {
        let beside = Path::new(env!("CARGO_BIN_EXE_banger")).with_file_name("bangerd");
        if !beside.exists() {
            eprintln!("building {}, which is not there yet", beside.display());
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--package", "banger-daemon", "--bin", "bangerd"]);
            if beside.parent().unwrap().ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "cannot build bangerd");
        }
        beside
    })
}

/// Waits until it is so, and fails if it never is.
pub(crate) fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn send(signal: &str, child: &Child) {
    let kill = Command::new("kill")
        .args([format!("-{signal}"), child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

/// Waits for the child to say `up`.
fn is_up(child: &mut Child) {
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    assert_eq!(&up, b"up\n");
}

/// Several commands in turn, for one snapshot.
pub(crate) fn session(world: &World, commands: &[&[&str]]) -> String {
    let mut text = String::new();
    for command in commands {
        let run = world.banger(command);
        let stdout = String::from_utf8_lossy(&run.stdout);
        text += &format!("$ banger {}\n{stdout}", command.join(" "));
        for line in run.stderr.lines() {
            text += &format!("  | {line}\n");
        }
        if run.status != Some(0) {
            text += &format!("=> {:?}\n", run.status);
        }
    }
    text
}

#[test]
fn the_daemon_is_started_by_whoever_needs_it_and_says_so_only_if_asked() {
    let world = Simulated::new();
    assert_snapshot!(world.banger(&["-v", "vm", "list"]), @"
    status: 0
    ----- stdout -----
    NAME  STATE  IMAGE  CPUS  MEMORY  SSH  AGE
    ----- stderr -----
    banger: started [SCRATCH]/bangerd
    ");
    let again = world.banger(&["-v", "vm", "list"]);
    assert_eq!(again.stderr, "");
    let status = world.banger(&["daemon", "status", "--json"]);
    let status: Status = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status.version, banger_daemon::protocol::VERSION);
    assert_eq!(status.state_dir, world.path().join("state"));
}

#[test]
fn a_vm_from_its_creation_to_its_end() {
    let world = Simulated::new();
    let shown = session(
        &world,
        &[
            &["vm", "create", "box", "--memory", "512M"],
            &["vm", "start", "box"],
            &["vm", "start", "box"],
            &["vm", "exec", "box", "echo", "hello"],
            &["vm", "stop", "box"],
            &["vm", "stop", "box"],
            &["vm", "exec", "box", "true"],
            &["vm", "restart", "box"],
            &["vm", "kill", "box"],
            &["vm", "delete", "box"],
            &["vm", "delete", "box"],
            &["vm", "list"],
            &["daemon", "reconcile"],
        ],
    );
    assert_snapshot!(shown, @r#"
    $ banger vm create box --memory 512M
    box
      | banger: making its disks…
    $ banger vm start box
      | banger: connecting its network…
      | banger: starting the virtual machine…
      | banger: booting; waiting for ssh…
      | box: started
    $ banger vm start box
      | box: already running
    $ banger vm exec box echo hello
    hello
    $ banger vm stop box
      | box: stopped (the guest powered off)
    $ banger vm stop box
      | box: already stopped
    $ banger vm exec box true
      | error: VM box is not running (stopped)
      | hint: start it: banger vm start box
    => Some(125)
    $ banger vm restart box
      | banger: stopping the virtual machine…
      | banger: connecting its network…
      | banger: starting the virtual machine…
      | banger: booting; waiting for ssh…
      | box: started
    $ banger vm kill box
      | box: stopped (its monitor was killed: the guest may have lost its last writes)
    $ banger vm delete box
      | box: deleted
    $ banger vm delete box
      | error: there is no VM "box"
      | hint: banger vm list shows the VMs there are
    => Some(1)
    $ banger vm list
    NAME  STATE  IMAGE  CPUS  MEMORY  SSH  AGE
    $ banger daemon reconcile
      | nothing to do: the records and the host agree
    "#);
}

#[test]
fn bad_requests_are_told_with_the_way_out() {
    let world = Simulated::with_box();
    let shown = session(
        &world,
        &[
            &["vm", "create", "box"],
            &["vm", "create", "../x"],
            &["vm", "create", "x", "--vcpu", "0"],
            &["vm", "show", "nobody"],
            &["vm", "exec", "nobody", "true"],
            &["vm", "exec", "box", "-w", "/no/such", "true"],
            &["vm", "exec", "-e", "2=x", "box", "true"],
            &["vm", "exec", "box", ""],
        ],
    );
    assert_snapshot!(shown, @r#"
    $ banger vm create box
      | error: there is already a VM named box
      | hint: choose another name, or delete that VM: banger vm delete box
    => Some(1)
    $ banger vm create ../x
      | error: the VM name "../x" is not valid: use small letters, digits and '-', beginning and ending with a letter or digit
    => Some(1)
    $ banger vm create x --vcpu 0
      | error: --vcpu must be 1 to 64, not 0
    => Some(1)
    $ banger vm show nobody
      | error: there is no VM "nobody"
      | hint: banger vm list shows the VMs there are
    => Some(1)
    $ banger vm exec nobody true
      | error: there is no VM "nobody"
      | hint: banger vm list shows the VMs there are
    => Some(125)
    $ banger vm exec box -w /no/such true
      | error: the guest has no folder "/no/such" that can be entered
    => Some(125)
    $ banger vm exec -e 2=x box true
      | error: "2" is not a name for an environment variable
    => Some(125)
    $ banger vm exec box 
      | error: the command's name is empty
    => Some(125)
    "#);
}

#[test]
fn statuses_of_real_commands_pass_through() {
    let world = Simulated::with_box();
    for (script, status) in [
        ("exit 0", 0),
        ("exit 42", 42),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("exec /no/such/program", 127),
        ("exec /dev/null", 126),
    ] {
        let run = world.banger(&["vm", "exec", "box", "sh", "-c", script]);
        assert_eq!(run.status, Some(status), "{script}: {run}");
    }
    assert_eq!(
        world.banger(&["vm", "exec", "box", "no-such"]).status,
        Some(127)
    );
}

#[test]
fn bytes_pass_through_a_real_command_whole() {
    let world = Simulated::with_box();
    let input: Vec<u8> = (0..5_000_003_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let run = world.banger_reads(&["vm", "exec", "box", "cat"], &input);
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    assert!(run.stdout == input, "{} bytes came back", run.stdout.len());
}

#[test]
fn a_command_that_reads_no_input_leaves_it_and_ends() {
    let world = Simulated::with_box();
    let input = vec![b'x'; 5_000_000];
    let run = world.banger_reads(&["vm", "exec", "box", "head", "-c", "3"], &input);
    assert_eq!((run.status, run.stdout.as_slice()), (Some(0), &b"xxx"[..]));
}

#[test]
fn a_child_in_the_background_holds_up_nobody() {
    let world = Simulated::with_box();
    let since = Instant::now();
    let run = world.banger(&["vm", "exec", "box", "sh", "-c", "sleep 30 & echo hi"]);
    assert_eq!((run.status, run.stdout.as_slice()), (Some(0), &b"hi\n"[..]));
    assert!(since.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_signal_ends_a_real_command_and_its_children() {
    let world = Simulated::with_box();
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let script = "sh -c 'echo up; exec sleep 1000'; exit 9";
        let mut child = world.spawn(&["vm", "exec", "-n", "box", "sh", "-c", script]);
        is_up(&mut child);
        // bash swallows an interrupt in the instant before it becomes the command: sent until it works.
        let run = loop {
            send(signal, &child);
            thread::sleep(Duration::from_millis(1100));
            if child.try_wait().unwrap().is_some() {
                break world.left(child.wait_with_output().unwrap());
            }
        };
        assert_eq!(run.status, Some(status), "{run}");
    }
}

#[test]
fn run_with_rm_leaves_nothing() {
    let world = Simulated::new();
    let run = world.banger(&[
        "-q",
        "vm",
        "run",
        "--rm",
        "--",
        "sh",
        "-c",
        "echo hi; exit 3",
    ]);
    assert_snapshot!(run, @"
    status: 3
    ----- stdout -----
    hi
    ----- stderr -----
    ");
    assert_eq!(world.vms(), []);
    let vms = fs::read_dir(world.path().join("state/vms")).unwrap();
    assert_eq!(vms.count(), 0);
}

#[test]
fn run_without_rm_leaves_a_vm_that_runs() {
    let world = Simulated::new();
    assert_snapshot!(world.banger(&["vm", "run", "--name", "box", "--", "echo", "hi"]), @"
    status: 0
    ----- stdout -----
    hi
    ----- stderr -----
    banger: making its disks…
    banger: connecting its network…
    banger: starting the virtual machine…
    banger: booting; waiting for ssh…
    box runs on; stop it: banger vm stop box
    ");
    assert_eq!(world.vms()[0].state, "running");
    let run = world.banger(&["vm", "exec", "box", "echo", "still here"]);
    assert_eq!(run.stdout, b"still here\n");
}

#[test]
fn a_run_with_rm_whose_client_is_killed_leaves_nothing() {
    let world = Simulated::new();
    let mut child = world.spawn(&["vm", "run", "--rm", "--", "sh", "-c", "echo up; sleep 1000"]);
    is_up(&mut child);
    assert_eq!(world.vms().len(), 1);
    send("KILL", &child);
    child.wait().unwrap();
    until("the daemon deletes the VM", || world.vms().is_empty());
}

#[test]
fn of_twenty_creations_of_one_name_exactly_one_wins() {
    let world = Simulated::new();
    // So that the twenty race for the name only, and not also for who starts the daemon.
    assert_eq!(world.vms(), []);
    let children: Vec<_> = (0..20)
        .map(|_| world.spawn(&["vm", "create", "box"]))
        .collect();
    let runs: Vec<Run> = children
        .into_iter()
        .map(|child| world.left(child.wait_with_output().unwrap()))
        .collect();
    let won = runs.iter().filter(|run| run.status == Some(0)).count();
    let told = runs
        .iter()
        .filter(|run| run.stderr.contains("already a VM named box"));
    assert_eq!((won, told.count()), (1, 19));
    assert_eq!(world.vms().len(), 1);
}

#[test]
fn an_id_is_as_good_as_a_name() {
    let world = Simulated::with_box();
    let id = world.vms()[0].id.clone();
    let run = world.banger(&["vm", "exec", &id[..8], "echo", "hi"]);
    assert_eq!(run.stdout, b"hi\n", "{run}");
}

#[test]
fn names_and_sizes_that_make_no_sense_are_told_with_what_would_do() {
    let world = Simulated::new();
    let long = "a".repeat(64);
    let shown = session(
        &world,
        &[
            &["vm", "create", ""],
            &["vm", "create", "Box"],
            &["vm", "create", "--name=-x"],
            &["vm", "create", "x-"],
            &["vm", "create", ".."],
            &["vm", "create", &long],
            &["vm", "create", "x", "--memory", "0"],
            &["vm", "create", "x", "--memory", "10T"],
            &["vm", "create", "x", "--disk-size", "1"],
            &["vm", "create", "x", "--disk-size", "17T"],
            &["vm", "create", "a", "--memory", "1GiB"],
            &["vm", "create", "b", "--memory", "2048"],
            &["vm", "create", "c", "--memory", "2g"],
        ],
    );
    assert_snapshot!(shown, @r#"
    $ banger vm create 
      | error: a VM name cannot be empty
    => Some(1)
    $ banger vm create Box
      | error: the VM name "Box" is not valid: use small letters, digits and '-', beginning and ending with a letter or digit
    => Some(1)
    $ banger vm create --name=-x
      | error: the VM name "-x" is not valid: use small letters, digits and '-', beginning and ending with a letter or digit
    => Some(1)
    $ banger vm create x-
      | error: the VM name "x-" is not valid: use small letters, digits and '-', beginning and ending with a letter or digit
    => Some(1)
    $ banger vm create ..
      | error: the VM name ".." is not valid: use small letters, digits and '-', beginning and ending with a letter or digit
    => Some(1)
    $ banger vm create aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      | error: the VM name "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" has 64 characters; at most 63 are allowed
    => Some(1)
    $ banger vm create x --memory 0
      | error: --memory must be 128 to 65536 MiB (what this host has), not 0
    => Some(1)
    $ banger vm create x --memory 10T
      | error: --memory must be 128 to 65536 MiB (what this host has), not 10485760
    => Some(1)
    $ banger vm create x --disk-size 1
      | error: --disk-size must be 16 to 16777216 MiB, not 1
    => Some(1)
    $ banger vm create x --disk-size 17T
      | error: --disk-size must be 16 to 16777216 MiB, not 17825792
    => Some(1)
    $ banger vm create a --memory 1GiB
    a
      | banger: making its disks…
    $ banger vm create b --memory 2048
    b
      | banger: making its disks…
    $ banger vm create c --memory 2g
    c
      | banger: making its disks…
    "#);
    let mut memory: Vec<_> = world.vms().iter().map(|vm| vm.memory_mib).collect();
    memory.sort_unstable();
    assert_eq!(memory, [1024, 2048, 2048]);
}

#[test]
fn a_daemon_that_a_script_has_started_does_not_keep_the_scripts_lock() {
    let world = Simulated::new();
    let banger = world.command(&["vm", "list"]);
    let lock = world.path().join("lock");
    let held = |what: &str| {
        let mut sh = Command::new("sh");
        for (name, value) in banger.get_envs() {
            match value {
                Some(value) => sh.env(name, value),
                None => sh.env_remove(name),
            };
        }
        sh.args([
            "-c",
            "exec 9>\"$0\"; flock -n 9 || exit 9; exec \"$@\" >/dev/null",
        ])
        .arg(&lock)
        .arg(what)
        .args(banger.get_args());
        sh.status().unwrap().code()
    };
    assert_eq!(held(env!("CARGO_BIN_EXE_banger")), Some(0));
    assert!(world.socket().exists(), "the daemon runs on");
    assert_eq!(held("true"), Some(0), "the lock is free again");
}
