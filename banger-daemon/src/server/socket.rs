//! The daemon's socket: bound over what a dead daemon left, never over a living one.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::folders::{FolderError, make_private};

/// Why the socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Its folder is not there and cannot be made, or is not ours alone.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Another daemon answers on it: one with another state folder, for we hold the lock of ours.
    #[error(
        "another daemon, with another state folder, answers on {}; give each a runtime folder of its own",
        socket.display()
    )]
    Taken {
        /// The socket.
        socket: PathBuf,
    },
    /// It could not be bound.
    #[error("cannot listen on {}", socket.display())]
    Bind {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A bound socket. Dropping it removes the socket, if it is still ours.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    socket: PathBuf,
    /// Device and inode: a newer daemon's socket has the same path.
    identity: (u64, u64),
}

impl Listening {
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if identity(&self.socket).is_ok_and(|now| now == self.identity) {
            // A socket that stays is taken for a dead daemon's and removed then.
            let _ = fs::remove_file(&self.socket);
        }
    }
}

/// Binds the daemon's socket (mode 0600, in a folder of mode 0700). Call it only with the engine open:
/// its lock is what allows us to remove a socket on which nobody answers.
pub async fn bind(socket: &Path) -> Result<Listening, BindError> {
    if let Some(folder) = socket.parent() {
        make_private(folder)?;
    }
    let failed = |source: io::Error| BindError::Bind {
        socket: socket.to_owned(),
        source,
    };
    let listener = match UnixListener::bind(socket) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match UnixStream::connect(socket).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tracing::info!(socket = %socket.display(), "removing the socket of a dead daemon");
                }
                // A daemon with a full backlog is alive too.
                _ => {
                    return Err(BindError::Taken {
                        socket: socket.to_owned(),
                    });
                }
            }
            fs::remove_file(socket).map_err(failed)?;
            UnixListener::bind(socket).map_err(failed)?
        }
        bound => bound.map_err(failed)?,
    };
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let identity = identity(socket).map_err(failed)?;
    Ok(Listening {
        listener,
        socket: socket.to_owned(),
        identity,
    })
}

fn identity(socket: &Path) -> io::Result<(u64, u64)> {
    let facts = fs::symlink_metadata(socket)?;
    Ok((facts.dev(), facts.ino()))
}
