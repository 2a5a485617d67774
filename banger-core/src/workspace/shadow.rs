//! A git dir of ours over somebody's repository.
//!
//! It borrows the repository's objects, holds a copy of its index, and has a configuration of its own:
//! whatever the repository has configured (filters, hooks, fsmonitor, external diff, includes, remotes)
//! does not exist in it. Its own objects are written here, and go when it goes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use banger_session::workspace::{Status, config_text, parse_status, quoted_path};

use crate::host::Program;
use crate::workspace::WorkspaceError;
use crate::workspace::git::{Git, option, run};
use crate::workspace::open::{Repository, UserSettings};

/// A shadow of a repository.
#[derive(Clone, Debug)]
pub(super) struct Shadow {
    pub(super) git_dir: PathBuf,
    pub(super) root: PathBuf,
}

impl Shadow {
    /// Makes the shadow of a repository in a folder that is not there yet.
    pub(super) async fn make(
        git: &Git<'_>,
        folder: PathBuf,
        repository: &Repository,
        user: &UserSettings,
    ) -> Result<Self, WorkspaceError> {
        let host = git.host;
        for below in ["objects/info", "objects/pack", "refs/heads", "info"] {
            host.create_dir(&folder.join(below)).await?;
        }
        let write =
            async |name: &str, text: &[u8]| host.write_file(&folder.join(name), text, 0o600).await;
        let objects = [repository.locations.common_dir.as_slice(), b"/objects"].concat();
        let alternates = format!("{}\n", quoted_path(&objects));
        write("objects/info/alternates", alternates.as_bytes()).await?;
        write("config", configuration(repository, user).as_bytes()).await?;
        let head = repository.head.as_deref().unwrap_or("ref: refs/heads/none");
        write("HEAD", format!("{head}\n").as_bytes()).await?;
        for (from, name) in [
            (repository.common_dir().join("shallow"), "shallow"),
            (repository.common_dir().join("info/exclude"), "info/exclude"),
        ] {
            if let Some(text) = host.read_file(&from).await? {
                write(name, &text).await?;
            }
        }
        let mut index: Vec<OsString> = Vec::new();
        for name in host.list_dir(repository.git_dir()).await? {
            if name == "index" || name.starts_with("sharedindex.") {
                index.push(repository.git_dir().join(name).into());
            }
        }
        if !index.is_empty() {
            // With its time, by which git tells the files that it has to read again.
            let copy = Program::new("cp")
                .args(["-p", "--"])
                .args(index)
                .arg(&folder);
            let copied = run(host, &copy, &[]).await?;
            if !copied.success() {
                return Err(WorkspaceError::Files {
                    path: repository.root.clone(),
                    said: copied.last_lines(1),
                });
            }
        }
        Ok(Shadow {
            git_dir: folder,
            root: repository.root.clone(),
        })
    }

    /// Runs git in it, on the working tree of the repository. It must succeed.
    pub(super) async fn git(
        &self,
        git: &Git<'_>,
        act: &'static str,
        words: &[&str],
        input: &[u8],
    ) -> Result<Vec<u8>, WorkspaceError> {
        let words = self.words().into_iter().chain(words.iter().map(Into::into));
        git.must(act, &self.root, words, input).await
    }

    /// What differs from what is checked out, with these of the untracked files (`--untracked-files=…`).
    pub(super) async fn status(
        &self,
        git: &Git<'_>,
        untracked: &str,
    ) -> Result<Status, WorkspaceError> {
        let words = [
            "status",
            "--porcelain=v2",
            "-z",
            "--no-renames",
            "--ignore-submodules=all",
            untracked,
        ];
        let output = self.git(git, "status", &words, &[]).await?;
        Ok(parse_status(&output)?)
    }

    /// The words that go before a command in it.
    pub(super) fn words(&self) -> Vec<OsString> {
        vec![
            "-C".into(),
            self.root.clone().into(),
            option("--git-dir", &self.git_dir),
            option("--work-tree", &self.root),
        ]
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.git_dir.join(name)
    }
}

/// Values that change how git reads the files of a working tree, and run nothing.
const KEPT: [&str; 5] = ["autocrlf", "eol", "filemode", "symlinks", "ignorecase"];

pub(super) fn kept_core_values(
    repository: &Repository,
    user: &UserSettings,
) -> Vec<(&'static str, String)> {
    let kept = KEPT.into_iter().filter_map(|key| {
        let full = format!("core.{key}");
        let value = repository.value(&full).or_else(|| user.value(&full))?;
        Some((key, value.to_owned()))
    });
    kept.collect()
}

/// What says of which kind a repository's object names are.
pub(super) fn format_version(repository: &Repository) -> (String, Option<String>) {
    match repository.locations.object_format.as_str() {
        "sha1" => ("0".to_owned(), None),
        other => ("1".to_owned(), Some(other.to_owned())),
    }
}

fn configuration(repository: &Repository, user: &UserSettings) -> String {
    let (version, format) = format_version(repository);
    let mut core = vec![
        ("repositoryformatversion", version),
        ("bare", "false".to_owned()),
        ("safecrlf", "false".to_owned()),
    ];
    core.extend(kept_core_values(repository, user));
    if let Some(file) = user.ignore_file.as_deref().and_then(Path::to_str) {
        core.push(("excludesfile", file.to_owned()));
    }
    let mut sections = vec![("core", None, core)];
    if let Some(format) = format {
        sections.push(("extensions", None, vec![("objectformat", format)]));
    }
    config_text(&sections)
}
