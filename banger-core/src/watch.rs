//! What this process keeps of a VM that runs: somebody who waits for its end, and the connections to
//! its monitor and its guest. All of it can be lost at any time, and is made again.

mod ending;
mod pause;
mod restart;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::AbortHandle;

use crate::clock::HostClock;
use crate::engine::{Engine, Inner, lock};
use crate::host::{Host, HostError, LOG_BYTES, ProcessEnd};
use crate::liveness::{Liveness, Monitor};
use crate::names::VmId;
use crate::transport::GuestConnection;
use crate::vm::{Lifetime, VMRecord};
use crate::vmm::{EndReason, Vmm, VmmControl};

pub(crate) use ending::STEADY;
use ending::{LAST_WORDS, describe, panic_in};
#[cfg(test)]
pub(crate) use ending::{MOST_RESTARTS, wait_before};
pub(crate) use pause::Pauses;
use pause::{DiskFiles, Known};

/// One running VM.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) monitor: Monitor,
    control: Mutex<Option<Arc<dyn VmmControl>>>,
    /// Held while a connection is being made, so that it is made once.
    pub(crate) connection: AsyncMutex<Option<Arc<dyn GuestConnection>>>,
    /// Held by who is attached to the serial console: a monitor serves one.
    pub(crate) console: Arc<AsyncMutex<()>>,
    /// What our clocks said when its guest's was last known to agree; none before the first connection.
    pub(crate) agreed: Mutex<Option<HostClock>>,
    watcher: Mutex<Option<AbortHandle>>,
    /// How it ended, once its watcher knows.
    end: watch::Sender<Option<ProcessEnd>>,
    /// Cleared when the monitor was asked for its control socket and did not answer as one does, or the
    /// connection to it was lost.
    answers: AtomicBool,
    /// What the monitor has said of its guest's processors.
    known: watch::Sender<Known>,
    /// How long they stood still, since the guest's clock was last looked at.
    stood: Mutex<Duration>,
    /// When this process began to watch it.
    since: Instant,
    /// How many wait for its turn to kill it: a stop that has it heeds them.
    pub(crate) kills: watch::Sender<usize>,
    /// Set when a stop has.
    killed: AtomicBool,
}

impl Live {
    pub(crate) fn control(&self) -> Option<Arc<dyn VmmControl>> {
        lock(&self.control).clone()
    }

    /// Waits for the monitor's end. Only one of those who wait can collect a child's status: the others
    /// hear of it from the watcher.
    pub(crate) async fn ended(&self, liveness: &dyn Liveness) -> Result<ProcessEnd, HostError> {
        let end = liveness.wait_end(&self.monitor).await?;
        if end != ProcessEnd::Unknown {
            return Ok(end);
        }
        let mut told = self.end.subscribe();
        let heard =
            tokio::time::timeout(Duration::from_millis(200), told.wait_for(Option::is_some));
        match heard.await {
            Ok(Ok(told)) => Ok(told.clone().unwrap_or(end)),
            _ => Ok(end),
        }
    }

    /// Waits until the connection to its monitor is lost. It is kept all the same until there is another: it may
    /// have told why the guest ended.
    async fn until_lost(&self, id: &VmId, control: &dyn VmmControl) {
        let why = control.lost().await;
        tokio::time::sleep(ENDING).await;
        tracing::warn!(vm = %id, %why, "the connection to a VM's monitor is of no more use");
        self.answers.store(false, Ordering::Relaxed);
    }

    /// Says whether it was watched for so long.
    pub(crate) fn has_run_for(&self, time: Duration) -> bool {
        self.since.elapsed() >= time
    }

    /// Says whether its monitor answered when it was last asked.
    pub(crate) fn answers(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }

    /// Waits until somebody wants it killed. Cancel-safe.
    pub(crate) async fn to_be_killed(&self) {
        // It cannot close: we hold the other end.
        let _ = self.kills.subscribe().wait_for(|kills| *kills > 0).await;
    }

    /// Remembers that a stop has killed it because somebody waited to.
    pub(crate) fn kill_was_heeded(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_killed_by_a_stop(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    pub(crate) fn stop_watching(&self) {
        if let Some(watcher) = lock(&self.watcher).take() {
            watcher.abort();
        }
    }
}

impl Inner {
    /// Begins to watch a VM that was seen alive. Without a connection to its monitor one is sought in
    /// the background: a frozen monitor must not hold up anybody.
    pub(crate) fn watch(
        self: &Arc<Self>,
        vm: &VMRecord,
        monitor: Monitor,
        control: Option<Arc<dyn VmmControl>>,
    ) {
        let live = Arc::new(Live {
            monitor,
            control: Mutex::new(control),
            connection: AsyncMutex::new(None),
            console: Arc::default(),
            agreed: Mutex::new(None),
            watcher: Mutex::new(None),
            end: watch::Sender::new(None),
            answers: AtomicBool::new(true),
            known: watch::Sender::default(),
            stood: Mutex::default(),
            since: Instant::now(),
            kills: watch::Sender::new(0),
            killed: AtomicBool::new(false),
        });
        let before = lock(&self.live).insert(vm.id.clone(), live.clone());
        if let Some(before) = before {
            before.stop_watching();
        }
        let logs = Logs {
            host: Arc::clone(&self.config.host),
            often: self.config.limits.logs,
            paths: vm.runtime.logs(),
        };
        let contact = Contact::with(self, vm);
        let task = tokio::spawn(watch_until_end(
            Arc::downgrade(self),
            vm.id.clone(),
            live.clone(),
            logs,
            contact,
        ));
        *lock(&live.watcher) = Some(task.abort_handle());
    }

    /// Forgets a VM that has ended or is about to. Returns what was kept of it.
    pub(crate) fn unwatch(&self, id: &VmId) -> Option<Arc<Live>> {
        let live = lock(&self.live).remove(id)?;
        live.stop_watching();
        Some(live)
    }
}

async fn watch_until_end(
    engine: Weak<Inner>,
    id: VmId,
    live: Arc<Live>,
    logs: Logs,
    contact: Option<Contact>,
) {
    let liveness = match engine.upgrade() {
        Some(inner) => inner.liveness.clone(),
        None => return,
    };
    let end = tokio::select! {
        // All are cancel-safe: one waits on a pidfd, the others hold nothing but a socket and a timer.
        end = liveness.wait_end(&live.monitor) => end,
        never = keep_control(contact, &id, &live) => match never {},
        never = logs.keep_short() => match never {},
    };
    let end = match end {
        Ok(end) => end,
        Err(error) => {
            tracing::warn!(vm = %id, %error, "cannot watch a VM's monitor");
            return;
        }
    };
    live.end.send_replace(Some(end.clone()));
    let reason = match live.control() {
        Some(control) => told_reason(&*control).await,
        None => None,
    };
    let Some(inner) = engine.upgrade() else {
        return;
    };
    // On a task of its own: forgetting the VM aborts this one.
    tokio::spawn(async move {
        let engine = Engine { inner };
        if let Err(error) = engine.ended(&id, &live.monitor, end, reason).await {
            tracing::warn!(vm = %id, %error, "could not clean up after a VM that ended by itself");
        }
    });
}

/// The monitor says why just before it ends; the message may still be on its way to us.
async fn told_reason(control: &dyn VmmControl) -> Option<EndReason> {
    let mut reason = control.end_reason();
    let told = tokio::time::timeout(Duration::from_millis(200), reason.wait_for(Option::is_some));
    told.await.ok()?.ok().and_then(|reason| *reason)
}

/// What a monitor of an earlier banger writes for as long as it runs, and nobody else shortens: later ones have
/// keepers that do.
struct Logs {
    host: Arc<dyn Host>,
    often: Duration,
    paths: Vec<PathBuf>,
}

impl Logs {
    /// A guest that talks without end must not fill the host's disk: a log that has grown too long begins
    /// anew. Monitors append to it, so that they go on at its beginning.
    async fn keep_short(&self) -> Infallible {
        loop {
            tokio::time::sleep(self.often).await;
            for path in &self.paths {
                let facts = self.host.stat(path).await;
                if facts.is_ok_and(|it| it.is_some_and(|it| it.bytes > LOG_BYTES))
                    && let Err(error) = self.host.truncate_file(path, 0).await
                {
                    tracing::warn!(path = %path.display(), %error, "cannot shorten a log");
                }
            }
        }
    }
}

/// How long a monitor that did not answer is left in peace.
const SEEK_AGAIN: Duration = Duration::from_secs(5);

/// How long a monitor may take to end after it has hung up, before that is remarkable.
const ENDING: Duration = Duration::from_millis(200);

/// Keeps a connection to the monitor, and never returns: one is sought if there is none, and again when it was
/// lost. The engine is not held meanwhile: one that is dropped must be gone at once, whatever a frozen monitor
/// does.
async fn keep_control(contact: Option<Contact>, id: &VmId, live: &Live) -> Infallible {
    let Some(contact) = contact else {
        return std::future::pending().await;
    };
    if let Some(control) = live.control() {
        contact.while_of_use(id, live, &*control).await;
    }
    loop {
        let connected = contact
            .vmm
            .connect(&*contact.host, &contact.socket, contact.limit)
            .await;
        live.answers.store(connected.is_ok(), Ordering::Relaxed);
        match connected {
            Ok(control) => {
                let control: Arc<dyn VmmControl> = control.into();
                *lock(&live.control) = Some(control.clone());
                let since = Instant::now();
                contact.while_of_use(id, live, &*control).await;
                if since.elapsed() > SEEK_AGAIN {
                    // It has been of use.
                    continue;
                }
            }
            Err(error) => {
                tracing::warn!(vm = %id, %error, "a VM's monitor does not answer");
            }
        }
        tokio::time::sleep(SEEK_AGAIN).await;
    }
}

/// All that it takes to connect to a monitor, and to see whether its guest can go on.
struct Contact {
    vmm: Arc<dyn Vmm>,
    host: Arc<dyn Host>,
    socket: PathBuf,
    limit: Duration,
    disks: DiskFiles,
}

impl Contact {
    /// None where this engine has no such monitor.
    fn with(inner: &Inner, vm: &VMRecord) -> Option<Self> {
        Some(Contact {
            vmm: Arc::clone(inner.backends.vmm(vm.spec.vmm).ok()?),
            host: Arc::clone(&inner.config.host),
            socket: vm.runtime.api_sock_path.clone(),
            limit: inner.config.limits.control,
            disks: DiskFiles::of(&vm.runtime),
        })
    }

    /// Minds the guest's pauses until the connection to its monitor is lost.
    async fn while_of_use(&self, id: &VmId, live: &Live, control: &dyn VmmControl) {
        tokio::select! {
            // Both are cancel-safe.
            () = live.until_lost(id, control) => {}
            never = live.mind_pauses(id, &*self.host, &self.disks, control) => match never {},
        }
    }
}

impl Engine {
    /// A monitor that was watched has ended: cleans up, unless a verb that was at work has done so.
    async fn ended(
        &self,
        id: &VmId,
        monitor: &Monitor,
        end: ProcessEnd,
        reason: Option<EndReason>,
    ) -> Result<(), crate::error::Error> {
        let turn = self.inner.turn(id).await;
        let still_ours = self
            .inner
            .live(id)
            .is_some_and(|live| live.monitor == *monitor);
        let Some(vm) = self.inner.store.vm(id).await? else {
            return Ok(());
        };
        if !still_ours {
            return Ok(());
        }
        let panic = self.panic_of(&vm, reason).await;
        let text = describe(&end, reason, panic.as_deref());
        tracing::info!(vm = %vm.name, reason = %text, "a VM ended by itself");
        let ran = (self.inner.live(id)).map_or(Duration::ZERO, |live| live.since.elapsed());
        let vm = self.inner.release_and_mark_stopped(vm, &text).await?;
        // An ephemeral one its client deletes; if that is gone too, the daemon or the next reconcile does.
        if vm.spec.lifetime == Lifetime::Kept
            && reason == Some(EndReason::Rebooted)
            && panic.is_none()
        {
            let restarts = match ran < STEADY {
                true => vm.runtime.restarts,
                false => 0,
            };
            let at = self.inner.plan_restart(vm, restarts).await?;
            drop(turn);
            if let Some(at) = at {
                self.inner.restart_later(id.clone(), at);
            }
        }
        Ok(())
    }

    /// Says what the guest's kernel panicked of, if it did.
    async fn panic_of(&self, vm: &VMRecord, reason: Option<EndReason>) -> Option<String> {
        match reason? {
            EndReason::PoweredOff | EndReason::Told => None,
            // Its monitor knows it, and not of what.
            EndReason::Panicked => Some(self.last_panic(vm).await.unwrap_or_default()),
            EndReason::Rebooted | EndReason::Ended => self.last_panic(vm).await,
        }
    }

    async fn last_panic(&self, vm: &VMRecord) -> Option<String> {
        let log = &vm.runtime.log_path;
        // A console that cannot be read says nothing.
        let tail = self.inner.host().read_tail(log, LAST_WORDS).await.ok()?;
        panic_in(&String::from_utf8_lossy(&tail))
    }
}
