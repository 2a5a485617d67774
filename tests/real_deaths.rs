//! The real daemon dies at every call of its host, before and after the call's effect, while it creates,
//! starts, stops, kills, deletes and reconciles real monitors; then the next `banger` puts it right.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_tests::{Home, Lost, alone, binary, eventually, gone, is_alive, kill, why_not_real};
use serde_json::json;

/// The daemon that can be told to die.
const DYING: &str = env!("CARGO_BIN_EXE_bangerd-failpoints");

/// What the daemon is at when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Start,
    Kill,
    /// Of a guest that is asked, by its keys: it boots, and its ssh is waited for by somebody else.
    Stop,
    DeleteRunning,
    DeleteCreated,
    /// By being started: the monitor was killed meanwhile.
    Reconcile,
}

impl Verb {
    /// What the VM may be afterwards: the wish, or what it was. None means that it does not exist.
    fn allowed(self) -> &'static [Option<&'static str>] {
        match self {
            Verb::Create => &[None, Some("created")],
            Verb::Start => &[Some("created"), Some("running")],
            Verb::Kill | Verb::Stop => &[Some("running"), Some("stopped")],
            Verb::DeleteRunning => &[Some("running"), Some("stopped"), None],
            Verb::DeleteCreated => &[Some("created"), None],
            Verb::Reconcile => &[Some("stopped")],
        }
    }

    /// Brings `box` to where the verb begins.
    fn prepare(self, home: &Home) {
        match self {
            Verb::Create => {}
            Verb::Start | Verb::DeleteCreated => home.create("box"),
            Verb::Kill | Verb::DeleteRunning => home.boot("box"),
            Verb::Stop => {
                home.boot("box");
                has_a_keyboard(home);
            }
            Verb::Reconcile => {
                home.boot("box");
                let monitor = home.monitor("box");
                kill(home.daemon());
                kill(monitor);
            }
        }
    }

    /// Does it, as a client would.
    fn run(self, home: &Home) -> Result<Result<serde_json::Value, String>, Lost> {
        let vm = json!({"vm": "box"});
        match self {
            Verb::Create => home.rpc("vm.create", banger_tests::small("box")),
            Verb::Start => home.rpc("vm.start", vm),
            Verb::Kill => home.rpc("vm.kill", vm),
            Verb::Stop => std::thread::scope(|scope| {
                // Somebody waits for its ssh: then a stop does not ask over ssh, but by its keys.
                scope.spawn(|| home.rpc("vm.ssh", vm.clone()));
                std::thread::sleep(Duration::from_millis(20));
                home.rpc("vm.stop", vm.clone())
            }),
            Verb::DeleteRunning | Verb::DeleteCreated => home.rpc("vm.delete", vm),
            Verb::Reconcile => home.rpc("daemon.status", json!({})),
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

    /// Starts a daemon that dies at a point once the trap is armed. Nothing is at a point that has no name.
    fn start(&self, home: &Home, at: Option<&str>) {
        let mut failpoint = format!(
            "armed-by={},log={}",
            self.armed.display(),
            self.log.display()
        );
        if let Some(at) = at {
            failpoint = format!("{at},{failpoint}");
        }
        let _ = home
            .command(&["ps"])
            .env("BANGERD", DYING)
            .env("BANGER_FAILPOINT", failpoint)
            .output()
            .expect("it starts");
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

/// Dies at every call of a verb. Returns what was tried, and what came of it.
fn die_everywhere(verb: Verb) {
    if let Some(reason) = why_not_real() {
        println!("SKIP: {reason}");
        return;
    }
    let _turn = alone();
    let begun = Instant::now();
    let home = Home::new();
    let trap = Trap::new(home.rig.folder());
    home.ok(&["ps"]);
    home.boot("bystander");
    let bystander = home.monitor("bystander");
    home.ok(&["daemon", "stop"]);

    let calls = calls_of(verb, &home, &trap);
    assert!(!calls.is_empty(), "{verb:?} calls nothing?");
    for (index, call) in calls.iter().enumerate() {
        for moment in ["before", "after"] {
            let what = format!("{verb:?}, {moment} {call} ({})", index + 1);
            let at = format!("{moment}:{}", index + 1);
            let state = die(verb, &home, &trap, &at, &what);
            println!("{what}: {}", state.as_deref().unwrap_or("does not exist"));
            assert!(is_alive(bystander), "{what}: the other VM");
            assert_eq!(home.monitor("bystander"), bystander, "{what}");
            if state.is_some() {
                home.ok(&["vm", "delete", "box"]);
            }
            home.assert_proven(&what);
            home.ok(&["daemon", "stop"]);
        }
    }
    home.ok(&["vm", "delete", "bystander"]);
    println!(
        "{verb:?}: {} deaths in {:.1} s",
        2 * calls.len(),
        begun.elapsed().as_secs_f64()
    );
}

/// Does the verb with nobody dying, and returns the calls that it made.
fn calls_of(verb: Verb, home: &Home, trap: &Trap) -> Vec<String> {
    bring_about(verb, home, trap, None);
    verb.run(home).expect("nobody dies").expect("it is done");
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
fn bring_about(verb: Verb, home: &Home, trap: &Trap, at: Option<&str>) {
    match verb {
        Verb::Reconcile => {
            home.ok(&["ps"]);
            verb.prepare(home);
            trap.arm();
            trap.start(home, at);
        }
        _ => {
            trap.start(home, at);
            verb.prepare(home);
            trap.arm();
        }
    }
}

/// Lets the daemon die in the verb, and returns the state that the next one finds, or brings, the VM to.
fn die(verb: Verb, home: &Home, trap: &Trap, at: &str, what: &str) -> Option<String> {
    bring_about(verb, home, trap, Some(at));
    if verb != Verb::Reconcile {
        let daemon = home.daemon();
        let answer = verb.run(home);
        // It may even have answered: what dies last of all may be a clean-up that nobody waits for.
        eventually(&format!("{what}: it dies ({answer:?})"), || {
            !is_alive(daemon)
        });
        gone(daemon);
    }
    trap.disarm();
    let _ = trap.calls();
    let state = home.state("box");
    assert!(
        verb.allowed().contains(&state.as_deref()),
        "{what}: it is {state:?}"
    );
    home.assert_proven(what);
    state
}

#[test]
fn what_is_shipped_cannot_be_told_to_die() {
    let contains = |program: &Path| {
        let bytes = std::fs::read(program).expect("it is built");
        bytes
            .windows(16)
            .any(|window| window == b"BANGER_FAILPOINT")
    };
    assert!(contains(Path::new(DYING)));
    assert!(!contains(&binary("bangerd")));
}

#[test]
fn a_death_at_any_call_of_a_create_leaves_all_or_nothing() {
    die_everywhere(Verb::Create);
}

#[test]
fn a_death_at_any_call_of_a_start_leaves_a_vm_that_runs_or_one_that_never_did() {
    die_everywhere(Verb::Start);
}

#[test]
fn a_death_at_any_call_of_a_kill_leaves_a_vm_that_runs_or_has_stopped() {
    die_everywhere(Verb::Kill);
}

#[test]
fn a_death_at_any_call_of_a_stop_leaves_a_vm_that_runs_or_has_stopped() {
    die_everywhere(Verb::Stop);
}

#[test]
fn a_death_at_any_call_of_a_delete_is_followed_by_a_delete_that_goes_on() {
    die_everywhere(Verb::DeleteRunning);
    die_everywhere(Verb::DeleteCreated);
}

#[test]
fn a_death_at_any_call_of_a_reconcile_is_followed_by_one_that_goes_on() {
    die_everywhere(Verb::Reconcile);
}
