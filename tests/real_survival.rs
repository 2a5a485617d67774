//! Bad days of real VMs under the real daemon: it is ended or replaced while they run, their monitors
//! freeze or are killed.

use std::process::Command;
use std::time::{Duration, Instant};

use banger_tests::{Home, alone, eventually, gone, kill, signal, text, why_not_real};
use rustix::process::Signal;
use serde_json::json;

/// Another program than `bangerd`, which does the same: what an upgrade leaves running, or brings.
const ANOTHER: &str = env!("CARGO_BIN_EXE_bangerd-failpoints");

fn real(test: impl FnOnce(&Home)) {
    if let Some(reason) = why_not_real() {
        println!("SKIP: {reason}");
        return;
    }
    let _turn = alone();
    let home = Home::new();
    home.ok(&["ps"]);
    test(&home);
    home.assert_proven("at the end");
}

/// Runs a command, which must succeed, and takes no longer than a second: no other VM held it up.
fn at_once(home: &Home, arguments: &[&str]) -> String {
    let begun = Instant::now();
    let said = home.ok(arguments);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{arguments:?}: {took:?}");
    said
}

/// The guest's own boot id: the same as long as it has not been started anew.
fn boot_of_guest(home: &Home, daemon: Option<&str>) -> String {
    let words = [
        "vm",
        "exec",
        "box",
        "--",
        "cat",
        "/proc/sys/kernel/random/boot_id",
    ];
    let mut command: Command = home.command(&words);
    if let Some(daemon) = daemon {
        command.env("BANGERD", daemon);
    }
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_vm_runs_on_however_its_daemon_ends_and_whichever_program_is_the_next() {
    real(|home| {
        home.create("box");
        home.ok(&["vm", "start", "box"]);
        let (monitor, boot) = (home.monitor("box"), boot_of_guest(home, None));
        let same = |how: &str, daemon: Option<&str>| {
            assert_eq!(boot_of_guest(home, daemon), boot, "{how}");
            assert_eq!(home.monitor("box"), monitor, "{how}");
        };

        let daemon = home.daemon();
        signal(daemon, Signal::TERM);
        gone(daemon);
        same("SIGTERM", None);

        let daemon = home.daemon();
        let stopped = home.banger(&["daemon", "stop"]);
        assert!(text(&stopped.stderr).contains("its VM runs on"));
        gone(daemon);
        same("daemon stop, then another program", Some(ANOTHER));
        let program = std::fs::read_link(format!("/proc/{}/exe", home.daemon()));
        assert_eq!(program.expect("it runs").as_os_str(), ANOTHER);

        kill(home.daemon());
        same("kill -9, then the first program again", None);

        // A daemon dies between a guest's power-off and the record of it: what the guest wrote is there.
        home.ok(&[
            "vm",
            "exec",
            "box",
            "--",
            "sh",
            "-c",
            "echo precious >/root/file",
        ]);
        home.ok(&["daemon", "stop"]);
        let dying = home
            .command(&["vm", "stop", "box"])
            .env("BANGERD", ANOTHER)
            .env("BANGER_FAILPOINT", "before:database: update the VM")
            .output()
            .expect("it starts");
        assert_eq!(dying.status.code(), Some(1), "{}", text(&dying.stderr));
        assert_eq!(home.state("box").as_deref(), Some("stopped"));
        home.assert_proven("after a death in a stop");
        home.ok(&["vm", "start", "box"]);
        let kept = home.ok(&["vm", "exec", "box", "--", "cat", "/root/file"]);
        assert_eq!(kept, "precious\n");
        home.ok(&["vm", "delete", "box"]);
    });
}

#[test]
fn a_frozen_monitor_slows_nobody_down_is_shown_and_can_be_killed() {
    real(|home| {
        home.boot("frozen");
        home.boot("other");
        let frozen = home.monitor("frozen");
        signal(frozen, Signal::STOP);
        eventually("it is shown", || {
            home.state("frozen").as_deref() == Some("unresponsive")
        });
        at_once(home, &["ps"]);
        at_once(home, &["vm", "list"]);
        at_once(home, &["vm", "show", "frozen"]);
        at_once(home, &["doctor", "--prove"]);
        at_once(home, &["daemon", "reconcile"]);
        at_once(home, &["vm", "kill", "other"]);
        at_once(home, &["vm", "delete", "other"]);

        // Also for a daemon that finds it so.
        kill(home.daemon());
        at_once(home, &["ps"]);
        assert_eq!(home.state("frozen").as_deref(), Some("unresponsive"));
        home.boot("other");
        at_once(home, &["vm", "delete", "other"]);

        // And one that goes on runs again.
        signal(frozen, Signal::CONT);
        home.becomes("frozen", "running");
        assert_eq!(home.monitor("frozen"), frozen);
        signal(frozen, Signal::STOP);
        at_once(home, &["vm", "kill", "frozen"]);
        assert_eq!(home.state("frozen").as_deref(), Some("stopped"));
        home.ok(&["vm", "delete", "frozen"]);
    });
}

#[test]
fn a_monitor_that_is_killed_is_noticed_at_once_and_the_reason_is_shown() {
    real(|home| {
        // As the kernel does when memory runs out.
        let ends = |how: &str| {
            let monitor = home.monitor("box");
            let begun = Instant::now();
            kill(monitor);
            home.becomes("box", "stopped");
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(1), "{how}: {took:?}");
            let vm = home.vm("box").expect("it is there");
            let reason = vm["stop_reason"].as_str().expect("a reason").to_owned();
            println!("{how}: noticed after {} ms: {reason}", took.as_millis());
            home.assert_proven(how);
            reason
        };
        home.boot("box");
        let reason = ends("by the daemon that started it");
        assert!(reason.contains("signal 9"), "{reason}");

        let params = json!({"vm": "box"});
        let started = home.rpc("vm.start", params).expect("the daemon lives");
        started.expect("it starts");
        kill(home.daemon());
        home.ok(&["ps"]);
        let reason = ends("by one that took it up");
        assert!(!reason.is_empty());
        home.ok(&["vm", "delete", "box"]);
    });
}

#[test]
fn a_proof_shows_a_stray_a_fix_removes_it_and_another_engine_s_vm_is_left_alone() {
    real(|home| {
        let other = Home::new();
        other.ok(&["ps"]);
        other.boot("theirs");
        let theirs = other.monitor("theirs");
        home.boot("box");
        let ours = home.monitor("box");

        let engine = home.json(&["daemon", "status"])["engine"].clone();
        let engine = engine.as_str().expect("an id");
        let stray = home
            .rig
            .config
            .runtime_dir
            .join(engine)
            .join("0123456789ab");
        std::fs::create_dir(&stray).expect("a folder");
        let proof = home.banger(&["doctor", "--prove"]);
        assert_eq!(proof.status.code(), Some(1));
        let shown = text(&proof.stdout);
        let line = shown.lines().find(|line| line.contains("0123456789ab"));
        assert!(line.is_some_and(|line| line.contains("STRAY")), "{shown}");
        assert!(stray.exists(), "a proof changes nothing");
        let told = text(&proof.stderr);
        assert!(told.contains("not this one, has 1 VM running"), "{told}");

        let fixed = home.banger(&["doctor", "--prove", "--fix"]);
        assert_eq!(fixed.status.code(), Some(0), "{}", text(&fixed.stderr));
        assert!(text(&fixed.stdout).contains("STRAY"), "it is shown first");
        assert!(!stray.exists());
        home.assert_proven("after a fix");
        assert_eq!(home.monitor("box"), ours);
        assert_eq!(other.monitor("theirs"), theirs);
        other.assert_proven("the other engine");
        other.ok(&["vm", "delete", "theirs"]);
        home.ok(&["vm", "delete", "box"]);
    });
}
