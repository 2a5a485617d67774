//! Taking back what was applied.

use banger_session::workspace::patch::MODE_SUBMODULE;

use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::names::VmName;
use crate::session::ByteText;
use crate::vm::VMRecord;
use crate::workspace::WorkspaceError;
use crate::workspace::apply::{Applied, TouchedFile};
use crate::workspace::git::Git;
use crate::workspace::inspect::Staging;
use crate::workspace::record::Source;
use crate::workspace::target::{Rehearse, Target};
use crate::workspace::undo_record::{About, UndoRecord};
use crate::workspace::undo_ref::undo_ref;

impl Engine {
    /// Takes back what was last applied from a VM, which need not run, nor be there any more if the repository is
    /// named. Files that were changed since stand in the way of that, and then nothing is taken back. It can be
    /// repeated, back to the first. What the guest has is compared again with what it was compared with before.
    pub async fn workspace_undo(
        &self,
        vm: &str,
        repository: Option<Source>,
    ) -> Result<Applied, Error> {
        let (name, known) = match self.lookup(vm).await {
            Ok(found) => (found.name.as_str().to_owned(), Some(found)),
            // Its name is that of a ref, and no part of a path.
            Err(error) => match (vm.parse::<VmName>(), &repository) {
                (Ok(name), Some(_)) if error.kind() == ErrorKind::NotFound => {
                    (name.as_str().to_owned(), None)
                }
                _ => return Err(error),
            },
        };
        let engine = self.clone();
        self.to_its_end(async move {
            let recorded = match &known {
                Some(vm) => engine.inner.store.workspace(&vm.id).await?,
                None => None,
            };
            let missing = |vm: &VMRecord| WorkspaceError::None {
                vm: vm.name.clone(),
            };
            let source = match (repository, &recorded, &known) {
                (Some(source), ..) => source,
                (None, Some(workspace), _) => workspace.source(),
                (None, None, Some(vm)) => return Err(missing(vm).into()),
                (None, None, None) => Source::new("/"),
            };
            let staging = Staging::make(&engine).await?;
            let undone = engine.undo_now(&name, &source, staging.path()).await;
            staging.clear().await;
            let (applied, about) = undone?;
            if let (Some(vm), Some(mut workspace)) = (known, recorded)
                && about.vm_id == vm.id.as_str()
                && about.taken == workspace.base
                && about.base != about.taken
            {
                workspace.base = about.base;
                engine.inner.store.set_workspace(&vm.id, &workspace).await?;
            }
            Ok(applied)
        })
        .await
    }

    async fn undo_now(
        &self,
        vm: &str,
        source: &Source,
        folder: &std::path::Path,
    ) -> Result<(Applied, About), WorkspaceError> {
        let git = Git::new(self.inner.host());
        let target = Target::open(self, &git, source, folder).await?;
        let undo_ref = undo_ref(vm);
        let shadow = &target.shadow;
        let Some(record) = UndoRecord::read(&git, shadow, &undo_ref).await? else {
            return Err(WorkspaceError::NothingToUndo {
                vm: vm.to_owned(),
                path: target.repository.root.clone(),
            });
        };
        let UndoRecord {
            before,
            after,
            earlier,
            about,
        } = record;
        shadow
            .git(&git, "read-tree", &["read-tree", &after], &[])
            .await?;
        // It says which files differ by its status; that is asked for next.
        let refresh = ["update-index", "-q", "--ignore-submodules", "--refresh"];
        let _ = shadow.git(&git, "update-index", &refresh, &[]).await;
        let files = target.touched(&git, &after, &before).await?;
        let differ = ["diff-files", "--ignore-submodules=all", "-z", "--name-only"];
        let differ = shadow.git(&git, "diff-files", &differ, &[]).await?;
        let differ: Vec<&[u8]> = differ.split(|&byte| byte == 0).collect();
        let is_changed = |file: &&TouchedFile| {
            let change = &file.change;
            change.old_mode != 0
                && change.old_mode != MODE_SUBMODULE
                && differ.contains(&change.was_at().as_slice())
        };
        let changed: Vec<_> = files.iter().filter(is_changed).collect();
        if !changed.is_empty() {
            let shown =
                |file: &&TouchedFile| String::from_utf8_lossy(&file.change.path).into_owned();
            return Err(WorkspaceError::ChangedSince {
                paths: changed.iter().map(shown).collect(),
            });
        }
        target.refuse_in_the_way(&git, &files).await?;
        target.switch(&git, Rehearse::No, &after, &before).await?;
        if let Some(earlier) = &earlier {
            // As an older banger kept it, it is not in the repository yet.
            target.keep(&git, earlier, None, folder).await?;
        }
        target.point(&git, &undo_ref, earlier.as_deref()).await?;
        let applied = Applied {
            root: ByteText(target.root_bytes()),
            files,
            undo_ref: earlier.map(|_| undo_ref),
            notes: Vec::new(),
        };
        Ok((applied, about))
    }
}
