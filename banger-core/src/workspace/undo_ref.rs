//! What is written into a user's repository: one ref to undo by, and the pack that it needs. By ourselves, beneath
//! a handle and with git's own locks: a git that is started there reads what the repository has configured, and
//! runs it.

use std::path::{Path, PathBuf};

use banger_foreign::{Folder, ForeignError, Look, Settle};

use crate::host::{HostError, OpenFile};
use crate::workspace::WorkspaceError;
use crate::workspace::find::Found;
use crate::workspace::git::{Git, option, words};
use crate::workspace::open::{Repository, blocking};

/// The most that packed refs may have, in bytes.
const LONGEST_LIST: u64 = 32 << 20;

/// The ref by which what came from a VM can be undone.
pub(super) fn undo_ref(vm: &str) -> String {
    format!("refs/banger/undo/{vm}")
}

/// Puts a pack and its index into a repository, under the names that git gives them.
pub(super) async fn put_pack(
    repository: &Repository,
    made: &Path,
    id: &str,
) -> Result<(), WorkspaceError> {
    let (found, made, id) = (repository.found.clone(), made.to_owned(), id.to_owned());
    blocking(move || {
        let place = Place::of(&found)?;
        place
            .folder
            .make_folder(Path::new("objects/pack"), place.look(0o755))
            .map_err(refused)?;
        // The index last: by it git finds the pack.
        for end in ["pack", "idx"] {
            let name = format!("pack-{id}.{end}");
            let from = made.join(format!("undo-{id}.{end}"));
            let opened = banger_foreign::open_named(&from).map_err(refused)?;
            let mut from: OpenFile = opened.ok_or_else(|| WorkspaceError::Files {
                path: from,
                said: "the pack that was made is gone".to_owned(),
            })?;
            place
                .folder
                .put(
                    &Path::new("objects/pack").join(&name),
                    &format!("tmp_banger_{id}.{end}"),
                    &mut from,
                    place.look(0o444),
                    Settle::Now,
                )
                .map_err(refused)?;
        }
        Ok(())
    })
    .await
}

/// Moves the ref to undo by, or removes it, in the repository itself.
pub(super) async fn point(
    git: &Git<'_>,
    repository: &Repository,
    undo_ref: &str,
    to: Option<&str>,
    scratch: &Path,
) -> Result<(), WorkspaceError> {
    if repository.ref_storage() == "reftable" {
        return point_in_tables(git, repository, undo_ref, to, scratch).await;
    }
    let (found, name) = (repository.found.clone(), PathBuf::from(undo_ref));
    let to = to.map(str::to_owned);
    blocking(move || {
        let place = Place::of(&found)?;
        match to {
            Some(id) => {
                let parent = name.parent().unwrap_or(Path::new("refs"));
                place
                    .folder
                    .make_folder(parent, place.look(0o755))
                    .map_err(refused)?;
                place.put_locked(&name, format!("{id}\n").as_bytes())
            }
            None => {
                place.forget_packed(&name)?;
                place.folder.remove(&name).map_err(refused)
            }
        }
    })
    .await
}

/// Tables of refs are git's to write. It does in a git dir of ours, which has a configuration of ours and no hooks,
/// and in which the tables alone are the repository's.
async fn point_in_tables(
    git: &Git<'_>,
    repository: &Repository,
    undo_ref: &str,
    to: Option<&str>,
    scratch: &Path,
) -> Result<(), WorkspaceError> {
    let stand_in = scratch.join("tables");
    git.host.create_dir(&stand_in.join("refs")).await?;
    git.host.create_dir(&stand_in.join("objects/info")).await?;
    let objects = repository.found.common_dir.join("objects");
    use std::os::unix::ffi::OsStrExt;
    let alternates = banger_session::workspace::quoted_path(objects.as_os_str().as_bytes());
    let config = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\trefstorage = reftable\n";
    let format = format!("\tobjectformat = {}\n", repository.object_format());
    for (name, text) in [
        ("HEAD", "ref: refs/heads/.invalid\n".to_owned()),
        ("config", format!("{config}{format}")),
        ("objects/info/alternates", format!("{alternates}\n")),
    ] {
        git.host
            .write_file(&stand_in.join(name), text.as_bytes(), 0o600)
            .await?;
    }
    let found = repository.found.clone();
    let link = stand_in.join("reftable");
    blocking(move || {
        let place = Place::of(&found)?;
        // It is one, and no link: nobody's else is written.
        place
            .folder
            .folder(Path::new("reftable"))
            .map_err(refused)?;
        let tables = found.common_dir.join("reftable");
        banger_foreign::make_link(&tables, &link).map_err(refused)
    })
    .await?;
    let mut words = words![option("--git-dir", &stand_in), "update-ref"].to_vec();
    match to {
        Some(to) => words.extend(words![undo_ref, to]),
        None => words.extend(words!["-d", undo_ref]),
    }
    git.must("update-ref", &repository.root, words, &[]).await?;
    Ok(())
}

/// The folder in a repository that all its worktrees share.
struct Place<'a> {
    folder: Folder,
    found: &'a Found,
    group: u32,
}

impl<'a> Place<'a> {
    fn of(found: &'a Found) -> Result<Self, WorkspaceError> {
        let folder = Folder::open(&found.common_dir).map_err(refused)?;
        let stat = folder.stat(Path::new("")).map_err(refused)?;
        Ok(Place {
            group: stat.map_or(found.owner, |stat| stat.st_gid),
            folder,
            found,
        })
    }

    /// What is written in somebody's repository is theirs.
    fn look(&self, mode: u32) -> Look {
        let us = self.found.us;
        Look {
            mode,
            owner: (us == 0 && self.found.owner != us).then_some((self.found.owner, self.group)),
        }
    }

    fn put_locked(&self, name: &Path, text: &[u8]) -> Result<(), WorkspaceError> {
        let mut lock = name.file_name().unwrap_or_default().to_os_string();
        lock.push(".lock");
        let put = self.folder.put(
            name,
            &lock.to_string_lossy(),
            &mut &*text,
            self.look(0o644),
            Settle::Now,
        );
        put.map_err(refused)
    }

    /// Takes a ref out of the packed ones, if it is there.
    fn forget_packed(&self, name: &Path) -> Result<(), WorkspaceError> {
        let packed = Path::new("packed-refs");
        let read = self.folder.read(packed, LONGEST_LIST).map_err(refused)?;
        let ours = format!(" {}", name.display());
        let (mut kept, mut dropped) = (Vec::new(), false);
        let mut is_ours = false;
        for line in read
            .unwrap_or_default()
            .split_inclusive(|byte| *byte == b'\n')
        {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            // What a tag stands for follows it.
            is_ours = match text.first() {
                Some(b'^') => is_ours,
                _ => text.ends_with(ours.as_bytes()),
            };
            match is_ours {
                true => dropped = true,
                false => kept.extend_from_slice(line),
            }
        }
        match dropped {
            true => self.put_locked(packed, &kept),
            false => Ok(()),
        }
    }
}

fn refused(error: ForeignError) -> WorkspaceError {
    HostError::from(error).into()
}
