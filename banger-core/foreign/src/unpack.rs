//! A tar stream of somebody else's, unpacked beneath a folder.
//!
//! No link is followed: neither one that was there, nor one that came earlier, in this stream or another.
//! Folders, regular files, symbolic links and hard links to files of this very stream are made; everything
//! else is left out and named. Each file is written aside and renamed when it is whole, so that whatever ends
//! this leaves files that are whole or not there. Owners, set-uid bits and the like do not come along.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use tar::{Archive, Entry, EntryType, PaxExtensions};

use crate::folder::{Folder, ForeignError};
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
    /// Unpacks a stream beneath this folder, of modes cut by `umask`. `nonce` is a part of the names of files
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
        let mut archive = Archive::new(stream);
        let broken = |source| UnpackError::Stream { source };
        let mut extra = Extra::default();
        // Raw: names of any length would be read into memory otherwise.
        for entry in archive.entries().map_err(broken)?.raw(true) {
            let mut entry = entry.map_err(broken)?;
            match entry.header().entry_type() {
                EntryType::GNULongName => extra.name = Some(bounded(&mut entry, LONGEST_NAME)?),
                EntryType::GNULongLink => extra.link = Some(bounded(&mut entry, LONGEST_NAME)?),
                EntryType::XHeader => extra.read_pax(&mut entry)?,
                EntryType::XGlobalHeader => drop(bounded(&mut entry, LONGEST_HEADER)?),
                _ => unpacker.take(&mut entry, std::mem::take(&mut extra))?,
            }
        }
        unpacker.finish()
    }
}

/// What came of an entry's name before the entry itself.
#[derive(Debug, Default)]
struct Extra {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extra {
    fn read_pax<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let text = read_bounded(entry, LONGEST_HEADER)?;
        for extension in PaxExtensions::new(&text) {
            let extension = extension.map_err(|source| UnpackError::Stream { source })?;
            match extension.key_bytes() {
                b"path" => self.name = Some(extension.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                // Then the length that the entry's own header has is not its length.
                b"size" | b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                    let said = "a length that is told apart from its file is not understood";
                    return Err(UnpackError::Stream {
                        source: io::Error::other(said),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn bounded<R: Read>(entry: &mut Entry<'_, R>, limit: u64) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = read_bounded(entry, limit)?;
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    Ok(bytes)
}

fn read_bounded<R: Read>(entry: &mut Entry<'_, R>, limit: u64) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    entry
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| UnpackError::Stream { source })?;
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
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>, extra: Extra) -> Result<(), UnpackError> {
        let header = entry.header();
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
            EntryType::Regular | EntryType::Continuous => {
                // What is written may be seen before it is whole by nobody else.
                self.make_parents(&path)?;
                self.refuse_twice(&path)?;
                let look = Look { mode, owner: None };
                let settle = Settle::Later { modified: time };
                let mut sent = Sent {
                    entry,
                    broken: None,
                };
                let put = self.folder.put(&path, &self.aside, &mut sent, look, settle);
                if let Some(source) = sent.broken {
                    return Err(UnpackError::Stream { source });
                }
                put?;
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
mod tests {
    use super::*;
    use crate::guest_link::link_of_a_guest;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use tar::{Builder, Header};

    /// One entry, with any name and any kind, as an honest tar would not write it.
    #[derive(Clone, Debug)]
    struct Sent<'a> {
        kind: EntryType,
        name: &'a str,
        link: &'a str,
        mode: u32,
        content: &'a [u8],
    }

    const FILE: Sent<'static> = Sent {
        kind: EntryType::Regular,
        name: "file",
        link: "",
        mode: 0o644,
        content: b"from the guest",
    };

    fn archive(entries: &[Sent<'_>]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for sent in entries {
            let mut header = Header::new_gnu();
            let gnu = header.as_gnu_mut().unwrap();
            // Straight into the field: the setters refuse what is hostile.
            gnu.name[..sent.name.len()].copy_from_slice(sent.name.as_bytes());
            gnu.linkname[..sent.link.len()].copy_from_slice(sent.link.as_bytes());
            header.set_entry_type(sent.kind);
            header.set_mode(sent.mode);
            header.set_mtime(1000);
            header.set_size(sent.content.len() as u64);
            header.set_cksum();
            builder.append(&header, sent.content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// A folder to unpack into, and one beside it that nothing may touch.
    struct Place {
        dir: tempfile::TempDir,
        folder: Folder,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("in")).unwrap();
            fs::create_dir(dir.path().join("out")).unwrap();
            fs::write(dir.path().join("out/authorized_keys"), "mine").unwrap();
            let folder = Folder::open(&dir.path().join("in")).unwrap();
            Place { dir, folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("in").join(name)
        }

        fn take(&self, entries: &[Sent<'_>]) -> Result<Unpacked, UnpackError> {
            self.take_bytes(&archive(entries))
        }

        fn take_bytes(&self, bytes: &[u8]) -> Result<Unpacked, UnpackError> {
            let taken = self.folder.unpack(bytes, 0o022, "0123");
            let out = self.dir.path().join("out");
            let names: Vec<_> = fs::read_dir(&out)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(names, ["authorized_keys"], "something came out");
            assert_eq!(fs::read(out.join("authorized_keys")).unwrap(), b"mine");
            assert!(
                !self.path(".banger-cp-0123").exists(),
                "half a file is left"
            );
            taken
        }
    }

    #[test]
    fn a_link_of_an_earlier_copy_is_not_written_through() {
        let place = Place::new();
        let link = Sent {
            kind: EntryType::Symlink,
            name: "d",
            link: "../out",
            ..FILE
        };
        place.take(&[link]).unwrap();
        let found = |path: &str| link_of_a_guest(&place.path(path));
        let link = Some(place.path("d"));
        assert_eq!(found("d"), link);
        // Also on the way, with a slash at its end, and by way of a link of our own.
        symlink(".", place.path("ours")).unwrap();
        for path in [
            "d/",
            "d/.",
            "d/x/y",
            "ours/d",
            "ours/ours/d/x",
            "ours/../in/d",
        ] {
            let found = found(path).map(|link| link.file_name().unwrap().to_owned());
            assert_eq!(found.as_deref(), Some(OsStr::new("d")), "{path}");
        }
        for path in ["ours", "ours/x", ".", "nothing/d"] {
            assert_eq!(found(path), None, "{path}");
        }
        for name in ["d/authorized_keys", "d/new", "./d/new"] {
            let error = place.take(&[Sent { name, ..FILE }]).unwrap_err();
            assert!(
                error.to_string().contains("symbolic link"),
                "{name}: {error}"
            );
        }
        // In one stream, too; and as a folder of that name.
        let place = Place::new();
        let link = Sent {
            kind: EntryType::Symlink,
            name: "d",
            link: "../out",
            ..FILE
        };
        let folder = Sent {
            kind: EntryType::Directory,
            name: "d/",
            mode: 0o777,
            content: b"",
            ..FILE
        };
        for then in [
            Sent {
                name: "d/authorized_keys",
                ..FILE
            },
            folder,
        ] {
            assert!(place.take(&[link.clone(), then]).is_err());
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        let place = Place::new();
        symlink("../out/authorized_keys", place.path("file")).unwrap();
        place.take(&[FILE]).unwrap();
        assert_eq!(fs::read(place.path("file")).unwrap(), b"from the guest");
        assert!(
            !fs::symlink_metadata(place.path("file"))
                .unwrap()
                .is_symlink()
        );
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../out/x", "/etc/passwd", "a/../../out/x", "..", "."] {
            let place = Place::new();
            let error = place.take(&[Sent { name, ..FILE }]).unwrap_err();
            assert!(
                matches!(error, UnpackError::BadName { .. }),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn hard_links_lead_to_files_of_the_same_stream_only() {
        let place = Place::new();
        fs::write(place.path("mine"), "mine").unwrap();
        let link = |name: &'static str, link: &'static str| Sent {
            kind: EntryType::Link,
            name,
            link,
            content: b"",
            ..FILE
        };
        place.take(&[FILE, link("second", "file")]).unwrap();
        let ino = |name: &str| fs::metadata(place.path(name)).unwrap().ino();
        assert_eq!(ino("file"), ino("second"));
        for target in ["mine", "../out/authorized_keys", "/etc/passwd", "none"] {
            assert!(place.take(&[link("third", target)]).is_err(), "{target}");
            assert!(!place.path("third").exists());
        }
    }

    #[test]
    fn devices_and_pipes_are_left_out_and_named_and_set_uid_bits_are_dropped() {
        let place = Place::new();
        let odd = [EntryType::Fifo, EntryType::Char, EntryType::Block].map(|kind| Sent {
            kind,
            name: "odd",
            content: b"",
            ..FILE
        });
        let suid = Sent {
            name: "suid",
            mode: 0o6755,
            ..FILE
        };
        let mut entries = odd.to_vec();
        entries.push(suid);
        let done = place.take(&entries).unwrap();
        assert_eq!((done.files, done.left_out), (1, 3));
        assert_eq!(done.left_out_names[0], Path::new("odd"));
        assert!(!place.path("odd").exists());
        let mode = fs::metadata(place.path("suid"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn folders_get_their_modes_in_the_end_and_those_that_are_there_keep_theirs() {
        let place = Place::new();
        fs::create_dir(place.path("old")).unwrap();
        fs::set_permissions(place.path("old"), fs::Permissions::from_mode(0o700)).unwrap();
        let folder = |name: &'static str| Sent {
            kind: EntryType::Directory,
            name,
            mode: 0o555,
            content: b"",
            ..FILE
        };
        let within = |name: &'static str| Sent { name, ..FILE };
        place
            .take(&[
                folder("./"),
                folder("new"),
                within("new/a"),
                folder("old"),
                within("old/b"),
            ])
            .unwrap();
        let mode =
            |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("new"), mode("old")), (0o555, 0o700));
        assert_eq!(fs::metadata(place.path("new")).unwrap().mtime(), 1000);
        assert_eq!(fs::metadata(place.path("old/b")).unwrap().mtime(), 1000);
        fs::set_permissions(place.path("new"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn one_file_is_not_written_over_by_another_of_the_same_stream() {
        let place = Place::new();
        let error = place
            .take(&[
                FILE,
                Sent {
                    content: b"again",
                    ..FILE
                },
            ])
            .unwrap_err();
        assert!(matches!(error, UnpackError::Twice { .. }), "{error}");
        assert_eq!(fs::read(place.path("file")).unwrap(), b"from the guest");
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_and_the_other_way_round_are_named_and_stay() {
        let place = Place::new();
        fs::create_dir(place.path("file")).unwrap();
        let error = place.take(&[FILE]).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
        assert!(place.path("file").is_dir());
        fs::write(place.path("d"), "mine").unwrap();
        assert!(
            place
                .take(&[Sent {
                    name: "d/x",
                    ..FILE
                }])
                .is_err()
        );
        assert_eq!(fs::read(place.path("d")).unwrap(), b"mine");
    }

    #[test]
    fn long_names_come_through_and_endless_ones_are_refused() {
        let place = Place::new();
        let name = format!("{}/{}", "a".repeat(150), "b".repeat(150));
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        builder.append_data(&mut header, &name, &b"hi"[..]).unwrap();
        place.take_bytes(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(fs::read(place.path(&name)).unwrap(), b"hi");
        for kind in [
            EntryType::GNULongName,
            EntryType::GNULongLink,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ] {
            let endless = vec![b'a'; 1 << 20];
            let sent = Sent {
                kind,
                content: &endless,
                ..FILE
            };
            let error = place.take(&[sent]).unwrap_err();
            assert!(matches!(error, UnpackError::LongHeader { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn fuzz_no_stream_reaches_out_or_panics(
            parts in vec((0..7_u8, 0..6_usize, 0..6_usize, 0..0o10000_u32), 0..8),
            spoil in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            const NAMES: [&str; 6] = ["d", "d/authorized_keys", "../out/x", "d/e/f", "file", "./d/./x"];
            const LINKS: [&str; 6] = ["../out", "../out/authorized_keys", "d", "/etc", "file", ""];
            let place = Place::new();
            for half in parts.chunks(4) {
                let entries: Vec<_> = half.iter().map(|(kind, name, link, mode)| Sent {
                    kind: [
                        EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link,
                        EntryType::Fifo, EntryType::GNULongName, EntryType::XHeader,
                    ][usize::from(*kind)],
                    name: NAMES[*name],
                    link: LINKS[*link],
                    mode: *mode,
                    content: if *kind == 0 { b"x" } else { b"" },
                }).collect();
                let mut bytes = archive(&entries);
                for (at, value) in &spoil {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
                let _ = place.take_bytes(&bytes);
            }
        }
    }
}
