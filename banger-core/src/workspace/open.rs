//! Finding a repository and the few values that are read of its configuration.

use std::path::{Path, PathBuf};

use banger_session::workspace::{
    Head, Locations, not_a_repository, parse_config, parse_locations, strangers_repository,
    without_credentials,
};

use crate::workspace::WorkspaceError;
use crate::workspace::git::{Git, failed, path_in, path_of, word_in, words};
use crate::workspace::record::{Ownership, Source};

/// A repository of the host's.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    /// The root of its working tree; its git dir, if it is bare.
    pub(super) root: PathBuf,
    pub(super) locations: Locations,
    /// The commit that is checked out.
    pub(super) head: Option<String>,
    pub(super) branch: Head,
    /// Values of its configuration.
    pub(super) config: Vec<(String, String)>,
    ownership: Ownership,
}

/// What is read of a configuration.
const READ: &str = "^(remote\\.origin\\.url|user\\.(name|email)|core\\.(autocrlf|eol|filemode|symlinks|ignorecase|sparsecheckout|excludesfile)|extensions\\.partialclone)$";

impl Repository {
    /// Finds the repository around a folder. Reads only.
    pub(super) async fn open(git: &Git<'_>, source: &Source) -> Result<Self, WorkspaceError> {
        let path = &source.path;
        let is_folder = git.host.stat(path).await?.is_some_and(|facts| facts.is_dir);
        if !is_folder {
            return Err(WorkspaceError::NoFolder { path: path.clone() });
        }
        let ownership = source.ownership;
        let mut ask = at(path, ownership);
        ask.extend(words![
            "rev-parse",
            "--path-format=absolute",
            "--git-dir",
            "--git-common-dir",
            "--is-bare-repository",
            "--is-shallow-repository",
            "--show-object-format",
        ]);
        let output = git.run(ask, &[]).await?;
        if !output.success() {
            let path = path.clone();
            return Err(match output.stderr.as_slice() {
                said if not_a_repository(said) => WorkspaceError::NotARepository { path },
                said if strangers_repository(said).is_some() => WorkspaceError::Stranger { path },
                _ => failed("rev-parse", &path, &output),
            });
        }
        let locations = parse_locations(&output.stdout).ok_or_else(|| WorkspaceError::Git {
            act: "rev-parse",
            path: path.clone(),
            said: "its folders have names that cannot be passed on".to_owned(),
        })?;
        let mut repository = Repository {
            root: path_of(&locations.git_dir).to_owned(),
            locations,
            head: None,
            branch: Head::Detached,
            config: Vec::new(),
            ownership,
        };
        let top = repository
            .ask(git, path, &["rev-parse", "--show-toplevel"])
            .await?;
        match top {
            Some(top) => repository.root = path_in(&top),
            // Bare, or within a git dir: no working tree is around it.
            None => repository.locations.bare = true,
        }
        let root = repository.root.clone();
        let head = repository.ask(
            git,
            &root,
            &["rev-parse", "--verify", "-q", "HEAD^{commit}"],
        );
        repository.head = head.await?.map(|head| word_in(&head));
        let branch = repository
            .ask(git, &root, &["symbolic-ref", "-q", "HEAD"])
            .await?;
        if let Some(branch) = branch
            && let Some(name) = word_in(&branch).strip_prefix("refs/heads/")
        {
            repository.branch = Head::Branch(name.to_owned());
        }
        let config = ["config", "--includes", "-z", "--get-regexp", READ];
        let config = repository.ask(git, &root, &config).await?;
        repository.config = parse_config(&config.unwrap_or_default());
        Ok(repository)
    }

    /// Asks git something in the repository; none if its answer is no.
    pub(super) async fn ask(
        &self,
        git: &Git<'_>,
        place: &Path,
        words: &[&str],
    ) -> Result<Option<Vec<u8>>, WorkspaceError> {
        let mut ask = at(place, self.ownership);
        ask.extend(words.iter().map(|word| word.into()));
        let output = git.run(ask, &[]).await?;
        Ok(output.success().then_some(output.stdout))
    }

    /// The words that go before a command in it.
    pub(super) fn words(&self) -> Vec<std::ffi::OsString> {
        at(&self.root, self.ownership)
    }

    /// Returns the commit that a name stands for.
    pub(super) async fn commit(&self, git: &Git<'_>, name: &str) -> Result<String, WorkspaceError> {
        let unknown = || WorkspaceError::NoSuchName {
            what: "the commit",
            name: name.to_owned(),
            path: self.root.clone(),
        };
        if name.starts_with('-') {
            return Err(unknown());
        }
        let wanted = format!("{name}^{{commit}}");
        let words = ["rev-parse", "--verify", "-q", &wanted];
        let found = self.ask(git, &self.root, &words).await?;
        found.map(|found| word_in(&found)).ok_or_else(unknown)
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

    pub(super) fn common_dir(&self) -> &Path {
        path_of(&self.locations.common_dir)
    }

    pub(super) fn git_dir(&self) -> &Path {
        path_of(&self.locations.git_dir)
    }
}

fn at(path: &Path, ownership: Ownership) -> Vec<std::ffi::OsString> {
    let mut words = words!["-C", path].to_vec();
    if ownership == Ownership::Anybody {
        words.extend(words!["-c", "safe.directory=*"]);
    }
    words
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
