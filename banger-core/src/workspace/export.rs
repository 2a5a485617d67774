//! What changed in a workspace, as a patch or as a list.

use banger_session::workspace::patch::{Change, parse_changes};
use banger_session::workspace::{Heading, changes_script, export_script};

use crate::engine::Engine;
use crate::error::Error;
use crate::vm::VMRecord;
use crate::workspace::WorkspaceError;
use crate::workspace::record::Workspace;
use crate::workspace::script::{ScriptOutput, read_heading, run_script_output, start_script};

/// The most that a list of changes may have, in bytes: some hundred thousand files.
const MAX_LIST: usize = 24 << 20;

/// The most that an exported patch may have, in bytes.
const LARGEST: u64 = 16 << 30;

/// A patch on its way. Dropping it ends it; the guest removes what it made for it.
pub struct WorkspaceExport {
    running: ScriptOutput,
    bytes: u64,
    /// What came with the heading.
    begun: Vec<u8>,
    notes: Vec<String>,
}

/// What changed in a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceChanges {
    /// By path.
    pub files: Vec<Change>,
    /// What a person should know of it, a sentence each: what does not come along, and why.
    pub notes: Vec<String>,
}

impl std::fmt::Debug for WorkspaceExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkspaceExport").finish_non_exhaustive()
    }
}

impl Engine {
    /// Begins to export everything that changed in a VM's workspace since it was prepared, or since
    /// `base`, a commit that the guest knows: commits, staged, changed and new files that are not ignored.
    /// The guest's index, objects and status stay as they are.
    ///
    /// Takes nobody's turn: a stop or delete of the VM ends it.
    pub async fn workspace_export(
        &self,
        vm: &str,
        base: Option<&str>,
    ) -> Result<WorkspaceExport, Error> {
        let vm = self.lookup(vm).await?;
        let workspace = self.recorded_workspace(&vm).await?;
        let base = base_of(&workspace, base)?;
        let script =
            export_script(&workspace.dest()?, &base).map_err(|_| unknown(&workspace, &base))?;
        let connection = self.connection(&vm, self.inner.config.limits.ready).await?;
        let silence = self.inner.config.limits.workspace;
        let mut running = start_script(&connection, "export", &vm, &script, silence).await?;
        running.stdin = None;
        let (heading, begun) = read_heading(&mut running).await?;
        Ok(WorkspaceExport {
            running,
            bytes: 0,
            begun,
            notes: heading.notes(),
        })
    }

    /// Lists what [`Engine::workspace_export`] would export.
    pub async fn workspace_changes(
        &self,
        vm: &str,
        base: Option<&str>,
    ) -> Result<WorkspaceChanges, Error> {
        let vm = self.lookup(vm).await?;
        let workspace = self.recorded_workspace(&vm).await?;
        self.changes(&vm, &workspace, base).await
    }

    pub(super) async fn changes(
        &self,
        vm: &VMRecord,
        workspace: &Workspace,
        base: Option<&str>,
    ) -> Result<WorkspaceChanges, Error> {
        let base = base_of(workspace, base)?;
        let script =
            changes_script(&workspace.dest()?, &base).map_err(|_| unknown(workspace, &base))?;
        let connection = self.connection(vm, self.inner.config.limits.ready).await?;
        let silence = self.inner.config.limits.workspace;
        let list = run_script_output(&connection, "export", vm, &script, silence, MAX_LIST).await?;
        let read = Heading::read(&list).map_err(WorkspaceError::from)?;
        let (heading, length) = read.unwrap_or_default();
        Ok(WorkspaceChanges {
            files: parse_changes(&list[length..]).map_err(WorkspaceError::from)?,
            notes: heading.notes(),
        })
    }
}

impl WorkspaceExport {
    /// What a person should know of it, a sentence each: what does not come along, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the next bytes of the patch; none when it is complete.
    ///
    /// # Errors
    ///
    /// The guest refused or was lost: what came is not the whole patch.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let piece = match self.begun.is_empty() {
            false => Some(std::mem::take(&mut self.begun)),
            true => self.running.next().await?.map(<[u8]>::to_vec),
        };
        self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        match self.bytes > LARGEST {
            true => {
                let reason = format!("its patch has more than {} GiB", LARGEST >> 30);
                Err(self.running.lost(reason).into())
            }
            false => Ok(piece),
        }
    }
}

pub(super) fn base_of(workspace: &Workspace, base: Option<&str>) -> Result<String, WorkspaceError> {
    match base {
        // git would take it for an option.
        Some(base) if base.starts_with('-') => Err(unknown(workspace, base)),
        Some(base) => Ok(base.to_owned()),
        None => Ok(workspace.base.clone()),
    }
}

fn unknown(workspace: &Workspace, base: &str) -> WorkspaceError {
    WorkspaceError::NoSuchName {
        what: "the commit",
        name: base.to_owned(),
        path: workspace.root().to_owned(),
    }
}
