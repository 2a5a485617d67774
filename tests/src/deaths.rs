//! The real daemon dies at every call of its host, before and after the call's effect, while it is at a
//! verb over real monitors; then the next `banger` puts it right.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::home::{Home, Lost, eventually, gone, is_alive, kill, text};
use crate::{alone, as_an_administrator_sees_it, binary};

/// What the daemon is at when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Of a VM that there is not.
    Create,
    /// Of one that never ran.
    Start,
    /// Of one that boots.
    Kill,
    /// Of a guest that is asked, by its keys: it boots, and its ssh is waited for by somebody else.
    Stop,
    /// Of one that boots.
    DeleteRunning,
    /// Of one that never ran.
    DeleteCreated,
    /// By being started: the monitor was killed meanwhile.
    Reconcile,
}

impl Act {
    /// What the VM may be afterwards: the wish, or what it was. None means that it does not exist.
    fn allowed(self) -> &'static [Option<&'static str>] {
        match self {
            Act::Create => &[None, Some("created")],
            Act::Start => &[Some("created"), Some("running")],
            Act::Kill | Act::Stop => &[Some("running"), Some("stopped")],
            Act::DeleteRunning => &[Some("running"), Some("stopped"), None],
            Act::DeleteCreated => &[Some("created"), None],
            Act::Reconcile => &[Some("stopped")],
        }
    }

    /// Brings `box` to where the verb begins.
    fn prepare(self, home: &Home) {
        match self {
            Act::Create => {}
            Act::Start | Act::DeleteCreated => home.create("box"),
            Act::Kill | Act::DeleteRunning => home.boot("box"),
            Act::Stop => {
                home.boot("box");
                has_a_keyboard(home);
            }
            Act::Reconcile => {
                home.boot("box");
                let monitor = home.monitor("box");
                kill(home.daemon());
                kill(monitor);
            }
        }
    }

    /// Does it, as a client would.
    fn run(self, home: &Home) -> Result<Result<Value, String>, Lost> {
        let vm = json!({"vm": "box"});
        match self {
            Act::Create => home.rpc("vm.create", home.small("box")),
            Act::Start => home.rpc("vm.start", vm),
            Act::Kill => home.rpc("vm.kill", vm),
            Act::Stop => std::thread::scope(|scope| {
                // Somebody waits for its ssh: then a stop does not ask over ssh, but by its keys.
                scope.spawn(|| home.rpc("vm.ssh", vm.clone()));
                std::thread::sleep(Duration::from_millis(20));
                home.rpc("vm.stop", vm.clone())
            }),
            Act::DeleteRunning | Act::DeleteCreated => home.rpc("vm.delete", vm),
            Act::Reconcile => home.rpc("daemon.status", json!({})),
        }
    }
}

/// The kernel has found its keyboard: from here on Ctrl-Alt-Del ends it at once, as it has no init yet.
fn has_a_keyboard(home: &Home) {
    let vm = home.vm("box").expect("it is there");
    let console = PathBuf::from(vm["console_log"].as_str().expect("a path"));
    eventually("the guest has a keyboard", || {
        std::fs::read_to_string(&console).is_ok_and(|text| text.contains("keyboard as"))
    });
}

/// Where a daemon writes down its calls, and what lets them count.
struct Trap {
    armed: PathBuf,
    log: PathBuf,
}

impl Trap {
    fn new(folder: &Path) -> Self {
        Trap {
            armed: folder.join("armed"),
            log: folder.join("calls"),
        }
    }

    /// Returns what starts a daemon that dies at a point once the trap is armed.
    fn starter(&self, home: &Home, at: Option<&str>) -> Command {
        let mut failpoint = format!(
            "armed-by={},log={}",
            self.armed.display(),
            self.log.display()
        );
        if let Some(at) = at {
            failpoint = format!("{at},{failpoint}");
        }
        let mut command = home.command(&["ps"]);
        command
            .env("BANGERD", binary("bangerd-failpoints"))
            .env("BANGER_FAILPOINT", failpoint);
        command
    }

    fn arm(&self) {
        std::fs::write(&self.armed, "").expect("it is armed");
    }

    fn disarm(&self) {
        std::fs::remove_file(&self.armed).expect("it was armed");
    }

    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(&self.log).unwrap_or_default();
        let _ = std::fs::remove_file(&self.log);
        calls.lines().map(str::to_owned).collect()
    }
}

/// Dies at every call of a verb, over the given backends (as `{"disk": "dm-snapshot"}`), and asserts after
/// each death that the next daemon knows what is, and that what it tears down leaves no trace.
pub fn die_everywhere(act: Act, backends: Value) {
    let _turn = alone();
    let begun = Instant::now();
    let home = Home::over(backends);
    let trap = Trap::new(home.rig.folder());
    home.ok(&["ps"]);
    home.boot("bystander");
    let bystander = home.monitor("bystander");
    home.ok(&["daemon", "stop"]);
    let before = as_an_administrator_sees_it();

    let calls = calls_of(act, &home, &trap);
    assert!(!calls.is_empty(), "{act:?} calls nothing?");
    for (index, call) in calls.iter().enumerate() {
        for moment in ["before", "after"] {
            let what = format!("{act:?}, {moment} {call} ({})", index + 1);
            let at = format!("{moment}:{}", index + 1);
            let state = die(act, &home, &trap, &at, &what);
            println!("{what}: {}", state.as_deref().unwrap_or("does not exist"));
            assert!(is_alive(bystander), "{what}: the other VM");
            assert_eq!(home.monitor("bystander"), bystander, "{what}");
            if state.is_some() {
                home.ok(&["vm", "delete", "box"]);
            }
            home.assert_proven(&what);
            home.ok(&["daemon", "stop"]);
            assert_eq!(as_an_administrator_sees_it(), before, "{what}");
        }
    }
    home.ok(&["vm", "delete", "bystander"]);
    println!(
        "{act:?}: {} deaths in {:.1} s",
        2 * calls.len(),
        begun.elapsed().as_secs_f64()
    );
}

/// Does the verb with nobody dying, and returns the calls that it made.
fn calls_of(act: Act, home: &Home, trap: &Trap) -> Vec<String> {
    bring_about(act, home, trap, None);
    act.run(home).expect("nobody dies").expect("it is done");
    home.ok(&["daemon", "stop"]);
    trap.disarm();
    let calls = trap.calls();
    if home.state("box").is_some() {
        home.ok(&["vm", "delete", "box"]);
    }
    home.ok(&["daemon", "stop"]);
    calls
}

/// Starts a daemon with a trap, and brings `box` to where the verb begins, and the trap to be armed.
fn bring_about(act: Act, home: &Home, trap: &Trap, at: Option<&str>) {
    match act {
        Act::Reconcile => {
            home.ok(&["ps"]);
            act.prepare(home);
            trap.arm();
            // It dies, and with it the answer.
            let _ = trap.starter(home, at).output().expect("it starts");
        }
        _ => {
            let started = trap.starter(home, at).output().expect("it starts");
            assert!(started.status.success(), "{}", text(&started.stderr));
            act.prepare(home);
            trap.arm();
        }
    }
}

/// Lets the daemon die in the verb, and returns the state that the next one finds, or brings, the VM to.
fn die(act: Act, home: &Home, trap: &Trap, at: &str, what: &str) -> Option<String> {
    bring_about(act, home, trap, Some(at));
    if act != Act::Reconcile {
        let daemon = home.daemon();
        let monitor = home.vm("box").and_then(|vm| vm["pid"].as_u64());
        let answer = act.run(home);
        // It may even have answered: what dies last of all may be a clean-up that nobody waits for.
        eventually(&format!("{what}: it dies ({answer:?})"), || {
            !is_alive(daemon)
        });
        gone(daemon);
        if let (Some(monitor), true) = (monitor, what.contains("after signal")) {
            // What was killed is not dead at once, and until then it is shown as running.
            gone(u32::try_from(monitor).expect("a pid"));
        }
    }
    trap.disarm();
    let _ = trap.calls();
    let state = home.state("box");
    assert!(
        act.allowed().contains(&state.as_deref()),
        "{what}: it is {state:?}"
    );
    home.assert_proven(what);
    state
}
