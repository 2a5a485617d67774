//! File operations, each one act, blocking.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use super::{CloneMethod, FileAct, FileFacts, FileLock, HostError};

type Result<T> = std::result::Result<T, HostError>;

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(FileAct::Read, path)(error)),
    }
}

pub(super) async fn open_foreign(path: &Path) -> Result<Option<Arc<File>>> {
    let named = path.to_owned();
    let opened = super::linux::blocking(move || banger_foreign::open_named(&named)).await?;
    Ok(opened.map(Arc::new))
}

pub(super) async fn read_foreign(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let named = path.to_owned();
    let read = super::linux::blocking(move || match banger_foreign::open_named(&named)? {
        Some(file) => banger_foreign::read_bounded(file, &named, limit).map(Some),
        None => Ok(None),
    });
    Ok(read.await?)
}

pub(super) fn read_head(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        File::open(path)?.take(limit).read_to_end(&mut head)?;
        Ok(head)
    };
    match read() {
        Ok(head) => Ok(Some(head)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(FileAct::Read, path)(error)),
    }
}

pub(super) fn read_tail(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(limit)))?;
        let mut tail = Vec::new();
        file.take(limit).read_to_end(&mut tail)?;
        Ok(tail)
    };
    match read() {
        Ok(tail) => Ok(tail),
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(error) => Err(failed(FileAct::Read, path)(error)),
    }
}

pub(super) fn read_at(path: &Path, offset: u64, limit: u64) -> Result<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(io::SeekFrom::Start(offset))?;
        let mut piece = Vec::new();
        file.take(limit).read_to_end(&mut piece)?;
        Ok(piece)
    };
    match read() {
        Ok(piece) => Ok(piece),
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(error) => Err(failed(FileAct::Read, path)(error)),
    }
}

pub(super) fn write(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    let aside = aside(path);
    let written = (|| -> io::Result<()> {
        remove_if_there(&aside)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&aside)?;
        file.write_all(contents)?;
        fs::rename(&aside, path)
    })();
    written.map_err(|error| {
        // The first error is the one to tell; the leftover is overwritten next time.
        let _ = fs::remove_file(&aside);
        failed(FileAct::Write, path)(error)
    })
}

/// Where a file is written before it is renamed. One name a target, not a random one: what a crash leaves
/// behind is overwritten by the next write.
pub(super) fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        Err(error) if !is_missing(&error) => Err(failed(FileAct::Write, path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn new_file(path: &Path) -> Result<Arc<File>> {
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    made.map(Arc::new).map_err(failed(FileAct::Write, path))
}

pub(super) fn create_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(FileAct::CreateDir, path))
}

pub(super) fn list(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(failed(FileAct::List, path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed(FileAct::List, path))?;
        // We make no name that is not UTF-8; somebody else's is none of ours.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(super) fn stat(path: &Path) -> Result<Option<FileFacts>> {
    match fs::metadata(path) {
        Ok(facts) => Ok(Some(FileFacts {
            is_dir: facts.is_dir(),
            is_socket: facts.file_type().is_socket(),
            bytes: facts.len(),
            allocated_bytes: facts.blocks() * 512,
            owner: facts.uid(),
        })),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(FileAct::Stat, path)(error)),
    }
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(failed(FileAct::Rename, from))
}

pub(super) fn remove_file(path: &Path) -> Result<()> {
    remove_if_there(path).map_err(failed(FileAct::Remove, path))
}

pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if !is_missing(&error) => Err(failed(FileAct::Remove, path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn grow(path: &Path, bytes: u64) -> Result<()> {
    (|| {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if file.metadata()?.len() < bytes {
            file.set_len(bytes)?;
        }
        Ok(())
    })()
    .map_err(failed(FileAct::Resize, path))
}

pub(super) fn truncate(path: &Path, bytes: u64) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(bytes))
        .map_err(failed(FileAct::Resize, path))
}

pub(super) fn clone(from: &Path, to: &Path) -> Result<CloneMethod> {
    // What is copied may be anything: only a regular file is opened.
    let source = match banger_foreign::open_named(from)? {
        Some(source) => source,
        None => return Err(failed(FileAct::Read, from)(ErrorKind::NotFound.into())),
    };
    let target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(failed(FileAct::Copy, to))?;
    let copy = || -> io::Result<CloneMethod> {
        if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
            return Ok(CloneMethod::Reflink);
        }
        copy_data(&source, &target)?;
        Ok(CloneMethod::SparseCopy)
    };
    copy().map_err(|error| {
        // A partial copy is of no use to anybody, and fills a disk that may just have become full.
        let _ = fs::remove_file(to);
        failed(FileAct::Copy, to)(error)
    })
}

pub(super) fn sync_dir(path: &Path) -> Result<()> {
    let sync = || -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                File::open(entry.path())?.sync_all()?;
            }
        }
        File::open(path)?.sync_all()
    };
    sync().map_err(failed(FileAct::Sync, path))
}

pub(super) fn lock(path: &Path) -> Result<Option<FileLock>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed(FileAct::Lock, path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(FileLock(Some(file)))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed(FileAct::Lock, path)(error.into())),
    }
}

/// Opens a file for a program that writes its output there, behind what is in it.
pub(super) fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(failed(FileAct::Write, path))
}

pub(super) async fn connect(path: &Path, timeout: Duration) -> Result<UnixStream> {
    match tokio::time::timeout(timeout, UnixStream::connect(path)).await {
        Ok(connected) => connected.map_err(failed(FileAct::Connect, path)),
        Err(_) => Err(HostError::ConnectTimeout {
            path: path.to_owned(),
            limit: timeout,
        }),
    }
}

pub(super) fn free_bytes(path: &Path) -> Result<u64> {
    let facts =
        rustix::fs::statvfs(path).map_err(|error| failed(FileAct::Stat, path)(error.into()))?;
    Ok(facts.f_bavail * facts.f_frsize)
}

pub(super) fn failed(act: FileAct, path: &Path) -> impl FnOnce(io::Error) -> HostError + use<> {
    let path = PathBuf::from(path);
    move |source| HostError::File { act, path, source }
}

fn copy_data(source: &File, target: &File) -> io::Result<()> {
    use rustix::fs::SeekFrom;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut offset = 0;
    while offset < length {
        let start = match rustix::fs::seek(source, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Nothing but a hole until the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
        let (mut read_at, mut write_at) = (start, start);
        while read_at < end {
            let chunk = usize::try_from(end - read_at)
                .unwrap_or(1 << 30)
                .min(1 << 30);
            let copied = rustix::fs::copy_file_range(
                source,
                Some(&mut read_at),
                target,
                Some(&mut write_at),
                chunk,
            );
            match copied {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                // Between file systems of two kinds the kernel does not do it for us.
                Err(rustix::io::Errno::XDEV) => {
                    copy_by_hand(source, target, read_at..end)?;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        offset = end;
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: &File, range: std::ops::Range<u64>) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 1 << 20];
    let mut at = range.start;
    while at < range.end {
        let room = usize::try_from(range.end - at).map_or(buffer.len(), |n| n.min(buffer.len()));
        let read = source.read_at(&mut buffer[..room], at)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        target.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_file_in_one_step_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handles.json");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(list(dir.path()).unwrap(), ["handles.json"]);
    }

    #[test]
    fn a_clone_has_the_same_bytes_and_keeps_its_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        grow(&from, 64 << 20).unwrap();
        let mut file = OpenOptions::new().write(true).open(&from).unwrap();
        file.seek(io::SeekFrom::Start(32 << 20)).unwrap();
        file.write_all(b"in the middle").unwrap();
        drop(file);
        clone(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(stat(&to).unwrap().unwrap().allocated_bytes < 1 << 20);
    }

    #[test]
    fn a_lock_is_held_once_and_free_again_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.lock");
        let held = lock(&path).unwrap();
        assert!(held.is_some());
        assert!(lock(&path).unwrap().is_none());
        drop(held);
        assert!(lock(&path).unwrap().is_some());
    }

    #[test]
    fn a_missing_file_is_none_and_an_unreadable_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("none")).unwrap(), None);
        let error = read(dir.path()).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /"), "{error}");
    }
}
