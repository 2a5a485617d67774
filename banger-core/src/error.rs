//! What the engine's verbs answer when they cannot do what was asked.

use std::fmt;
use std::time::Duration;

use banger_session::CommandError;
use banger_session::session::{Failure, InvalidCommandName, Refusal};
use serde::{Deserialize, Serialize};

use crate::disk::DiskError;
use crate::handles::HandlesError;
use crate::host::HostError;
use crate::image::{ImageError, ManifestError, SpecError};
use crate::names::{ImageName, Mebibytes, NameError, SessionName, VmName};
use crate::network::NetworkError;
use crate::places::PlaceError;
use crate::store::StoreError;
use crate::transport::TransportError;
use crate::vmm::{PauseReason, VmmError};
use crate::workspace::WorkspaceError;

/// An error of the engine. `Display` never repeats its source's text: print the chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another engine holds the state folder.
    #[error("another banger engine uses {}", state.display())]
    StateInUse {
        /// The folder.
        state: std::path::PathBuf,
    },
    /// The state folder is another user's.
    #[error("the state folder {} belongs to user {owner}, and was not used", state.display())]
    StateOfAnother {
        /// The folder.
        state: std::path::PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// The runtime folder is too deep for sockets.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A file of the engine holds what it never writes.
    #[error("{} is damaged: {reason}", path.display())]
    DamagedFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is free on the host is kept free.
    #[error(
        "{} has {} MiB free, and {reserve} are kept free there",
        folder.display(), free >> 20
    )]
    Reserve {
        /// The folder, on the file system that is meant.
        folder: std::path::PathBuf,
        /// What is free, in bytes.
        free: u64,
        /// What is kept free.
        reserve: Mebibytes,
    },
    /// A name or id was refused.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such VM.
    #[error("there is no VM {name:?}")]
    NoSuchVm {
        /// What was given.
        name: String,
    },
    /// An id's beginning fits several VMs.
    #[error("{prefix:?} is the beginning of more than one VM's id")]
    AmbiguousId {
        /// What was given.
        prefix: String,
    },
    /// The name belongs to another VM, or to one that is being made.
    #[error("there is already a VM named {name}")]
    NameTaken {
        /// The name.
        name: VmName,
    },
    /// A number in a request is out of its range.
    #[error("{what} must be {range}, not {given}")]
    OutOfRange {
        /// Which.
        what: &'static str,
        /// What is allowed.
        range: String,
        /// What was given.
        given: String,
    },
    /// There is no such image.
    #[error("there is no image {name}")]
    NoSuchImage {
        /// The name.
        name: ImageName,
    },
    /// A backend does not work here.
    #[error("{what} does not work here: {reason}")]
    Unusable {
        /// Which backend.
        what: String,
        /// Why not.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A command printed more than is kept of one.
    #[error("the command in VM {vm} printed more than {} MiB, and was given up", limit >> 20)]
    OutputTooLong {
        /// The VM, as it was named.
        vm: String,
        /// The most, in bytes.
        limit: u64,
    },
    /// The VM does not run.
    #[error("VM {vm} is not running ({condition})")]
    NotRunning {
        /// The VM.
        vm: VmName,
        /// What it is instead.
        condition: String,
    },
    /// The VM's guest stands still: nothing in it can answer.
    #[error("VM {vm} is paused: {reason}")]
    Paused {
        /// The VM.
        vm: VmName,
        /// Why.
        reason: PauseReason,
        /// Its folder, on the file system that is meant.
        folder: std::path::PathBuf,
    },
    /// The VM runs, and what was asked can only be done to one that does not.
    #[error("VM {vm} is running: {what} cannot be changed meanwhile")]
    StillRunning {
        /// The VM.
        vm: VmName,
        /// What was to be changed.
        what: &'static str,
    },
    /// Somebody is attached to the VM's serial console.
    #[error("somebody is attached to the console of VM {vm} already")]
    ConsoleHeld {
        /// The VM.
        vm: VmName,
    },
    /// Whether the VM runs could not be found out, and so nothing was touched.
    #[error("cannot tell whether VM {vm} runs: {reason}")]
    CannotTell {
        /// The VM.
        vm: VmName,
        /// Why not.
        reason: String,
    },
    /// A start failed. What it had done was undone, except for what `undo_failures` names.
    #[error("cannot start VM {vm}: {step} failed{}", listed(undo_failures))]
    Start {
        /// The VM.
        vm: VmName,
        /// The step that failed.
        step: &'static str,
        /// Why.
        source: Box<Error>,
        /// What could not be undone.
        undo_failures: Vec<String>,
    },
    /// The VM's monitor ended while its guest was booting.
    #[error(
        "VM {vm} ended while it was booting: its monitor {end}{}",
        console(last_lines)
    )]
    EndedBooting {
        /// The VM.
        vm: VmName,
        /// How.
        end: String,
        /// The last lines of its console.
        last_lines: String,
    },
    /// The guest did not answer. It runs on, to be looked at.
    #[error("VM {vm} runs, but its ssh did not answer within {} s", limit.as_secs())]
    NotReady {
        /// The VM.
        vm: VmName,
        /// The time it had.
        limit: Duration,
        /// Where its console is logged.
        console_log: std::path::PathBuf,
    },
    /// A stray process outlived SIGKILL.
    #[error("process {process}, a stray, did not end within {} s of SIGKILL", limit.as_secs())]
    StrayOutlived {
        /// Its number.
        process: String,
        /// The time it had.
        limit: Duration,
    },
    /// A monitor outlived SIGKILL.
    #[error("the monitor of VM {vm} did not end within {} s of SIGKILL", limit.as_secs())]
    Unkillable {
        /// The VM.
        vm: VmName,
        /// The time it had.
        limit: Duration,
    },
    /// A guest that was to end did not.
    #[error("the guest of VM {vm} did not end within {} s; it runs on, and nothing was lost", waited.as_secs())]
    DoesNotEnd {
        /// The VM.
        vm: VmName,
        /// The time it had in all.
        waited: Duration,
    },
    /// A VM was killed while it was being stopped.
    #[error(
        "VM {vm} was killed while it was being stopped: its guest may have lost its last writes"
    )]
    StopCutShort {
        /// The VM.
        vm: VmName,
    },
    /// Something that the VM held could not be released.
    #[error("cannot release what VM {vm} held: {}", failures.join("; "))]
    Teardown {
        /// The VM.
        vm: VmName,
        /// What failed.
        failures: Vec<String>,
    },
    /// The command cannot be expressed in the guest's shell.
    #[error(transparent)]
    Command(#[from] banger_session::exec::ExecError),
    /// There is no such session.
    #[error("VM {vm} has no session {name:?}")]
    NoSuchSession {
        /// The VM.
        vm: VmName,
        /// What was given.
        name: String,
    },
    /// An id's beginning fits several sessions.
    #[error("{prefix:?} is the beginning of more than one session's id")]
    AmbiguousSession {
        /// What was given.
        prefix: String,
    },
    /// The name belongs to another session of the VM.
    #[error("VM {vm} already has a session named {name}")]
    SessionNameTaken {
        /// The VM.
        vm: VmName,
        /// The name.
        name: SessionName,
    },
    /// A session could not be started. Its record is kept, with the same failure.
    #[error("session {session} of VM {vm} failed: {failure}")]
    SessionFailed {
        /// The VM.
        vm: VmName,
        /// The session.
        session: SessionName,
        /// At which step, and why.
        failure: Failure,
    },
    /// What was asked of a session cannot be done.
    #[error("cannot {act} session {session} of VM {vm}")]
    SessionRefused {
        /// What was tried.
        act: &'static str,
        /// The VM.
        vm: VmName,
        /// The session.
        session: SessionName,
        /// Why not.
        source: Refusal,
    },
    /// Somebody is attached to the session.
    #[error("session {session} of VM {vm} is held by {holder}, attached since {since}")]
    SessionHeld {
        /// The VM.
        vm: VmName,
        /// The session.
        session: SessionName,
        /// Who, in the words that the attacher gave.
        holder: String,
        /// When it attached.
        since: jiff::Timestamp,
    },
    /// The session's command outlived SIGKILL.
    #[error("session {session} of VM {vm} did not end within {} s of SIGKILL", limit.as_secs())]
    SessionUnkillable {
        /// The VM.
        vm: VmName,
        /// The session.
        session: SessionName,
        /// The time it had.
        limit: Duration,
    },
    /// The guest was asked about a session and its answer makes no sense, or none came.
    #[error("VM {vm} gave no answer about its sessions: {reason}")]
    SessionAnswer {
        /// The VM.
        vm: VmName,
        /// What came instead.
        reason: String,
    },
    /// A session's command cannot be expressed in the guest's shell.
    #[error(transparent)]
    SessionCommand(#[from] CommandError),
    /// A required command's name is none.
    #[error(transparent)]
    RequiredCommand(#[from] InvalidCommandName),
    /// The disk of a VM that does not run could not be read.
    #[error("cannot read the disk of VM {vm}: {reason}")]
    ReadDisk {
        /// The VM.
        vm: VmName,
        /// Why not.
        reason: String,
    },
    /// The engine is closing.
    #[error("the engine is closing")]
    Closing,
    /// A word of an image's description was refused.
    #[error(transparent)]
    ImageSpec(#[from] SpecError),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The handles file.
    #[error(transparent)]
    Handles(#[from] HandlesError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A monitor.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The way into a guest.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A workspace.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What a program can match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// There is no such thing.
    NotFound,
    /// The name is taken.
    NameTaken,
    /// What was asked for makes no sense.
    Invalid,
    /// The VM does not run.
    NotRunning,
    /// The guest does not answer.
    NotReady,
    /// The guest stands still.
    Paused,
    /// A program or backend is missing.
    Unavailable,
    /// The disk is full.
    NoSpace,
    /// We were not allowed to.
    Denied,
    /// Somebody else holds it.
    InUse,
    /// Made by a newer banger.
    Newer,
    /// A file or database is damaged.
    Damaged,
    /// Anything else that failed.
    Failed,
}

impl Error {
    /// Returns what a program can match on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::StateInUse { .. } => ErrorKind::InUse,
            Error::StateOfAnother { .. } => ErrorKind::Denied,
            Error::Place(_)
            | Error::Name(_)
            | Error::OutOfRange { .. }
            | Error::ImageSpec(_)
            | Error::Command(_)
            | Error::SessionCommand(_)
            | Error::RequiredCommand(_) => ErrorKind::Invalid,
            Error::DamagedFile { .. } => ErrorKind::Damaged,
            Error::Reserve { .. } => ErrorKind::NoSpace,
            Error::NoSuchVm { .. } | Error::NoSuchImage { .. } | Error::NoSuchSession { .. } => {
                ErrorKind::NotFound
            }
            Error::AmbiguousId { .. } | Error::AmbiguousSession { .. } => ErrorKind::Invalid,
            Error::SessionNameTaken { .. } => ErrorKind::NameTaken,
            Error::SessionHeld { .. } | Error::StillRunning { .. } | Error::ConsoleHeld { .. } => {
                ErrorKind::InUse
            }
            Error::SessionAnswer { .. } => ErrorKind::NotReady,
            Error::SessionRefused { source, .. } => match source {
                Refusal::NoSession | Refusal::CwdMissing => ErrorKind::NotFound,
                Refusal::NotRunning => ErrorKind::NotRunning,
                Refusal::CannotWrite => ErrorKind::NoSpace,
                Refusal::CwdDenied => ErrorKind::Denied,
                Refusal::StillRunning => ErrorKind::InUse,
                Refusal::NotAPipe | Refusal::StdinClosed | Refusal::CwdNotAFolder => {
                    ErrorKind::Invalid
                }
                Refusal::Exists | Refusal::Truncated | Refusal::NoReader | Refusal::TimedOut => {
                    ErrorKind::Failed
                }
            },
            Error::NameTaken { .. } | Error::Store(StoreError::NameTaken { .. }) => {
                ErrorKind::NameTaken
            }
            Error::Image(image) => image_kind(image),
            Error::Unusable { .. } | Error::Network(NetworkError::NoWayOut { .. }) => {
                ErrorKind::Unavailable
            }
            Error::NotRunning { .. } => ErrorKind::NotRunning,
            Error::NotReady { .. } | Error::Transport(TransportError::NotReady { .. }) => {
                ErrorKind::NotReady
            }
            Error::Paused { .. } => ErrorKind::Paused,
            Error::Start { source, .. } => source.kind(),
            Error::Workspace(workspace) => workspace.kind(),
            Error::Store(StoreError::Newer { .. }) | Error::Handles(HandlesError::Newer { .. }) => {
                ErrorKind::Newer
            }
            Error::Store(
                StoreError::Damaged { .. } | StoreError::Row { .. } | StoreError::SessionRow { .. },
            ) => ErrorKind::Damaged,
            _ => self.host_error().map_or(ErrorKind::Failed, host_kind),
        }
    }

    /// Returns the next step for whoever reads the message, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::StateOfAnother { .. } => Some(
                "run banger as its owner, or choose another state folder (BANGER_STATE_DIR)".to_owned(),
            ),
            Error::StateInUse { .. } => Some(
                "stop the daemon that holds it (banger daemon stop), or choose another state folder"
                    .to_owned(),
            ),
            Error::Reserve { .. } => Some(
                "free some space there (banger vm prune deletes VMs that do not run, banger image delete an image), \
                 or keep less free: reserve in config.toml"
                    .to_owned(),
            ),
            Error::NoSuchVm { .. } => Some("banger vm list shows the VMs there are".to_owned()),
            Error::AmbiguousId { .. } => Some("give more digits, or the VM's name".to_owned()),
            Error::NameTaken { name } => Some(format!(
                "choose another name, or delete that VM: banger vm delete {name}"
            )),
            Error::NoSuchSession { vm, .. } => {
                Some(format!("banger vm session list {vm} shows what there is"))
            }
            Error::AmbiguousSession { .. } => {
                Some("give more digits, or the session's name".to_owned())
            }
            Error::SessionNameTaken { vm, name } => Some(format!(
                "choose another name, or delete that session: banger vm session delete {vm} {name}"
            )),
            Error::SessionFailed { vm, session, .. } => Some(format!(
                "its record is kept until: banger vm session delete {vm} {session}"
            )),
            Error::SessionHeld { .. } => Some(
                "leave it there first (its output can also be read with logs -f, and send works beside it)"
                    .to_owned(),
            ),
            Error::SessionRefused {
                vm,
                session,
                source,
                ..
            } => refusal_hint(vm, session, *source),
            Error::NoSuchImage { name } => Some(format!(
                "banger image list shows those there are; banger image build {name} makes one of Debian packages"
            )),
            Error::Unusable { hint, .. } => hint.clone(),
            Error::NotRunning { vm, .. } => Some(format!("start it: banger vm start {vm}")),
            Error::Paused { vm, reason, folder } => Some(reason.next_step(vm, folder)),
            Error::StillRunning { vm, .. } => Some(format!("stop it first: banger vm stop {vm}")),
            Error::ConsoleHeld { vm } => {
                Some(format!("what it writes can be followed all the same: banger vm logs -f {vm}"))
            }
            Error::Start { source, .. } => source.hint(),
            Error::NotReady {
                vm, console_log, ..
            } => Some(format!(
                "its console is in {}; look at it with: banger vm logs {vm}; it runs on until: banger vm delete {vm}",
                console_log.display()
            )),
            Error::EndedBooting { vm, .. } => {
                Some(format!("the whole console: banger vm logs {vm}"))
            }
            Error::DoesNotEnd { vm, .. } => Some(format!(
                "give it longer: banger vm stop --timeout 5m {vm}; or end it all the same, and lose what it has not \
                 written: banger vm kill {vm}"
            )),
            Error::Teardown { vm, .. } | Error::Unkillable { vm, .. } => Some(format!(
                "try again: banger vm delete {vm}; it can be repeated"
            )),
            Error::Transport(TransportError::NoChannel { vm, .. }) => Some(format!(
                "its console may say why: banger vm logs {vm}; banger vm restart {vm} presses its keys, and loses nothing"
            )),
            Error::Transport(TransportError::PortRefused { .. }) => {
                Some("a program in the guest has to listen on it, on localhost or on all its addresses".to_owned())
            }
            Error::Image(image) => image.hint(),
            Error::Network(NetworkError::NoWayOut { hint, .. }) => hint.clone(),
            Error::Workspace(workspace) => workspace.hint(),
            Error::Store(store) => store.hint(),
            Error::Disk(disk) => disk.hint(),
            Error::Vmm(vmm) => vmm.hint(),
            _ => self.host_error().and_then(HostError::hint),
        }
    }

    /// Returns the texts of this error and of everything that caused it.
    pub fn chain(&self) -> Vec<String> {
        let mut texts = vec![self.to_string()];
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            texts.push(cause.to_string());
            source = cause.source();
        }
        texts
    }

    pub(crate) fn host_error(&self) -> Option<&HostError> {
        match self {
            Error::Host(host)
            | Error::Store(StoreError::Host(host))
            | Error::Handles(HandlesError::Host(host))
            | Error::Disk(DiskError::Host(host))
            | Error::Network(NetworkError::Host(host))
            | Error::Vmm(VmmError::Host(host))
            | Error::Image(ImageError::Host(host))
            | Error::Transport(TransportError::Host(host)) => Some(host),
            Error::Image(ImageError::NoTestBoot { source, .. }) => source.host_error(),
            _ => None,
        }
    }
}

fn host_kind(host: &HostError) -> ErrorKind {
    match host {
        HostError::ProgramMissing { .. } => ErrorKind::Unavailable,
        host if host.is_full() => ErrorKind::NoSpace,
        host if host.is_denied() => ErrorKind::Denied,
        _ => ErrorKind::Failed,
    }
}

fn image_kind(image: &ImageError) -> ErrorKind {
    match image {
        ImageError::Host(host) => host_kind(host),
        ImageError::Exists { .. } => ErrorKind::NameTaken,
        ImageError::InUse { .. } => ErrorKind::InUse,
        ImageError::NoFile { .. } => ErrorKind::NotFound,
        ImageError::NoTestBoot { source, .. } => source.kind(),
        ImageError::NoUidmap | ImageError::NoBusybox => ErrorKind::Unavailable,
        ImageError::NoSpace { .. } | ImageError::Full { .. } => ErrorKind::NoSpace,
        ImageError::NoSubordinateIds { .. } => ErrorKind::Denied,
        ImageError::Manifest {
            source: ManifestError::Newer { .. },
            ..
        } => ErrorKind::Newer,
        ImageError::Manifest { .. } | ImageError::Incomplete { .. } => ErrorKind::Damaged,
        ImageError::TooSmall { .. }
        | ImageError::TooLarge { .. }
        | ImageError::NoFilesystem { .. }
        | ImageError::NoInitramfs { .. }
        | ImageError::Contract { .. }
        | ImageError::TestBoot { .. }
        | ImageError::NoModules { .. }
        | ImageError::Kernel { .. }
        | ImageError::Package { .. } => ErrorKind::Invalid,
        _ => ErrorKind::Failed,
    }
}

fn refusal_hint(vm: &VmName, session: &SessionName, refusal: Refusal) -> Option<String> {
    match refusal {
        Refusal::NotAPipe => Some("start it with --stdin pipe".to_owned()),
        Refusal::NotRunning | Refusal::NoSession => Some(format!(
            "how it ended: banger vm session show {vm} {session}"
        )),
        Refusal::CannotWrite => {
            Some("free some space in the guest; deleting a session frees its logs".to_owned())
        }
        Refusal::StillRunning => Some(format!("stop it: banger vm session stop {vm} {session}")),
        _ => None,
    }
}

fn listed(failures: &[String]) -> impl fmt::Display {
    if failures.is_empty() {
        String::new()
    } else {
        format!("; and could not be undone: {}", failures.join("; "))
    }
}

fn console(last_lines: &str) -> impl fmt::Display {
    if last_lines.trim().is_empty() {
        "; its console is empty".to_owned()
    } else {
        format!("; its console ends with:\n{}", last_lines.trim_end())
    }
}
