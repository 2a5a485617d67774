//! Guests of a fake host that stand still, as their simulated monitors tell it.

use tokio::sync::watch;

use super::FakeHost;
use crate::vmm::PauseReason;

impl FakeHost {
    /// Lets the guest of a monitor's process stand still, for this reason, or go on.
    pub fn pause_guest(&self, pid: u32, reason: Option<PauseReason>) {
        if let Some(process) = self.inner().processes.get_mut(&pid) {
            process.paused = reason;
        }
        self.tell();
    }

    /// Returns why the guest of the living monitor with this in its command line stands still.
    pub(crate) fn paused(&self, token: &str) -> Option<PauseReason> {
        let living = self.living();
        let monitor = living.iter().find(|p| p.command_line.contains(token))?;
        monitor.paused.clone()
    }

    /// Lets a guest go on, as far as it can: one whose write finds no room still stands still again.
    pub(crate) fn resume_guest(&self, token: &str) {
        let living = self.living();
        let Some(monitor) = living.iter().find(|p| p.command_line.contains(token)) else {
            return;
        };
        let is_full = self.inner().free_bytes == 0;
        if !(is_full && matches!(monitor.paused, Some(PauseReason::DiskFull { .. }))) {
            self.pause_guest(monitor.identity.pid, None);
        }
    }

    /// Returns what hears of every change of this host.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
