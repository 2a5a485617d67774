//! The stages of a request at work: one line that lives on a terminal, plain lines elsewhere.
//!
//! Our own rather than a crate's: it is one line without bars, and what a crate for it brings (a
//! ticking thread, templates, terminal tables) would be paid for in every start of `banger`.

use banger_session::printable;
use std::io::Write;
use std::time::{Duration, Instant};

/// How often a live line is drawn anew.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// A stage shorter than this does not flash up.
const SHOWN_AFTER: Duration = Duration::from_millis(80);

/// Shows the stage at work and remembers how long each took.
#[derive(Debug)]
pub(crate) struct Progress {
    manner: Manner,
    current: Option<Running>,
    taken: Vec<Taken>,
    drawn: bool,
}

/// A stage and the time it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The daemon's stable word for it.
    pub(crate) stage: String,
    /// From its beginning to that of the next, or the end of its request.
    pub(crate) time: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Silent,
    Lines,
    Live,
}

#[derive(Debug)]
struct Running {
    stage: String,
    text: String,
    since: Instant,
}

impl Progress {
    /// Shows nothing.
    pub(crate) fn silent() -> Self {
        Self::new(Manner::Silent)
    }

    /// Writes a line when a stage begins.
    pub(crate) fn lines() -> Self {
        Self::new(Manner::Lines)
    }

    /// Keeps one line of a terminal up to date.
    pub(crate) fn live() -> Self {
        Self::new(Manner::Live)
    }

    fn new(manner: Manner) -> Self {
        Progress {
            manner,
            current: None,
            taken: Vec::new(),
            drawn: false,
        }
    }

    /// A stage begins; the one before it is over.
    pub(crate) fn begin(&mut self, stage: &str, text: &str) {
        let text = &printable(text);
        if let Some(current) = &mut self.current
            && current.stage == stage
        {
            // It goes on, and says how far it is.
            text.as_ref().clone_into(&mut current.text);
            return;
        }
        self.end_stage();
        if self.manner == Manner::Lines {
            write(&format!("banger: {}…\n", text.trim_end_matches('…')));
        }
        self.current = Some(Running {
            stage: stage.to_owned(),
            text: text.clone().into_owned(),
            since: Instant::now(),
        });
    }

    /// The request is answered.
    pub(crate) fn end(&mut self) {
        self.end_stage();
        self.pause();
    }

    /// Draws a live line as it is now; to be called every [`TICK`].
    pub(crate) fn tick(&mut self) {
        let (Manner::Live, Some(current)) = (self.manner, &self.current) else {
            return;
        };
        let elapsed = current.since.elapsed();
        if elapsed < SHOWN_AFTER {
            return;
        }
        let line = live_line(&current.text, elapsed, columns());
        write(&format!("\r\x1b[2K{line}"));
        self.drawn = true;
    }

    /// Draws a live line of somebody else's making; elsewhere nothing is said.
    pub(crate) fn show(&mut self, text: &str) {
        if self.manner == Manner::Live {
            let room = columns().saturating_sub(1);
            let line: String = printable(text).chars().take(room).collect();
            write(&format!("\r\x1b[2K{line}"));
            self.drawn = true;
        }
    }

    /// Clears a live line, so that something else can be written.
    pub(crate) fn pause(&mut self) {
        if self.drawn {
            write("\r\x1b[2K");
            self.drawn = false;
        }
    }

    /// Adds a stage that was not the daemon's.
    pub(crate) fn add(&mut self, stage: &str, time: Duration) {
        self.taken.push(Taken {
            stage: stage.to_owned(),
            time,
        });
    }

    /// What was done so far, in order.
    pub(crate) fn taken(&self) -> &[Taken] {
        &self.taken
    }

    fn end_stage(&mut self) {
        if let Some(over) = self.current.take() {
            self.add(&over.stage, over.since.elapsed());
        }
    }
}

/// The stage and its time, cut so that it never wraps into a second line.
fn live_line(text: &str, elapsed: Duration, columns: usize) -> String {
    let time = format!("  {:.1} s", elapsed.as_secs_f64());
    let room = columns.saturating_sub(time.len() + 2);
    let text: String = text.trim_end_matches('…').chars().take(room).collect();
    format!("{text}…{time}")
}

fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr())
        .map(|size| usize::from(size.ws_col))
        .ok()
        .filter(|&columns| columns > 0)
        .unwrap_or(80)
}

fn write(text: &str) {
    // If standard error is gone there is nobody left to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_line_never_reaches_the_last_column() {
        let line = live_line(&"x".repeat(300), Duration::from_millis(12_340), 40);
        assert!(line.ends_with("…  12.3 s"), "{line}");
        assert_eq!(line.chars().count(), 39);
    }

    #[test]
    fn a_live_line_on_a_tiny_terminal_is_its_time() {
        assert_eq!(live_line("booting", Duration::ZERO, 3), "…  0.0 s");
    }

    #[test]
    fn each_stage_takes_until_the_next_begins() {
        let mut progress = Progress::silent();
        progress.begin("disk", "making the disk");
        progress.begin("boot", "booting");
        progress.end();
        progress.add("command", Duration::from_millis(7));
        let stages: Vec<_> = progress.taken().iter().map(|t| t.stage.as_str()).collect();
        assert_eq!(stages, ["disk", "boot", "command"]);
        assert_eq!(progress.taken()[2].time, Duration::from_millis(7));
    }
}
