//! Why a verb could not do what was asked, as a person reads it.

use std::io;

use banger_daemon::protocol::RpcError;

use crate::exit::ExitStatus;

/// One line, what caused it, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandError {
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
    end: End,
    source: Source,
    /// Something that was named is not there.
    is_missing: bool,
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The daemon: it understood what was asked, and will not or cannot do it.
    Daemon,
    /// We do.
    Banger,
}

/// What an error makes the process end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Whatever failing means for the verb.
    OfVerb,
    /// This, said or unsaid.
    Fixed { status: ExitStatus, said: Said },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Yes,
    /// All of it has been said, or there is nothing to say.
    No,
}

impl CommandError {
    /// An error of one line.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        CommandError {
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            end: End::OfVerb,
            source: Source::Banger,
            is_missing: false,
        }
    }

    /// A failure of the operating system, with its words as the cause.
    pub(crate) fn io(message: impl Into<String>, error: io::Error) -> Self {
        Self::new(message).because(error.to_string())
    }

    /// Whoever read standard output is gone: nothing to say, and nobody to say it to.
    pub(crate) fn broken_pipe() -> Self {
        Self::new("nobody reads standard output").silently(ExitStatus::BROKEN_PIPE)
    }

    /// Told to go by a signal, where there is nothing to say about it.
    pub(crate) fn interrupted(signal: banger_session::Signal) -> Self {
        Self::new("interrupted").silently(ExitStatus::of_signal(signal))
    }

    /// Some of several names failed, and each has been told of.
    pub(crate) fn already_told() -> Self {
        Self::new("failed").silently(ExitStatus::FAILED)
    }

    /// The same, with one more cause at the end of the chain.
    pub(crate) fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// The same, with one more thing to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same, ending the process with `status` whatever the verb is.
    pub(crate) fn with_status(mut self, status: ExitStatus) -> Self {
        self.end = End::Fixed {
            status,
            said: Said::Yes,
        };
        self
    }

    fn silently(mut self, status: ExitStatus) -> Self {
        self.end = End::Fixed {
            status,
            said: Said::No,
        };
        self
    }

    /// The same, ending the process with `status` if it is the daemon's answer, and not a failure to reach it.
    pub(crate) fn with_status_if_answered(self, status: ExitStatus) -> Self {
        match self.source {
            Source::Daemon => self.with_status(status),
            Source::Banger => self,
        }
    }

    /// Whether the daemon says that what was named is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.is_missing
    }

    /// Whether the daemon was not reached, or died while it was asked: another one may answer.
    pub(crate) fn is_without_answer(&self) -> bool {
        self.source == Source::Banger && self.end == End::OfVerb
    }

    /// What the process must end with, unless that is the verb's to say.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        match self.end {
            End::OfVerb => None,
            End::Fixed { status, .. } => Some(status),
        }
    }

    /// The lines to show, each with its word; none for what is not to be said.
    pub(crate) fn lines(&self) -> Vec<(Word, &str)> {
        if let End::Fixed { said: Said::No, .. } = self.end {
            return Vec::new();
        }
        let mut lines = vec![(Word::Error, self.message.as_str())];
        lines.extend(
            self.causes
                .iter()
                .map(|cause| (Word::Cause, cause.as_str())),
        );
        lines.extend(self.hints.iter().map(|hint| (Word::Hint, hint.as_str())));
        lines
    }
}

impl From<RpcError> for CommandError {
    fn from(error: RpcError) -> Self {
        let is_missing = error
            .data
            .as_ref()
            .is_some_and(|data| data.kind == "not_found");
        let (causes, hint) = error
            .data
            .map(|data| (data.causes, data.hint))
            .unwrap_or_default();
        CommandError {
            message: error.message,
            causes,
            hints: hint.into_iter().collect(),
            end: End::OfVerb,
            source: Source::Daemon,
            is_missing,
        }
    }
}

/// The word before a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// What failed.
    Error,
    /// Why.
    Cause,
    /// What to do next.
    Hint,
}
