//! The only judge of "alive".
//!
//! What the database *promises* ([`Promise`]) and who the monitor's process *was* ([`ProcessHandle`])
//! are sealed here: no other room can compare "the state is running and the pid exists", because
//! neither the state nor the pid can be read outside. Everybody else asks a [`Liveness`] and gets a
//! [`Verdict`]:
//!
//! ```text
//!                        boot id differs ─────────────────────────► Gone
//!   handle (pid, start time, boot id) ── process with both ── token on its command line? ── yes ► Alive
//!                        │                            │                 └── no ► NotOurs
//!                        │                            └── none at all: it is ending, or has just begun;
//!                        │                                looked at again, and at last ► CannotTell
//!                        └ none ──► search /proc for the run's token ── found ► Alive (the handle was stale)
//!                                                                     └ none ► Gone
//!   any of these could not be looked at ────────────────────────────► CannotTell
//! ```
//!
//! A token alone is nobody's proof: anybody can put it on a command line. A process is a monitor of ours only if
//! our own user runs it, and its program is one that monitors are.
//!
//! Only `Gone` allows a teardown; only `Alive` is ever signalled.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::handles::VMHandles;
use crate::host::{
    Delivery, Host, HostError, ProcessEnd, ProcessFacts, ProcessIdentity, ProcessSignal,
    ProcessUsage,
};
use crate::names::{EngineId, RunId, VmId};

/// What was last promised of a VM's state. Opaque: it says nothing about what is true now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Promise(VMState);

/// The states that are ever stored. Nothing in flight is: after a crash it is the request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VMState {
    /// Made, never started.
    Created,
    /// Started, and the start acknowledged.
    Running,
    /// Ended; everything it held on the host is released.
    Stopped,
    /// An undo or a teardown failed, or its files are gone.
    Error,
}

impl Promise {
    /// Promises a state.
    pub fn of(state: VMState) -> Self {
        Promise(state)
    }

    /// Returns the word that is stored.
    pub fn word(&self) -> &'static str {
        match self.0 {
            VMState::Created => "created",
            VMState::Running => "running",
            VMState::Stopped => "stopped",
            VMState::Error => "error",
        }
    }

    /// Reads a stored word.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(Promise(match word {
            "created" => VMState::Created,
            "running" => VMState::Running,
            "stopped" => VMState::Stopped,
            "error" => VMState::Error,
            _ => return None,
        }))
    }
}

/// Who a VM's monitor is or was. Opaque: only a [`Liveness`] can use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessHandle {
    pid: u32,
    #[serde(rename = "pid_start_time")]
    start_time: u64,
}

impl ProcessHandle {
    /// Seals a process that was just started.
    pub fn new(identity: ProcessIdentity) -> Self {
        ProcessHandle {
            pid: identity.pid,
            start_time: identity.start_time,
        }
    }
}

impl ProcessHandle {
    /// Returns what tells it from every other process of this boot.
    pub(crate) fn key(&self) -> String {
        format!("{}@{}", self.pid, self.start_time)
    }
}

impl fmt::Display for ProcessHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pid)
    }
}

/// What is true of a VM's monitor now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs, and this is who it is.
    Alive(Monitor),
    /// It does not run. Its handles may be torn down.
    Gone,
    /// The number it had belongs to somebody else, and it is nowhere else either... or so it seems:
    /// nothing is signalled; the handles may be torn down, since the process is not ours.
    NotOurs {
        /// What runs there instead.
        command_line: String,
    },
    /// It could not be found out. Nothing may be touched.
    CannotTell {
        /// Why not.
        reason: String,
    },
}

/// A monitor that was seen alive, verified to be the one of its VM and run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    process: ProcessIdentity,
    run: RunId,
}

impl Monitor {
    /// Returns the handle to write down.
    pub fn handle(&self) -> ProcessHandle {
        ProcessHandle::new(self.process.clone())
    }

    /// Returns the run that it belongs to, as its command line says.
    pub fn run(&self) -> &RunId {
        &self.run
    }
}

/// What is shown of a VM: its promise held against what is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Made, never started.
    Created,
    /// It runs.
    Running,
    /// It is there, and its guest stands still: [`VmView::paused`](crate::VmView) says why.
    Paused,
    /// It was promised to run and does not: reconcile has yet to see it.
    Ended,
    /// It was promised to run, and either it does but its monitor answers nothing, or it could not be
    /// found out.
    Unresponsive,
    /// It does not run, and holds nothing.
    Stopped,
    /// The same, and it is about to be started again: its guest rebooted.
    Restarting,
    /// An undo or a teardown failed, or its files are gone.
    Error,
}

impl Condition {
    /// Says whether there is a monitor, whatever its guest does.
    pub fn has_monitor(self) -> bool {
        matches!(
            self,
            Condition::Running | Condition::Paused | Condition::Unresponsive
        )
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Condition::Created => "created",
            Condition::Running => "running",
            Condition::Paused => "paused",
            Condition::Ended => "ended",
            Condition::Unresponsive => "unresponsive",
            Condition::Stopped => "stopped",
            Condition::Restarting => "restarting",
            Condition::Error => "error",
        })
    }
}

/// A promise held against a verdict: what a reconcile decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was promised to run, and this very run does.
    Runs(Monitor),
    /// It was promised to run, and does not.
    Ended,
    /// It runs, and no start of it was acknowledged.
    HalfStarted(Monitor),
    /// It was promised not to run, and does not.
    Rests,
    /// It could not be found out.
    CannotTell(String),
}

/// Holds a promise against a verdict. Pure.
pub(crate) fn hold(promise: &Promise, run: Option<&RunId>, verdict: Verdict) -> Standing {
    match (verdict, promise.0) {
        (Verdict::CannotTell { reason }, _) => Standing::CannotTell(reason),
        (Verdict::Alive(monitor), VMState::Running) if run == Some(&monitor.run) => {
            Standing::Runs(monitor)
        }
        (Verdict::Alive(monitor), _) => Standing::HalfStarted(monitor),
        (Verdict::Gone | Verdict::NotOurs { .. }, VMState::Running) => Standing::Ended,
        (Verdict::Gone | Verdict::NotOurs { .. }, _) => Standing::Rests,
    }
}

/// Every monitor on the host, of whatever engine, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Those that carry this engine's id.
    pub ours: Vec<Sighting>,
    /// How many carry another engine's. They are counted, never touched.
    pub others: BTreeMap<EngineId, usize>,
}

/// A monitor that was seen, and the VM that its command line names. Nobody has yet said whether that VM wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The VM.
    pub vm: VmId,
    /// The monitor.
    pub monitor: Monitor,
}

/// The single source of truth for "is it alive".
#[async_trait]
pub trait Liveness: fmt::Debug + Send + Sync {
    /// Judges a VM's monitor by its handles (if there are any) and by what the host shows.
    async fn judge(&self, vm: &VmId, handles: Option<&VMHandles>) -> Verdict;

    /// Holds a promise against a judgement, which is asked for only if it matters.
    async fn condition(
        &self,
        vm: &VmId,
        promise: &Promise,
        handles: Option<&VMHandles>,
    ) -> Condition {
        match promise.0 {
            VMState::Created => Condition::Created,
            VMState::Stopped => Condition::Stopped,
            VMState::Error => Condition::Error,
            VMState::Running => match self.judge(vm, handles).await {
                Verdict::Alive(monitor) => match self.is_stopped(&monitor).await {
                    Ok(false) => Condition::Running,
                    _ => Condition::Unresponsive,
                },
                Verdict::Gone | Verdict::NotOurs { .. } => Condition::Ended,
                Verdict::CannotTell { .. } => Condition::Unresponsive,
            },
        }
    }

    /// Looks for every monitor on the host, once.
    async fn census(&self) -> Result<Census, HostError>;

    /// Says whether a monitor is stopped (by SIGSTOP, by a debugger): it is alive, and answers nothing.
    async fn is_stopped(&self, monitor: &Monitor) -> Result<bool, HostError>;

    /// Says whether a monitor that was seen is still there.
    async fn is_alive(&self, monitor: &Monitor) -> Result<bool, HostError>;

    /// Returns the TCP ports on which a monitor listens, sorted.
    async fn ports(&self, monitor: &Monitor) -> Result<Vec<u16>, HostError>;

    /// Says what a monitor has used of the machine; none if it is gone.
    async fn usage(&self, monitor: &Monitor) -> Result<Option<ProcessUsage>, HostError>;

    /// Signals a monitor that was judged alive. By pidfd, after one more look at its start time.
    async fn signal(&self, monitor: &Monitor, signal: ProcessSignal)
    -> Result<Delivery, HostError>;

    /// Waits for the end of a monitor that was judged alive. Cancel-safe.
    async fn wait_end(&self, monitor: &Monitor) -> Result<ProcessEnd, HostError>;
}

/// Judges by the operating system.
#[derive(Debug)]
pub struct HostLiveness {
    host: Arc<dyn Host>,
    engine: EngineId,
}

impl HostLiveness {
    /// Makes the judge of one engine's VMs.
    pub fn new(host: Arc<dyn Host>, engine: EngineId) -> Self {
        HostLiveness { host, engine }
    }

    /// Looks at a process that was recorded. One that is being killed loses its command line with its
    /// memory, before it lets go of its disks and its network; one that was just started has none yet:
    /// neither is judged before it is the one or the other.
    async fn settled(&self, handle: &ProcessHandle) -> Result<Option<ProcessFacts>, HostError> {
        let asked = Instant::now();
        loop {
            let facts = self.host.process(handle.pid).await?;
            let in_between = facts.as_ref().is_some_and(|facts| {
                facts.identity.start_time == handle.start_time && facts.command_line.is_empty()
            });
            if !in_between || asked.elapsed() > SETTLED {
                return Ok(facts);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns the run of a VM that a process is the monitor of.
    fn run_of(&self, facts: &ProcessFacts, vm: &VmId) -> Option<RunId> {
        let run = token_run(&facts.command_line, &self.engine, vm);
        run.filter(|_| is_a_monitor(facts))
    }

    async fn look(&self, vm: &VmId, handles: Option<&VMHandles>) -> Result<Verdict, HostError> {
        let mut stranger = None;
        if let Some((handle, boot)) = handles.and_then(|h| Some((h.process.as_ref()?, &h.boot_id)))
        {
            if *boot != self.host.boot_id().await? {
                return Ok(Verdict::Gone);
            }
            if let Some(facts) = self.settled(handle).await? {
                let same = facts.identity.start_time == handle.start_time;
                match self.run_of(&facts, vm) {
                    Some(run) if same => {
                        return Ok(Verdict::Alive(Monitor {
                            process: facts.identity,
                            run,
                        }));
                    }
                    None if same && facts.command_line.is_empty() => {
                        let reason = format!("process {handle} has no command line, and stays");
                        return Ok(Verdict::CannotTell { reason });
                    }
                    _ => stranger = Some(facts.command_line),
                }
            }
        }
        // A live process found by its token beats what the file says.
        let token = token_prefix(&self.engine, vm);
        for facts in self.host.find_processes(&token).await? {
            if let Some(run) = self.run_of(&facts, vm) {
                return Ok(Verdict::Alive(Monitor {
                    process: facts.identity,
                    run,
                }));
            }
        }
        Ok(match stranger {
            Some(command_line) => Verdict::NotOurs { command_line },
            None => Verdict::Gone,
        })
    }
}

#[async_trait]
impl Liveness for HostLiveness {
    async fn judge(&self, vm: &VmId, handles: Option<&VMHandles>) -> Verdict {
        match self.look(vm, handles).await {
            Ok(verdict) => verdict,
            Err(error) => Verdict::CannotTell {
                reason: error.to_string(),
            },
        }
    }

    async fn census(&self) -> Result<Census, HostError> {
        let mut census = Census::default();
        for process in self.host.find_processes(TOKEN).await? {
            if !is_a_monitor(&process) {
                continue;
            }
            let Some((engine, vm, run)) = token_of(&process.command_line) else {
                // Somebody who only speaks of us: an editor, a search.
                continue;
            };
            if engine == self.engine {
                let monitor = Monitor {
                    process: process.identity,
                    run,
                };
                census.ours.push(Sighting { vm, monitor });
            } else {
                *census.others.entry(engine).or_default() += 1;
            }
        }
        Ok(census)
    }

    async fn is_stopped(&self, monitor: &Monitor) -> Result<bool, HostError> {
        let now = self.host.process(monitor.process.pid).await?;
        Ok(now.is_some_and(|now| now.stopped && now.identity == monitor.process))
    }

    async fn is_alive(&self, monitor: &Monitor) -> Result<bool, HostError> {
        let now = self.host.process(monitor.process.pid).await?;
        Ok(now.is_some_and(|now| now.identity == monitor.process))
    }

    async fn ports(&self, monitor: &Monitor) -> Result<Vec<u16>, HostError> {
        self.host.listening_ports(&monitor.process).await
    }

    async fn usage(&self, monitor: &Monitor) -> Result<Option<ProcessUsage>, HostError> {
        self.host.process_usage(&monitor.process).await
    }

    async fn signal(
        &self,
        monitor: &Monitor,
        signal: ProcessSignal,
    ) -> Result<Delivery, HostError> {
        self.host.signal(&monitor.process, signal).await
    }

    async fn wait_end(&self, monitor: &Monitor) -> Result<ProcessEnd, HostError> {
        self.host.wait_end(&monitor.process).await
    }
}

/// Makes a monitor of a process that we have just started for this run ourselves.
pub(crate) fn just_started(process: ProcessIdentity, run: RunId) -> Monitor {
    Monitor { process, run }
}

/// Returns the token that a monitor carries on its command line: engine, VM and run.
pub(crate) fn token(engine: &EngineId, vm: &VmId, run: &RunId) -> String {
    format!("{}{run}", token_prefix(engine, vm))
}

fn token_prefix(engine: &EngineId, vm: &VmId) -> String {
    format!("{TOKEN}{engine}:{vm}:")
}

fn token_run(command_line: &str, engine: &EngineId, vm: &VmId) -> Option<RunId> {
    let prefix = token_prefix(engine, vm);
    let rest = &command_line[command_line.find(&prefix)? + prefix.len()..];
    rest.get(..16)?.parse().ok()
}

/// Returns the engine, VM and run that a monitor's command line names.
fn token_of(command_line: &str) -> Option<(EngineId, VmId, RunId)> {
    let rest = &command_line[command_line.find(TOKEN)? + TOKEN.len()..];
    let engine: EngineId = rest.get(..8)?.parse().ok()?;
    let vm: VmId = rest.get(9..41)?.parse().ok()?;
    let run = token_run(command_line, &engine, &vm)?;
    Some((engine, vm, run))
}

const TOKEN: &str = "banger:";

/// The programs that are monitors, or become one (systemd-run). Others that bear a token only speak of it.
const MONITORS: [&str; 4] = [
    "qemu-system-x86_64",
    "firecracker",
    "banger-sim-vmm",
    "systemd-run",
];

fn is_a_monitor(facts: &ProcessFacts) -> bool {
    let is_known = |name: &String| MONITORS.contains(&name.as_str());
    facts.programs.iter().any(is_known)
}

/// How long a process may be without a command line: a killed one gives its memory back meanwhile.
const SETTLED: Duration = Duration::from_secs(1);
