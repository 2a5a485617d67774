//! Files that are put into a folder of somebody else's, beneath its handle: aside, and renamed when whole.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timestamps, Uid};
use rustix::io::Errno;

use crate::folder::{Folder, ForeignError};
use crate::unpack::seconds;

/// What a file that is put somewhere is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its permissions; the umask does not apply.
    pub mode: u32,
    /// Its owner and group, where they are not to be ours. Only root can give files away.
    pub owner: Option<(u32, u32)>,
}

/// When a file must be on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Before it has its name.
    Now,
    /// Whenever the system writes it.
    Later {
        /// The time of its last change, in seconds since 1970; none for now.
        modified: Option<i64>,
    },
}

impl Folder {
    /// Makes a folder beneath this one and those above it; one that is there is success.
    ///
    /// # Errors
    ///
    /// Something else is in its place, a link among it, or it cannot be made.
    pub fn make_folder(&self, below: &Path, look: Look) -> Result<(), ForeignError> {
        let mut place = PathBuf::new();
        for part in below.components() {
            let parent = self.holder(&place)?;
            place.push(part);
            let refused = |errno: Errno| self.unwritten(&place, errno);
            match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o700)) {
                Ok(()) => {
                    let made = self.folder(&place)?;
                    let made = made.ok_or_else(|| refused(Errno::NOENT))?;
                    dress(made.as_fd(), look).map_err(refused)?;
                }
                Err(Errno::EXIST) => {
                    // Told by name if it is none.
                    self.folder(&place)?;
                }
                Err(errno) => return Err(refused(errno)),
            }
        }
        Ok(())
    }

    /// Puts a file beneath this folder, in place of one that is there, or of a link: written by the name
    /// `aside`, which must be free, and renamed when it is whole. The folder that it goes into must be there.
    ///
    /// # Errors
    ///
    /// Somebody else has a file of the name `aside`, a folder is in its place, or it cannot be written; then
    /// nothing has changed.
    pub fn put(
        &self,
        below: &Path,
        aside: &str,
        content: &mut dyn Read,
        look: Look,
        settle: Settle,
    ) -> Result<(), ForeignError> {
        self.write(below, aside, look, settle, &mut |file| {
            io::copy(content, file).map(drop)
        })
    }

    /// The same, of what `write` writes.
    pub(crate) fn write(
        &self,
        below: &Path,
        aside: &str,
        look: Look,
        settle: Settle,
        write: &mut dyn FnMut(&mut File) -> io::Result<()>,
    ) -> Result<(), ForeignError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut failed = None;
        let put = self.make_aside(below, aside, &mut |parent, aside| {
            let made = rustix::fs::openat(parent, aside, flags, Mode::from_raw_mode(0o600))?;
            let mut file = File::from(made);
            let written = write(&mut file).and_then(|()| {
                dress(file.as_fd(), look)?;
                match settle {
                    Settle::Now => file.sync_all(),
                    Settle::Later { modified: None } => Ok(()),
                    Settle::Later {
                        modified: Some(modified),
                    } => {
                        let times = Timestamps {
                            last_access: seconds(modified),
                            last_modification: seconds(modified),
                        };
                        Ok(rustix::fs::futimens(&file, &times)?)
                    }
                }
            });
            written.map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                failed = Some(error);
                errno
            })
        });
        match (put, failed) {
            (Err(ForeignError::Write { path, .. }), Some(source)) => {
                Err(ForeignError::Write { path, source })
            }
            (put, _) => put,
        }
    }

    /// Makes something by the name `aside` in the folder of `below`, and renames it. What was made is removed if
    /// that fails.
    pub(crate) fn make_aside(
        &self,
        below: &Path,
        aside: &str,
        make: &mut dyn FnMut(BorrowedFd<'_>, &str) -> Result<(), Errno>,
    ) -> Result<(), ForeignError> {
        let parent = self.holder(below.parent().unwrap_or(Path::new("")))?;
        let name = below.file_name().unwrap_or_default();
        match make(parent.as_fd(), aside) {
            // It is somebody else's.
            Err(Errno::EXIST) => {
                return Err(self.unwritten(&below.with_file_name(aside), Errno::EXIST));
            }
            made => made.and_then(|()| rustix::fs::renameat(&parent, aside, &parent, name)),
        }
        .map_err(|errno| {
            // The first error is the one to tell.
            let _ = rustix::fs::unlinkat(&parent, aside, AtFlags::empty());
            self.unwritten(below, errno)
        })
    }

    /// Removes a file, or a link, beneath this folder; a missing one is success.
    ///
    /// # Errors
    ///
    /// It is a folder, or cannot be removed.
    pub fn remove(&self, below: &Path) -> Result<(), ForeignError> {
        let parent = self.holder(below.parent().unwrap_or(Path::new("")));
        let parent = match parent {
            Err(ForeignError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            parent => parent?,
        };
        let name = below.file_name().unwrap_or_default();
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.unwritten(below, errno)),
        }
    }

    /// Opens the folder that something lies in; this one itself for an empty path.
    pub(crate) fn holder(&self, below: &Path) -> Result<OwnedFd, ForeignError> {
        let found = match below.as_os_str().is_empty() {
            true => self.folder(Path::new("."))?,
            false => self.folder(below)?,
        };
        match found {
            Some(folder) => Ok(folder.into()),
            None => Err(self.io(below, io::ErrorKind::NotFound.into())),
        }
    }

    pub(crate) fn unwritten(&self, below: &Path, errno: Errno) -> ForeignError {
        ForeignError::Write {
            path: self.path().join(below),
            source: errno.into(),
        }
    }
}

/// Makes a symbolic link of ours to a path.
///
/// # Errors
///
/// Something has its name, or it cannot be made.
pub fn make_link(target: &Path, link: &Path) -> Result<(), ForeignError> {
    rustix::fs::symlink(target, link).map_err(|errno| ForeignError::Write {
        path: link.to_owned(),
        source: errno.into(),
    })
}

fn dress(file: BorrowedFd<'_>, look: Look) -> Result<(), Errno> {
    if let Some((user, group)) = look.owner {
        rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(look.mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const PLAIN: Look = Look {
        mode: 0o640,
        owner: None,
    };

    #[test]
    fn a_file_is_put_in_place_whole_with_its_mode_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let look = Look {
            mode: 0o750,
            ..PLAIN
        };
        folder.make_folder(Path::new("a/b"), look).unwrap();
        folder.make_folder(Path::new("a/b"), look).unwrap();
        let path = Path::new("a/b/file");
        for content in [&b"one"[..], b"two"] {
            folder
                .put(path, "file.lock", &mut &content[..], PLAIN, Settle::Now)
                .unwrap();
        }
        assert_eq!(fs::read(dir.path().join(path)).unwrap(), b"two");
        let mode = |path: &str| {
            fs::metadata(dir.path().join(path))
                .unwrap()
                .permissions()
                .mode()
        };
        assert_eq!(mode("a/b/file") & 0o777, 0o640);
        assert_eq!(mode("a/b") & 0o777, 0o750);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
        folder.remove(path).unwrap();
        folder.remove(path).unwrap();
        folder.remove(Path::new("none/none")).unwrap();
        assert!(!dir.path().join(path).exists());
    }

    #[test]
    fn a_lock_that_somebody_else_holds_is_left_alone_and_so_is_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        fs::write(dir.path().join("ref"), "theirs").unwrap();
        fs::write(dir.path().join("ref.lock"), "held").unwrap();
        let error = folder.put(
            Path::new("ref"),
            "ref.lock",
            &mut &b"ours"[..],
            PLAIN,
            Settle::Now,
        );
        assert!(error.unwrap_err().to_string().contains("ref.lock"));
        assert_eq!(fs::read(dir.path().join("ref")).unwrap(), b"theirs");
        assert_eq!(fs::read(dir.path().join("ref.lock")).unwrap(), b"held");
    }

    #[test]
    fn nothing_is_written_or_removed_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        fs::create_dir_all(dir.path().join("repo")).unwrap();
        fs::write(dir.path().join("outside/file"), "mine").unwrap();
        symlink("../outside", dir.path().join("repo/refs")).unwrap();
        symlink("../outside/file", dir.path().join("repo/link")).unwrap();
        let folder = Folder::open(&dir.path().join("repo")).unwrap();
        assert!(folder.make_folder(Path::new("refs/new"), PLAIN).is_err());
        let put = folder.put(
            Path::new("refs/file"),
            "x.lock",
            &mut &b"x"[..],
            PLAIN,
            Settle::Now,
        );
        assert!(put.is_err());
        assert!(folder.remove(Path::new("refs/file")).is_err());
        // A link in the very place is replaced, not followed.
        folder
            .put(
                Path::new("link"),
                "x.lock",
                &mut &b"x"[..],
                PLAIN,
                Settle::Now,
            )
            .unwrap();
        assert_eq!(fs::read(dir.path().join("outside/file")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 1);
    }
}
