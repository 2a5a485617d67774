//! The real daemon dies at every call of its host, before and after the call's effect, while it is at a
//! verb over real monitors; then the next `banger` puts it right.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use banger_core::Moment;
use rustix::process::setpriority_process;
use serde_json::{Value, json};

use crate::home::{Home, Lost, eventually, gone, is_alive, kill, raw, skipped, text};
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
            Act::Kill | Act::DeleteRunning => {
                home.boot("box");
                give_way(home.monitor("box"));
            }
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

/// Lets a monitor's guest have what nobody else wants of the processors: how far it gets is of no matter,
/// and in an emulated lab it is emulated twice.
fn give_way(monitor: u32) {
    let threads = std::fs::read_dir(format!("/proc/{monitor}/task")).expect("it runs");
    for thread in threads.flatten() {
        let id = thread.file_name().to_string_lossy().parse();
        // One that has just ended needs nothing.
        let _ = setpriority_process(Some(raw(id.expect("a number"))), 19);
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
    fn starter(&self, home: &Home, at: &str) -> Command {
        let failpoint = format!(
            "{at},armed-by={},log={}",
            self.armed.display(),
            self.log.display()
        );
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
///
/// How many calls there are is found out on the way: a device that is busy is removed twice.
pub fn die_everywhere(act: Act, backends: Value) {
    die_at(&[Moment::Before, Moment::After], act, backends);
}

fn die_at(moments: &[Moment], act: Act, backends: Value) {
    let _turn = alone();
    let begun = Instant::now();
    let home = Home::over(backends);
    let trap = Trap::new(home.rig.folder());
    home.ok(&["ps"]);
    home.boot("bystander");
    let bystander = home.monitor("bystander");
    give_way(bystander);
    home.ok(&["daemon", "stop"]);
    let before = as_an_administrator_sees_it();

    let mut deaths = 0;
    for number in 1.. {
        let mut reached = false;
        for &moment in moments {
            let what = match die(act, &home, &trap, moment, number) {
                Some(call) => {
                    deaths += 1;
                    reached = true;
                    format!("{act:?}, {moment:?} {call} ({number})")
                }
                None => format!("{act:?}, with less than {number} calls"),
            };
            let state = home.state("box");
            println!("{what}: {}", state.as_deref().unwrap_or("does not exist"));
            let allowed = act.allowed().contains(&state.as_deref());
            assert!(allowed, "{what}: it is {state:?}");
            home.assert_proven(&what);
            assert!(is_alive(bystander), "{what}: the other VM");
            assert_eq!(home.monitor("bystander"), bystander, "{what}");
            if state.is_some() {
                home.ok(&["vm", "delete", "box"]);
            }
            home.assert_proven(&what);
            home.ok(&["daemon", "stop"]);
            assert_eq!(as_an_administrator_sees_it(), before, "{what}");
            if !reached {
                break;
            }
        }
        if !reached {
            break;
        }
        assert!(number < 100, "{act:?} has no end");
    }
    assert!(deaths > 2, "{act:?} calls nothing?");
    home.ok(&["vm", "delete", "bystander"]);
    let took = begun.elapsed().as_secs_f64();
    println!("{act:?}: {deaths} deaths in {took:.1} s");
}

/// Dies at every call of a start and of a delete with this monitor, over all that the kernel holds of a
/// VM. Prints why not, where that cannot be had.
///
/// After each call only, which is what the host is like before the next: in an emulated lab a death takes
/// eight seconds. With `BANGER_TEST_ALL=1` before each as well.
pub fn die_everywhere_over_dm_and_tap(vmm: &str) {
    if skipped() || !Home::new().works(&[vmm, "dm-snapshot", "tap"]) {
        return;
    }
    for act in [Act::Start, Act::DeleteRunning] {
        let backends = json!({"vmm": vmm, "disk": "dm-snapshot", "network": "tap"});
        match std::env::var_os("BANGER_TEST_ALL") {
            Some(_) => die_everywhere(act, backends),
            None => die_at(&[Moment::After], act, backends),
        }
    }
}

/// Lets the daemon die at a call of the verb, counted from one, and returns the call; none if the verb was
/// done before.
fn die(act: Act, home: &Home, trap: &Trap, moment: Moment, number: usize) -> Option<String> {
    let at = match moment {
        Moment::Before => format!("before:{number}"),
        Moment::After => format!("after:{number}"),
    };
    let mut monitor = None;
    if act == Act::Reconcile {
        home.ok(&["ps"]);
        act.prepare(home);
        trap.arm();
        // It dies, and with it the answer; if not, it is stopped below.
        let _ = trap.starter(home, &at).output().expect("it starts");
        let _ = home.banger(&["daemon", "stop"]);
    } else {
        let started = trap.starter(home, &at).output().expect("it starts");
        assert!(started.status.success(), "{}", text(&started.stderr));
        act.prepare(home);
        let daemon = home.daemon();
        monitor = home.vm("box").and_then(|vm| vm["pid"].as_u64());
        trap.arm();
        if act.run(home).is_ok() {
            // What dies last of all may be a clean-up that nobody waits for but the daemon's own end.
            let _ = home.banger(&["daemon", "stop"]);
        }
        gone(daemon);
    }
    trap.disarm();
    let call = trap.calls().into_iter().nth(number - 1)?;
    if let (Some(monitor), Moment::After, true) = (monitor, moment, call.starts_with("signal")) {
        // What was killed is not dead at once, and until then it is shown as running.
        gone(u32::try_from(monitor).expect("a pid"));
    }
    Some(call)
}
