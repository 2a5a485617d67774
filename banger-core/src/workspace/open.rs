//! A repository that was found, and the few values that are read of its configuration.

use std::path::{Path, PathBuf};

use banger_session::workspace::{Head, parse_config, without_credentials};

use crate::workspace::WorkspaceError;
use crate::workspace::find::{Found, find};
use crate::workspace::git::{Git, OLDEST_GIT, is_new_enough, word_in, words};
use crate::workspace::record::Source;

/// A repository of the host's.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    /// The root of its working tree; its git dir, if it is bare.
    pub(super) root: PathBuf,
    pub(super) found: Found,
    /// The commit that is checked out; known when it has a shadow.
    pub(super) head: Option<String>,
    /// Known when it has a shadow.
    pub(super) branch: Head,
    /// Values of its configuration.
    pub(super) config: Vec<(String, String)>,
}

/// What is read of a user's configuration.
const READ: &str =
    "^(user\\.(name|email)|core\\.(autocrlf|eol|filemode|symlinks|ignorecase|excludesfile))$";

/// Extensions of git's repository format (gitrepository-layout(5)) that are known here.
const EXTENSIONS: [&str; 8] = [
    "noop",
    "noop-v1",
    "preciousobjects",
    "partialclone",
    "objectformat",
    "refstorage",
    "worktreeconfig",
    "relativeworktrees",
];

impl Repository {
    /// Finds the repository around a folder. Reads only, and runs nothing in it.
    pub(super) async fn open(git: &Git<'_>, source: &Source) -> Result<Self, WorkspaceError> {
        // Files are compared with who touches them, whichever host is asked for the rest.
        let us = crate::host::effective_user();
        let (path, ownership) = (source.path.clone(), source.ownership);
        let found = blocking(move || find(&path, ownership, us)).await?;
        let version = git.must("version", &found.root, ["--version"], &[]).await?;
        let version = word_in(&version);
        if !is_new_enough(&version) {
            return Err(WorkspaceError::OldGit {
                version,
                needed: OLDEST_GIT,
            });
        }
        let mut config = Vec::new();
        for text in &found.config {
            // As text alone: no include is followed, and it is nobody's configuration there.
            let words = ["config", "--file", "-", "--no-includes", "-z", "--list"];
            let listed = git.must("config", &found.root, words, text).await?;
            for (key, value) in parse_config(&listed) {
                config.retain(|(known, _)| *known != key);
                config.push((key, value));
            }
        }
        let unknown = config.iter().find_map(|(key, _)| {
            let extension = key.strip_prefix("extensions.")?;
            (!EXTENSIONS.contains(&extension)).then(|| extension.to_owned())
        });
        if let Some(extension) = unknown {
            return Err(WorkspaceError::Astray {
                path: found.root,
                said: format!("it uses git's extension {extension:?}, which is not known here"),
            });
        }
        Ok(Repository {
            root: found.root.clone(),
            head: None,
            branch: Head::Detached,
            config,
            found,
        })
    }

    pub(super) fn value(&self, key: &str) -> Option<&str> {
        let found = self.config.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Where it came from, without passwords.
    pub(super) fn origin(&self) -> Option<String> {
        self.value("remote.origin.url").map(without_credentials)
    }

    /// The name of its folder.
    pub(super) fn name(&self) -> String {
        let name = self.root.file_name().unwrap_or(self.root.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// `sha1` or `sha256`.
    pub(super) fn object_format(&self) -> &str {
        self.value("extensions.objectformat").unwrap_or("sha1")
    }

    /// `files` or `reftable`.
    pub(super) fn ref_storage(&self) -> &str {
        self.value("extensions.refstorage").unwrap_or("files")
    }

    /// The files that its configuration includes, and that were not read.
    pub(super) fn includes(&self) -> Vec<&str> {
        let named = self.config.iter().filter(|(key, _)| {
            key == "include.path" || (key.starts_with("includeif.") && key.ends_with(".path"))
        });
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// Does what blocks on a thread that nobody waits on.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
    }
}

/// What a user has told git of themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct UserSettings {
    pub(super) values: Vec<(String, String)>,
    /// Files with patterns of what they never track.
    pub(super) ignore_file: Option<PathBuf>,
}

impl UserSettings {
    /// Reads git's own files in a home folder. Those are only read as text: nothing in them is followed.
    pub(super) async fn read(git: &Git<'_>, home: Option<&Path>) -> Result<Self, WorkspaceError> {
        let mut settings = UserSettings::default();
        let Some(home) = home else {
            return Ok(settings);
        };
        for file in [home.join(".config/git/config"), home.join(".gitconfig")] {
            if git.host.stat(&file).await?.is_none() {
                continue;
            }
            let words = words![
                "config",
                "--file",
                &file,
                "--includes",
                "-z",
                "--get-regexp",
                READ
            ];
            let output = git.run(words, &[]).await?;
            for (key, value) in parse_config(&output.stdout) {
                settings.values.retain(|(known, _)| *known != key);
                settings.values.push((key, value));
            }
        }
        let named =
            settings
                .value("core.excludesfile")
                .map(|named| match named.strip_prefix("~/") {
                    Some(below) => home.join(below),
                    None => PathBuf::from(named),
                });
        settings.ignore_file = Some(named.unwrap_or_else(|| home.join(".config/git/ignore")));
        Ok(settings)
    }

    pub(super) fn value(&self, key: &str) -> Option<&str> {
        let found = self.values.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }
}
