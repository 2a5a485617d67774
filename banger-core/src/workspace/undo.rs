//! Taking back what was applied.

use banger_session::workspace::patch::MODE_SUBMODULE;

use crate::engine::Engine;
use crate::error::Error;
use crate::session::ByteText;
use crate::workspace::WorkspaceError;
use crate::workspace::apply::{Applied, Rehearse, Target, TouchedFile};
use crate::workspace::git::{Git, word_in};
use crate::workspace::inspect::Staging;
use crate::workspace::record::{Source, Workspace};
use crate::workspace::undo_ref::undo_ref;

impl Engine {
    /// Takes back what was last applied from a VM, which need not run. Files that were changed since stand
    /// in the way of that, and then nothing is taken back. It can be repeated, back to the first.
    pub async fn workspace_undo(
        &self,
        vm: &str,
        repository: Option<Source>,
    ) -> Result<Applied, Error> {
        let vm = self.lookup(vm).await?;
        let engine = self.clone();
        self.to_its_end(async move {
            let workspace = engine.recorded_workspace(&vm).await?;
            let staging = Staging::make(&engine).await?;
            let source = repository.as_ref();
            let undone = engine
                .undo_now(vm.name.as_str(), &workspace, source, staging.path())
                .await;
            staging.clear().await;
            Ok(undone?)
        })
        .await
    }

    async fn undo_now(
        &self,
        vm: &str,
        workspace: &Workspace,
        source: Option<&Source>,
        folder: &std::path::Path,
    ) -> Result<Applied, WorkspaceError> {
        let git = Git::new(self.inner.host());
        let target = Target::open(self, &git, workspace, source, folder).await?;
        let undo_ref = undo_ref(vm);
        let Some(applied) = target.undo_commit(&git, &undo_ref).await? else {
            return Err(WorkspaceError::NothingToUndo {
                vm: vm.to_owned(),
                path: target.repository.root.clone(),
            });
        };
        let shadow = &target.shadow;
        let name = async |what: &str| {
            let wanted = format!("{applied}{what}");
            let words = ["rev-parse", "--verify", "-q", &wanted];
            Ok::<_, WorkspaceError>(word_in(&shadow.git(&git, "rev-parse", &words, &[]).await?))
        };
        let (after, before) = (name("^{tree}").await?, name("^1^{tree}").await?);
        let earlier = name("^2").await.ok();
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
            let old = change.old_path.as_deref().unwrap_or(&change.path);
            change.old_mode != 0 && change.old_mode != MODE_SUBMODULE && differ.contains(&old)
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
        target.point(&git, &undo_ref, earlier.as_deref()).await?;
        Ok(Applied {
            root: ByteText(target.root_bytes()),
            files,
            undo_ref: earlier.map(|_| undo_ref),
            notes: Vec::new(),
        })
    }
}
