//! How the scripts say no.

use thiserror::Error;

/// Why a script of this module did nothing, told by its exit status.
///
/// The numbers keep clear of what shells and programs use themselves (1, 2,
/// 124 and up).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[repr(u8)]
pub enum Refusal {
    /// The guest has no folder of this session.
    #[error("the guest has no such session")]
    NoSession = 10,
    /// There is one already.
    #[error("the guest has this session already")]
    Exists = 11,
    /// The guest's disk is full or read-only.
    #[error("the guest cannot write the session's files: is its disk full?")]
    CannotWrite = 12,
    /// The connection ended before all of the input had come.
    #[error("the connection ended within the input, nothing was delivered")]
    Truncated = 13,
    /// The session's command is no longer, or not yet, running.
    #[error("the session is not running")]
    NotRunning = 14,
    /// The session was started without a pipe on its stdin.
    #[error("the session's stdin is not a pipe: it was started with stdin closed")]
    NotAPipe = 15,
    /// End of file was sent before.
    #[error("the session's stdin was closed")]
    StdinClosed = 16,
    /// The command runs but has closed its stdin.
    #[error("the session's command no longer reads its stdin")]
    NoReader = 17,
    /// The command did not read in time; of more than
    /// [`PIPE_BUF_BYTES`](super::PIPE_BUF_BYTES) it may have got a part.
    #[error("the session's command did not read its stdin in time")]
    TimedOut = 18,
    /// The session cannot be removed yet.
    #[error("the session is still running")]
    StillRunning = 19,
    /// The working folder is not there.
    #[error("the working folder does not exist in the guest")]
    CwdMissing = 20,
    /// The working folder is something else.
    #[error("the working folder is not a folder")]
    CwdNotAFolder = 21,
    /// The working folder may not be entered.
    #[error("the working folder cannot be entered")]
    CwdDenied = 22,
}

impl Refusal {
    const ALL: [Self; 13] = [
        Self::NoSession,
        Self::Exists,
        Self::CannotWrite,
        Self::Truncated,
        Self::NotRunning,
        Self::NotAPipe,
        Self::StdinClosed,
        Self::NoReader,
        Self::TimedOut,
        Self::StillRunning,
        Self::CwdMissing,
        Self::CwdNotAFolder,
        Self::CwdDenied,
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
        let mut read = 0;
        for status in 0..=255 {
            if let Some(refusal) = Refusal::from_status(status) {
                assert_eq!(refusal.status(), status);
                read += 1;
            }
        }
        assert_eq!(read, Refusal::ALL.len());
        assert_eq!(Refusal::from_status(0), None);
        assert_eq!(Refusal::from_status(255), None);
    }
}
