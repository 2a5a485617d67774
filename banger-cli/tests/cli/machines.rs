//! `vm console`, `vm logs -f`, `vm stats`, `vm set` and `vm run -d`, over the real daemon and simulated
//! machines.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::process::Child;

use banger_daemon::protocol::VmInfo;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::banger::World;
use crate::simulator::{Simulated, send, session, until};

fn shown(world: &World, name: &str) -> VmInfo {
    let run = world.banger(&["vm", "show", "--json", name]);
    let mut vms: Vec<VmInfo> = serde_json::from_slice(&run.stdout).unwrap();
    vms.remove(0)
}

/// Waits until the child has written this.
fn says(child: &mut Child, expected: &str) {
    let mut said = vec![0; expected.len()];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), expected);
}

fn write_to_console(world: &World, text: &str) {
    let log = shown(world, "box").console_log;
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .unwrap();
    log.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_console_takes_what_is_typed_and_shows_what_is_there() {
    let world = Simulated::with_box();
    write_to_console(&world, "booted\r\n");
    let mut child = world.spawn(&["vm", "console", "box"]);
    says(&mut child, "booted\r\nsimulated console\r\n");
    let mut keyboard = child.stdin.take().unwrap();
    keyboard.write_all(b"typed\x1d\n").unwrap();
    // Only a terminal's user can leave by a key: to others all bytes are alike.
    says(&mut child, "typed\x1d\n");
    drop(keyboard);

    let second = world.banger(&["vm", "console", "box"]);
    assert_snapshot!(second, @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: somebody is attached to the console of VM box already
    hint: what it writes can be followed all the same: banger vm logs -f box
    ");

    world.banger(&["vm", "kill", "box"]);
    let run = world.left(child.wait_with_output().unwrap());
    assert_snapshot!(run, @"
    status: 0
    ----- stdout -----
    ----- stderr -----

    box has ended
    ");
    assert_snapshot!(world.banger(&["vm", "console", "box"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: VM box is not running (stopped)
    hint: start it: banger vm start box
    ");
}

#[test]
fn who_leaves_a_console_lets_the_next_one_in() {
    let world = Simulated::with_box();
    for signal in ["TERM", "KILL"] {
        let mut child = world.spawn(&["vm", "console", "box"]);
        says(&mut child, "simulated console\r\n");
        send(signal, &child);
        child.wait().unwrap();
        // Its daemon hears of it by itself.
        until("it is free again", || {
            let mut next = world.spawn(&["vm", "console", "box"]);
            let mut first = [0; 1];
            let free = matches!(next.stdout.as_mut().unwrap().read(&mut first), Ok(1));
            if free {
                send("TERM", &next);
            }
            next.wait().unwrap();
            free
        });
    }
    assert_eq!(shown(&world, "box").state, "running");
}

#[test]
fn a_log_is_followed_until_the_vm_ends() {
    let world = Simulated::with_box();
    write_to_console(&world, "one\ntwo\n");
    let mut child = world.spawn(&["vm", "logs", "-f", "-n", "1", "box"]);
    says(&mut child, "two\n");
    write_to_console(&world, "three\n");
    says(&mut child, "three\n");
    world.banger(&["vm", "stop", "box"]);
    let run = world.left(child.wait_with_output().unwrap());
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    // One that does not run has a log that ends.
    let run = world.banger(&["vm", "logs", "-f", "box"]);
    assert_eq!(run.stdout, b"one\ntwo\nthree\n", "{run}");
}

#[test]
fn following_ends_at_a_signal_and_when_the_vm_is_not_there() {
    let world = Simulated::with_box();
    write_to_console(&world, "one\n");
    let mut child = world.spawn(&["vm", "logs", "-f", "box"]);
    says(&mut child, "one\n");
    send("INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_snapshot!(world.banger(&["vm", "logs", "-f", "nobody"]), @r#"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: there is no VM "nobody"
    hint: banger vm list shows the VMs there are
    "#);
}

#[test]
fn stats_are_of_all_that_run_or_of_those_named() {
    let world = Simulated::with_box();
    world.banger(&["vm", "create", "asleep"]);
    let run = world.banger(&["vm", "stats", "--json"]);
    let all: Vec<Value> = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["name"], json!("box"));
    // Its monitor is a number in a table.
    assert_eq!(
        (&all[0]["cpu_ms"], &all[0]["memory_bytes"]),
        (&json!(0), &json!(0))
    );
    let run = world.banger(&["vm", "stats", "--json", "asleep", "box"]);
    let both: Vec<Value> = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(both[0]["name"], json!("asleep"));
    assert_eq!(both[0]["cpu_ms"], Value::Null);
    assert!(both[0]["work_disk_mib"].as_u64().unwrap() > 0);
    let shown = session(
        &world,
        &[&["vm", "stats", "asleep"], &["vm", "stats", "nobody"]],
    );
    let shown = without_sizes(&shown);
    assert_snapshot!(shown, @r#"
    $ banger vm stats asleep
    NAME    STATE    CPU  MEMORY  DISK   ROOT  UP
    asleep created - - [DISK] [ROOT] -
    $ banger vm stats nobody
      | error: there is no VM "nobody"
      | hint: banger vm list shows the VMs there are
    => Some(1)
    "#);
}

/// With what the host's file system takes for an empty disk replaced.
fn without_sizes(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix("asleep") {
        Some(_) => {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!(
                "{} {} {} {} [DISK] [ROOT] {}",
                words[0], words[1], words[2], words[3], words[6]
            )
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_vm_is_changed_while_it_is_stopped() {
    let world = Simulated::with_box();
    let text = session(
        &world,
        &[
            &["vm", "set", "box", "--vcpu", "4"],
            &["vm", "set", "box", "--disk-size", "16G"],
            &["vm", "set", "box", "--label", "team=blue", "--label", "x"],
            &["vm", "set", "box", "--label", "team=blue"],
            &["vm", "set", "box", "--unlabel", "x"],
            &["vm", "stop", "box"],
            &[
                "vm",
                "set",
                "box",
                "--vcpu",
                "4",
                "--memory",
                "512M",
                "--disk-size",
                "16G",
            ],
            &["vm", "set", "box", "--vcpu", "4"],
            &["vm", "set", "box", "--disk-size", "1G"],
            &["vm", "set", "box", "--memory", "0"],
            &["vm", "set", "box", "--vcpu", "65"],
            &["vm", "set", "box"],
            &["vm", "set", "nobody", "box", "--vcpu", "3"],
            &["vm", "start", "box"],
        ],
    );
    assert_snapshot!(text, @r#"
    $ banger vm set box --vcpu 4
      | error: VM box is running: --vcpu cannot be changed meanwhile
      | hint: stop it first: banger vm stop box
    => Some(1)
    $ banger vm set box --disk-size 16G
      | error: VM box is running: --disk-size cannot be changed meanwhile
      | hint: stop it first: banger vm stop box
    => Some(1)
    $ banger vm set box --label team=blue --label x
      | box: changed
    $ banger vm set box --label team=blue
      | box: already so
    $ banger vm set box --unlabel x
      | box: changed
    $ banger vm stop box
      | box: stopped (the guest powered off)
    $ banger vm set box --vcpu 4 --memory 512M --disk-size 16G
      | box: changed
    $ banger vm set box --vcpu 4
      | box: already so
    $ banger vm set box --disk-size 1G
      | error: --disk-size must be 16384 to 16777216 MiB (it can only grow), not 1024
    => Some(1)
    $ banger vm set box --memory 0
      | error: --memory must be 128 to 65536 MiB (what this host has), not 0
    => Some(1)
    $ banger vm set box --vcpu 65
      | error: --vcpu must be 1 to 64, not 65
    => Some(1)
    $ banger vm set box
      | error: the following required arguments were not provided:
      |   <--vcpu <N>|--memory <SIZE>|--disk-size <SIZE>|--label <KEY=VALUE>|--unlabel <KEY>>
      | 
      | Usage: banger vm set [OPTIONS] <NAME>...
      | 
      | For more information, try '--help'.
    => Some(2)
    $ banger vm set nobody box --vcpu 3
      | error: there is no VM "nobody"
      | hint: banger vm list shows the VMs there are
      | box: changed
    => Some(1)
    $ banger vm start box
      | banger: connecting its network…
      | banger: starting the virtual machine…
      | banger: booting; waiting for ssh…
      | box: started
    "#);
    let vm = shown(&world, "box");
    assert_eq!(
        (vm.vcpus, vm.memory_mib, vm.work_disk_mib),
        (3, 512, 16 << 10)
    );
    assert_eq!(vm.labels, [("team".to_owned(), "blue".to_owned())].into());
    let disk = std::fs::metadata(vm.vm_dir.join("work.ext4")).unwrap();
    assert_eq!(disk.len(), 16 << 30);
}

#[test]
fn a_detached_run_starts_a_vm_and_prints_its_name() {
    let world = Simulated::with_box();
    assert_snapshot!(world.banger(&["-q", "vm", "run", "-d", "--name", "other"]), @"
    status: 0
    ----- stdout -----
    other
    ----- stderr -----
    ");
    assert_eq!(shown(&world, "other").state, "running");
    assert_snapshot!(world.banger(&["vm", "run", "-d", "--", "true"]), @"
    status: 2
    ----- stdout -----
    ----- stderr -----
    error: --detach only starts the VM: it runs no command
    hint: leave a command running in it by: banger vm session start NAME -- COMMAND
    ");
    assert_eq!(world.banger(&["vm", "run", "-d", "--rm"]).status, Some(2));
}
