//! Our terminal, set otherwise for a while.

use std::io::{self, IsTerminal};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// While it lives standard input's terminal is set as it was asked to be; then it is as before.
pub(super) struct TerminalSettings {
    before: Termios,
}

impl TerminalSettings {
    /// Changes them, where standard input is a terminal.
    pub(super) fn set(change: impl FnOnce(&mut Termios)) -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut changed = before.clone();
        change(&mut changed);
        tcsetattr(io::stdin(), OptionalActions::Now, &changed).ok()?;
        Some(TerminalSettings { before })
    }
}

impl Drop for TerminalSettings {
    fn drop(&mut self) {
        // An error means that the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
