//! Workspaces: what is asked and answered. A patch goes over a stream: its bytes as standard output, then
//! [`Control::Exit`](banger_session::mux::Control::Exit) if it is complete, or `Error` if it is not.

use serde::{Deserialize, Serialize};

use super::Bytes;

/// What is to be carried where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carry {
    /// A folder in the repository's working tree on the daemon's host. Absolute.
    pub path: Bytes,
    /// `shallow` (the last commits) or `full-copy` (all branches, tags, history and submodules).
    #[serde(default)]
    pub mode: Option<String>,
    /// The branch that the guest is to be on.
    #[serde(default)]
    pub branch: Option<String>,
    /// The commit that is to be checked out.
    #[serde(default)]
    pub from: Option<String>,
    /// Whether files that git does not track, and does not ignore, are carried too.
    #[serde(default)]
    pub include_untracked: bool,
    /// Its folder in the guest; `/root/repo` if none is named.
    #[serde(default)]
    pub guest_path: Option<Bytes>,
    /// Whether changes in a workspace that is there are let go.
    #[serde(default)]
    pub force: bool,
    /// Whether it may be another user's.
    #[serde(default)]
    pub any_owner: bool,
}

/// `workspace.inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectParams {
    /// What is to be carried.
    pub what: Carry,
}

/// `vm.workspace.prepare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareParams {
    /// The VM.
    pub vm: String,
    /// What is to be carried into it.
    pub what: Carry,
    /// Whether only to say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a repository is, and what of it is carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryInfo {
    /// The root of its working tree.
    pub root: Bytes,
    /// The name of its folder.
    pub name: String,
    /// The commit that is checked out.
    pub head: String,
    /// The branch; none if a commit alone is checked out.
    pub branch: Option<String>,
    /// Where it came from, without passwords.
    pub origin: Option<String>,
    /// The name and the address that its commits bear.
    pub identity: Option<(String, String)>,
    /// Files that differ from `head`, and are carried.
    pub changed: Vec<Bytes>,
    /// Files of `head` that are gone, and are removed.
    pub deleted: Vec<Bytes>,
    /// Files that git does not track and does not ignore; carried only if that was asked for.
    pub untracked: Vec<Bytes>,
    /// Its submodules.
    pub submodules: Vec<Bytes>,
    /// What a person may want to know.
    pub notes: Vec<String>,
}

/// `vm.workspace.prepare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareAnswer {
    /// The workspace; none if it was only to be said what would be done.
    pub workspace: Option<WorkspaceInfo>,
    /// What was found on the host.
    pub repository: RepositoryInfo,
    /// What was sent, in bytes.
    pub bytes: u64,
    /// Whether a workspace that was there was, or would be, replaced.
    pub replaces: bool,
}

/// A VM's workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceInfo {
    /// Its folder in the guest.
    pub guest_path: Bytes,
    /// The root of the repository on the host.
    pub host_root: Bytes,
    /// The repository's name.
    pub name: String,
    /// `shallow` or `full-copy`.
    pub mode: String,
    /// The branch that was checked out in the guest.
    pub branch: Option<String>,
    /// The commit that was checked out in the guest.
    pub head: String,
    /// What exports are compared with.
    pub base: String,
    /// The commit that the host was on.
    pub host_head: String,
    /// How many files were carried that differed from `head`.
    pub carried: usize,
    /// When (RFC 3339).
    pub prepared_at: String,
}

/// `vm.workspace.show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceShowAnswer {
    /// It; none if none was prepared.
    pub workspace: Option<WorkspaceInfo>,
    /// Whether the host's repository is on another commit by now: `fresh`, `moved` or `unknown`.
    pub host: Option<String>,
    /// Which commit that is, or why it is not known.
    pub detail: Option<String>,
}

/// `vm.workspace.export`, `vm.workspace.changes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportParams {
    /// The VM.
    pub vm: String,
    /// A commit of the guest's to compare with; what was carried in, if none is named.
    #[serde(default)]
    pub base: Option<String>,
}

/// `vm.workspace.changes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesAnswer {
    /// By path.
    pub files: Vec<FileChange>,
    /// What a person should know of it, a sentence each: what does not come along, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One changed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// `added`, `copied`, `deleted`, `modified`, `renamed`, `type-changed`.
    pub change: String,
    /// Where it is.
    pub path: Bytes,
    /// Where it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_path: Option<Bytes>,
    /// Its mode now, as git knows modes, in octal; none if it is gone.
    pub mode: Option<String>,
    /// Lines added; none of a binary file.
    pub added: Option<u64>,
    /// Lines removed; none of a binary file.
    pub removed: Option<u64>,
    /// Why it deserves a look before anything else is run in the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look: Option<String>,
}

/// `vm.workspace.apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyParams {
    /// The VM.
    pub vm: String,
    /// The repository on the daemon's host; the one that was carried, if none is named.
    #[serde(default)]
    pub path: Option<Bytes>,
    /// A commit of the guest's to compare with; what was carried in, if none is named.
    #[serde(default)]
    pub base: Option<String>,
    /// Whether only to find out if it would go.
    #[serde(default)]
    pub check: bool,
    /// Whether the repository may be another user's.
    #[serde(default)]
    pub any_owner: bool,
}

/// `vm.workspace.apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyAnswer {
    /// The root of the repository.
    pub root: Bytes,
    /// What was, or would be, changed in it.
    pub files: Vec<FileChange>,
    /// The ref by which it can be undone; none if nothing was changed.
    pub undo_ref: Option<String>,
    /// What a person should know of it, a sentence each: what did not come along, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// `vm.workspace.undo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoParams {
    /// The VM.
    pub vm: String,
    /// The repository; the one that was carried, if none is named.
    #[serde(default)]
    pub path: Option<Bytes>,
    /// Whether the repository may be another user's.
    #[serde(default)]
    pub any_owner: bool,
}
