//! Whether a guest's processors run, and if they do not, why: as its monitor tells it.

use std::fmt;
use std::path::Path;

use crate::names::VmName;

/// What a monitor says of its guest's processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// They run.
    Running,
    /// They stand still, and the monitor lives.
    Paused(PauseReason),
}

/// Why a guest stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// A write found no room on the host (ENOSPC). It is done again when the guest goes on: nothing is lost.
    DiskFull {
        /// The disk that was written to, where the monitor names it.
        disk: Option<GuestDisk>,
    },
    /// The host refused a write for another reason. It, too, is done again.
    DiskFailed {
        /// The disk that was written to, where the monitor names it.
        disk: Option<GuestDisk>,
        /// The host's own words, where they were heard.
        said: Option<String>,
    },
    /// Somebody has asked the monitor for it, and it was not this engine.
    Asked,
    /// The monitor cannot go on with its guest: QEMU's word for it, as `internal-error`.
    Stuck(String),
}

/// One of a VM's two disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestDisk {
    /// The root disk.
    Root,
    /// The VM's own, at `/root`.
    Work,
}

impl PauseReason {
    /// Says whether it can pass by itself: then the engine lets the guest go on when it has.
    pub fn can_pass(&self) -> bool {
        matches!(
            self,
            PauseReason::DiskFull { .. } | PauseReason::DiskFailed { .. }
        )
    }
}

impl PauseReason {
    /// Returns the next step for whoever wants the guest to go on. `folder` is the VM's.
    pub(crate) fn next_step(&self, vm: &VmName, folder: &Path) -> String {
        let folder = folder.display();
        match self {
            PauseReason::DiskFull { .. } => format!(
                "free some space on the file system of {folder}: it goes on by itself then, and loses nothing"
            ),
            PauseReason::DiskFailed { .. } => format!(
                "see to the file system of {folder}: the write is tried again, and the guest goes on when it succeeds"
            ),
            PauseReason::Asked => {
                "whoever paused it lets it go on: banger leaves it to them".to_owned()
            }
            PauseReason::Stuck(_) => format!("end it: banger vm kill {vm}"),
        }
    }
}

impl fmt::Display for PauseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PauseReason::DiskFull { .. } => f.write_str("the host's disk is full"),
            PauseReason::DiskFailed {
                said: Some(said), ..
            } => write!(f, "the host's disk failed: {said}"),
            PauseReason::DiskFailed { said: None, .. } => f.write_str("the host's disk failed"),
            PauseReason::Asked => f.write_str("somebody asked its monitor for it"),
            PauseReason::Stuck(word) => write!(f, "its monitor cannot go on ({word})"),
        }
    }
}
