//! Whole folders of somebody else's: looked over, and copied, in bounds.

use std::fs::{DirBuilder, File, FileTimes, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::folder::{Folder, ForeignError, Kind};

/// What a tree may have at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeLimits {
    /// Entries in all its folders.
    pub entries: usize,
    /// Folders in folders.
    pub depth: usize,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Folder {
    /// Looks over a tree beneath this folder and calls `each` with the path and length of every file. A missing
    /// tree is empty.
    ///
    /// # Errors
    ///
    /// There is something in it that is neither a folder nor a regular file, or more than it may have.
    pub fn walk(
        &self,
        below: &Path,
        limits: TreeLimits,
        each: &mut dyn FnMut(&Path, u64) -> Result<(), ForeignError>,
    ) -> Result<(), ForeignError> {
        let mut left = limits;
        let mut folders = vec![(below.to_owned(), limits.depth)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in self.list(&folder, left.entries)? {
                left.entries -= 1;
                let path = match folder.as_os_str().is_empty() {
                    true => PathBuf::from(&entry.name),
                    false => folder.join(&entry.name),
                };
                let named = || self.path().join(&path);
                match entry.kind {
                    Kind::Folder if depth == 0 => {
                        return Err(ForeignError::TooDeep { path: named() });
                    }
                    Kind::Folder => folders.push((path, depth - 1)),
                    Kind::File => {
                        if entry.bytes > limits.file_bytes || entry.bytes > left.bytes {
                            return Err(ForeignError::TooLarge {
                                path: named(),
                                limit: limits.file_bytes.min(left.bytes),
                            });
                        }
                        left.bytes -= entry.bytes;
                        each(&path, entry.bytes)?;
                    }
                    kind => {
                        return Err(ForeignError::WrongKind {
                            path: named(),
                            kind,
                            wanted: Kind::File,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies one regular file to a path of ours at which there is none (mode 0600), with its time; a missing
    /// one is `None`. Returns its length.
    ///
    /// # Errors
    ///
    /// As [`Folder::copy`].
    pub fn copy_to(
        &self,
        below: &Path,
        target: &Path,
        limit: u64,
    ) -> Result<Option<u64>, ForeignError> {
        let Some(source) = self.file(below)? else {
            return Ok(None);
        };
        let facts = source.metadata().map_err(|source| self.io(below, source))?;
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(target);
        let mut copy: File = made.map_err(cannot_write(target))?;
        let copied = self.copy(below, &mut copy, limit)?;
        if let Ok(modified) = facts.modified() {
            copy.set_times(FileTimes::new().set_modified(modified))
                .map_err(cannot_write(target))?;
        }
        Ok(copied)
    }

    /// Copies a tree beneath this folder to a path of ours; a missing tree leaves nothing there.
    ///
    /// # Errors
    ///
    /// As [`Folder::walk`]; or the target cannot be written.
    pub fn copy_tree(
        &self,
        below: &Path,
        target: &Path,
        limits: TreeLimits,
    ) -> Result<(), ForeignError> {
        self.walk(below, limits, &mut |path, _| {
            let within = path.strip_prefix(below).unwrap_or(path);
            let to = target.join(within);
            if let Some(folder) = to.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(folder)
                    .map_err(cannot_write(folder))?;
            }
            self.copy_to(path, &to, limits.file_bytes).map(drop)
        })
    }
}

fn cannot_write(path: &Path) -> impl FnOnce(std::io::Error) -> ForeignError + use<> {
    let path = path.to_owned();
    move |source| ForeignError::Write { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TreeLimits = TreeLimits {
        entries: 10,
        depth: 3,
        file_bytes: 100,
        bytes: 150,
    };

    fn tree() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("refs/heads/a")).unwrap();
        std::fs::write(dir.path().join("refs/heads/main"), "main").unwrap();
        std::fs::write(dir.path().join("refs/heads/a/b"), "topic").unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    #[test]
    fn a_tree_is_copied_as_it_is() {
        let (dir, folder) = tree();
        let to = dir.path().join("copy");
        folder.copy_tree(Path::new("refs"), &to, LIMITS).unwrap();
        assert_eq!(std::fs::read(to.join("heads/main")).unwrap(), b"main");
        assert_eq!(std::fs::read(to.join("heads/a/b")).unwrap(), b"topic");
        let none = dir.path().join("none");
        folder.copy_tree(Path::new("no"), &none, LIMITS).unwrap();
        assert!(!none.exists());
    }

    #[test]
    fn a_tree_that_holds_too_much_or_what_is_no_file_is_refused() {
        type Spoil = fn(&Path);
        let spoil: [(&str, Spoil); 5] = [
            ("a symbolic link", |dir| {
                std::os::unix::fs::symlink("/etc", dir.join("refs/heads/x")).unwrap();
            }),
            ("a socket", |dir| {
                std::os::unix::net::UnixListener::bind(dir.join("refs/heads/x")).unwrap();
            }),
            ("larger", |dir| {
                std::fs::write(dir.join("refs/x"), [0; 101]).unwrap()
            }),
            ("entries", |dir| {
                for number in 0..10 {
                    std::fs::write(dir.join(format!("refs/{number}")), "").unwrap();
                }
            }),
            ("deep", |dir| {
                std::fs::create_dir_all(dir.join("refs/1/2/3/4/5")).unwrap()
            }),
        ];
        for (word, spoil) in spoil {
            let (dir, folder) = tree();
            spoil(dir.path());
            let to = dir.path().join("copy");
            let error = folder
                .copy_tree(Path::new("refs"), &to, LIMITS)
                .unwrap_err();
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }
}
