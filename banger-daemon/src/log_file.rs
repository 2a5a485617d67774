//! The daemon's log: appended to, and bounded, at each start of a daemon and while it runs.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

/// Beyond this, in bytes, a log is set aside.
const LIMIT: u64 = 8 << 20;

/// Opens a log to append to it, its folder made if it is missing. One that has grown too long is renamed
/// to `<name>.1` first, in place of an older one.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    if let Some(folder) = path.parent()
        && let owner = std::fs::metadata(folder)?.uid()
        && owner != rustix::process::geteuid().as_raw()
    {
        // Its owner can put a link to any file of ours in the place of the log.
        let reason = format!("{} belongs to user {owner}", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    let file = append_to(path)?;
    match set_aside(&file, path)? {
        SetAside::No => Ok(file),
        SetAside::Yes => append_to(path),
    }
}

/// A log that is written to for as long as a daemon runs, whatever its clients make it say.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

#[cfg_attr(
    not(feature = "server"),
    allow(dead_code, reason = "a client writes none")
)]
impl LogFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(LogFile {
            file: Mutex::new(open(path)?),
            path: path.to_owned(),
        })
    }
}

/// One write is one line, which is never parted.
impl io::Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.metadata()?.len() > LIMIT
            // Where there is none to be had (its folder is gone) the old one goes on.
            && let Ok(anew) = open(&self.path)
        {
            *file = anew;
        }
        file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum SetAside {
    Yes,
    No,
}

/// Any number of clients may start a daemon at once: whoever has the lock of this very file renames it.
fn set_aside(file: &File, path: &Path) -> io::Result<SetAside> {
    if file.metadata()?.len() <= LIMIT
        || flock(file, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        return Ok(SetAside::No);
    }
    let (ours, there) = (file.metadata()?, std::fs::metadata(path));
    if there.is_ok_and(|there| there.ino() == ours.ino()) {
        let mut old = OsString::from(path);
        old.push(".1");
        std::fs::rename(path, old)?;
    }
    Ok(SetAside::Yes)
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_leads_nowhere_else_and_lies_in_no_folder_of_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (
            folder.path().join("bangerd.log"),
            folder.path().join("other"),
        );
        std::fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(open(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give a folder to somebody else");
            return;
        }
        std::os::unix::fs::chown(folder.path(), Some(65534), None).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("belongs to user 65534"), "{error}");
        assert_eq!(std::fs::read(&other).unwrap(), b"mine");
    }

    #[test]
    fn a_log_that_has_grown_too_long_is_set_aside_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/bangerd.log");
        let old = folder.path().join("logs/bangerd.log.1");
        let size = |path: &Path| std::fs::metadata(path).map(|facts| facts.len()).ok();

        open(&path).unwrap().write_all(b"first\n").unwrap();
        open(&path).unwrap().write_all(b"second\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first\nsecond\n");
        assert_eq!(size(&old), None);

        open(&path).unwrap().set_len(LIMIT + 1).unwrap();
        open(&path).unwrap().write_all(b"third\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third\n");
        assert_eq!(size(&old), Some(LIMIT + 1));
    }

    #[test]
    fn a_log_that_is_written_to_without_end_takes_no_more_than_twice_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bangerd.log");
        let log = LogFile::open(&path).unwrap();
        let line = [b'x'; 1 << 16];
        let room = LIMIT + line.len() as u64;
        for _ in 0..5 * LIMIT / line.len() as u64 {
            (&log).write_all(&line).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= room);
        }
        (&log).write_all(b"last\n").unwrap();
        assert!(std::fs::read(&path).unwrap().ends_with(b"last\n"));
        let sizes = std::fs::read_dir(folder.path()).unwrap();
        let sizes: Vec<u64> = sizes
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().sum::<u64>() <= 2 * room, "{sizes:?}");
    }

    #[test]
    fn a_log_whose_folder_is_gone_is_written_to_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("logs");
        let log = LogFile::open(&below.join("bangerd.log")).unwrap();
        log.file.lock().unwrap().set_len(LIMIT + 1).unwrap();
        std::fs::remove_dir_all(&below).unwrap();
        std::fs::write(&below, "in the way").unwrap();
        (&log).write_all(b"line\n").unwrap();
    }

    #[test]
    fn the_documented_lengths_of_logs_are_those_of_the_program() {
        let page = include_str!("../../docs/defaults.md");
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let monitors = mib(banger_core::LOG_BYTES);
        for line in [
            format!("`console.log`, `monitor.log`, `metrics` | {monitors} |"),
            format!("`bangerd.log.1` before it | {} each |", mib(LIMIT)),
        ] {
            assert!(page.contains(&line), "docs/defaults.md does not say {line}");
        }
    }
}
