//! What is to be carried, as `prepare` and `run` have it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use banger_daemon::protocol::{Bytes, Carry, PrepareAnswer, RepositoryInfo};
use banger_session::workspace::DEFAULT_GUEST_PATH;
use clap::Args;

use crate::command_error::CommandError;
use crate::guest_link::refuse_link_of_a_guest;
use crate::screen::Screen;

/// How a repository is carried.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "The workspace")]
pub(crate) struct CarryOptions {
    /// Carry all branches, tags, history and submodules, not only the last ten commits
    #[arg(long)]
    full_copy: bool,

    /// The branch to be on in the guest; made there
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,

    /// The commit to check out in the guest [default: the one that is checked out here]
    #[arg(long, value_name = "COMMIT")]
    from: Option<String>,

    /// Carry files that git does not track, too; ignored ones never are
    #[arg(long)]
    include_untracked: bool,

    /// The folder in the guest [default: /root/repo]
    #[arg(long, value_name = "DIR")]
    guest_path: Option<OsString>,

    /// Take a repository that belongs to another user
    #[arg(long)]
    any_owner: bool,
}

impl CarryOptions {
    /// As the daemon wants to hear it.
    pub(crate) fn carry(&self, path: &OsStr, force: bool) -> Result<Carry, CommandError> {
        Ok(Carry {
            path: absolute(path)?,
            mode: self.full_copy.then(|| "full-copy".to_owned()),
            branch: self.branch.clone(),
            from: self.from.clone(),
            include_untracked: self.include_untracked,
            guest_path: self
                .guest_path
                .as_ref()
                .map(|path| path.as_bytes().to_vec().into()),
            force,
            any_owner: self.any_owner,
        })
    }
}

/// A path of this host: the daemon has another working folder.
pub(crate) fn absolute(path: &OsStr) -> Result<Bytes, CommandError> {
    refuse_link_of_a_guest(Path::new(path))?;
    let path = std::path::absolute(Path::new(path))
        .map_err(|error| CommandError::io(format!("cannot find {}", path.display()), error))?;
    Ok(path.into_os_string().into_vec().into())
}

/// Says what a person may want to know of what was found.
pub(crate) fn remark(repository: &RepositoryInfo, with_untracked: bool, screen: &Screen) {
    if !with_untracked && !repository.untracked.is_empty() {
        screen.say(format_args!(
            "{} that git does not track stayed here (--include-untracked carries them): {}",
            counted(
                repository.untracked.len(),
                "file or folder",
                "files or folders"
            ),
            first(&repository.untracked)
        ));
    }
    for note in &repository.notes {
        screen.say(note);
    }
}

/// What was done, in a line.
pub(crate) fn summary(answer: &PrepareAnswer, vm: &str) -> String {
    let Some(workspace) = &answer.workspace else {
        return String::new();
    };
    let on = match &workspace.branch {
        Some(branch) => format!("{branch} at {}", short(&workspace.head)),
        None => format!("commit {}", short(&workspace.head)),
    };
    let with = match workspace.carried {
        0 => String::new(),
        count => format!(", with {}", counted(count, "changed file", "changed files")),
    };
    format!(
        "{} is in {vm} at {}: {on}{with}",
        workspace.name,
        shown(&workspace.guest_path)
    )
}

impl CarryOptions {
    /// Where it will be in the guest.
    pub(crate) fn guest_path(&self) -> Vec<u8> {
        match &self.guest_path {
            Some(path) => path.as_bytes().to_vec(),
            None => DEFAULT_GUEST_PATH.into(),
        }
    }

    /// Whether untracked files go too.
    pub(crate) fn carries_untracked(&self) -> bool {
        self.include_untracked
    }
}

/// A commit as people say it.
pub(crate) fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// `1 file`, `2 files`.
pub(crate) fn counted(count: usize, one: &str, more: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    }
}

/// A path on a terminal: as it is, or in quotes if there is anything in it that is not for terminals.
pub(crate) fn shown(path: &Bytes) -> String {
    let bytes = Vec::from(path.clone());
    match std::str::from_utf8(&bytes) {
        Ok(text) if !text.chars().any(char::is_control) && !text.starts_with('"') => {
            text.to_owned()
        }
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

fn first(paths: &[Bytes]) -> String {
    let mut names: Vec<_> = paths.iter().take(3).map(shown).collect();
    if paths.len() > names.len() {
        names.push("…".to_owned());
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_play_with_a_terminal() {
        for (path, text) in [
            (&b"src/main.rs"[..], "src/main.rs"),
            ("grün".as_bytes(), "grün"),
            (b"a\nb", "\"a\\nb\""),
            (b"\x1b[2J", "\"\\u{1b}[2J\""),
            (b"\xff", "\"\\xff\""),
            (b"\"", "\"\\\"\""),
        ] {
            assert_eq!(shown(&path.to_vec().into()), text);
        }
    }
}
