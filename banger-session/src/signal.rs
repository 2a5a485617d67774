//! Signals by name and number, and the process groups they go to.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A signal of Linux, from 1 (`HUP`) to 31 (`SYS`), without the real-time
/// ones.
///
/// Read from `INT`, `SIGINT`, `int` or `2`; written as `INT`. Numbers are
/// those of x86-64 and most other machines (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Signal(u8);

/// Names in the order of their numbers, from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

impl Signal {
    /// Hang-up.
    pub const HUP: Self = Self(1);
    /// Interrupt, Ctrl-C.
    pub const INT: Self = Self(2);
    /// Quit, Ctrl-\\.
    pub const QUIT: Self = Self(3);
    /// Kill; cannot be caught.
    pub const KILL: Self = Self(9);
    /// Terminate.
    pub const TERM: Self = Self(15);

    /// The number, 1 to 31.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The name without `SIG`.
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0) - 1]
    }

    /// The signal of this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|number| (1..=31).contains(number))
            .map(Self)
    }

    /// The status a shell reports for a program this signal ended.
    pub fn exit_status(self) -> i32 {
        128 + i32::from(self.0)
    }

    /// Whether `exec`'s wrapper dies with the program when this is sent to
    /// their process group, so that the streams end without a marker.
    ///
    /// True for `KILL`, which nothing survives, and for the four that report
    /// a fault of the shell itself and must therefore not be caught, and for
    /// `STKFLT`, for which no shell has a trap.
    pub fn ends_wrapper(self) -> bool {
        matches!(
            self.name(),
            "KILL" | "ILL" | "BUS" | "FPE" | "SEGV" | "STKFLT"
        )
    }
}

/// Says what was given where a signal belongs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown signal {given:?}")]
pub struct UnknownSignal {
    /// The text as typed.
    pub given: String,
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(given: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal {
            given: given.to_owned(),
        };
        if given.bytes().all(|byte| byte.is_ascii_digit()) {
            return given
                .parse()
                .ok()
                .and_then(Self::from_number)
                .ok_or_else(unknown);
        }
        let upper = given.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let name = match name {
            "POLL" => "IO",
            "IOT" => "ABRT",
            "CLD" => "CHLD",
            name => name,
        };
        (1..=31)
            .map(Self)
            .find(|signal| signal.name() == name)
            .ok_or_else(unknown)
    }
}

impl TryFrom<String> for Signal {
    type Error = UnknownSignal;

    fn try_from(given: String) -> Result<Self, UnknownSignal> {
        given.parse()
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        signal.name().to_owned()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The number of a process group in a guest; also the pid of its leader.
///
/// Never 0 or 1: `kill` would take their negatives for "my own group" and
/// "everything", and the number comes from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct ProcessGroup(NonZeroU32);

impl ProcessGroup {
    /// Accepts what Linux may give to a process that is not init.
    ///
    /// # Errors
    ///
    /// [`NotAProcessGroup`] below 2 and above `i32::MAX`.
    pub fn new(number: u32) -> Result<Self, NotAProcessGroup> {
        NonZeroU32::new(number)
            .filter(|number| (2..=i32::MAX as u32).contains(&number.get()))
            .map(Self)
            .ok_or(NotAProcessGroup { number })
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

/// Says which number no process group of a program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{number} is not the process group of a program")]
pub struct NotAProcessGroup {
    /// The number given.
    pub number: u32,
}

impl TryFrom<u32> for ProcessGroup {
    type Error = NotAProcessGroup;

    fn try_from(number: u32) -> Result<Self, NotAProcessGroup> {
        Self::new(number)
    }
}

impl From<ProcessGroup> for u32 {
    fn from(group: ProcessGroup) -> Self {
        group.get()
    }
}

impl fmt::Display for ProcessGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_as_people_write_it() {
        for given in ["INT", "SIGINT", "sigint", "int", "2"] {
            assert_eq!(given.parse(), Ok(Signal::INT), "{given}");
        }
        assert_eq!("SIGPOLL".parse::<Signal>().unwrap().name(), "IO");
    }

    #[test]
    fn an_unknown_signal_is_refused_by_its_name() {
        for given in [
            "",
            "0",
            "32",
            "-9",
            "SIG",
            "SIGSIGINT",
            "TERMINATE",
            "INT;reboot",
            "99999999999",
        ] {
            let error = given.parse::<Signal>().unwrap_err();
            assert_eq!(error.given, given);
        }
    }

    #[test]
    fn names_and_numbers_agree_with_linux() {
        assert_eq!(Signal::HUP.name(), "HUP");
        assert_eq!(Signal::KILL.name(), "KILL");
        assert_eq!("TERM".parse::<Signal>().unwrap().number(), 15);
        assert_eq!("SYS".parse::<Signal>().unwrap().number(), 31);
        assert_eq!(Signal::TERM.exit_status(), 143);
    }

    #[test]
    fn a_group_that_would_mean_everything_is_refused() {
        for number in [0, 1, 1 << 31, u32::MAX] {
            assert_eq!(ProcessGroup::new(number), Err(NotAProcessGroup { number }));
        }
        assert_eq!(ProcessGroup::new(2).unwrap().to_string(), "2");
    }
}
