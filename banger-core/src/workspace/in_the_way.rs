//! What stands where changes are to be made, and is nobody's to replace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use banger_foreign::{Folder, ForeignError, Kind};

use crate::workspace::WorkspaceError;
use crate::workspace::git::path_of;
use crate::workspace::shadow::refused;

/// The most files that are looked at in a folder that a file is to replace.
const MOST: usize = 1_000_000;

/// The most that are named.
const TOLD: usize = 20;

/// Returns what is in the way of the files that are to be made: whatever is there, unless it is a file that goes, or
/// a folder with nothing in it but such files. Blocks.
pub(super) fn in_the_way(
    root: &Path,
    made: &[Vec<u8>],
    gone: &BTreeSet<Vec<u8>>,
) -> Result<Vec<String>, WorkspaceError> {
    let tree = Folder::open(root).map_err(refused)?;
    let mut found = Vec::new();
    for path in made {
        // Each folder on the way to it, and then itself.
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = ends.map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let part = &path[..end];
            let kind = tree.kind(path_of(part)).map_err(refused)?;
            match kind {
                None => {}
                Some(Kind::Folder) if end < path.len() => continue,
                Some(Kind::Folder) => {
                    found.extend(that_stays(&tree, path_of(part), gone).map_err(refused)?);
                }
                // A tracked file that goes makes room.
                Some(_) if gone.contains(part) => {}
                Some(_) => found.push(String::from_utf8_lossy(part).into_owned()),
            }
            break;
        }
        if found.len() > TOLD {
            break;
        }
    }
    found.dedup();
    found.truncate(TOLD);
    Ok(found)
}

/// The first of what is in a folder and does not go, if there is any.
fn that_stays(
    tree: &Folder,
    folder: &Path,
    gone: &BTreeSet<Vec<u8>>,
) -> Result<Option<String>, ForeignError> {
    use std::os::unix::ffi::OsStrExt;
    let (mut folders, mut left) = (vec![PathBuf::from(folder)], MOST);
    while let Some(folder) = folders.pop() {
        let entries = tree.list(&folder, left)?;
        left -= entries.len();
        for entry in entries {
            let path = folder.join(&entry.name);
            match entry.kind {
                // A repository of its own is nobody's to replace, whatever is in it.
                Kind::Folder if entry.name != ".git" => folders.push(path),
                _ if gone.contains(path.as_os_str().as_bytes()) => {}
                _ => return Ok(Some(path.to_string_lossy().into_owned())),
            }
        }
    }
    Ok(None)
}
