//! What a workspace is, as it is kept and shown.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_session::workspace::{GuestPath, Mode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::Error;
use crate::session::ByteText;
use crate::vm::VMRecord;
use crate::workspace::WorkspaceError;
use crate::workspace::git::Git;
use crate::workspace::inspect::Staging;
use crate::workspace::open::{Repository, UserSettings};
use crate::workspace::shadow::Shadow;

/// The workspace of a VM: what was last carried into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Its folder in the guest.
    pub guest_path: ByteText,
    /// The root of the repository on the host.
    pub host_root: ByteText,
    /// The repository's name: that of its folder.
    pub name: String,
    /// `shallow` or `full-copy`.
    pub mode: String,
    /// The branch that was checked out in the guest; none if a commit alone was.
    pub branch: Option<String>,
    /// The commit that was checked out in the guest.
    pub head: String,
    /// What exports are compared with: `head`, or, if the working tree differed from it, a commit in the
    /// guest's repository that holds it as it was carried.
    pub base: String,
    /// The commit that the host was on.
    pub host_head: String,
    /// How many files were carried that differed from `head`.
    pub carried: usize,
    /// When.
    pub prepared_at: Timestamp,
    /// What was asked for when it was carried, for the next time; what is asked for if nothing is, of one that an older
    /// banger carried.
    #[serde(default)]
    pub asked: Asked,
    /// What the host's working tree held then, by the names of git's trees; none of one that an older banger carried.
    #[serde(default)]
    pub host_trees: Option<String>,
}

/// What was asked for when a workspace was carried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The branch that the guest was to be on.
    pub branch: Option<String>,
    /// The commit that was to be checked out.
    pub from: Option<String>,
    /// Whether untracked files were carried.
    pub untracked: Untracked,
    /// Whose the repository may be.
    pub ownership: Ownership,
}

/// Whether the host's repository is still where it was when it was carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It is.
    Fresh,
    /// It is on another commit.
    Moved {
        /// Which.
        head: String,
    },
    /// It cannot be looked at any more.
    Unknown {
        /// Why not.
        reason: String,
    },
}

/// Which repository, and how it may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// A folder in its working tree. Absolute.
    pub path: PathBuf,
    /// Whose it may be.
    pub ownership: Ownership,
}

/// Whose repository is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ownership {
    /// Only that of the user that this process acts as, as git has it.
    #[default]
    OurOwn,
    /// Anybody's.
    Anybody,
}

/// What becomes of files that git does not track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Untracked {
    /// They stay at home: they may hold secrets.
    #[default]
    Leave,
    /// They are carried, as far as they are not ignored.
    Carry,
}

impl Source {
    /// A repository of our own.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Source {
            path: path.into(),
            ownership: Ownership::default(),
        }
    }
}

impl Workspace {
    /// Its folder in the guest.
    pub(crate) fn dest(&self) -> Result<GuestPath, WorkspaceError> {
        Ok(GuestPath::new(&self.guest_path.0)?)
    }

    /// The repository that it was carried from.
    pub(super) fn source(&self) -> Source {
        Source {
            path: self.root().to_owned(),
            ownership: self.asked.ownership,
        }
    }

    pub(crate) fn root(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.host_root.0))
    }

    /// How much was carried.
    pub fn mode(&self) -> Mode {
        Mode::from_word(&self.mode).unwrap_or_default()
    }
}

impl Engine {
    /// Returns the workspace that was last prepared in a VM; none if none was.
    pub async fn workspace(&self, vm: &str) -> Result<Option<Workspace>, Error> {
        let vm = self.lookup(vm).await?;
        Ok(self.inner.store.workspace(&vm.id).await?)
    }

    /// Says whether the repository that a workspace was made of is still on the same commit.
    pub async fn workspace_freshness(&self, workspace: &Workspace) -> Freshness {
        let unknown = |error: String| Freshness::Unknown { reason: error };
        let staging = match Staging::make(self).await {
            Ok(staging) => staging,
            Err(error) => return unknown(error.to_string()),
        };
        let head = self.head_of(workspace.root(), staging.path()).await;
        staging.clear().await;
        match head {
            Ok(Some(head)) if head == workspace.host_head => Freshness::Fresh,
            Ok(Some(head)) => Freshness::Moved { head },
            Ok(None) => unknown("it has no commit any more".to_owned()),
            Err(error) => unknown(error.to_string()),
        }
    }

    async fn head_of(&self, root: &Path, folder: &Path) -> Result<Option<String>, WorkspaceError> {
        let git = Git::new(self.inner.host());
        // Whose it may be was settled when it was prepared.
        let source = Source {
            path: root.to_owned(),
            ownership: Ownership::Anybody,
        };
        let repository = Repository::open(&git, &source).await?;
        let settings = UserSettings::default();
        // Asked before a command in the workspace: where HEAD points, and nothing of objects and files.
        let shadow = Shadow::of_refs(&git, folder.join("shadow"), &repository, &settings).await?;
        shadow
            .ask(&git, &["rev-parse", "--verify", "-q", "HEAD"])
            .await
    }

    pub(super) async fn recorded_workspace(&self, vm: &VMRecord) -> Result<Workspace, Error> {
        let found = self.inner.store.workspace(&vm.id).await?;
        let missing = || WorkspaceError::None {
            vm: vm.name.clone(),
        };
        Ok(found.ok_or_else(missing)?)
    }
}
