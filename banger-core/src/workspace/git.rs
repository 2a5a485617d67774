//! git on this host, with everything switched off that could run something else.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::host::{Host, HostError, Program, ProgramLimits, ProgramOutput};
use crate::workspace::WorkspaceError;

/// What one run of git may take. A repository of millions of objects is packed in minutes; a list of a
/// million files has some 64 MiB.
pub(super) const LIMITS: ProgramLimits = ProgramLimits {
    time: Duration::from_secs(15 * 60),
    cpu: Duration::from_secs(30 * 60),
    output_bytes: 64 << 20,
    memory_bytes: 2 << 30,
    file_bytes: 64 << 30,
    processes: 64,
};

/// git on one host.
#[derive(Clone, Copy)]
pub(super) struct Git<'a> {
    pub(super) host: &'a dyn Host,
}

impl<'a> Git<'a> {
    pub(super) fn new(host: &'a dyn Host) -> Self {
        Git { host }
    }

    /// Runs git with these words and input to its end.
    pub(super) async fn run<W: Into<OsString>>(
        &self,
        words: impl IntoIterator<Item = W>,
        input: &[u8],
    ) -> Result<ProgramOutput, HostError> {
        self.host.pipe(&program(words)).await?.finish(input).await
    }

    /// Runs git, which must succeed, and returns its output.
    pub(super) async fn must<W: Into<OsString>>(
        &self,
        act: &'static str,
        at: &Path,
        words: impl IntoIterator<Item = W>,
        input: &[u8],
    ) -> Result<Vec<u8>, WorkspaceError> {
        let output = self.run(words, input).await?;
        match output.success() {
            true => Ok(output.stdout),
            false => Err(failed(act, at, &output)),
        }
    }
}

/// The oldest git that is used here: from it on the user's and the system's configuration can be left out
/// (`GIT_CONFIG_GLOBAL`, `GIT_CONFIG_SYSTEM`).
pub(crate) const OLDEST_GIT: &str = "2.32";

/// The oldest git that merges without a working tree (`git merge-tree --write-tree`).
pub(super) const OLDEST_TO_MERGE: &str = "2.38";

/// Reads `git --version`.
pub(crate) fn is_new_enough(said: &str) -> bool {
    let mut numbers = said
        .strip_prefix("git version ")
        .unwrap_or_default()
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (2, 32)
}

/// Names git and how it is to behave: no configuration but what it is given, no program of it, no network.
pub(super) fn program<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Program {
    Program::new("git")
        .limits(LIMITS)
        .args(OFF)
        .args(words)
        .env("HOME", "/nonexistent")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_LITERAL_PATHSPECS", "0")
        .env("GIT_PAGER", "cat")
        .env("GIT_EDITOR", "false")
        .env("GIT_SSH_COMMAND", "false")
        .env("GIT_AUTHOR_NAME", "banger")
        .env("GIT_AUTHOR_EMAIL", "banger@localhost")
        .env("GIT_COMMITTER_NAME", "banger")
        .env("GIT_COMMITTER_EMAIL", "banger@localhost")
}

/// What a repository's own configuration could have git run or do in passing. A command line wins over it.
const OFF: [&str; 22] = [
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.untrackedCache=false",
    "-c",
    "core.attributesFile=/dev/null",
    "-c",
    "protocol.allow=never",
    "-c",
    "protocol.file.allow=always",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    "-c",
    "submodule.recurse=false",
    "-c",
    "core.protectHFS=true",
    "-c",
    "core.protectNTFS=true",
];

pub(super) fn failed(act: &'static str, at: &Path, output: &ProgramOutput) -> WorkspaceError {
    let said = output.last_lines(3).replace('\n', "; ");
    WorkspaceError::Git {
        act,
        path: at.to_owned(),
        said: match said.is_empty() {
            true => format!("it ended with status {}", output.status),
            false => said,
        },
    }
}

pub(super) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// A word of git's output, such as an object's name.
pub(super) fn word_in(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
}

/// `--option=value` for a value that need not be UTF-8.
pub(super) fn option(name: &str, value: &Path) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}

/// Words and paths as one list.
macro_rules! words {
    ($($word:expr),* $(,)?) => { [$(std::ffi::OsString::from($word)),*] };
}
pub(super) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for new in [
            "git version 2.32.0",
            "git version 2.39.5",
            "git version 2.55.GIT",
            "git version 3.0.1",
        ] {
            assert!(is_new_enough(new), "{new}");
        }
        for old in [
            "git version 2.9.1",
            "git version 2.31.9",
            "git version 1.99.0",
            "nonsense",
            "",
        ] {
            assert!(!is_new_enough(old), "{old}");
        }
        assert!(is_new_enough(&format!("git version {OLDEST_GIT}.0")));
    }
}
