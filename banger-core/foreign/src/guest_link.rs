//! Links that a stream out of a guest has brought, told from those that somebody here has made.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::folder::Kind;
use crate::unpack::LINK_MARK;

/// How many links are followed along a path: as many as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Returns the first symbolic link on the way along a path that came out of a guest, the path itself among them;
/// none if there is none. Links that somebody here has made are followed as the kernel follows them.
pub fn link_of_a_guest(path: &Path) -> Option<PathBuf> {
    let mut rest: Vec<OsString> = Vec::new();
    let follow = |rest: &mut Vec<OsString>, path: &Path| {
        let parts = path.components().rev();
        rest.extend(parts.map(|part| part.as_os_str().to_owned()));
    };
    follow(&mut rest, &std::path::absolute(path).ok()?);
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(part) = rest.pop() {
        if part == "." {
            continue;
        }
        if part == ".." {
            // What is left behind is no link.
            at.pop();
            continue;
        }
        // The root begins anew.
        at.push(part);
        let Ok(stat) = rustix::fs::lstat(&at) else {
            return None;
        };
        if Kind::of(&stat) != Kind::Link {
            continue;
        }
        links += 1;
        if stat.st_mtime == LINK_MARK {
            return Some(at);
        }
        if links > MOST_LINKS {
            return None;
        }
        let target = std::fs::read_link(&at).ok()?;
        at.pop();
        follow(&mut rest, &target);
    }
    None
}
