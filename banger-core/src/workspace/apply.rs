//! A guest's changes onto the host's repository as it is now.
//!
//! Both sides know a tree that they had in common: what was carried in, and since then what was last brought home.
//! What was done since on either side is merged in a shadow, and what it touches is read off the result, path by
//! path. Only when all of it fits is anything of the repository's written: one pack of objects, one ref to undo it
//! by, and then the files. What the guest has then is what the next apply begins from.

use std::path::Path;

use banger_session::workspace::patch::{Change, MODE_SUBMODULE};

use crate::engine::Engine;
use crate::error::Error;
use crate::progress::Progress;
use crate::session::ByteText;
use crate::vm::VMRecord;
use crate::workspace::WorkspaceError;
use crate::workspace::export::base_of;
use crate::workspace::git::Git;
use crate::workspace::inspect::Staging;
use crate::workspace::record::{Source, Workspace};
use crate::workspace::take_out::{Keep, Taken};
use crate::workspace::target::{Rehearse, Target, changes_between, refuse_bad_changes};
use crate::workspace::too_much::refuse_written;
use crate::workspace::undo_record::About;
use crate::workspace::undo_ref::undo_ref;

/// What is to be applied where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyRequest {
    /// The repository; the one that was carried, if none is named.
    pub repository: Option<Source>,
    /// A commit of the guest's to compare with; what both sides last had, if none is named.
    pub base: Option<String>,
    /// Whether anything is to be written.
    pub effect: Effect,
}

/// Whether anything is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// The changes are applied.
    #[default]
    Apply,
    /// It is only found out whether they could be, and what they touch.
    Check,
}

/// What was, or would be, changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The root of the repository.
    pub root: ByteText,
    /// What, compared with the files as they were.
    pub files: Vec<TouchedFile>,
    /// The ref by which it can be undone; none if nothing was written.
    pub undo_ref: Option<String>,
    /// What a person should know of it, a sentence each: what did not come along, and why.
    pub notes: Vec<String>,
}

/// A file that is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TouchedFile {
    /// What happens to it.
    pub change: Change,
    /// Why it deserves a look before anything else is run in the repository.
    pub look: Option<String>,
}

impl Engine {
    /// Applies what changed in a VM's workspace to a repository of this host as it is now, by a three-way
    /// merge, all of it or nothing. Its index stays as it is: the changes are those of the working tree.
    pub async fn workspace_apply(
        &self,
        vm: &str,
        request: ApplyRequest,
        progress: &Progress,
    ) -> Result<Applied, Error> {
        let vm = self.lookup(vm).await?;
        let workspace = self.recorded_workspace(&vm).await?;
        let staging = Staging::make(self).await?;
        // Until something is written it ends with whoever waits for it.
        let merged = self
            .merge_in(&vm, &workspace, &request, &staging, progress)
            .await;
        match merged {
            Ok(merged) if request.effect == Effect::Check => {
                staging.clear().await;
                Ok(merged.told(None))
            }
            Ok(merged) => {
                let engine = self.clone();
                // To its end: files that are half written help nobody.
                self.to_its_end(async move {
                    let applied = merged.write(&engine, &vm, workspace, staging.path()).await;
                    staging.clear().await;
                    applied
                })
                .await
            }
            Err(error) => {
                staging.clear().await;
                Err(error)
            }
        }
    }

    async fn merge_in(
        &self,
        vm: &VMRecord,
        workspace: &Workspace,
        request: &ApplyRequest,
        staging: &Staging,
        progress: &Progress,
    ) -> Result<Merged, Error> {
        let (git, folder) = (Git::new(self.inner.host()), staging.path());
        let source = request.repository.clone();
        let source = source.unwrap_or_else(|| workspace.source());
        let target = Target::open(self, &git, &source, folder).await?;
        let here = target.take_up(&git).await?;

        progress.tell("workspace", "taking the changes out of the guest");
        let keep = match request.effect {
            Effect::Apply => Keep::Yes,
            Effect::Check => Keep::No,
        };
        let base = base_of(workspace, request.base.as_deref())?;
        let shadow = &target.shadow;
        let taken = self.take_out(vm, workspace, &base, keep, shadow, folder);
        let Taken { trees, mut notes } = taken.await?;
        let changes = changes_between(shadow, &git, &trees.from, &trees.tree).await?;
        refuse_bad_changes(&changes)?;
        notes.extend(submodules_that_stay(&changes));
        let theirs = target
            .with_submodules_of(&git, &trees.tree, &changes)
            .await?;
        let before = target.take_up_carried(&git, &changes, here).await?;

        progress.tell("workspace", "merging");
        let after = target.merge(&git, &trees.from, &before, &theirs).await?;
        let files = target.touched(&git, &before, &after).await?;
        let bytes = target.bytes_of(&git, &files).await?;
        let bytes = refuse_written(bytes).map_err(|source| WorkspaceError::TooMuch {
            vm: vm.name.clone(),
            source,
        })?;
        self.inner.check_room(&target.shadow.root, bytes).await?;
        target.refuse_in_the_way(&git, &files).await?;
        target.switch(&git, Rehearse::Yes, &before, &after).await?;
        // What goes elsewhere, or is only a part of it, is not what both sides have.
        let is_home = target.repository.root == workspace.root() && request.base.is_none();
        let taken = match is_home && !trees.commit.is_empty() {
            true => trees.commit,
            false => base.clone(),
        };
        let about = About {
            vm_id: vm.id.as_str().to_owned(),
            base,
            taken,
        };
        Ok(Merged {
            target,
            before,
            after,
            files,
            notes,
            about,
        })
    }
}

/// Changes that fit, before the first of them is written.
struct Merged {
    target: Target,
    before: String,
    after: String,
    files: Vec<TouchedFile>,
    notes: Vec<String>,
    about: About,
}

impl Merged {
    /// What is told of it.
    fn told(self, undo_ref: Option<String>) -> Applied {
        Applied {
            root: ByteText(self.target.root_bytes()),
            files: self.files,
            undo_ref,
            notes: self.notes,
        }
    }

    /// Writes it, and remembers what both sides have since.
    async fn write(
        self,
        engine: &Engine,
        vm: &VMRecord,
        mut workspace: Workspace,
        folder: &Path,
    ) -> Result<Applied, Error> {
        let git = Git::new(engine.inner.host());
        let mut kept = None;
        if !self.files.is_empty() {
            let undo_ref = undo_ref(vm.name.as_str());
            let trees = (self.before.as_str(), self.after.as_str());
            let about = self.about.clone();
            self.target
                .write(&git, &undo_ref, trees, about, folder)
                .await?;
            kept = Some(undo_ref);
        }
        if self.about.taken != self.about.base {
            workspace.base = self.about.taken.clone();
            engine.inner.store.set_workspace(&vm.id, &workspace).await?;
        }
        Ok(self.told(kept))
    }
}

/// Says which submodules are on another commit in the guest: that does not come along.
fn submodules_that_stay(changes: &[Change]) -> Vec<String> {
    let moved = changes.iter().filter(|change| change.is_of_submodule());
    let told = moved.map(|change| {
        let path = String::from_utf8_lossy(&change.path);
        match change.new_mode {
            MODE_SUBMODULE => format!(
                "the submodule {path} is on commit {} in the guest, and stays here as it is: push that from there, and \
                 check it out here",
                change.new_object
            ),
            _ => format!("the submodule {path} is gone in the guest, and stays here as it is"),
        }
    });
    told.collect()
}
