//! The daemon's log: appended to, and bounded at each start of a daemon.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

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
    let file = append_to(path)?;
    match set_aside(&file, path)? {
        SetAside::No => Ok(file),
        SetAside::Yes => append_to(path),
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
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

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
}
