//! A VM's systemd scope, by `banger` and its daemon. Skipped, with the reason, where systemd makes none; the lab
//! is where it does.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use banger_tests::{Home, alone, binary, eventually, gone, is_alive, kill, skipped, text};
use serde_json::Value;

fn control_group(pid: u32) -> String {
    let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    group.trim_end().to_owned()
}

/// The units of these names that systemd knows, as an administrator would look.
fn units(pattern: &str) -> Vec<String> {
    let listed = Command::new("systemctl")
        .args(["list-units", "--all", "--plain", "--no-legend", "--full"])
        .arg(pattern)
        .output()
        .expect("systemctl starts");
    let lines = text(&listed.stdout);
    let names = lines.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// What systemd says of a unit.
fn property(unit: &str, name: &str) -> String {
    let shown = Command::new("systemctl")
        .args(["show", "--value", "--property", name, "--", unit])
        .output()
        .expect("systemctl starts");
    text(&shown.stdout).trim().to_owned()
}

/// A scope that is made by hand, with a process that sleeps in it.
struct ByHand {
    name: String,
    sleeper: Child,
}

impl ByHand {
    fn make(name: String) -> Self {
        let sleeper = Command::new("systemd-run")
            .args(["--scope", "--quiet", "--collect", "--unit", &name])
            .args(["--", "sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .expect("systemd-run starts");
        let pid = sleeper.id();
        eventually("it is in its scope", || control_group(pid).ends_with(&name));
        ByHand { name, sleeper }
    }

    fn runs(&self) -> bool {
        is_alive(self.sleeper.id())
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.sleeper.kill();
        let _ = self.sleeper.wait();
    }
}

struct Vm {
    name: &'static str,
    engine: String,
    id: String,
    handles: PathBuf,
}

impl Vm {
    fn boot(home: &Home, name: &'static str) -> Self {
        home.boot(name);
        Vm::named(home, name)
    }

    fn named(home: &Home, name: &'static str) -> Self {
        let state = &home.rig.config.state_dir;
        let engine = std::fs::read_to_string(state.join("engine-id")).expect("an id");
        let shown = home.vm(name).expect("it is there");
        let id = shown["id"].as_str().expect("an id").to_owned();
        Vm {
            name,
            engine: engine.trim().to_owned(),
            handles: state.join("vms").join(&id).join("handles.json"),
            id,
        }
    }

    fn scope(&self) -> String {
        format!("banger-{}-{}.scope", self.engine, self.id)
    }

    fn all(&self) -> String {
        format!("banger-{}-*", self.engine)
    }

    fn handles(&self) -> Value {
        let handles = std::fs::read_to_string(&self.handles).expect("it is there");
        serde_json::from_str(&handles).expect("it is JSON")
    }

    /// Its monitor, which must be in its scope, and its handles, which must name it.
    fn monitor(&self, home: &Home) -> u32 {
        let pid = home.monitor(self.name);
        let group = control_group(pid);
        assert!(group.ends_with(&format!("/{}", self.scope())), "{group}");
        assert_eq!(self.handles()["scope"], self.scope().as_str());
        pid
    }
}

#[test]
fn as_root_a_vm_s_scope_outlives_every_daemon_and_goes_with_its_run() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::new();
    if !home.has("scope") {
        return;
    }
    // The daemon is a service, as an administrator may have set it up.
    home.ok(&["daemon", "stop"]);
    let service = format!("bgr-test-{}.service", std::process::id());
    let mut run = Command::new("systemd-run");
    run.args(["--quiet", "--collect", "--unit", &service]);
    let surroundings = home.surround(Command::new("true"));
    for (name, value) in surroundings.get_envs() {
        let value = value.expect("it is set").to_str().expect("UTF-8");
        run.arg(format!(
            "--setenv={}={value}",
            name.to_str().expect("UTF-8")
        ));
    }
    run.arg("--").arg(binary("bangerd"));
    // On its command line too, so that it is ended if this test fails.
    run.arg("--state").arg(&home.rig.config.state_dir);
    let made = run.status();
    assert!(made.expect("systemd-run starts").success());
    eventually("the service answers", || {
        home.rig.config.runtime_dir.join("bangerd.sock").exists()
    });
    let daemon = home.daemon();
    assert!(control_group(daemon).ends_with(&service), "{daemon}");

    let vm = Vm::boot(&home, "box");
    let pid = vm.monitor(&home);
    assert_eq!(units(&vm.all()), [vm.scope()]);
    let emulated = if home.has("kvm") { 0 } else { 512 + 64 };
    let memory: u64 = 128 + 8 + 512 + emulated;
    assert_eq!(
        property(&vm.scope(), "MemoryMax"),
        (memory << 20).to_string()
    );
    assert_eq!(property(&vm.scope(), "TasksMax"), "129");
    assert_eq!(property(&vm.scope(), "CPUWeight"), "50");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    for line in ["CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let stopped = Command::new("systemctl").args(["stop", &service]).status();
    assert!(stopped.expect("systemctl starts").success());
    gone(daemon);
    assert!(is_alive(pid), "the service's end is none of the VM's");

    // The next one is a command's, and is killed.
    assert_eq!(vm.monitor(&home), pid);
    let daemon = home.daemon();
    kill(daemon);
    let lost = std::fs::remove_file(&vm.handles);
    lost.expect("the handles are lost too");
    assert_eq!(vm.monitor(&home), pid, "found again by its name");
    home.assert_proven("after a kill");
    let proof = home.ok(&["doctor", "--prove"]);
    assert!(proof.contains(&vm.scope()), "{proof}");

    // The monitor ends by itself, the VM starts again, and is deleted.
    kill(pid);
    home.becomes("box", "stopped");
    assert_eq!(units(&vm.all()), [""; 0]);
    let params = serde_json::json!({"vm": "box", "wait": false});
    let started = home.rpc("vm.start", params);
    started.expect("the daemon lives").expect("it starts");
    assert_ne!(vm.monitor(&home), pid);
    home.ok(&["vm", "delete", "box"]);
    assert_eq!(units(&vm.all()), [""; 0]);
    home.assert_proven("after the delete");
    home.rig.assert_nothing_left();
}

#[test]
fn as_root_a_scope_of_nobody_is_a_stray_and_is_ended_and_another_engine_s_is_not() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::new();
    if !home.has("scope") {
        return;
    }
    let vm = Vm::boot(&home, "box");
    let pid = vm.monitor(&home);
    let nobody = "ee".repeat(16);
    let stray = ByHand::make(format!("banger-{}-{nobody}.scope", vm.engine));
    // The engine's id is random, and this is no random one.
    let other = ByHand::make(format!("banger-00000000-{nobody}.scope"));

    let proof = home.banger(&["doctor", "--prove"]);
    assert_eq!(proof.status.code(), Some(1), "{}", text(&proof.stderr));
    let shown = text(&proof.stdout);
    println!("{shown}");
    let line = shown.lines().find(|line| line.contains(&stray.name));
    assert!(line.expect("it is shown").contains("STRAY"), "{shown}");
    assert!(!shown.contains(&other.name), "{shown}");
    assert!(stray.runs(), "a proof ends nothing");

    home.ok(&["doctor", "--prove", "--fix"]);
    eventually("what ran in it is ended", || !stray.runs());
    assert_eq!(units(&vm.all()), [vm.scope()]);
    assert!(other.runs() && is_alive(pid));
    assert_eq!(units(&other.name).len(), 1);
    home.ok(&["vm", "delete", "box"]);
}

/// Where systemd writes the units that programs ask it for, read-only: it refuses them.
struct Refusing;

impl Refusing {
    const UNITS: &str = "/run/systemd/transient";

    fn begin() -> Self {
        std::fs::create_dir_all(Self::UNITS).expect("systemd's folder");
        mount(&["--bind", Self::UNITS, Self::UNITS]);
        let refusing = Refusing;
        mount(&["-o", "remount,bind,ro", Self::UNITS]);
        refusing
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(Self::UNITS).status();
    }
}

fn mount(words: &[&str]) {
    let mounted = Command::new("mount").args(words).status();
    assert!(mounted.is_ok_and(|status| status.success()), "{words:?}");
}

#[test]
fn as_root_a_vm_whose_scope_systemd_refuses_runs_without_and_has_one_the_next_time() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::new();
    if !home.has("scope") {
        return;
    }
    home.create("box");
    let vm = Vm::named(&home, "box");
    let refusing = Refusing::begin();
    let params = serde_json::json!({"vm": "box", "wait": false});
    let started = home.rpc("vm.start", params.clone());
    started.expect("the daemon lives").expect("it starts");
    let pid = home.monitor("box");
    assert_eq!(control_group(pid), control_group(home.daemon()));
    assert_eq!(vm.handles()["scope"], Value::Null);
    let log = home.log();
    let told = log
        .lines()
        .find(|line| line.contains("starts without a scope"));
    println!("{}", told.expect("it is logged"));
    home.assert_proven("without a scope");
    home.ok(&["vm", "kill", "box"]);

    drop(refusing);
    let started = home.rpc("vm.start", params);
    started.expect("the daemon lives").expect("it starts");
    vm.monitor(&home);
    home.ok(&["vm", "delete", "box"]);
    assert_eq!(units(&vm.all()), [""; 0]);
}
