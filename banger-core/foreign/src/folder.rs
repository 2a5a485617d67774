//! A handle on a folder, and what is read and copied beneath it.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Why a foreign file was not touched. `Display` never repeats its source's own text.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// It is something that cannot be read like a file, or no folder where one is needed.
    #[error("{} is {kind}, not {wanted}", path.display())]
    WrongKind {
        /// Which.
        path: PathBuf,
        /// What it is.
        kind: Kind,
        /// What it would have to be.
        wanted: Kind,
    },
    /// A symbolic link is on the way to it.
    #[error("{} lies behind a symbolic link", path.display())]
    BehindLink {
        /// Which.
        path: PathBuf,
    },
    /// The path is absolute, or leads out of the folder.
    #[error("{} leads out of {}", path.display(), folder.display())]
    LeadsOut {
        /// Which.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// It has more bytes than it may have.
    #[error("{} is larger than the {limit} bytes that it may have", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A folder has more entries than it may have.
    #[error("{} has more than the {limit} entries that it may have", path.display())]
    TooMany {
        /// Which.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A tree has more folders in folders than it may have.
    #[error("{} lies too deep", path.display())]
    TooDeep {
        /// The folder.
        path: PathBuf,
    },
    /// A file of ours could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A block or character device.
    Device,
}

impl Kind {
    /// Says what the kernel's facts are of.
    pub fn of(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => Kind::Device,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::File => "a regular file",
            Kind::Folder => "a folder",
            Kind::Link => "a symbolic link",
            Kind::Fifo => "a named pipe",
            Kind::Socket => "a socket",
            Kind::Device => "a device",
        })
    }
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, which need not be UTF-8.
    pub name: OsString,
    /// What it is; a link is a link, whatever it names.
    pub kind: Kind,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A handle on a folder. It stays on this very folder whatever becomes of its path.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder that a user named. This path alone is the user's word: links in it are followed.
    ///
    /// # Errors
    ///
    /// It is missing, is no folder, or may not be entered.
    pub fn open(path: &Path) -> Result<Self, ForeignError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(path, errno))?;
        Ok(Folder {
            fd,
            path: path.to_owned(),
        })
    }

    /// The path by which it was opened; for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a folder beneath this one; a missing one is `None`.
    ///
    /// # Errors
    ///
    /// It is no folder, lies behind a link, or may not be entered.
    pub fn folder(&self, below: &Path) -> Result<Option<Folder>, ForeignError> {
        let path = self.path.join(below);
        match self.open_beneath(below, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => Ok(Some(Folder { fd, path })),
            Err(Errno::NOENT) => Ok(None),
            // A link in its place is no folder either, and is named as what it is.
            Err(Errno::NOTDIR | Errno::LOOP) => match self.stat(below)? {
                Some(stat) => Err(ForeignError::WrongKind {
                    path,
                    kind: Kind::of(&stat),
                    wanted: Kind::Folder,
                }),
                None => Ok(None),
            },
            Err(errno) => Err(self.refused(below, errno)),
        }
    }

    /// Says what is beneath this folder at a path; a missing one is `None`.
    ///
    /// # Errors
    ///
    /// It lies behind a link, or may not be looked at.
    pub fn kind(&self, below: &Path) -> Result<Option<Kind>, ForeignError> {
        Ok(self.stat(below)?.as_ref().map(Kind::of))
    }

    /// Reads a whole regular file of at most `limit` bytes; a missing one is `None`. Never blocks on what
    /// is no regular file, because that is never opened.
    ///
    /// # Errors
    ///
    /// It is no regular file, lies behind a link, is larger, or may not be read.
    pub fn read(&self, below: &Path, limit: u64) -> Result<Option<Vec<u8>>, ForeignError> {
        let file = self.file(below)?;
        let read = file.map(|file| read_bounded(file, &self.path.join(below), limit));
        read.transpose()
    }

    /// Copies a regular file of at most `limit` bytes into an open one, and returns its length; a missing
    /// one is `None`. Of one that is too large a part may have been copied: the target is the caller's.
    ///
    /// # Errors
    ///
    /// As [`Folder::read`]; or the target cannot be written.
    pub fn copy(
        &self,
        below: &Path,
        target: &mut File,
        limit: u64,
    ) -> Result<Option<u64>, ForeignError> {
        let Some(file) = self.file(below)? else {
            return Ok(None);
        };
        let mut bounded = file.take(limit.saturating_add(1));
        let copied = io::copy(&mut bounded, target).map_err(|source| self.io(below, source))?;
        if copied > limit {
            return Err(self.too_large(below, limit));
        }
        target.flush().map_err(|source| self.io(below, source))?;
        Ok(Some(copied))
    }

    /// Opens a regular file for reading; a missing one is `None`. Whoever reads it must bound what is read.
    ///
    /// # Errors
    ///
    /// It is no regular file, lies behind a link, or may not be read.
    pub fn file(&self, below: &Path) -> Result<Option<File>, ForeignError> {
        // Looked at before it is opened: even to open a device may do something.
        match self.stat(below)? {
            None => return Ok(None),
            Some(stat) => self.only_a_file(below, &stat)?,
        }
        // Should something else have taken its place since, this does not block on it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match self.open_beneath(below, flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.refused(below, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.refused(below, errno))?;
        self.only_a_file(below, &stat)?;
        Ok(Some(fd.into()))
    }

    /// Lists a folder beneath this one (this one itself by an empty path), sorted by name; a missing one
    /// is empty.
    ///
    /// # Errors
    ///
    /// It is no folder, lies behind a link, may not be read, or has more than `most` entries.
    pub fn list(&self, below: &Path, most: usize) -> Result<Vec<Entry>, ForeignError> {
        let opened = match below.as_os_str().is_empty() {
            true => self.folder(Path::new("."))?,
            false => self.folder(below)?,
        };
        let Some(folder) = opened else {
            return Ok(Vec::new());
        };
        let refused = |errno| self.refused(below, errno);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder.fd).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if entries.len() == most {
                return Err(ForeignError::TooMany {
                    path: self.path.join(below),
                    limit: most,
                });
            }
            let name = OsString::from_vec(name.to_vec());
            // One that has gone since is none.
            if let Some(stat) = folder.stat(Path::new(&name))? {
                entries.push(Entry {
                    kind: Kind::of(&stat),
                    bytes: length(&stat),
                    name,
                });
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Reads where a symbolic link leads, without going there; what is no link is `None`.
    ///
    /// # Errors
    ///
    /// It lies behind another link, or may not be read.
    pub fn link(&self, below: &Path) -> Result<Option<OsString>, ForeignError> {
        if self.kind(below)? != Some(Kind::Link) {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        // The last part is the link itself, which openat2 would refuse: by way of its folder.
        let (parent, name) = (below.parent(), below.file_name().unwrap_or_default());
        let holder = match parent.filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => Some(
                self.open_beneath(parent, flags | OFlags::DIRECTORY)
                    .map_err(|errno| self.refused(below, errno))?,
            ),
            None => None,
        };
        let at = holder
            .as_ref()
            .map_or(self.fd.as_fd(), |holder| holder.as_fd());
        match rustix::fs::readlinkat(at, name, Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()))),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(self.refused(below, errno)),
        }
    }

    /// What the kernel says of an entry itself; a missing one is `None`.
    ///
    /// # Errors
    ///
    /// It lies behind a link, or may not be looked at.
    pub fn stat(&self, below: &Path) -> Result<Option<Stat>, ForeignError> {
        // A handle that reads nothing: a link at the end is looked at, one on the way refused.
        let (parent, name) = match (below.parent(), below.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => {
                let stat = rustix::fs::fstat(&self.fd).map_err(|errno| self.refused(below, errno));
                return match below.as_os_str().is_empty() || below == Path::new(".") {
                    true => stat.map(Some),
                    false => Err(self.refused(below, Errno::XDEV)),
                };
            }
        };
        let missing = |errno| matches!(errno, Errno::NOENT | Errno::NOTDIR);
        let holder;
        let holder = match parent.as_os_str().is_empty() {
            true => self.fd.as_fd(),
            false => match self.open_beneath(parent, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(fd) => {
                    holder = fd;
                    holder.as_fd()
                }
                Err(errno) if missing(errno) => return Ok(None),
                Err(errno) => return Err(self.refused(below, errno)),
            },
        };
        match rustix::fs::statat(holder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(errno) if missing(errno) => Ok(None),
            Err(errno) => Err(self.refused(below, errno)),
        }
    }

    fn open_beneath(&self, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        loop {
            // EAGAIN: something beneath was renamed meanwhile, so that the kernel could not tell.
            match rustix::fs::openat2(&self.fd, below, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    fn only_a_file(&self, below: &Path, stat: &Stat) -> Result<(), ForeignError> {
        match Kind::of(stat) {
            Kind::File => Ok(()),
            kind => Err(ForeignError::WrongKind {
                path: self.path.join(below),
                kind,
                wanted: Kind::File,
            }),
        }
    }

    fn refused(&self, below: &Path, errno: Errno) -> ForeignError {
        let path = self.path.join(below);
        match errno {
            Errno::LOOP => ForeignError::BehindLink { path },
            Errno::XDEV => ForeignError::LeadsOut {
                path: below.to_owned(),
                folder: self.path.clone(),
            },
            errno => failed(&path, errno),
        }
    }

    fn too_large(&self, below: &Path, limit: u64) -> ForeignError {
        ForeignError::TooLarge {
            path: self.path.join(below),
            limit,
        }
    }

    pub(crate) fn io(&self, below: &Path, source: io::Error) -> ForeignError {
        ForeignError::Io {
            path: self.path.join(below),
            source,
        }
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> OwnedFd {
        folder.fd
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens a regular file that a user named, for reading; a missing one is `None`. The path is the user's word,
/// and links in it are followed, but what it leads to may be anything: only a regular file is opened, and
/// nothing is waited for.
///
/// # Errors
///
/// It is no regular file, or may not be read.
pub fn open_named(path: &Path) -> Result<Option<File>, ForeignError> {
    let is_file = |stat: &Stat| match Kind::of(stat) {
        Kind::File => Ok(()),
        kind => Err(ForeignError::WrongKind {
            path: path.to_owned(),
            kind,
            wanted: Kind::File,
        }),
    };
    let missing = |errno| matches!(errno, Errno::NOENT | Errno::NOTDIR);
    match rustix::fs::stat(path) {
        Ok(stat) => is_file(&stat)?,
        Err(errno) if missing(errno) => return Ok(None),
        Err(errno) => return Err(failed(path, errno)),
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(errno) if missing(errno) => return Ok(None),
        Err(errno) => return Err(failed(path, errno)),
    };
    is_file(&rustix::fs::fstat(&fd).map_err(|errno| failed(path, errno))?)?;
    Ok(Some(fd.into()))
}

/// Reads an open file to its end, or refuses it beyond `limit` bytes.
///
/// # Errors
///
/// It is larger, or cannot be read. `path` is for the message.
pub fn read_bounded(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, ForeignError> {
    let too_large = || ForeignError::TooLarge {
        path: path.to_owned(),
        limit,
    };
    // One that says so itself is not read at all.
    if file.metadata().is_ok_and(|facts| facts.len() > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // One byte more than it may have tells a file that is too large, or that grows, from one that fits.
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|source| ForeignError::Io {
        path: path.to_owned(),
        source,
    })?;
    match bytes.len() as u64 > limit {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}

fn failed(path: &Path, errno: Errno) -> ForeignError {
    ForeignError::Io {
        path: path.to_owned(),
        source: errno.into(),
    }
}

fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn scratch() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    /// One of each kind that is no regular file, and links to each.
    fn plant(dir: &Path) -> Vec<&'static str> {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("fifo"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap());
        fs::create_dir(dir.join("folder")).unwrap();
        fs::write(dir.join("secret"), "secret").unwrap();
        for (name, target) in [
            ("link-to-zero", "/dev/zero"),
            ("link-to-fifo", "fifo"),
            ("link-to-file", "secret"),
            ("link-out", "../../etc/passwd"),
            ("link-to-self", "link-to-self"),
            ("link-to-stdin", "/proc/self/fd/0"),
        ] {
            symlink(target, dir.join(name)).unwrap();
        }
        let mut planted = vec![
            "fifo",
            "socket",
            "folder",
            "link-to-zero",
            "link-to-fifo",
            "link-to-file",
            "link-out",
            "link-to-self",
            "link-to-stdin",
        ];
        let device = rustix::fs::makedev(1, 5);
        let zero = dir.join("zero");
        match rustix::fs::mknodat(
            rustix::fs::CWD,
            &zero,
            FileType::CharacterDevice,
            Mode::RWXU,
            device,
        ) {
            Ok(()) => planted.push("zero"),
            Err(_) => println!("SKIP: a device of its own (needs root)"),
        }
        planted
    }

    #[test]
    fn only_a_regular_file_is_read_or_copied_and_each_other_kind_is_named_at_once() {
        let (dir, folder) = scratch();
        for name in plant(dir.path()) {
            let error = folder.read(Path::new(name), 100).unwrap_err();
            let is_refused = matches!(error, ForeignError::WrongKind { .. });
            assert!(is_refused, "{name}: {error}");
            let mut target = tempfile::tempfile().unwrap();
            let error = folder.copy(Path::new(name), &mut target, 100).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(target.metadata().unwrap().len(), 0);
        }
        let bytes = folder.read(Path::new("secret"), 6).unwrap();
        assert_eq!(bytes.as_deref(), Some(&b"secret"[..]));
    }

    #[test]
    fn a_file_that_a_user_named_is_opened_through_links_and_only_if_it_is_one() {
        let (dir, _) = scratch();
        for name in plant(dir.path()) {
            let opened = open_named(&dir.path().join(name));
            match name {
                "link-to-file" => assert!(opened.unwrap().is_some()),
                // Two folders up there is none, most likely.
                "link-out" => assert!(matches!(opened, Ok(None | Some(_)))),
                _ => drop(opened.unwrap_err()),
            }
        }
        assert!(open_named(&dir.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn no_path_leads_out_of_the_folder_nor_through_a_link() {
        let (dir, _) = scratch();
        fs::create_dir_all(dir.path().join("repo/real")).unwrap();
        fs::write(dir.path().join("outside"), "outside").unwrap();
        fs::write(dir.path().join("repo/real/file"), "inside").unwrap();
        symlink("real", dir.path().join("repo/link")).unwrap();
        symlink("..", dir.path().join("repo/up")).unwrap();
        let folder = Folder::open(&dir.path().join("repo")).unwrap();
        let absolute = dir.path().join("outside");
        for path in [
            Path::new("../outside"),
            Path::new("real/../../outside"),
            Path::new("link/file"),
            Path::new("up/outside"),
            Path::new(".."),
            &absolute,
        ] {
            let error = folder.read(path, 100).unwrap_err();
            let refused = matches!(
                error,
                ForeignError::LeadsOut { .. } | ForeignError::BehindLink { .. }
            );
            assert!(refused, "{}: {error}", path.display());
            assert!(folder.list(path, 100).is_err(), "{}", path.display());
        }
        assert!(folder.read(Path::new("real/file"), 100).unwrap().is_some());
    }

    #[test]
    fn a_limit_holds_whatever_the_length_says() {
        let (dir, folder) = scratch();
        fs::write(dir.path().join("ten"), "0123456789").unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        assert!(folder.read(Path::new("ten"), 10).unwrap().is_some());
        for name in ["ten", "sparse"] {
            let error = folder.read(Path::new(name), 9).unwrap_err();
            assert!(matches!(error, ForeignError::TooLarge { limit: 9, .. }));
        }
        let mut target = tempfile::tempfile().unwrap();
        assert!(folder.copy(Path::new("sparse"), &mut target, 9).is_err());
        assert!(target.metadata().unwrap().len() <= 10);
    }

    #[test]
    fn what_is_missing_is_none_and_an_empty_list() {
        let (dir, folder) = scratch();
        fs::write(dir.path().join("file"), "").unwrap();
        for name in ["none", "none/none", "file/none"] {
            let path = Path::new(name);
            assert!(folder.read(path, 1).unwrap().is_none(), "{name}");
            assert!(folder.kind(path).unwrap().is_none(), "{name}");
        }
        assert_eq!(folder.list(Path::new("none"), 1).unwrap(), []);
    }

    #[test]
    fn a_list_is_sorted_tells_kinds_and_is_bounded() {
        let (dir, folder) = scratch();
        let planted = plant(dir.path());
        let entries = folder.list(Path::new(""), 100).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(names, sorted);
        assert_eq!(names.len(), planted.len() + 1);
        let kind = |name: &str| {
            entries
                .iter()
                .find(|entry| entry.name == name)
                .unwrap()
                .kind
        };
        assert_eq!(kind("fifo"), Kind::Fifo);
        assert_eq!(kind("link-to-zero"), Kind::Link);
        assert_eq!(kind("secret"), Kind::File);
        let error = folder.list(Path::new("."), 3).unwrap_err();
        assert!(matches!(error, ForeignError::TooMany { limit: 3, .. }));
    }

    #[test]
    fn a_folder_that_is_replaced_by_a_link_is_not_followed_and_a_handle_stays_where_it_was() {
        let (dir, folder) = scratch();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), "first").unwrap();
        let held = folder.folder(Path::new("sub")).unwrap().unwrap();
        fs::rename(dir.path().join("sub"), dir.path().join("moved")).unwrap();
        symlink("/etc", dir.path().join("sub")).unwrap();
        assert!(folder.folder(Path::new("sub")).is_err());
        assert!(folder.read(Path::new("sub/passwd"), 1 << 20).is_err());
        let bytes = held.read(Path::new("file"), 100).unwrap().unwrap();
        assert_eq!(bytes, b"first");
    }
}
