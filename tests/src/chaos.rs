//! Chaos: a seeded sequence of verbs on several real VMs at once, during which the daemon, a monitor, an
//! ssh master or a client is killed at a random moment; after each kill, what was promised must be true
//! and everything on the host must have an owner.
//!
//! The seed decides what is done to whom, when, and who is killed. How far each had come by then is the
//! machine's to decide, so a replay tries the same things and may meet them elsewhere.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::home::{Home, Lost, eventually, gone, is_alive, signal};

/// How many VMs there are at most, those of `run --rm` besides.
const VMS: usize = 4;

/// What was done in all.
#[derive(Debug, Default)]
pub struct Tally {
    /// Kills, by who was killed.
    pub kills: BTreeMap<Victim, usize>,
    /// Verbs, and how many of them were acknowledged.
    pub verbs: BTreeMap<Verb, (usize, usize)>,
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "they are what they are called")]
pub enum Victim {
    Daemon,
    Monitor,
    Client,
    SshMaster,
}

/// What is done to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "they are what they are called")]
pub enum Verb {
    Create,
    /// Without waiting for its guest.
    Boot,
    /// Until its ssh answers.
    Start,
    Stop,
    Kill,
    Restart,
    Delete,
    Exec,
    /// `run --rm`: deleted with its client.
    Run,
}

impl Tally {
    /// How many were killed.
    pub fn killed(&self) -> usize {
        self.kills.values().sum()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} kills (", self.killed())?;
        for (victim, number) in &self.kills {
            write!(f, " {victim:?}: {number}")?;
        }
        write!(f, " ) among verbs, of which acknowledged (")?;
        for (verb, (asked, acknowledged)) in &self.verbs {
            write!(f, " {verb:?}: {acknowledged} of {asked}")?;
        }
        f.write_str(" )")
    }
}

/// The seed that `BANGER_CHAOS_SEED` says, else another one each time.
pub fn chaos_seed() -> u64 {
    match std::env::var("BANGER_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("BANGER_CHAOS_SEED is a number"),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.expect("it is after 1970").as_millis() as u64
        }
    }
}

/// Goes on until so many have been killed, or the time is over. Panics at the first promise that is
/// broken, or stray that is found.
pub fn chaos(seed: u64, kills: usize, limit: Duration) -> Tally {
    println!("chaos: seed {seed} (BANGER_CHAOS_SEED={seed} replays it)");
    let mut chaos = Chaos {
        home: Home::new(),
        dice: Dice(seed),
        known: BTreeMap::new(),
        tally: Tally::default(),
    };
    chaos.home.ok(&["ps"]);
    let begun = Instant::now();
    let mut round = 0;
    while chaos.tally.killed() < kills && begun.elapsed() < limit {
        round += 1;
        chaos.round(round);
    }
    let names: Vec<String> = chaos.known.keys().cloned().collect();
    for name in names {
        chaos.home.ok(&["vm", "delete", &name]);
    }
    chaos.home.assert_proven("at the end");
    println!(
        "chaos: seed {seed}: {}, no stray, in {:.0} s",
        chaos.tally,
        begun.elapsed().as_secs_f64()
    );
    chaos.tally
}

struct Chaos {
    home: Home,
    dice: Dice,
    /// What the VMs were after the last round, those that are there.
    known: BTreeMap<String, Known>,
    tally: Tally,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    state: String,
    monitor: Option<u64>,
    /// Whether a verb on it was cut short: a daemon may still be at it.
    unsettled: bool,
}

/// A verb under way.
struct Asked {
    verb: Verb,
    name: String,
    how: How,
}

enum How {
    /// A `banger` of its own.
    Client(Child),
    /// A request of this process.
    Request(JoinHandle<Result<Result<Value, String>, Lost>>),
}

/// What became of a verb.
struct Answered {
    verb: Verb,
    name: String,
    acknowledged: bool,
}

impl Chaos {
    fn round(&mut self, round: usize) {
        let mut asked = Vec::new();
        let mut names: Vec<usize> = (0..VMS).collect();
        for _ in 0..=self.dice.below(3) {
            let name = names.remove(self.dice.below(names.len()));
            asked.push(self.ask(format!("vm-{name}"), round));
        }
        let victim = self.victim();
        // Most verbs take less than a tenth of a second.
        let within = [30, 120, 600][self.dice.below(3)];
        let moment = Duration::from_millis(self.dice.below(within) as u64);
        let which = self.dice.below(1000);
        let verbs: Vec<String> = asked
            .iter()
            .map(|asked| format!("{:?} {}", asked.verb, asked.name))
            .collect();
        let what = format!(
            "round {round}: {}; after {} ms kill {victim:?}",
            verbs.join(", "),
            moment.as_millis()
        );
        println!("{what}");
        std::thread::sleep(moment);
        let killed = self.kill(victim, which, &asked);
        // Now and then long enough for a guest to boot.
        let patience = match self.dice.below(10) {
            0 => 10_000,
            _ => 100 + self.dice.below(1500) as u64,
        };
        let patience = Duration::from_millis(patience);
        let answered = self.end(asked, patience);
        self.settle(&what, killed, &answered);
    }

    /// Asks for something, whatever the VM is at: what makes no sense is refused, and that is a case too.
    fn ask(&mut self, name: String, round: usize) -> Asked {
        let verb = match self.dice.below(100) {
            0..20 => Verb::Create,
            20..50 => Verb::Boot,
            50..55 => Verb::Start,
            55..67 => Verb::Stop,
            67..74 => Verb::Kill,
            74..81 => Verb::Restart,
            81..87 => Verb::Delete,
            87..95 => Verb::Exec,
            _ => Verb::Run,
        };
        let name = match verb {
            // Its own name, so that it cannot be taken for a VM that is to stay.
            Verb::Run => format!("brief-{round}-{name}"),
            _ => name,
        };
        self.tally.verbs.entry(verb).or_default().0 += 1;
        let banger = |arguments: &[&str]| How::Client(started(self.home.command(arguments)));
        let vm = name.as_str();
        const SMALL: [&str; 6] = ["--vcpu", "1", "--memory", "128M", "--disk-size", "16M"];
        let how = match verb {
            Verb::Create => banger(&[["vm", "create", vm].as_slice(), &SMALL].concat()),
            Verb::Run => banger(
                &[
                    ["vm", "run", "--rm", "--name", vm].as_slice(),
                    &SMALL,
                    &["--", "sleep", "60"],
                ]
                .concat(),
            ),
            Verb::Boot => How::Request(self.home.rpc_aside("vm.start", json!({"vm": vm}))),
            Verb::Start => banger(&["vm", "start", vm]),
            Verb::Stop => banger(&["vm", "stop", vm]),
            Verb::Kill => banger(&["vm", "kill", vm]),
            Verb::Restart => How::Request(self.home.rpc_aside("vm.restart", json!({"vm": vm}))),
            Verb::Delete => banger(&["vm", "delete", vm]),
            Verb::Exec => banger(&["vm", "exec", vm, "--", "true"]),
        };
        Asked { verb, name, how }
    }

    fn victim(&mut self) -> Victim {
        match self.dice.below(100) {
            0..45 => Victim::Daemon,
            45..80 => Victim::Monitor,
            80..95 => Victim::Client,
            _ => Victim::SshMaster,
        }
    }

    /// Kills one, if there is one. Returns the process.
    fn kill(&mut self, victim: Victim, which: usize, asked: &[Asked]) -> Option<u32> {
        let found: Vec<u32> = match victim {
            Victim::Client => asked
                .iter()
                .filter_map(|asked| match &asked.how {
                    How::Client(child) => Some(child.id()),
                    How::Request(_) => None,
                })
                .collect(),
            _ => {
                let is_one = |line: &str| match victim {
                    Victim::Daemon => line.contains("bangerd --state"),
                    Victim::Monitor => line.contains("qemu-system"),
                    _ => line.starts_with("ssh"),
                };
                let mut found = self.home.rig.processes();
                found.retain(|(_, line)| is_one(line));
                found.into_iter().map(|(pid, _)| pid).collect()
            }
        };
        let pid = *found.get(which % found.len().max(1))?;
        if !is_alive(pid) {
            return None;
        }
        signal(pid, rustix::process::Signal::KILL);
        if victim != Victim::Client {
            gone(pid);
        }
        *self.tally.kills.entry(victim).or_default() += 1;
        Some(pid)
    }

    /// Waits for the answers; who has none by then is killed too.
    fn end(&mut self, asked: Vec<Asked>, patience: Duration) -> Vec<Answered> {
        let deadline = Instant::now() + patience;
        let mut answered = Vec::new();
        for Asked { verb, name, how } in asked {
            let acknowledged = match how {
                How::Client(mut child) => {
                    while child.try_wait().expect("our child").is_none() {
                        if Instant::now() > deadline {
                            child.kill().expect("it is killed");
                            *self.tally.kills.entry(Victim::Client).or_default() += 1;
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    child.wait().expect("our child").success()
                }
                How::Request(answer) => {
                    matches!(answer.join().expect("no panic"), Ok(Ok(_)))
                }
            };
            if acknowledged {
                self.tally.verbs.entry(verb).or_default().1 += 1;
            }
            answered.push(Answered {
                verb,
                name,
                acknowledged,
            });
        }
        answered
    }

    /// Lets the next `banger` put it right, and asserts that it is.
    fn settle(&mut self, what: &str, killed: Option<u32>, answered: &[Answered]) {
        let home = &self.home;
        let report = home.json(&["daemon", "reconcile"]);
        for line in report["lines"].as_array().expect("lines") {
            assert_eq!(line["error"], Value::Null, "{what}: {line}");
        }
        for brief in answered.iter().filter(|a| a.verb == Verb::Run) {
            eventually(&format!("{what}: {} is deleted", brief.name), || {
                home.state(&brief.name).is_none()
            });
        }
        let at_rest = |vm: &Value| {
            matches!(
                vm["state"].as_str(),
                Some("created" | "running" | "stopped")
            )
        };
        eventually(&format!("{what}: every VM is at rest"), || {
            let vms = home.json(&["vm", "list"]);
            vms.as_array().expect("an array").iter().all(at_rest)
        });
        home.assert_proven(what);
        let vms = home.json(&["vm", "list"]);
        let mut now = BTreeMap::new();
        for vm in vms.as_array().expect("an array") {
            let name = vm["name"].as_str().expect("a name").to_owned();
            let known = Known {
                state: vm["state"].as_str().expect("a state").to_owned(),
                monitor: vm["pid"].as_u64(),
                unsettled: answered
                    .iter()
                    .any(|answered| answered.name == name && !answered.acknowledged),
            };
            now.insert(name, known);
        }
        self.compare(what, killed, answered, &now);
        self.known = now;
    }

    /// What nobody has touched is as it was; what was acknowledged is so.
    fn compare(
        &self,
        what: &str,
        killed: Option<u32>,
        answered: &[Answered],
        now: &BTreeMap<String, Known>,
    ) {
        let was_killed =
            |monitor: Option<u64>| killed.is_some() && monitor == killed.map(u64::from);
        for (name, before) in &self.known {
            let touched = answered.iter().any(|answered| answered.name == *name);
            if touched || before.unsettled {
                continue;
            }
            let after = now.get(name);
            match was_killed(before.monitor) {
                true => assert_eq!(
                    after.map(|after| after.state.as_str()),
                    Some("stopped"),
                    "{what}: {name}, whose monitor was killed"
                ),
                false => assert_eq!(
                    after.map(|after| (&after.state, after.monitor)),
                    Some((&before.state, before.monitor)),
                    "{what}: {name}, which nobody has touched"
                ),
            }
        }
        for Answered { verb, name, .. } in answered.iter().filter(|a| a.acknowledged) {
            let before = self.known.get(name);
            let unsettled = before.is_some_and(|before| before.unsettled);
            let state = now.get(name).map(|now| now.state.as_str());
            // A monitor that was killed just after its start was acknowledged.
            let ended = match killed {
                Some(pid) => !is_alive(pid),
                None => false,
            };
            let holds = match verb {
                Verb::Create => state.is_some(),
                Verb::Boot | Verb::Start | Verb::Restart => {
                    state == Some("running") || (ended && state == Some("stopped"))
                }
                Verb::Stop | Verb::Kill => matches!(state, Some("stopped" | "created")),
                Verb::Delete | Verb::Run => state.is_none(),
                Verb::Exec => true,
            };
            assert!(
                holds || unsettled,
                "{what}: {verb:?} {name} was acknowledged, and it is {state:?}"
            );
        }
    }
}

impl Home {
    /// Calls a method, without waiting for the answer.
    fn rpc_aside(
        &self,
        method: &'static str,
        params: Value,
    ) -> JoinHandle<Result<Result<Value, String>, Lost>> {
        let socket = self.rig.config.runtime_dir.join("bangerd.sock");
        std::thread::spawn(move || crate::home::call(&socket, method, &params))
    }
}

fn started(mut command: Command) -> Child {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts")
}

/// Numbers that follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed % bound as u64) as usize
    }
}
