//! What git would open in a working tree whatever it is, and wait for: looked for before it is started.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_foreign::{Folder, ForeignError, Kind};

use crate::workspace::WorkspaceError;
use crate::workspace::find::{pointer, resolved};
use crate::workspace::shadow::{REFS, refused};

/// The most that a file of rules (`.gitignore` and the like) may have: git itself reads no more.
const LONGEST_RULES: u64 = 64 << 20;

/// The most that a folder of a working tree may hold, and that all may.
const MOST: usize = 5_000_000;

/// Refuses files of rules that are no files, in every folder of a working tree, tracked or not; and what git asks of
/// a repository that lies in it (whether it is one, and what is checked out there). Blocks.
pub(super) fn refuse_odd(root: &Path) -> Result<(), WorkspaceError> {
    let tree = Folder::open(root).map_err(refused)?;
    let (mut folders, mut left) = (vec![PathBuf::new()], MOST);
    while let Some(folder) = folders.pop() {
        let entries = match tree.list(&folder, left) {
            Ok(entries) => entries,
            Err(error) if is_closed(&error) => continue,
            Err(error) => return Err(refused(error)),
        };
        left -= entries.len();
        let is_root = folder.as_os_str().is_empty();
        if !is_root && let Some(git) = entries.iter().find(|entry| entry.name == ".git") {
            refuse_odd_within(&tree, &folder, git.kind)?;
        }
        for entry in entries {
            let path = folder.join(&entry.name);
            let is_rules = [".gitignore", ".gitattributes", ".gitmodules"]
                .iter()
                .any(|name| entry.name == *name);
            match entry.kind {
                Kind::Folder if entry.name == ".git" => {}
                Kind::Folder => folders.push(path),
                kind @ (Kind::Fifo | Kind::Socket | Kind::Device) if is_rules => {
                    return Err(wrong(root.join(path), kind));
                }
                Kind::File if is_rules && entry.bytes > LONGEST_RULES => {
                    return Err(refused(ForeignError::TooLarge {
                        path: root.join(path),
                        limit: LONGEST_RULES,
                    }));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The same for the git dir of a repository in a folder of the tree, wherever that lies.
fn refuse_odd_within(tree: &Folder, folder: &Path, kind: Kind) -> Result<(), WorkspaceError> {
    let (place, git) = (tree.path().join(folder), folder.join(".git"));
    let named = match kind {
        Kind::Folder => Some(place.join(".git")),
        Kind::Link => {
            let target = tree.link(&git).map_err(refused)?;
            let target = target.and_then(|link| resolved(&place, link.as_os_str().as_bytes()));
            match target {
                Some(there) if !there.is_dir() => return Err(wrong(place.join(".git"), kind)),
                there => there,
            }
        }
        // What is longer names nothing.
        Kind::File => match pointer(tree, &git) {
            Ok(text) => text
                .and_then(|text| resolved(&place, text.strip_prefix(b"gitdir:")?))
                .filter(|there| there.is_dir()),
            Err(_) => None,
        },
        // git looks at it, and does not open it.
        Kind::Fifo | Kind::Socket | Kind::Device => None,
    };
    let Some(named) = named else { return Ok(()) };
    let within = match Folder::open(&named) {
        Ok(within) => within,
        Err(error) if is_closed(&error) => return Ok(()),
        Err(error) => return Err(refused(error)),
    };
    for name in ["HEAD", "commondir", "packed-refs"] {
        match within.kind(Path::new(name)).map_err(refused)? {
            None | Some(Kind::File) => {}
            // An old way to say which branch is checked out: it is read, and not followed.
            Some(Kind::Link) if name == "HEAD" => {}
            Some(kind) => return Err(wrong(named.join(name), kind)),
        }
    }
    for refs in ["refs", "reftable"] {
        let walked = within.walk(Path::new(refs), REFS, &mut |_, _| Ok(()));
        match walked {
            Err(error) if !is_closed(&error) => return Err(refused(error)),
            _ => {}
        }
    }
    Ok(())
}

/// What we may not open git may not open either.
fn is_closed(error: &ForeignError) -> bool {
    match error {
        ForeignError::Io { source, .. } => source.kind() == std::io::ErrorKind::PermissionDenied,
        // A folder that became a link since.
        ForeignError::BehindLink { .. } => true,
        _ => false,
    }
}

fn wrong(path: PathBuf, kind: Kind) -> WorkspaceError {
    refused(ForeignError::WrongKind {
        path,
        kind,
        wanted: Kind::File,
    })
}
