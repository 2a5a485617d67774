//! How the guest's scripts say no.

use thiserror::Error;

/// Why a script of this module did nothing, told by its exit status.
///
/// The numbers keep clear of what shells, git (1, 128, 129) and ssh (255)
/// use themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[repr(u8)]
pub enum WorkspaceRefusal {
    /// There is no git work tree at the path.
    #[error("there is no git repository at that path in the guest")]
    NoWorkspace = 60,
    /// The guest's disk is full or read-only, or the path cannot be made.
    #[error("the guest cannot write there: is its disk full?")]
    CannotWrite = 61,
    /// The connection ended before everything had come.
    #[error("the connection ended before everything had come; nothing was changed")]
    Truncated = 62,
    /// What came could not be unpacked.
    #[error("the guest could not unpack what came; nothing was changed")]
    Unpack = 63,
    /// git could not check it out.
    #[error("git in the guest could not check it out; nothing was changed")]
    Checkout = 64,
    /// Something appeared at the path meanwhile.
    #[error("something else appeared at that path in the guest meanwhile")]
    Appeared = 65,
    /// The base commit is not there.
    #[error("the guest's repository has no such commit")]
    NoBase = 66,
    /// git could not take up what is in the work tree.
    #[error("git in the guest could not take up the files of its work tree")]
    Snapshot = 67,
    /// git could not compare.
    #[error("git in the guest could not compare with the base")]
    Compare = 68,
}

impl WorkspaceRefusal {
    const ALL: [Self; 9] = [
        Self::NoWorkspace,
        Self::CannotWrite,
        Self::Truncated,
        Self::Unpack,
        Self::Checkout,
        Self::Appeared,
        Self::NoBase,
        Self::Snapshot,
        Self::Compare,
    ];

    /// The exit status that says so.
    pub fn status(self) -> i32 {
        self as i32
    }

    /// Reads a script's exit status. `None` for 0, and for one that no script
    /// of this module chose.
    pub fn from_status(status: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|refusal| refusal.status() == status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_read_back_from_its_status() {
        let read = (0..=255).filter_map(WorkspaceRefusal::from_status);
        assert_eq!(read.count(), WorkspaceRefusal::ALL.len());
        assert_eq!(WorkspaceRefusal::from_status(128), None);
    }
}
