//! A guest that stands still: what its monitor says of it, and letting it go on once it can.
//!
//! QEMU stops a guest whose write the host refuses, and keeps the write. Nobody else lets it go on: this does, when
//! there is room, or after a while where room was not what was lacking. Whether a write then works is found out by
//! doing it; one that fails stops the guest again. A guest that somebody has paused on purpose is left to them.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Live;
use crate::engine::lock;
use crate::host::Host;
use crate::names::VmId;
use crate::vm::VMRuntime;
use crate::vmm::{Activity, GuestDisk, PauseReason, VmmControl, VmmError};

/// How often it is looked whether there is room.
const LOOK: Duration = Duration::from_secs(1);

/// How long a guest may stand still again after each attempt, at most, before the next one.
const LONGEST: Duration = Duration::from_secs(30);

/// One that ran so long has gone on.
const RAN: Duration = Duration::from_secs(10);

/// What has to be free for a guest whose write found no room, in bytes. A host's last free blocks would be gone with its
/// next write.
const ROOM: u64 = 16 << 20;

/// Where a VM's two disks take what is written to them.
#[derive(Clone, Debug)]
pub(super) struct DiskFiles {
    root: PathBuf,
    work: PathBuf,
}

impl DiskFiles {
    pub(super) fn of(runtime: &VMRuntime) -> Self {
        DiskFiles {
            root: runtime.system_overlay.clone(),
            work: runtime.work_disk_path.clone(),
        }
    }

    /// Says what is free for what a guest could not write; none if that cannot be told. Another file system may have
    /// room, which is of no use.
    async fn free(&self, host: &dyn Host, disk: Option<GuestDisk>) -> Option<u64> {
        let paths = match disk {
            Some(GuestDisk::Root) => vec![&self.root],
            Some(GuestDisk::Work) => vec![&self.work],
            None => vec![&self.root, &self.work],
        };
        let mut least = None;
        for path in paths {
            let free = host.free_bytes(path).await.ok()?;
            least = Some(least.unwrap_or(free).min(free));
        }
        least
    }
}

/// When a guest that stands still is let go on.
#[derive(Debug)]
struct Patience {
    /// How long it has to stand still before the next attempt.
    wait: Duration,
}

impl Patience {
    const FRESH: Patience = Patience {
        wait: Duration::ZERO,
    };

    /// Says whether an attempt is due for one that has stood still for so long, with so much free.
    fn is_due(&self, reason: &PauseReason, stood: Duration, free: Option<u64>) -> bool {
        match reason {
            PauseReason::DiskFull { .. } => {
                free.is_none_or(|free| free >= ROOM) && stood >= self.wait
            }
            // Nothing says when it is over but an attempt.
            PauseReason::DiskFailed { .. } => stood >= self.wait.max(LOOK),
            PauseReason::Asked | PauseReason::Stuck(_) => false,
        }
    }

    /// It stands still, having run for so long since it was let go on.
    fn stopped_after(&mut self, ran: Duration) {
        self.wait = match ran < RAN {
            true => (2 * self.wait).clamp(LOOK, LONGEST),
            false => Duration::ZERO,
        };
    }
}

/// What was last heard of a guest's processors, and since when.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    activity: Option<Activity>,
    since: Option<Instant>,
}

impl Known {
    fn paused(&self) -> Option<&PauseReason> {
        match &self.activity {
            Some(Activity::Paused(reason)) => Some(reason),
            _ => None,
        }
    }
}

impl Live {
    /// Says why the guest stands still; none if it runs, or nothing was heard yet.
    pub(crate) fn paused(&self) -> Option<PauseReason> {
        self.known.borrow().paused().cloned()
    }

    /// Returns what hears of each change of [`paused`](Live::paused).
    pub(crate) fn pauses(&self) -> Pauses {
        Pauses {
            known: self.known.subscribe(),
            told: None,
        }
    }

    /// Waits until the monitor of a VM that was just taken up has said whether its guest runs, for a moment at most:
    /// a frozen one says nothing.
    pub(crate) async fn known_soon(&self) {
        let mut known = self.known.subscribe();
        let left = FIRST_WORD.saturating_sub(self.since.elapsed());
        // An error, or none in time: then nothing is known.
        let _ = tokio::time::timeout(left, known.wait_for(|known| known.activity.is_some())).await;
    }

    /// Returns the time that the guest has stood still since this was last asked: its clock is behind by that.
    pub(crate) fn take_stood(&self) -> Duration {
        std::mem::take(&mut *lock(&self.stood))
    }

    /// Returns the last error of the host's disks that the guest was told of.
    pub(crate) fn disk_error(&self) -> Option<String> {
        self.control()?.disk_error()
    }

    /// Listens to a monitor for as long as the connection to it is of use, and lets its guest go on when it can.
    /// Never returns. Cancel-safe: what is asked for is asked again.
    pub(super) async fn mind_pauses(
        &self,
        id: &VmId,
        host: &dyn Host,
        disks: &DiskFiles,
        control: &dyn VmmControl,
    ) -> Infallible {
        let mut patience = Patience::FRESH;
        let (mut let_go, mut tried) = (None::<Instant>, None::<Instant>);
        loop {
            let activity = match control.activity().await {
                Ok(activity) => activity,
                Err(error) => {
                    tracing::debug!(vm = %id, %error, "a monitor does not say whether its guest runs");
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            };
            self.hear(id, &activity);
            let Activity::Paused(reason) = activity else {
                control.changed().await;
                continue;
            };
            if let Some(then) = let_go.take() {
                patience.stopped_after(then.elapsed());
            }
            if !reason.can_pass() {
                control.changed().await;
                continue;
            }
            // It may have gone on and stopped again unseen.
            let stood = self.stands_still_for();
            let stood = tried.map_or(stood, |then: Instant| then.elapsed().min(stood));
            let free = match &reason {
                PauseReason::DiskFull { disk } => disks.free(host, *disk).await,
                _ => None,
            };
            if patience.is_due(&reason, stood, free) {
                if let Err(error) = let_go_on(control, &reason).await {
                    tracing::warn!(vm = %id, %error, "cannot let a guest go on");
                }
                (let_go, tried) = (Some(Instant::now()), Some(Instant::now()));
            }
            // What it did with that is heard at once.
            let _ = tokio::time::timeout(LOOK, control.changed()).await;
        }
    }

    /// Notes what a monitor says.
    fn hear(&self, id: &VmId, activity: &Activity) {
        let now = Instant::now();
        self.known.send_if_modified(|known| {
            if known.activity.as_ref() == Some(activity) {
                return false;
            }
            match (&known.activity, activity) {
                (Some(Activity::Paused(_)), Activity::Paused(reason)) => {
                    tracing::warn!(vm = %id, %reason, "a guest stands still");
                }
                (_, Activity::Paused(reason)) => {
                    known.since = Some(now);
                    tracing::warn!(vm = %id, %reason, "a guest stands still");
                }
                (Some(Activity::Paused(reason)), Activity::Running) => {
                    let since = known.since.take().unwrap_or(now);
                    *lock(&self.stood) += now - since;
                    tracing::info!(vm = %id, %reason, "a guest that stood still goes on");
                }
                (_, Activity::Running) => {}
            }
            known.activity = Some(activity.clone());
            true
        });
    }

    fn stands_still_for(&self) -> Duration {
        let since = self.known.borrow().since;
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// How long whoever asks waits for a monitor's first word, counted from the moment that its VM was taken up.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// Hears whether a guest stands still.
#[derive(Clone, Debug)]
pub(crate) struct Pauses {
    known: watch::Receiver<Known>,
    /// What was told last.
    told: Option<PauseReason>,
}

impl Pauses {
    /// Returns at the next change: why the guest stands still, or none if it goes on. Never, once the VM is not watched
    /// any more. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<PauseReason> {
        let told = self.told.clone();
        let is_news = |known: &Known| known.paused() != told.as_ref();
        let news = self.known.wait_for(is_news).await;
        match news.map(|known| known.paused().cloned()) {
            Ok(news) => {
                self.told.clone_from(&news);
                news
            }
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns as soon as the guest stands still, and says why. Cancel-safe.
    pub(crate) async fn paused(&mut self) -> PauseReason {
        loop {
            if let Some(reason) = self.next().await {
                return reason;
            }
        }
    }
}

/// Asked once more: somebody may have paused it for reasons of their own meanwhile.
async fn let_go_on(control: &dyn VmmControl, reason: &PauseReason) -> Result<(), VmmError> {
    match control.activity().await? {
        Activity::Paused(now) if now == *reason => control.resume().await,
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: PauseReason = PauseReason::DiskFull { disk: None };
    const FAILED: PauseReason = PauseReason::DiskFailed {
        disk: None,
        said: None,
    };
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_guest_is_let_go_on_when_what_stopped_it_may_be_over_and_only_then() {
        let stuck = PauseReason::Stuck("internal-error".to_owned());
        for (reason, stood, free, due) in [
            (&FULL, 0, Some(ROOM), true),
            (&FULL, 3600, Some(ROOM - 1), false),
            // What cannot be found out is tried.
            (&FULL, 0, None, true),
            (&FAILED, 0, None, false),
            (&FAILED, 1, None, true),
            (&PauseReason::Asked, 3600, None, false),
            (&stuck, 3600, None, false),
        ] {
            let stood = Duration::from_secs(stood);
            let told = Patience::FRESH.is_due(reason, stood, free);
            assert_eq!(told, due, "{reason:?} {stood:?} {free:?}");
        }
    }

    #[test]
    fn one_that_stops_again_at_once_is_let_go_on_more_and_more_seldom_and_one_that_ran_at_once() {
        let mut patience = Patience::FRESH;
        let mut waits = Vec::new();
        for _ in 0..8 {
            patience.stopped_after(Duration::ZERO);
            waits.push(patience.wait.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(!patience.is_due(&FULL, 29 * SECOND, Some(u64::MAX)));
        assert!(patience.is_due(&FULL, 30 * SECOND, Some(u64::MAX)));
        patience.stopped_after(RAN);
        assert!(patience.is_due(&FULL, Duration::ZERO, Some(u64::MAX)));
    }
}
