//! How far a copy has come: bytes and rate, on a terminal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::screen::Screen;

/// A copy that is shorter shows nothing.
const SHOWN_AFTER: Duration = Duration::from_millis(700);

/// The rate is that of so long a time.
const RATE_OF: Duration = Duration::from_secs(3);

/// Counts what passes.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    /// None where nothing is to be shown.
    screen: Option<&'a Screen>,
    what: String,
    /// How many bytes there are, where that is known.
    all: Option<u64>,
    passed: Arc<AtomicU64>,
    since: Instant,
    seen: VecDeque<(Instant, u64)>,
}

impl<'a> Meter<'a> {
    /// `what` is said before the numbers.
    pub(super) fn new(screen: &'a Screen, what: String, all: Option<u64>) -> Self {
        Meter {
            screen: Some(screen),
            what,
            all,
            passed: Arc::default(),
            since: Instant::now(),
            seen: VecDeque::new(),
        }
    }

    /// The same, which shows nothing: its line would be amid what is copied.
    pub(super) fn hidden(mut self) -> Self {
        self.screen = None;
        self
    }

    /// Where the bytes are counted.
    pub(super) fn passed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.passed)
    }

    /// Draws it as it is now.
    pub(super) fn draw(&mut self) {
        let now = Instant::now();
        let passed = self.passed.load(Ordering::Relaxed);
        self.seen.push_back((now, passed));
        while self.seen.len() > 2 && now - self.seen[1].0 > RATE_OF {
            self.seen.pop_front();
        }
        let Some(screen) = self.screen else { return };
        if now - self.since < SHOWN_AFTER {
            return;
        }
        let (first, before) = self.seen.front().copied().unwrap_or((self.since, 0));
        let line = line(&self.what, passed, self.all, passed - before, now - first);
        screen.progress().show(&line);
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        if let Some(screen) = self.screen {
            screen.progress().pause();
        }
    }
}

fn line(what: &str, passed: u64, all: Option<u64>, lately: u64, time: Duration) -> String {
    let of = all.map(|all| format!(" of {}", bytes(all)));
    // A rate, not an amount: what is lost by it does not show.
    let rate = (lately as f64 / time.as_secs_f64().max(0.001)) as u64;
    format!(
        "{what}  {}{}  {}/s",
        bytes(passed),
        of.unwrap_or_default(),
        bytes(rate)
    )
}

fn bytes(bytes: u64) -> String {
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for larger in ["MiB", "GiB", "TiB", "PiB"] {
        if amount < 1000.0 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    format!("{amount:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_of_how_much_and_how_fast() {
        let second = Duration::from_secs(1);
        for (passed, all, lately, shown) in [
            (0, None, 0, "box  0.0 KiB  0.0 KiB/s"),
            (
                3 << 20,
                Some(600 << 20),
                1536 << 10,
                "box  3.0 MiB of 600.0 MiB  1.5 MiB/s",
            ),
            (
                5 << 40,
                Some(6 << 50),
                1 << 30,
                "box  5.0 TiB of 6.0 PiB  1.0 GiB/s",
            ),
        ] {
            assert_eq!(line("box", passed, all, lately, second), shown);
        }
    }
}
