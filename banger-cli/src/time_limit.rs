//! Limits of time as people write them: `90`, `90s`, `5m`, `1h`.

use std::fmt;
use std::str::FromStr;

/// A limit in whole seconds, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit {
    seconds: u64,
}

impl TimeLimit {
    pub(crate) fn seconds(self) -> u64 {
        self.seconds
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds {
            seconds if seconds % 3600 == 0 => write!(f, "{}h", seconds / 3600),
            seconds if seconds % 60 == 0 => write!(f, "{}m", seconds / 60),
            seconds => write!(f, "{seconds}s"),
        }
    }
}

/// Why a limit was refused; clap names the flag and what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotATimeLimit;

impl std::error::Error for NotATimeLimit {}

impl fmt::Display for NotATimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("from 1s to 10000h are expected, whole numbers of s (also none), m or h, such as 90s or 5m")
    }
}

/// A clock that adds this to its time does not run over.
const LONGEST: u64 = 10_000 * 3600;

impl FromStr for TimeLimit {
    type Err = NotATimeLimit;

    fn from_str(given: &str) -> Result<Self, NotATimeLimit> {
        let end = given.find(|c: char| !c.is_ascii_digit());
        let (digits, unit) = given.split_at(end.unwrap_or(given.len()));
        let factor = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(NotATimeLimit),
        };
        let number: u64 = digits.parse().map_err(|_| NotATimeLimit)?;
        match number.checked_mul(factor) {
            Some(seconds @ 1..=LONGEST) => Ok(TimeLimit { seconds }),
            _ => Err(NotATimeLimit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_shown_as_people_write_them() {
        for (given, seconds, shown) in [
            ("90", 90, "90s"),
            ("1s", 1, "1s"),
            ("300s", 300, "5m"),
            ("5m", 300, "5m"),
            ("2h", 7200, "2h"),
        ] {
            let limit: TimeLimit = given.parse().unwrap();
            assert_eq!(limit.seconds(), seconds, "{given}");
            assert_eq!(limit.to_string(), shown);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for given in [
            "",
            "0",
            "s",
            "-1",
            "1.5s",
            "5 m",
            "1d",
            "10001h",
            "99999999999999999999",
        ] {
            assert_eq!(given.parse::<TimeLimit>(), Err(NotATimeLimit), "{given}");
        }
    }
}
