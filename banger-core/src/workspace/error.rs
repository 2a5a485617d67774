//! What goes wrong between a repository and a guest.

use std::path::PathBuf;

use banger_session::workspace::{
    BadIndex, InspectRefusal, InvalidGuestPath, MalformedOutput, WorkspaceRefusal,
};

use crate::error::ErrorKind;
use crate::host::HostError;
use crate::names::VmName;
use crate::workspace::too_much::TooMuch;

/// Why a repository was not carried, or its changes not brought back.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The folder is not there.
    #[error("there is no folder {}", path.display())]
    NoFolder {
        /// It.
        path: PathBuf,
    },
    /// No repository is around it.
    #[error("{} is not in a git repository", path.display())]
    NotARepository {
        /// The folder.
        path: PathBuf,
    },
    /// It is another user's.
    #[error("the repository at {} belongs to another user, and was not looked into", path.display())]
    Stranger {
        /// The folder.
        path: PathBuf,
    },
    /// Its parts do not belong together, or it is of a kind that is not known here.
    #[error("the repository at {} was not looked into: {said}", path.display())]
    Astray {
        /// The folder that holds its `.git`.
        path: PathBuf,
        /// What is so.
        said: String,
    },
    /// Its index is damaged, or names what is not its.
    #[error("the repository {} cannot be read", path.display())]
    Index {
        /// Its root.
        path: PathBuf,
        /// What is wrong.
        source: BadIndex,
    },
    /// The git of this host is too old.
    #[error("{version} is too old for that: {needed} or later is needed")]
    OldGit {
        /// What it says of itself.
        version: String,
        /// The oldest that is new enough.
        needed: &'static str,
    },
    /// It cannot be carried.
    #[error("the repository {} cannot be carried", path.display())]
    Refused {
        /// Its root.
        path: PathBuf,
        /// Why not.
        source: InspectRefusal,
    },
    /// There is no such commit, or no such name for a branch.
    #[error("{what} {name:?} is not known to the repository {}", path.display())]
    NoSuchName {
        /// What it was to be.
        what: &'static str,
        /// As given.
        name: String,
        /// The repository.
        path: PathBuf,
    },
    /// A name cannot be a branch's.
    #[error("{name:?} cannot be the name of a branch")]
    BadBranch {
        /// As given.
        name: String,
    },
    /// The path in the guest was refused.
    #[error(transparent)]
    GuestPath(#[from] InvalidGuestPath),
    /// A partial clone, and what is wanted of it is not here.
    #[error("the objects of {} are not all here: it is a partial clone", path.display())]
    Partial {
        /// The repository.
        path: PathBuf,
    },
    /// git on this host failed.
    #[error("git {act} failed in {}: {said}", path.display())]
    Git {
        /// The command.
        act: &'static str,
        /// The repository.
        path: PathBuf,
        /// The last of what it said.
        said: String,
    },
    /// git printed what it never prints.
    #[error(transparent)]
    Malformed(#[from] MalformedOutput),
    /// A file could not be read, or changed while it was read.
    #[error("the files of {} could not be read as they are: {said}", path.display())]
    Files {
        /// The repository.
        path: PathBuf,
        /// What tar said.
        said: String,
    },
    /// The guest lacks a program.
    #[error("the guest of VM {vm} lacks {}", missing.join(", "))]
    GuestLacks {
        /// The VM.
        vm: VmName,
        /// Which.
        missing: Vec<String>,
    },
    /// The guest's disk is too small.
    #[error(
        "the disk of VM {vm} has {} free there, and the workspace needs more than {}",
        amount(*free_bytes), amount(*needed_bytes)
    )]
    GuestFull {
        /// The VM.
        vm: VmName,
        /// Free, in bytes.
        free_bytes: u64,
        /// What is sent, in bytes.
        needed_bytes: u64,
    },
    /// Something is in the way.
    #[error("{path} in VM {vm} was not replaced: {reason}")]
    InTheWay {
        /// The VM.
        vm: VmName,
        /// Where.
        path: String,
        /// What.
        reason: String,
        /// Whether it may be forced.
        forcible: bool,
    },
    /// No workspace was prepared.
    #[error("VM {vm} has no workspace")]
    None {
        /// The VM.
        vm: VmName,
    },
    /// A script in the guest refused.
    #[error("cannot {act} the workspace of VM {vm}{}", detail(said))]
    Guest {
        /// What was tried.
        act: &'static str,
        /// The VM.
        vm: VmName,
        /// Why not.
        source: WorkspaceRefusal,
        /// The last of what the guest's programs said.
        said: String,
    },
    /// The guest was lost on the way, or its answer makes no sense.
    #[error("cannot {act} the workspace of VM {vm}: {reason}")]
    Lost {
        /// What was tried.
        act: &'static str,
        /// The VM.
        vm: VmName,
        /// What came instead.
        reason: String,
    },
    /// The patch would touch what is not its.
    #[error("the guest's patch was refused: {}", named(files))]
    HostilePatch {
        /// The paths, and what is wrong with each.
        files: Vec<(String, String)>,
    },
    /// A guest's patch is larger than any honest one.
    #[error("the patch of VM {vm} was refused")]
    TooMuch {
        /// The VM.
        vm: VmName,
        /// What it has too much of.
        source: TooMuch,
    },
    /// The patch does not fit.
    #[error(
        "the guest's changes and the repository's do not go together in: {}", paths.join(", ")
    )]
    Conflict {
        /// Where.
        paths: Vec<String>,
    },
    /// Files that the patch makes are there already, or have changed while it was applied.
    #[error("the files in {} are in the way: {said}", path.display())]
    FilesInTheWay {
        /// The repository.
        path: PathBuf,
        /// Which, in git's words.
        said: String,
    },
    /// Nothing was applied that could be taken back.
    #[error("nothing that was applied from VM {vm} is known in {}", path.display())]
    NothingToUndo {
        /// The VM.
        vm: String,
        /// The repository.
        path: PathBuf,
    },
    /// Applied files were changed since.
    #[error("these files were changed since they were applied: {}", paths.join(", "))]
    ChangedSince {
        /// Which.
        paths: Vec<String>,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl WorkspaceError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            WorkspaceError::NoFolder { .. }
            | WorkspaceError::NotARepository { .. }
            | WorkspaceError::NoSuchName { .. }
            | WorkspaceError::None { .. }
            | WorkspaceError::NothingToUndo { .. } => ErrorKind::NotFound,
            WorkspaceError::Stranger { .. } => ErrorKind::Denied,
            WorkspaceError::Refused { .. }
            | WorkspaceError::Partial { .. }
            | WorkspaceError::Astray { .. }
            | WorkspaceError::Index { .. }
            | WorkspaceError::TooMuch { .. }
            | WorkspaceError::BadBranch { .. }
            | WorkspaceError::GuestPath(_)
            | WorkspaceError::HostilePatch { .. } => ErrorKind::Invalid,
            WorkspaceError::GuestLacks { .. } | WorkspaceError::OldGit { .. } => {
                ErrorKind::Unavailable
            }
            WorkspaceError::GuestFull { .. } => ErrorKind::NoSpace,
            WorkspaceError::InTheWay { .. }
            | WorkspaceError::Conflict { .. }
            | WorkspaceError::FilesInTheWay { .. }
            | WorkspaceError::ChangedSince { .. } => ErrorKind::InUse,
            WorkspaceError::Guest { source, said, .. } => match source {
                _ if said.contains("No space left on device") => ErrorKind::NoSpace,
                WorkspaceRefusal::NoWorkspace | WorkspaceRefusal::NoBase => ErrorKind::NotFound,
                WorkspaceRefusal::CannotWrite => ErrorKind::NoSpace,
                WorkspaceRefusal::Appeared => ErrorKind::InUse,
                _ => ErrorKind::Failed,
            },
            WorkspaceError::Host(HostError::ProgramMissing { .. }) => ErrorKind::Unavailable,
            WorkspaceError::Host(host) if host.is_full() => ErrorKind::NoSpace,
            WorkspaceError::Host(host) if host.is_denied() => ErrorKind::Denied,
            WorkspaceError::Git { .. }
            | WorkspaceError::Malformed(_)
            | WorkspaceError::Files { .. }
            | WorkspaceError::Lost { .. }
            | WorkspaceError::Host(_) => ErrorKind::Failed,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            WorkspaceError::Stranger { .. } => {
                "run banger as its owner, or say that any owner is fine: --any-owner (nothing that it has \
                 configured is run either way)"
                    .to_owned()
            }
            WorkspaceError::Astray { path, .. } => format!(
                "name the repository that is meant, or clone it: git clone {} ELSEWHERE",
                path.display()
            ),
            WorkspaceError::TooMuch { vm, .. } => format!(
                "nothing was changed; look at what is so large: banger vm workspace export {vm} --stat"
            ),
            WorkspaceError::OldGit { .. } => "install a newer git".to_owned(),
            WorkspaceError::Partial { path } => format!(
                "nothing was fetched for it; let git fetch what is missing: git -C {} fetch --refetch --no-filter",
                path.display()
            ),
            WorkspaceError::Index { .. } => {
                "do not trust it; if it is yours, git itself makes a new one: rm .git/index; git reset"
                    .to_owned()
            }
            WorkspaceError::Refused { source, .. } => match source {
                InspectRefusal::Bare => "clone it, and carry the clone".to_owned(),
                InspectRefusal::NoCommit => "commit something first".to_owned(),
                InspectRefusal::Submodules { .. } => "carry all of it: --full-copy".to_owned(),
            },
            WorkspaceError::GuestLacks { vm, missing } => format!(
                "install them in the guest: banger vm exec {vm} -- apt-get install {}",
                missing.join(" ")
            ),
            WorkspaceError::GuestFull { .. } => {
                "give the VM a larger disk (--disk-size), or free some of it".to_owned()
            }
            WorkspaceError::InTheWay { vm, forcible: true, .. } => format!(
                "bring them home first (banger vm workspace export {vm}), or let them go: --force"
            ),
            WorkspaceError::InTheWay { .. } => {
                "choose another folder: --guest-path /root/other".to_owned()
            }
            WorkspaceError::None { vm } => {
                format!("carry one in: banger vm workspace prepare {vm} PATH")
            }
            WorkspaceError::Files { .. } => {
                "try again when nothing writes to them; what git says of them: git status".to_owned()
            }
            WorkspaceError::Conflict { .. } => {
                "nothing was changed; make them alike in one of the two places, or look at the patch: \
                 banger vm workspace export VM"
                    .to_owned()
            }
            WorkspaceError::FilesInTheWay { .. } => {
                "nothing was changed; move them away, or commit them".to_owned()
            }
            WorkspaceError::HostilePatch { .. } => {
                "nothing was changed; do not trust what else comes from this guest".to_owned()
            }
            WorkspaceError::Host(HostError::ProgramMissing { program, .. }) => {
                format!("install it: apt-get install {program}")
            }
            WorkspaceError::Host(host) => return host.hint(),
            _ => return None,
        })
    }
}

/// In MiB, and in KiB where that would say nothing.
fn amount(bytes: u64) -> String {
    match bytes >> 20 {
        0..10 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        mib => format!("{mib} MiB"),
    }
}

fn detail(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(" ({said})"),
    }
}

fn named(files: &[(String, String)]) -> String {
    let named: Vec<_> = files
        .iter()
        .map(|(path, why)| format!("{path:?}: {why}"))
        .collect();
    named.join("; ")
}
