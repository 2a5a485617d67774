//! A host that keeps its processes in memory and its files in a scratch folder, and that can be told
//! to die, or to fail, at any call.
//!
//! It outlives the engine that uses it, as a real host does: drop the engine, [`FakeHost::revive`],
//! open a new one over the same host, and see what it makes of what was left.

mod devices;
mod pauses;
mod plan;
mod programs;
mod scopes;
mod uplinks;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::program::Surroundings;
use super::{
    BootId, CloneMethod, CpuFacts, Delivery, Detached, FileFacts, FileLock, Host, HostError,
    LinuxHostConfig, Moment, PipedProgram, ProcessEnd, ProcessFacts, ProcessIdentity,
    ProcessSignal, ProcessUsage, Program, ProgramOutput, files, named,
};
use crate::transport::SimGuests;
use crate::vmm::PauseReason;

pub use plan::{Crash, Fault};
use plan::{Needs, Plan, Way};

type Result<T> = std::result::Result<T, HostError>;
type Answer = Arc<dyn Fn(&Program) -> io::Result<ProgramOutput> + Send + Sync>;

/// A process of a fake host.
#[derive(Clone, Debug)]
pub struct FakeProcess {
    /// Who it is.
    pub identity: ProcessIdentity,
    /// Its command line.
    pub command_line: String,
    /// How it ended; none while it lives.
    pub end: Option<ProcessEnd>,
    /// Whether SIGTERM leaves it unmoved.
    pub ignores_term: bool,
    /// The TCP ports on which it listens.
    pub ports: Vec<u16>,
    /// Whether it is stopped (as by SIGSTOP): it answers nothing and heeds no signal but SIGKILL.
    pub frozen: bool,
    /// Why its guest stands still, if it is a monitor whose guest does.
    pub paused: Option<PauseReason>,
    /// Whether those who wait for its end never learn of it.
    pub unnoticed: bool,
    /// Whether nobody will be told how it ended: somebody has been, or its parent is gone.
    pub reaped: bool,
}

/// The fake. Share it by `Arc`.
pub struct FakeHost {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    /// What runs in the simulated guests goes on when an engine dies.
    guests: Arc<SimGuests>,
}

struct Inner {
    boot: u32,
    next_pid: u32,
    ticks: u64,
    processes: BTreeMap<u32, FakeProcess>,
    answers: BTreeMap<String, Answer>,
    kernel: devices::Kernel,
    systemd: scopes::Systemd,
    plan: Plan,
    spawned_end_at_once: bool,
    spawned_ignore_term: bool,
    spawned_freeze: bool,
    kvm: std::result::Result<(), String>,
    free_bytes: u64,
    programs_first: Option<PathBuf>,
}

impl fmt::Debug for FakeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeHost").finish_non_exhaustive()
    }
}

impl Default for FakeHost {
    fn default() -> Self {
        FakeHost::new()
    }
}

impl FakeHost {
    /// Makes a host on which nothing runs and the usual programs are installed.
    pub fn new() -> Self {
        let answers = programs::usual()
            .into_iter()
            .map(|(name, answer)| (name.to_owned(), Arc::new(answer) as Answer))
            .collect();
        FakeHost {
            inner: Mutex::new(Inner {
                boot: 1,
                next_pid: 1000,
                ticks: 1,
                processes: BTreeMap::new(),
                answers,
                kernel: devices::Kernel::default(),
                systemd: scopes::Systemd::default(),
                plan: Plan::default(),
                spawned_end_at_once: false,
                spawned_ignore_term: false,
                spawned_freeze: false,
                kvm: Err("a simulated host has no KVM".to_owned()),
                free_bytes: 100 << 30,
                programs_first: None,
            }),
            changed: watch::Sender::new(0),
            guests: Arc::default(),
        }
    }

    /// Looks in a folder first for the programs that run for real.
    pub fn look_for_programs_first_in(&self, folder: &Path) {
        self.inner().programs_first = Some(folder.to_owned());
    }

    /// Dies at a call from now on; every later call fails until [`FakeHost::revive`].
    pub fn die(&self, crash: Crash) {
        self.inner().plan.anew(Some(crash), None);
    }

    /// Lets calls fail from now on, counted anew, until [`FakeHost::revive`].
    pub fn fail(&self, fault: Fault) {
        self.inner().plan.anew(None, Some(fault));
    }

    /// Brings a dead or failing host back, as a new process would find it: what ran runs, and is nobody's
    /// child; what was written is there.
    pub fn revive(&self) {
        let mut inner = self.inner();
        inner.plan = Plan::default();
        for process in inner.processes.values_mut() {
            process.reaped = true;
        }
    }

    /// Says whether a [`Crash`] has come to pass.
    pub fn is_dead(&self) -> bool {
        self.inner().plan.dead.is_some()
    }

    /// Returns the changing calls since the last `die`, `fail` or `revive`.
    pub fn calls(&self) -> Vec<String> {
        self.inner().plan.calls.clone()
    }

    /// Returns which of those calls are not done in a single step, counted from 1.
    pub fn calls_in_steps(&self) -> Vec<usize> {
        self.inner().plan.in_steps.clone()
    }

    /// Returns the processes that live.
    pub fn living(&self) -> Vec<FakeProcess> {
        let inner = self.inner();
        let living = inner.processes.values().filter(|p| p.end.is_none());
        living.cloned().collect()
    }

    /// Ends a process, as a crash or the guest's own power-off would.
    pub fn end(&self, pid: u32, end: ProcessEnd) {
        if let Some(process) = self.inner().processes.get_mut(&pid) {
            process.end.get_or_insert(end);
        }
        self.tell();
    }

    /// Ends a process without ever telling those who wait for its end, as if nobody watched it.
    pub fn end_unnoticed(&self, pid: u32) {
        if let Some(process) = self.inner().processes.get_mut(&pid) {
            process.unnoticed = true;
            process.end.get_or_insert(ProcessEnd::Unknown);
        }
    }

    /// Puts a process that is none of ours on the host, under a number of choice.
    pub fn add_stranger(&self, pid: u32, command_line: &str) -> ProcessIdentity {
        self.inner().start(Some(pid), command_line.to_owned())
    }

    /// Stops a process: from now on it answers nothing.
    pub fn freeze(&self, pid: u32) {
        if let Some(process) = self.inner().processes.get_mut(&pid) {
            process.frozen = true;
        }
    }

    /// Lets a stopped process go on.
    pub fn thaw(&self, pid: u32) {
        if let Some(process) = self.inner().processes.get_mut(&pid) {
            process.frozen = false;
        }
        self.tell();
    }

    /// Lets every process that is spawned from now on be stopped from its first instant (or run, again).
    pub fn spawned_processes_freeze(&self, freeze: bool) {
        self.inner().spawned_freeze = freeze;
    }

    /// Waits until no living process with this in its command line is stopped.
    pub(crate) async fn answers(&self, token: &str) {
        let mut changed = self.changed.subscribe();
        loop {
            let frozen =
                |p: &FakeProcess| p.end.is_none() && p.frozen && p.command_line.contains(token);
            if !self.inner().processes.values().any(frozen) {
                return;
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Lets a process listen on a TCP port.
    pub fn listen(&self, pid: u32, port: u16) {
        if let Some(process) = self.inner().processes.get_mut(&pid) {
            process.ports.push(port);
            process.ports.sort_unstable();
        }
    }

    /// Restarts the host: no process and nothing that the kernel held is left, the boot id changes.
    pub fn reboot(&self) {
        let mut inner = self.inner();
        inner.boot += 1;
        inner.ticks = 1;
        inner.processes.clear();
        inner.kernel = devices::Kernel::default();
        inner.systemd.reboot();
        drop(inner);
        self.tell();
    }

    /// Lets every process that is spawned from now on end at once with status 1 (or live, again).
    pub fn spawned_processes_end_at_once(&self, end: bool) {
        self.inner().spawned_end_at_once = end;
    }

    /// Lets every process that is spawned from now on ignore SIGTERM (or heed it, again).
    pub fn spawned_processes_ignore_term(&self, ignore: bool) {
        self.inner().spawned_ignore_term = ignore;
    }

    /// Sets what a program answers; `None` uninstalls it.
    pub fn answer(
        &self,
        program: &str,
        answer: Option<impl Fn(&Program) -> io::Result<ProgramOutput> + Send + Sync + 'static>,
    ) {
        let mut inner = self.inner();
        match answer {
            Some(answer) => inner.answers.insert(program.to_owned(), Arc::new(answer)),
            None => inner.answers.remove(program),
        };
    }

    /// Says whether KVM works on this host from now on.
    pub fn set_kvm(&self, kvm: std::result::Result<(), String>) {
        self.inner().kvm = kvm;
    }

    /// Says how many bytes are free on every file system of this host from now on.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.inner().free_bytes = bytes;
    }

    pub(crate) fn guests(&self) -> Arc<SimGuests> {
        self.guests.clone()
    }

    /// Runs one changing call, which the system does in a single step, under the plan.
    fn act<T>(&self, needs: Needs, call: String, effect: impl FnOnce() -> Result<T>) -> Result<T> {
        self.act_in_steps(needs, call, None::<fn()>, effect)
    }

    /// Runs one changing call that can be cut short: `half` is what is then left.
    fn act_in_steps<T>(
        &self,
        needs: Needs,
        call: String,
        half: Option<impl FnOnce()>,
        effect: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let way = self.inner().plan.begin(&call, needs, half.is_some())?;
        let Way::Whole(n) = way else {
            if let Some(half) = half {
                half();
            }
            return Err(HostError::Died { call });
        };
        let done = effect();
        self.inner().plan.end(n, &call)?;
        done
    }

    fn look<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> Result<T> {
        let mut inner = self.inner();
        inner.plan.alive()?;
        Ok(look(&mut inner))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked while it held the lock has failed already.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

impl FakeProcess {
    /// Returns how it ended, once: a real host tells its parent, and nobody else.
    fn reap(&mut self) -> Option<ProcessEnd> {
        let end = self.end.clone()?;
        match std::mem::replace(&mut self.reaped, true) {
            false => Some(end),
            true => Some(ProcessEnd::Unknown),
        }
    }
}

impl Inner {
    fn start(&mut self, pid: Option<u32>, command_line: String) -> ProcessIdentity {
        let pid = pid.unwrap_or_else(|| {
            self.next_pid += 1;
            self.next_pid
        });
        self.ticks += 1;
        let identity = ProcessIdentity {
            pid,
            start_time: self.ticks,
        };
        let process = FakeProcess {
            identity: identity.clone(),
            command_line,
            end: None,
            ignores_term: self.spawned_ignore_term,
            ports: Vec::new(),
            frozen: self.spawned_freeze,
            paused: None,
            unnoticed: false,
            reaped: false,
        };
        self.processes.insert(pid, process);
        identity
    }

    fn living(&self, identity: &ProcessIdentity) -> Option<&FakeProcess> {
        self.processes
            .get(&identity.pid)
            .filter(|p| p.end.is_none() && p.identity == *identity)
    }
}

#[async_trait]
impl Host for FakeHost {
    async fn boot_id(&self) -> Result<BootId> {
        self.look(|inner| BootId(format!("fake-boot-{}", inner.boot)))
    }

    async fn tsc_khz(&self) -> Option<u32> {
        Some(2_000_000)
    }

    async fn cpu(&self) -> CpuFacts {
        CpuFacts {
            processors: 2,
            memory: crate::names::Mebibytes(64 * 1024),
            kvm: self.inner().kvm.clone(),
        }
    }

    fn user_id(&self) -> u32 {
        1000
    }

    async fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.look(|_| files::read(path))?
    }

    async fn read_head(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.look(|_| files::read_head(path, limit))?
    }

    async fn read_tail(&self, path: &Path, limit: u64) -> Result<Vec<u8>> {
        self.look(|_| files::read_tail(path, limit))?
    }

    async fn read_at(&self, path: &Path, offset: u64, limit: u64) -> Result<Vec<u8>> {
        self.look(|_| files::read_at(path, offset, limit))?
    }

    async fn open_foreign(&self, path: &Path) -> Result<Option<Arc<std::fs::File>>> {
        self.look(|_| ())?;
        files::open_foreign(path).await
    }

    async fn read_foreign(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.look(|_| ())?;
        files::read_foreign(path, limit).await
    }

    async fn write_file(&self, path: &Path, contents: &[u8], mode: u32) -> Result<()> {
        let half = || {
            let _ = std::fs::write(files::aside(path), &contents[..contents.len() / 2]);
        };
        self.act_in_steps(Needs::Room, named("write", path), Some(half), || {
            files::write(path, contents, mode)
        })
    }

    async fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        self.look(|_| files::set_mode(path, mode))?
    }

    async fn new_file(&self, path: &Path) -> Result<Arc<std::fs::File>> {
        self.act(Needs::Room, named("make", path), || files::new_file(path))
    }

    async fn create_dir(&self, path: &Path) -> Result<()> {
        let half = || {
            let _ = path.parent().map(files::create_dir);
        };
        self.act_in_steps(
            Needs::Room,
            named("create folder", path),
            Some(half),
            || files::create_dir(path),
        )
    }

    async fn list_dir(&self, path: &Path) -> Result<Vec<String>> {
        self.look(|_| files::list(path))?
    }

    async fn stat(&self, path: &Path) -> Result<Option<FileFacts>> {
        self.look(|_| files::stat(path))?
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.act(Needs::Change, named("rename to", to), || {
            files::rename(from, to)
        })
    }

    async fn remove_file(&self, path: &Path) -> Result<()> {
        self.act(Needs::Change, named("remove", path), || {
            files::remove_file(path)
        })
    }

    async fn remove_tree(&self, path: &Path) -> Result<()> {
        let half = || {
            let names = files::list(path).unwrap_or_default();
            for name in names.iter().take(names.len() / 2 + 1) {
                let below = path.join(name);
                let _ = std::fs::remove_file(&below).or_else(|_| std::fs::remove_dir_all(below));
            }
        };
        self.act_in_steps(
            Needs::Change,
            named("remove folder", path),
            Some(half),
            || files::remove_tree(path),
        )
    }

    async fn grow_file(&self, path: &Path, bytes: u64) -> Result<()> {
        let half = || {
            let _ = files::grow(path, 0);
        };
        self.act_in_steps(Needs::Room, named("grow", path), Some(half), || {
            files::grow(path, bytes)
        })
    }

    async fn truncate_file(&self, path: &Path, bytes: u64) -> Result<()> {
        self.act(Needs::Change, named("truncate", path), || {
            files::truncate(path, bytes)
        })
    }

    async fn clone_file(&self, from: &Path, to: &Path) -> Result<CloneMethod> {
        let half = || {
            let whole = std::fs::read(from).unwrap_or_default();
            let _ = std::fs::write(to, &whole[..whole.len() / 2]);
        };
        self.act_in_steps(Needs::Room, named("clone to", to), Some(half), || {
            files::clone(from, to)
        })
    }

    async fn sync_dir(&self, path: &Path) -> Result<()> {
        self.act(Needs::Change, named("sync", path), || files::sync_dir(path))
    }

    async fn lock_file(&self, path: &Path) -> Result<Option<FileLock>> {
        self.look(|_| files::lock(path))?
    }

    async fn free_bytes(&self, _path: &Path) -> Result<u64> {
        self.look(|inner| inner.free_bytes)
    }

    async fn find_program(&self, name: &str) -> Option<PathBuf> {
        let known = self.inner().answers.contains_key(name) || name.starts_with("banger-sim");
        known.then(|| Path::new("/fake/bin").join(name))
    }

    async fn run(&self, program: &Program) -> Result<ProgramOutput> {
        let name = program.program.clone();
        let Some(answer) = self.look(|inner| inner.answers.get(&name).cloned())? else {
            return Err(HostError::ProgramMissing {
                program: name,
                searched: "/fake/bin".to_owned(),
            });
        };
        self.act(Needs::Room, format!("run {name}"), || {
            answer(program).map_err(|source| HostError::StartProgram {
                program: name.clone(),
                source,
            })
        })
    }

    async fn pipe(&self, program: &Program) -> Result<PipedProgram> {
        self.look(|_| ())?;
        let first = self.inner().programs_first.clone();
        Surroundings {
            search: first
                .into_iter()
                .chain(LinuxHostConfig::default().program_folders)
                .collect(),
            environment: Vec::new(),
            open_files: Surroundings::own_open_files(),
        }
        .pipe(program)
    }

    async fn spawn(&self, detached: &Detached) -> Result<ProcessIdentity> {
        self.look(|_| ())?;
        if self.find_program(&detached.program).await.is_none() {
            return Err(HostError::ProgramMissing {
                program: detached.program.clone(),
                searched: "/fake/bin".to_owned(),
            });
        }
        if let Some(namespace) = &detached.namespace {
            self.enter(namespace)?;
        }
        if let Some(scope) = &detached.scope {
            self.look(|inner| inner.systemd.admit(&scope.name))??;
        }
        let start = || -> Result<ProcessIdentity> {
            files::append(&detached.log)?;
            let arguments = detached.arguments.iter().map(|a| a.to_string_lossy());
            let command_line = std::iter::once(detached.program.as_str().into())
                .chain(arguments)
                .collect::<Vec<_>>()
                .join(" ");
            let mut inner = self.inner();
            let identity = inner.start(None, command_line);
            if inner.spawned_end_at_once
                && let Some(process) = inner.processes.get_mut(&identity.pid)
            {
                process.end = Some(ProcessEnd::Exited(1));
            }
            Ok(identity)
        };
        let call = format!("spawn {}", detached.program);
        let Some(scope) = &detached.scope else {
            return self.act(Needs::Room, call, start);
        };
        // Half way it has our arguments already, and is in no scope yet.
        let half = || drop(start());
        self.act_in_steps(Needs::Room, call, Some(half), || {
            let identity = start()?;
            self.inner().systemd.enter(&scope.name, identity.pid);
            Ok(identity)
        })
    }

    async fn process(&self, pid: u32) -> Result<Option<ProcessFacts>> {
        self.look(|inner| {
            let process = inner.processes.get(&pid).filter(|p| p.end.is_none());
            process.map(facts)
        })
    }

    async fn process_usage(&self, process: &ProcessIdentity) -> Result<Option<ProcessUsage>> {
        self.look(|inner| {
            let found = inner.processes.get(&process.pid);
            let alive = found.filter(|p| p.end.is_none() && p.identity == *process);
            // It is a number in a table, and uses nothing.
            alive.map(|_| ProcessUsage {
                cpu: Duration::ZERO,
                resident_bytes: 0,
                age: Duration::ZERO,
            })
        })
    }

    async fn find_processes(&self, token: &str) -> Result<Vec<ProcessFacts>> {
        self.look(|inner| {
            let living = inner.processes.values().filter(|p| p.end.is_none());
            living
                .filter(|p| p.command_line.contains(token))
                .map(facts)
                .collect()
        })
    }

    async fn signal(&self, process: &ProcessIdentity, signal: ProcessSignal) -> Result<Delivery> {
        let delivery = self.act(Needs::Nothing, format!("signal {signal:?}"), || {
            let mut inner = self.inner();
            let Some(target) = inner.living(process) else {
                return Ok(Delivery::AlreadyGone);
            };
            let end = match signal {
                ProcessSignal::Term if target.ignores_term || target.frozen => {
                    return Ok(Delivery::Sent);
                }
                ProcessSignal::Term => ProcessEnd::Exited(0),
                ProcessSignal::Kill => ProcessEnd::Signaled(9),
            };
            if let Some(target) = inner.processes.get_mut(&process.pid) {
                target.end = Some(end);
            }
            Ok(Delivery::Sent)
        });
        self.tell();
        delivery
    }

    async fn wait_end(&self, process: &ProcessIdentity) -> Result<ProcessEnd> {
        let mut changed = self.changed.subscribe();
        loop {
            let end = self.look(|inner| match inner.processes.get_mut(&process.pid) {
                Some(known) if known.identity == *process && known.unnoticed => None,
                Some(known) if known.identity == *process => known.reap(),
                _ => Some(ProcessEnd::Unknown),
            })?;
            if let Some(end) = end {
                return Ok(end);
            }
            if changed.changed().await.is_err() {
                return Ok(ProcessEnd::Unknown);
            }
        }
    }

    async fn listening_ports(&self, process: &ProcessIdentity) -> Result<Vec<u16>> {
        self.look(|inner| {
            let process = inner.living(process);
            process.map(|p| p.ports.clone()).unwrap_or_default()
        })
    }

    async fn connect_unix(&self, path: &Path, timeout: Duration) -> Result<UnixStream> {
        // Its files are real, and so are sockets among them.
        files::connect(path, timeout).await
    }

    fn witness(&self, act: &'static str, moment: Moment) -> Result<()> {
        let plan = &mut self.inner().plan;
        match moment {
            Moment::Before => {
                let call = format!("database: {act}");
                plan.begin(&call, Needs::Room, false).map(drop)
            }
            Moment::After => {
                plan.alive()?;
                let n = plan.calls.len();
                plan.end(n, act)
            }
        }
    }
}

fn facts(process: &FakeProcess) -> ProcessFacts {
    ProcessFacts {
        identity: process.identity.clone(),
        programs: process
            .command_line
            .split(' ')
            .next()
            .and_then(|word| word.rsplit('/').next())
            .map(str::to_owned)
            .into_iter()
            .collect(),
        command_line: process.command_line.clone(),
        stopped: process.frozen,
    }
}
