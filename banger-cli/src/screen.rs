//! Standard output and standard error: data on the one, everything else on the other.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use banger_session::{printable_json, printable_lines};
use serde::Serialize;

use crate::command_error::{CommandError, Word};
use crate::progress::Progress;

/// How much banger says beside its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// Errors only.
    Quiet,
    /// What a person at work wants to know.
    Usual,
    /// Also what happens behind the scenes.
    Verbose,
}

/// The two streams.
#[derive(Debug)]
pub(crate) struct Screen {
    talk: Talk,
    ink: Ink,
    progress: RefCell<Progress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ink {
    Plain,
    Colours,
}

impl Screen {
    /// Looks at standard error and `NO_COLOR` (<https://no-color.org>: set and not empty) once.
    pub(crate) fn new(talk: Talk) -> Self {
        let terminal = io::stderr().is_terminal();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let progress = match (talk, terminal && !dumb) {
            (Talk::Quiet, _) => Progress::silent(),
            (_, true) => Progress::live(),
            (_, false) => Progress::lines(),
        };
        Screen {
            talk,
            ink: if terminal && !dumb && !no_color {
                Ink::Colours
            } else {
                Ink::Plain
            },
            progress: RefCell::new(progress),
        }
    }

    /// The stages of whatever the daemon is at.
    pub(crate) fn progress(&self) -> std::cell::RefMut<'_, Progress> {
        self.progress.borrow_mut()
    }

    /// Writes lines of data for a person. Whoever chose the words in them, a guest or a repository, says nothing to
    /// the terminal.
    ///
    /// # Errors
    ///
    /// As [`Screen::raw`].
    pub(crate) fn data(&self, text: &str) -> Result<(), CommandError> {
        self.raw(&printable_lines(text))
    }

    /// Writes what is somebody's own output, as it is.
    ///
    /// # Errors
    ///
    /// A broken pipe ends the process quietly, everything else is told.
    pub(crate) fn raw(&self, text: &str) -> Result<(), CommandError> {
        self.progress().pause();
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => CommandError::broken_pipe(),
                _ => CommandError::io("cannot write to standard output", error),
            })
    }

    /// Writes data for programs: pretty JSON, its keys in a fixed order.
    ///
    /// # Errors
    ///
    /// As [`Screen::data`].
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), CommandError> {
        let mut text = serde_json::to_string_pretty(value).map_err(|error| {
            CommandError::new("cannot write the answer as JSON").because(error.to_string())
        })?;
        text.push('\n');
        self.raw(&printable_json(&text))
    }

    /// Says what a person at work wants to know.
    pub(crate) fn say(&self, text: impl Display) {
        if self.talk != Talk::Quiet {
            self.line(&text.to_string());
        }
    }

    /// Says what was asked for by a flag of its own, and so even if quiet.
    pub(crate) fn asked_for(&self, text: impl Display) {
        self.line(&text.to_string());
    }

    /// Says what happens behind the scenes.
    pub(crate) fn whisper(&self, text: impl Display) {
        if self.talk == Talk::Verbose {
            self.line(&format!("banger: {text}"));
        }
    }

    /// Shows an error.
    pub(crate) fn error(&self, error: &CommandError) {
        self.words(&error.lines());
    }

    fn words(&self, lines: &[(Word, &str)]) {
        for (word, text) in lines {
            let (colour, word) = match word {
                Word::Error => ("\x1b[1;31m", "error:"),
                Word::Cause => ("\x1b[31m", "caused by:"),
                Word::Hint => ("\x1b[36m", "hint:"),
            };
            // A line of somebody else's must not look like one of ours.
            let text = indented(&printable_lines(text));
            match self.ink {
                Ink::Colours => self.write(&format!("{colour}{word}\x1b[0m {text}")),
                Ink::Plain => self.write(&format!("{word} {text}")),
            }
        }
    }

    fn line(&self, text: &str) {
        self.write(&printable_lines(text));
    }

    fn write(&self, text: &str) {
        self.progress().pause();
        // If standard error is gone there is nobody left to tell.
        let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
    }
}

/// The first line as it is, the others with a blank before them.
fn indented(text: &str) -> String {
    let mut lines = text.split('\n');
    let mut made = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        made.push_str(if line.starts_with(' ') || line.is_empty() {
            "\n"
        } else {
            "\n  "
        });
        made.push_str(line);
    }
    made
}
