//! What can go wrong between us and the operating system.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use banger_foreign::ForeignError;

/// An act of the host that failed. `Display` never repeats the source's own text.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file operation was refused.
    #[error("cannot {act} {}", path.display())]
    File {
        /// What was tried.
        act: FileAct,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that somebody else made was not touched.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// A program is not installed.
    #[error("{program} is not installed (looked in {searched})")]
    ProgramMissing {
        /// Its name.
        program: String,
        /// The folders, joined by colons.
        searched: String,
    },
    /// A program could not be started.
    #[error("cannot start {program}")]
    StartProgram {
        /// Its name.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program was killed because it took too long.
    #[error("{program} did not end within {} s and was killed", limit.as_secs_f32())]
    ProgramTimeout {
        /// Its name.
        program: String,
        /// Its time.
        limit: Duration,
    },
    /// A program was killed because it took more than it may.
    #[error("{program} took more than {limit}, and was killed")]
    ProgramLimit {
        /// Its name.
        program: String,
        /// Of what, with its unit.
        limit: String,
    },
    /// A process could not be looked at, signalled or waited for.
    #[error("cannot {act} process {pid}")]
    Process {
        /// What was tried.
        act: &'static str,
        /// Its id.
        pid: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// A device, a namespace or an interface was refused.
    #[error("cannot {act} {device}")]
    Device {
        /// What was tried.
        act: &'static str,
        /// On which one.
        device: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program could not be given a scope of its own, and was not started.
    #[error("cannot make the scope {scope}{}", said.as_ref().map(|said| format!(": {said}")).unwrap_or_default())]
    Scope {
        /// The scope.
        scope: String,
        /// What systemd-run said, if anything.
        said: Option<String>,
    },
    /// A socket did not answer in time.
    #[error("no answer from {} within {} s", path.display(), limit.as_secs_f32())]
    ConnectTimeout {
        /// The socket.
        path: PathBuf,
        /// The time given.
        limit: Duration,
    },
    /// The fake host died here, as it was told to.
    #[error("the host died (simulated) at: {call}")]
    Died {
        /// The call at which it did.
        call: String,
    },
}

impl HostError {
    /// Says whether the file system is full (or the user's quota).
    pub fn is_full(&self) -> bool {
        self.io_kind().is_some_and(|kind| {
            matches!(
                kind,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        })
    }

    /// Says whether what was to be made is there already.
    pub fn is_taken(&self) -> bool {
        matches!(self, HostError::Device { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }

    /// Says whether we were not allowed to.
    pub fn is_denied(&self) -> bool {
        self.io_kind().is_some_and(|kind| {
            matches!(
                kind,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            )
        })
    }

    /// Returns the next step for whoever reads the message, where there is one.
    pub fn hint(&self) -> Option<String> {
        if self.is_full() {
            return Some(
                "the disk is full: free some space (banger vm list shows what there is) and try again"
                    .to_owned(),
            );
        }
        match self {
            HostError::File { path, .. } if self.is_denied() => Some(format!(
                "check the owner and the mode of {}, or choose another folder",
                path.display()
            )),
            HostError::ProgramMissing { program, .. } if program == "firecracker" => Some(
                "Debian has none: put a release of github.com/firecracker-microvm/firecracker into /usr/local/bin"
                    .to_owned(),
            ),
            HostError::ProgramMissing { program, .. } => Some(match debian_package(program) {
                Some(package) => {
                    format!("install it: apt-get install --no-install-recommends {package}")
                }
                None => format!("install {program}"),
            }),
            _ => None,
        }
    }

    fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            HostError::File { source, .. }
            | HostError::StartProgram { source, .. }
            | HostError::Device { source, .. }
            | HostError::Process { source, .. }
            | HostError::Foreign(ForeignError::Io { source, .. }) => Some(source.kind()),
            _ => None,
        }
    }
}

/// What was tried on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAct {
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Make a folder.
    CreateDir,
    /// List a folder.
    List,
    /// Look at its kind and size.
    Stat,
    /// Rename it.
    Rename,
    /// Remove it.
    Remove,
    /// Make it larger or smaller.
    Resize,
    /// Copy it.
    Copy,
    /// Bring it to stable storage.
    Sync,
    /// Lock it.
    Lock,
    /// Connect to it.
    Connect,
}

impl fmt::Display for FileAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileAct::Read => "read",
            FileAct::Write => "write",
            FileAct::CreateDir => "make the folder",
            FileAct::List => "list",
            FileAct::Stat => "look at",
            FileAct::Rename => "rename",
            FileAct::Remove => "remove",
            FileAct::Resize => "resize",
            FileAct::Copy => "copy to",
            FileAct::Sync => "sync",
            FileAct::Lock => "lock",
            FileAct::Connect => "connect to",
        })
    }
}

/// The Debian package that brings a program we use.
fn debian_package(program: &str) -> Option<&'static str> {
    Some(match program {
        "qemu-system-x86_64" => "qemu-system-x86",
        "qemu-img" => "qemu-utils",
        "mmdebstrap" => "mmdebstrap",
        "mke2fs" | "e2fsck" | "debugfs" => "e2fsprogs",
        "ssh" => "openssh-client",
        "newuidmap" => "uidmap",
        "unshare" => "util-linux",
        "nft" => "nftables",
        "busybox" => "busybox-static",
        "gzip" => "gzip",
        "xz" => "xz-utils",
        "zstd" => "zstd",
        _ => return None,
    })
}
