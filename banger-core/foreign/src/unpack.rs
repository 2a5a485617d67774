//! A tar stream of somebody else's, unpacked beneath a folder.
//!
//! No link is followed: neither one that was there, nor one that came earlier, in this stream or another.
//! Folders, regular files, symbolic links and hard links to files of this very stream are made; everything
//! else is left out and named. The holes of a file stay holes: what is written is never more than what was sent,
//! whatever length a file is said to have. Each file is written aside and renamed when it is whole, so that whatever ends
//! this leaves files that are whole or not there. Owners, set-uid bits and the like do not come along.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use tar::{EntryType, Header, PaxExtensions};

use crate::folder::{Folder, ForeignError};
use crate::stream::{Map, Stream, broken};
use crate::write::{Look, Settle};

/// The time that links get which came out of a guest, in seconds since 1970: it tells them from a user's own,
/// which may be followed.
pub(crate) const LINK_MARK: i64 = 86_402;

/// The most that the name of one entry may have, and where a link may lead, in bytes.
const LONGEST_NAME: u64 = 16 << 10;

/// The most that the extended header of one entry may have.
const LONGEST_HEADER: u64 = 256 << 10;

/// Folders in folders.
const DEEPEST: usize = 200;

/// The most files and folders of one stream: each is remembered until its end.
const MOST_ENTRIES: usize = 4_000_000;

/// The most that the names of its folders may have, in bytes.
const FOLDER_NAMES: usize = 64 << 20;

/// Holes of so many bytes are made whatever file system they are on.
const WRITTEN_ANYWAY: u64 = 64 << 10;

/// How many bytes of a hole are tried first.
const TRIED: u64 = 1 << 20;

/// Names of what was left out that are kept.
const TOLD: usize = 10;

/// Why not all of a stream was unpacked. What came before is there.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream ended too early, or is no tar stream.
    #[error("what was sent is no whole tar archive")]
    Stream {
        /// What is wrong.
        source: io::Error,
    },
    /// A name leads out of the folder, or is none.
    #[error("{name:?} was sent, which is not a name beneath the folder")]
    BadName {
        /// The name.
        name: OsString,
    },
    /// A header is longer than any honest one.
    #[error("a header was sent that is longer than {limit} bytes")]
    LongHeader {
        /// The limit.
        limit: u64,
    },
    /// There is more in it than can be remembered.
    #[error(
        "more than {MOST_ENTRIES} files and folders were sent, or folders whose names have more than {} MiB",
        FOLDER_NAMES >> 20
    )]
    TooMany,
    /// Two files of the stream have one name here, as where names that differ only in case are one.
    #[error("{} was sent twice: two names are one on this file system", path.display())]
    Twice {
        /// The second.
        path: PathBuf,
    },
    /// A hard link to what this stream has not brought.
    #[error("{} was sent as a hard link to {}, which was not sent", path.display(), target.display())]
    HardLink {
        /// The link.
        path: PathBuf,
        /// What it was to be.
        target: PathBuf,
    },
    /// A stream of one file holds none, several, or something else.
    #[error("what was sent is not one file")]
    NotOne,
    /// Something here is in the way, or cannot be written.
    #[error(transparent)]
    Here(#[from] ForeignError),
}

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, links among them.
    pub files: u64,
    /// How many entries were left out: devices, named pipes and the like.
    pub left_out: u64,
    /// The names of the first of them.
    pub left_out_names: Vec<PathBuf>,
}

impl Folder {
    /// Unpacks a stream beneath this folder, of modes cut by `umask`. Files with holes are those of GNU tar's own format. `nonce` is a part of the names of files
    /// that are not whole yet, and must be hard to guess.
    ///
    /// # Errors
    ///
    /// The stream is cut or hostile, or something here is in the way. Nothing is left that is not whole.
    pub fn unpack(
        &self,
        stream: impl Read,
        umask: u32,
        nonce: &str,
    ) -> Result<Unpacked, UnpackError> {
        let mut unpacker = Unpacker {
            folder: self,
            umask,
            aside: format!(".banger-cp-{nonce}"),
            done: Unpacked::default(),
            written: HashSet::new(),
            folders: BTreeMap::new(),
            names: 0,
        };
        let mut stream = Stream::new(stream);
        let mut extra = Extra::default();
        while let Some(header) = stream.next()? {
            if !extra.take(&header, &mut stream)? {
                unpacker.take(&header, &mut stream, std::mem::take(&mut extra))?;
            }
        }
        unpacker.finish()
    }

    /// Unpacks a stream of one file to a path beneath this folder, whatever name it was sent under; of a mode cut
    /// by `umask`. `nonce` is as in [`Folder::unpack`].
    ///
    /// # Errors
    ///
    /// As [`Folder::unpack`]; or it is not one file.
    pub fn unpack_file(
        &self,
        below: &Path,
        stream: impl Read,
        umask: u32,
        nonce: &str,
    ) -> Result<(), UnpackError> {
        let mut stream = Stream::new(stream);
        let mut extra = Extra::default();
        let mut is_there = false;
        while let Some(header) = stream.next()? {
            if extra.take(&header, &mut stream)? {
                continue;
            }
            if std::mem::replace(&mut is_there, true) || !is_file(header.entry_type()) {
                return Err(UnpackError::NotOne);
            }
            let mode = header.mode().unwrap_or(0o600) & 0o777 & !umask;
            let aside = format!(".banger-cp-{nonce}");
            write_file(self, below, &aside, &header, &mut stream, mode, None)?;
        }
        match is_there {
            true => Ok(()),
            false => Err(UnpackError::NotOne),
        }
    }
}

fn is_file(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
    )
}

/// Writes the file that follows a header.
fn write_file<R: Read>(
    folder: &Folder,
    path: &Path,
    aside: &str,
    header: &Header,
    stream: &mut Stream<R>,
    mode: u32,
    modified: Option<i64>,
) -> Result<(), UnpackError> {
    let map = match header.entry_type() {
        EntryType::GNUSparse => Some(stream.map(header)?),
        _ => None,
    };
    let look = Look { mode, owner: None };
    let mut sent = Sent {
        entry: stream,
        broken: None,
    };
    let put = folder.write(
        path,
        aside,
        look,
        Settle::Later { modified },
        &mut |file| match &map {
            Some(map) => write_pieces(file, map, &mut sent),
            None => io::copy(&mut sent, file).map(drop),
        },
    );
    match sent.broken {
        Some(source) => Err(broken(source)),
        None => Ok(put?),
    }
}

/// Writes the pieces of a file where they lie.
fn write_pieces(file: &mut File, map: &Map, sent: &mut impl Read) -> io::Result<()> {
    let bytes: u64 = map.pieces.iter().map(|(_, bytes)| bytes).sum();
    if map.length - bytes > WRITTEN_ANYWAY {
        // Where a file system has no holes this would write what nobody sent: a little of it shows that.
        file.set_len(map.length.min(TRIED))?;
        if file.metadata()?.blocks() * 512 >= map.length.min(TRIED) {
            return Err(io::Error::other(format!(
                "it is {} bytes long, {bytes} of which were sent, and this file system keeps no holes",
                map.length
            )));
        }
    }
    for (offset, bytes) in &map.pieces {
        file.seek(SeekFrom::Start(*offset))?;
        io::copy(&mut sent.take(*bytes), file)?;
    }
    file.set_len(map.length)
}

/// What came of an entry's name before the entry itself.
#[derive(Debug, Default)]
struct Extra {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extra {
    /// Takes what a header says of the next one; says whether it was of that kind.
    fn take<R: Read>(
        &mut self,
        header: &Header,
        stream: &mut Stream<R>,
    ) -> Result<bool, UnpackError> {
        match header.entry_type() {
            EntryType::GNULongName => self.name = Some(bounded(stream, LONGEST_NAME)?),
            EntryType::GNULongLink => self.link = Some(bounded(stream, LONGEST_NAME)?),
            EntryType::XHeader => self.read_pax(stream)?,
            EntryType::XGlobalHeader => drop(bounded(stream, LONGEST_HEADER)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn read_pax<R: Read>(&mut self, stream: &mut Stream<R>) -> Result<(), UnpackError> {
        let text = read_bounded(stream, LONGEST_HEADER)?;
        for extension in PaxExtensions::new(&text) {
            let extension = extension.map_err(broken)?;
            match extension.key_bytes() {
                b"path" => self.name = Some(extension.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                // Then the length that the entry's own header has is not its length.
                key if key == b"size" || key.starts_with(b"GNU.sparse.") => {
                    let said = "a length that is told apart from its file is not understood";
                    return Err(broken(io::Error::other(said)));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn bounded<R: Read>(stream: &mut Stream<R>, limit: u64) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = read_bounded(stream, limit)?;
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    Ok(bytes)
}

fn read_bounded<R: Read>(stream: &mut Stream<R>, limit: u64) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    stream
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(broken)?;
    match bytes.len() as u64 > limit {
        true => Err(UnpackError::LongHeader { limit }),
        false => Ok(bytes),
    }
}

/// The content of a file; what breaks it off is the stream's fault, not the file's.
struct Sent<R> {
    entry: R,
    broken: Option<io::Error>,
}

impl<R: Read> Read for Sent<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.entry.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.broken = Some(error);
            kind.into()
        })
    }
}

struct Unpacker<'a> {
    folder: &'a Folder,
    umask: u32,
    aside: String,
    done: Unpacked,
    /// Device and inode of each file of this stream.
    written: HashSet<(u64, u64)>,
    /// Folders that were made, with the mode and the time that they are to have in the end.
    folders: BTreeMap<PathBuf, (u32, i64)>,
    /// How long their names are, together.
    names: usize,
}

impl Unpacker<'_> {
    fn take<R: Read>(
        &mut self,
        header: &Header,
        stream: &mut Stream<R>,
        extra: Extra,
    ) -> Result<(), UnpackError> {
        let kind = header.entry_type();
        let name = extra
            .name
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let path = beneath(&name)?;
        if self.written.len() + self.folders.len() > MOST_ENTRIES {
            return Err(UnpackError::TooMany);
        }
        let mode = header.mode().unwrap_or(0o600) & 0o777 & !self.umask;
        let time = header
            .mtime()
            .ok()
            .and_then(|time| i64::try_from(time).ok());
        let time = time.unwrap_or_default();
        let link = extra
            .link
            .or_else(|| Some(header.link_name_bytes()?.into_owned()));
        match kind {
            EntryType::Directory => self.make_folder(&path, mode, time),
            _ if path.as_os_str().is_empty() => Err(UnpackError::BadName {
                name: OsStr::from_bytes(&name).to_owned(),
            }),
            kind if is_file(kind) => {
                self.make_parents(&path)?;
                self.refuse_twice(&path)?;
                let time = Some(time);
                write_file(self.folder, &path, &self.aside, header, stream, mode, time)?;
                self.remember(&path)
            }
            EntryType::Symlink => self.link(&path, &link.unwrap_or_default()),
            EntryType::Link => self.hard_link(&path, &link.unwrap_or_default()),
            _ => {
                self.done.left_out += 1;
                if self.done.left_out_names.len() < TOLD {
                    self.done.left_out_names.push(path);
                }
                Ok(())
            }
        }
    }

    fn make_folder(&mut self, path: &Path, mode: u32, time: i64) -> Result<(), UnpackError> {
        if path.as_os_str().is_empty() || self.folder.folder(path)?.is_some() {
            // One that is there keeps its mode.
            if let Some(made) = self.folders.get_mut(path) {
                *made = (mode, time);
            }
            return Ok(());
        }
        self.make_parents(path)?;
        self.names += path.as_os_str().len();
        if self.names > FOLDER_NAMES {
            return Err(UnpackError::TooMany);
        }
        // Ours to write in until the end, whatever its mode will be.
        let look = Look {
            mode: 0o700,
            owner: None,
        };
        self.folder.make_folder(path, look)?;
        self.folders.insert(path.to_owned(), (mode, time));
        Ok(())
    }

    fn make_parents(&self, path: &Path) -> Result<(), UnpackError> {
        let look = Look {
            mode: 0o777 & !self.umask,
            owner: None,
        };
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                Ok(self.folder.make_folder(parent, look)?)
            }
            _ => Ok(()),
        }
    }

    fn link(&mut self, path: &Path, target: &[u8]) -> Result<(), UnpackError> {
        self.make_parents(path)?;
        self.refuse_twice(path)?;
        let mark = Timestamps {
            last_access: seconds(LINK_MARK),
            last_modification: seconds(LINK_MARK),
        };
        self.folder
            .make_aside(path, &self.aside, &mut |parent, aside| {
                rustix::fs::symlinkat(OsStr::from_bytes(target), parent, aside)?;
                rustix::fs::utimensat(parent, aside, &mark, AtFlags::SYMLINK_NOFOLLOW)
            })?;
        self.remember(path)
    }

    fn hard_link(&mut self, path: &Path, target: &[u8]) -> Result<(), UnpackError> {
        let target = beneath(target)?;
        let unsent = || UnpackError::HardLink {
            path: path.to_owned(),
            target: target.clone(),
        };
        let is_ours = |identity: Option<(u64, u64)>| {
            identity.is_some_and(|identity| self.written.contains(&identity))
        };
        if !is_ours(self.identity(&target)?) {
            return Err(unsent());
        }
        self.make_parents(path)?;
        self.refuse_twice(path)?;
        let holder = self
            .folder
            .holder(target.parent().unwrap_or(Path::new("")))?;
        let name = target.file_name().unwrap_or_default();
        self.folder
            .make_aside(path, &self.aside, &mut |parent, aside| {
                rustix::fs::linkat(&holder, name, parent, aside, AtFlags::empty())
            })?;
        // Should something else have taken its place in between.
        if !is_ours(self.identity(path)?) {
            self.folder.remove(path)?;
            return Err(unsent());
        }
        self.done.files += 1;
        Ok(())
    }

    fn identity(&self, path: &Path) -> Result<Option<(u64, u64)>, ForeignError> {
        let stat = self.folder.stat(path)?;
        Ok(stat.map(|stat| (stat.st_dev, stat.st_ino)))
    }

    fn refuse_twice(&self, path: &Path) -> Result<(), UnpackError> {
        let there = self.identity(path)?;
        match there.is_some_and(|there| self.written.contains(&there)) {
            true => Err(UnpackError::Twice {
                path: path.to_owned(),
            }),
            false => Ok(()),
        }
    }

    fn remember(&mut self, path: &Path) -> Result<(), UnpackError> {
        self.written.extend(self.identity(path)?);
        self.done.files += 1;
        Ok(())
    }

    /// Gives the folders that were made their modes and times, the deepest first.
    fn finish(self) -> Result<Unpacked, UnpackError> {
        for (path, (mode, time)) in self.folders.iter().rev() {
            let Some(folder) = self.folder.folder(path)? else {
                continue;
            };
            let times = Timestamps {
                last_access: seconds(*time),
                last_modification: seconds(*time),
            };
            let dressed = rustix::fs::futimens(&folder, &times)
                .and_then(|()| rustix::fs::fchmod(&folder, Mode::from_raw_mode(*mode)));
            dressed.map_err(|errno| self.folder.unwritten(path, errno))?;
        }
        Ok(self.done)
    }
}

pub(crate) fn seconds(time: i64) -> Timespec {
    Timespec {
        tv_sec: time,
        tv_nsec: 0,
    }
}

/// A name of the stream as a path beneath a folder.
fn beneath(name: &[u8]) -> Result<PathBuf, UnpackError> {
    let bad = || UnpackError::BadName {
        name: OsStr::from_bytes(name).to_owned(),
    };
    if name.contains(&0) || name.len() as u64 > LONGEST_NAME {
        return Err(bad());
    }
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    match path.components().count() > DEEPEST {
        true => Err(bad()),
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests;
