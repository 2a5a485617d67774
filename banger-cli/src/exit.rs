//! What a run of `banger` ends with.
//!
//! | status | meaning |
//! | --- | --- |
//! | 0 | done; `run`, `exec`, `ssh`: the guest's command ended with 0 |
//! | 1 | the verb failed, or failed for one of several names |
//! | 2 | the command line was not understood |
//! | 125 | `run`, `exec`, `ssh`: banger itself failed, or the connection was lost |
//! | 126, 127 | `run`, `exec`, `ssh`: the guest's command cannot be run, is not there |
//! | 128 + n | signal n ended the guest's command, or banger itself |
//! | 141 | whoever read standard output is gone (128 + SIGPIPE) |
//! | other | the guest's command ended with it |
//!
//! 125 is what `docker run` ends with in that case. With a terminal (`-t`, and shells) the command
//! runs under ssh(1), which says 255 when its connection is lost.

/// The part of the help that says so.
pub(crate) const HELP: &str = "\
Exit status:
  0         done; for run, exec and ssh: the guest's command ended with 0
  1         the verb failed, or failed for one of several names
  2         the command line was not understood
  125       run, exec, ssh: banger itself failed, or the connection to the guest was lost
  126, 127  run, exec, ssh: the guest's command cannot be run, or is not there
  128+n     signal n ended the guest's command, or banger
  141       whoever read the output is gone (128+SIGPIPE)
  other     run, exec, ssh: what the guest's command ended with
  With a terminal (-t, shells) the command runs under ssh, which says 255 if its connection is lost.";

/// A number that a process can end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExitStatus(u8);

impl ExitStatus {
    /// Done.
    pub(crate) const SUCCESS: Self = Self(0);
    /// A verb failed.
    pub(crate) const FAILED: Self = Self(1);
    /// The command line was not understood; clap's own.
    pub(crate) const USAGE: Self = Self(2);
    /// banger failed where 1 could be the guest's.
    pub(crate) const NOT_THE_GUESTS: Self = Self(125);
    /// Nobody reads standard output any more.
    pub(crate) const BROKEN_PIPE: Self = Self(141);

    /// The status of a command in a guest.
    ///
    /// A process keeps eight bits of what it is given; so does this.
    pub(crate) fn of_guest(code: i32) -> Self {
        Self(code as u8)
    }

    /// What a shell says of a process that this signal ended.
    pub(crate) fn of_signal(signal: banger_session::Signal) -> Self {
        Self(128 + signal.number())
    }

    /// The number.
    pub(crate) fn number(self) -> u8 {
        self.0
    }
}
