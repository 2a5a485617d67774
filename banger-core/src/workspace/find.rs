//! Where a repository lies, found by ourselves: git would read its configuration on the way.
//!
//! The git dir, what worktrees share, and the working tree are found once, and belong together: each lies
//! beneath the folder that holds `.git`, or points back to it. A `.git` file, a `commondir` or a
//! `core.worktree` that names another repository would have that one carried in its place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_foreign::{Folder, ForeignError, Kind};

use crate::host::HostError;
use crate::workspace::WorkspaceError;
use crate::workspace::record::Ownership;

/// The parts of a repository, without a link in their paths.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The root of its working tree; its git dir, if it is bare.
    pub(super) root: PathBuf,
    /// Its git dir; that of a linked worktree, if it is one.
    pub(super) git_dir: PathBuf,
    /// What all its worktrees share.
    pub(super) common_dir: PathBuf,
    pub(super) bare: bool,
    /// Its configuration as text: what is shared, and then the worktree's own.
    pub(super) config: Vec<Vec<u8>>,
    /// Whose the git dir is.
    pub(super) owner: u32,
    /// Who looked for it.
    pub(super) us: u32,
}

/// A pointer file names one path.
const LONGEST_POINTER: u64 = 8 << 10;

/// The most that a configuration may have, in bytes.
const LONGEST_CONFIG: u64 = 1 << 20;

/// Finds the repository around a folder. Blocks.
pub(super) fn find(path: &Path, ownership: Ownership, us: u32) -> Result<Found, WorkspaceError> {
    let missing = || WorkspaceError::NotARepository {
        path: path.to_owned(),
    };
    // The user's own word: links in it lead where they lead.
    let start = path.canonicalize().map_err(|_| WorkspaceError::NoFolder {
        path: path.to_owned(),
    })?;
    let device = |folder: &Folder| {
        folder
            .stat(Path::new(""))
            .ok()
            .flatten()
            .map(|stat| stat.st_dev)
    };
    let mut first = None;
    for place in start.ancestors() {
        let folder = Folder::open(place).map_err(HostError::from)?;
        // As git: not across the border of a file system.
        let here = device(&folder);
        if *first.get_or_insert(here) != here {
            break;
        }
        let seeker = Seeker {
            asked: path,
            ownership,
            us,
        };
        match folder.kind(Path::new(".git")).map_err(HostError::from)? {
            Some(Kind::Folder) => return seeker.own_folder(&folder, place),
            Some(Kind::File) => return seeker.pointed_to(&folder, place),
            Some(kind) => {
                return Err(seeker.astray(place, &format!("its .git is {kind}")));
            }
            None if is_git_dir(&folder)? => return seeker.bare(&folder, place),
            None => {}
        }
    }
    Err(missing())
}

struct Seeker<'a> {
    asked: &'a Path,
    ownership: Ownership,
    us: u32,
}

impl Seeker<'_> {
    fn own_folder(&self, tree: &Folder, root: &Path) -> Result<Found, WorkspaceError> {
        let git_dir = root.join(".git");
        let folder = self.open(&git_dir)?;
        if !is_git_dir(&folder)? {
            return Err(WorkspaceError::NotARepository {
                path: self.asked.to_owned(),
            });
        }
        self.owned(tree)?;
        let owner = self.owned(&folder)?;
        if folder
            .kind(Path::new("commondir"))
            .map_err(HostError::from)?
            .is_some()
        {
            let said = "its .git says that it is another repository's worktree";
            return Err(self.astray(root, said));
        }
        let found = Found {
            root: root.to_owned(),
            common_dir: git_dir.clone(),
            git_dir,
            bare: false,
            config: self.config(&folder, &folder)?,
            owner,
            us: self.us,
        };
        if let Some(tree) = found.work_tree()
            && tree != root
        {
            let said = format!(
                "its configuration says that its files lie in {}",
                tree.display()
            );
            return Err(self.astray(root, &said));
        }
        Ok(found)
    }

    /// A linked worktree, a submodule, or a git dir that was put elsewhere.
    fn pointed_to(&self, tree: &Folder, root: &Path) -> Result<Found, WorkspaceError> {
        self.owned(tree)?;
        let named = pointer(tree, Path::new(".git"))?
            .and_then(|text| text.strip_prefix(b"gitdir:").map(<[u8]>::to_vec))
            .ok_or_else(|| self.astray(root, "its .git names no git dir"))?;
        let git_dir = resolved(root, &named)
            .ok_or_else(|| self.astray(root, "its .git names a git dir that is not there"))?;
        let folder = self.open(&git_dir)?;
        let owner = self.owned(&folder)?;
        let common_dir = match pointer(&folder, Path::new("commondir"))? {
            Some(named) => resolved(&git_dir, &named)
                .ok_or_else(|| self.astray(root, "what its worktrees share is not there"))?,
            None => git_dir.clone(),
        };
        let common = self.open(&common_dir)?;
        self.owned(&common)?;
        let found = Found {
            root: root.to_owned(),
            git_dir: git_dir.clone(),
            common_dir: common_dir.clone(),
            bare: false,
            config: self.config(&common, &folder)?,
            owner,
            us: self.us,
        };
        let is_worktree = common_dir != git_dir;
        let points_back = match is_worktree {
            // A linked worktree of that repository, which knows it.
            true => {
                let back = pointer(&folder, Path::new("gitdir"))?;
                let back = back.and_then(|back| resolved(&git_dir, &back));
                git_dir.starts_with(common_dir.join("worktrees"))
                    && back.is_some_and(|back| back == root.join(".git"))
            }
            false => {
                git_dir.starts_with(root) || found.work_tree().is_some_and(|tree| tree == root)
            }
        };
        match points_back {
            true => Ok(found),
            false => Err(self.astray(
                root,
                &format!(
                    "its .git names {}, which does not point back to it",
                    git_dir.display()
                ),
            )),
        }
    }

    fn bare(&self, folder: &Folder, place: &Path) -> Result<Found, WorkspaceError> {
        let owner = self.owned(folder)?;
        Ok(Found {
            root: place.to_owned(),
            git_dir: place.to_owned(),
            common_dir: place.to_owned(),
            bare: true,
            config: self.config(folder, folder)?,
            owner,
            us: self.us,
        })
    }

    fn config(&self, common: &Folder, own: &Folder) -> Result<Vec<Vec<u8>>, WorkspaceError> {
        let mut texts = Vec::new();
        for (folder, name) in [(common, "config"), (own, "config.worktree")] {
            let text = folder.read(Path::new(name), LONGEST_CONFIG);
            texts.extend(text.map_err(HostError::from)?);
        }
        Ok(texts)
    }

    /// Refuses what is another user's, as git does (`safe.directory` in git-config(1)).
    fn owned(&self, folder: &Folder) -> Result<u32, WorkspaceError> {
        let stat = folder.stat(Path::new("")).map_err(HostError::from)?;
        let owner = stat.map_or(self.us, |stat| stat.st_uid);
        match self.ownership == Ownership::Anybody || owner == self.us {
            true => Ok(owner),
            false => Err(WorkspaceError::Stranger {
                path: self.asked.to_owned(),
            }),
        }
    }

    fn open(&self, path: &Path) -> Result<Folder, WorkspaceError> {
        Ok(Folder::open(path).map_err(HostError::from)?)
    }

    fn astray(&self, root: &Path, said: &str) -> WorkspaceError {
        WorkspaceError::Astray {
            path: root.to_owned(),
            said: said.to_owned(),
        }
    }
}

impl Found {
    /// The working tree that the configuration names, if any. Read as text, without git, only to compare it.
    fn work_tree(&self) -> Option<PathBuf> {
        let named = self
            .config
            .iter()
            .rev()
            .find_map(|text| work_tree_in(text))?;
        resolved(&self.git_dir, named.as_bytes())
    }
}

/// Finds `worktree` in the section `core` of a configuration. What git would unquote is compared as git
/// writes it: it quotes only what holds `#`, `;` or blanks at its ends.
fn work_tree_in(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let (mut in_core, mut found) = (false, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_core = line.to_ascii_lowercase().starts_with("[core]");
        }
        let value = line.split_once('=').filter(|(key, _)| {
            let key = key.trim().rsplit(']').next().unwrap_or_default().trim();
            in_core && key.eq_ignore_ascii_case("worktree")
        });
        if let Some((_, value)) = value {
            let value = value.trim();
            let bare = value
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            found = Some(
                bare.unwrap_or(value)
                    .replace("\\\\", "\\")
                    .replace("\\\"", "\""),
            );
        }
    }
    found
}

/// A git dir holds these three.
fn is_git_dir(folder: &Folder) -> Result<bool, WorkspaceError> {
    let kind = |name: &str| folder.kind(Path::new(name)).map_err(HostError::from);
    Ok(kind("HEAD")?.is_some() && kind("objects")?.is_some() && kind("refs")?.is_some())
}

/// Reads a file that names one path.
pub(super) fn pointer(folder: &Folder, name: &Path) -> Result<Option<Vec<u8>>, WorkspaceError> {
    let text = folder
        .read(name, LONGEST_POINTER)
        .map_err(HostError::from)?;
    Ok(text.map(|mut text| {
        while text
            .last()
            .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
        {
            text.pop();
        }
        text
    }))
}

/// A path that a file in `folder` names, without links; none if it is not there.
pub(super) fn resolved(folder: &Path, named: &[u8]) -> Option<PathBuf> {
    let start = named.iter().position(|byte| *byte != b' ')?;
    let path = folder.join(OsStr::from_bytes(&named[start..]));
    path.canonicalize().ok()
}

/// The folders of objects that a repository borrows from, its own first. Those that it names are its word
/// only: each must be a folder of objects of the same owner.
pub(super) fn object_folders(found: &Found) -> Result<Vec<PathBuf>, WorkspaceError> {
    let mut folders = vec![found.common_dir.join("objects")];
    let mut next = 0;
    while let Some(place) = folders.get(next).cloned() {
        next += 1;
        let refused = |error: ForeignError| WorkspaceError::from(HostError::from(error));
        let folder = Folder::open(&place).map_err(refused)?;
        if next > 1 {
            let stat = folder.stat(Path::new("")).map_err(refused)?;
            let is_theirs = stat.is_some_and(|stat| stat.st_uid == found.owner);
            let holds = folder.kind(Path::new("pack")).map_err(refused)? == Some(Kind::Folder);
            if !is_theirs || !holds {
                return Err(WorkspaceError::Astray {
                    path: found.root.clone(),
                    said: format!(
                        "it borrows objects from {}, which is another's",
                        place.display()
                    ),
                });
            }
        }
        let named = folder
            .read(Path::new("info/alternates"), LONGEST_CONFIG)
            .map_err(refused)?
            .unwrap_or_default();
        for line in named.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            // One that is not there any more git leaves out, too.
            let there = place.join(OsStr::from_bytes(line)).canonicalize();
            if let Ok(there) = there
                && !folders.contains(&there)
            {
                folders.push(there);
            }
            if folders.len() > MOST_BORROWED {
                return Err(WorkspaceError::Astray {
                    path: found.root.clone(),
                    said: "it borrows objects from too many others".to_owned(),
                });
            }
        }
    }
    Ok(folders)
}

/// The most folders of objects that one repository borrows from.
const MOST_BORROWED: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_tree_is_found_where_git_writes_it() {
        for (text, expected) in [
            ("[core]\n\tworktree = ../../../sub\n", Some("../../../sub")),
            (
                "[core]\n\tbare = false\n\tWorkTree=/a b\n[x]\n\tworktree = /no\n",
                Some("/a b"),
            ),
            ("[core] worktree = \"/a;b\"\n", Some("/a;b")),
            ("[core \"x\"]\n\tworktree = /no\n", None),
            ("", None),
        ] {
            assert_eq!(
                work_tree_in(text.as_bytes()).as_deref(),
                expected,
                "{text:?}"
            );
        }
    }
}
