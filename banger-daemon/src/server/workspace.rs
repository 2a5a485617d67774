//! What each method of workspaces does, and the stream of a patch.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use banger_core::{
    Applied, ApplyRequest, Change, Effect, Error, Freshness, GuestPath, Inspection, Overwrite,
    Ownership, PrepareRequest, Prepared, Source, TouchedFile, Untracked, Workspace, WorkspaceError,
    WorkspaceExport as Export, WorkspaceMode,
};
use banger_session::mux::{Control, Stream};

use super::fault::{Fault, in_one_line};
use super::hangup::Hangup;
use super::methods::Operation;
use super::stop::Stop;
use super::tickets::Held;
use crate::protocol::*;
use crate::stream::{StreamError, StreamWriter};

/// How long a client may take to read that the daemon is ending.
const FAREWELL: Duration = Duration::from_secs(2);

impl Operation {
    pub(super) async fn workspace_inspect(
        &self,
        params: InspectParams,
    ) -> Result<RepositoryInfo, Fault> {
        let request = request_of(params.what, WorkspaceInspect::NAME)?;
        let inspected = async { Ok(self.engine().workspace_inspect(&request).await?.into()) };
        self.while_wanted(inspected).await
    }

    pub(super) async fn workspace_prepare(
        &self,
        params: PrepareParams,
    ) -> Result<PrepareAnswer, Fault> {
        let PrepareParams { vm, what, dry_run } = params;
        let request = request_of(what, WorkspacePrepare::NAME)?;
        let engine = self.engine();
        if dry_run {
            let planned = engine.workspace_plan(&vm, &request);
            let (inspection, replaces) = self
                .while_wanted(self.waiting_for_guest(&vm, planned))
                .await?;
            return Ok(PrepareAnswer {
                workspace: None,
                repository: inspection.into(),
                bytes: 0,
                replaces,
            });
        }
        let prepared = engine.workspace_prepare(&vm, request, &self.progress);
        let prepared = self
            .while_wanted(self.waiting_for_guest(&vm, prepared))
            .await?;
        Ok(prepared.into())
    }

    pub(super) async fn workspace_refresh(
        &self,
        params: VmParams,
    ) -> Result<Option<PrepareAnswer>, Fault> {
        let vm = params.vm;
        let engine = self.engine();
        let refreshed = engine.workspace_refresh(&vm, &self.progress);
        let refreshed = self.while_wanted(self.waiting_for_guest(&vm, refreshed));
        Ok(refreshed.await?.map(PrepareAnswer::from))
    }

    pub(super) async fn workspace_show(
        &self,
        params: VmParams,
    ) -> Result<WorkspaceShowAnswer, Fault> {
        let Some(workspace) = self.engine().workspace(&params.vm).await? else {
            return Ok(WorkspaceShowAnswer {
                workspace: None,
                host: None,
                detail: None,
            });
        };
        let (host, detail) = match self.engine().workspace_freshness(&workspace).await {
            Freshness::Fresh => ("fresh", None),
            Freshness::Moved { head } => ("moved", Some(head)),
            Freshness::Unknown { reason } => ("unknown", Some(reason)),
        };
        Ok(WorkspaceShowAnswer {
            workspace: Some(workspace.into()),
            host: Some(host.to_owned()),
            detail,
        })
    }

    /// The folder of a VM's workspace, and what to say if the repository here has moved on since.
    pub(super) async fn workspace_home(
        &self,
        vm: &str,
    ) -> Result<(Option<Vec<u8>>, Option<String>), Fault> {
        let Some(workspace) = self.engine().workspace(vm).await? else {
            return Ok((None, None));
        };
        let note = match self.engine().workspace_freshness(&workspace).await {
            Freshness::Moved { head } => Some(format!(
                "{} has moved on to {} since it was carried into {vm} at {}; bring it up to date: \
                 banger vm workspace prepare {vm} {}",
                workspace.name,
                short(&head),
                short(&workspace.host_head),
                String::from_utf8_lossy(&workspace.host_root.0).escape_debug(),
            )),
            Freshness::Fresh | Freshness::Unknown { .. } => None,
        };
        Ok((Some(workspace.guest_path.0), note))
    }

    pub(super) async fn workspace_export(
        &self,
        params: ExportParams,
    ) -> Result<TicketAnswer, Fault> {
        let export = self
            .engine()
            .workspace_export(&params.vm, params.base.as_deref());
        let export = self
            .while_wanted(self.waiting_for_guest(&params.vm, export))
            .await?;
        let notes = export.notes().join("\n");
        let note = Some(notes).filter(|notes| !notes.is_empty());
        let ticket = self.shared.tickets.issue(Held::Export(Box::new(export)))?;
        Ok(TicketAnswer { ticket, note })
    }

    pub(super) async fn workspace_changes(
        &self,
        params: ExportParams,
    ) -> Result<ChangesAnswer, Fault> {
        let changes = self
            .engine()
            .workspace_changes(&params.vm, params.base.as_deref());
        let changes = self
            .while_wanted(self.waiting_for_guest(&params.vm, changes))
            .await?;
        Ok(ChangesAnswer {
            files: changes.files.into_iter().map(FileChange::from).collect(),
            notes: changes.notes,
        })
    }

    pub(super) async fn workspace_apply(&self, params: ApplyParams) -> Result<ApplyAnswer, Fault> {
        let request = ApplyRequest {
            repository: source_of(params.path, params.any_owner, WorkspaceApply::NAME)?,
            base: params.base,
            effect: match params.check {
                true => Effect::Check,
                false => Effect::Apply,
            },
        };
        let applied = self
            .engine()
            .workspace_apply(&params.vm, request, &self.progress);
        let applied = self.while_wanted(self.waiting_for_guest(&params.vm, applied));
        Ok(applied.await?.into())
    }

    pub(super) async fn workspace_undo(&self, params: UndoParams) -> Result<ApplyAnswer, Fault> {
        let source = source_of(params.path, params.any_owner, WorkspaceUndo::NAME)?;
        Ok(self
            .engine()
            .workspace_undo(&params.vm, source)
            .await?
            .into())
    }
}

/// Sends a patch to its end.
pub(super) async fn serve_export(
    mut export: Export,
    mut write: StreamWriter,
    hangup: &Hangup,
    stop: &Stop,
) {
    let sent = tokio::select! {
        sent = tell(&mut export, &mut write, stop) => sent,
        // Dropping it ends it in the guest too.
        () = hangup.happened() => Ok(()),
        () = async { stop.asked().await; tokio::time::sleep(FAREWELL).await } => Ok(()),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "the reader of a patch is gone");
    }
}

async fn tell(
    export: &mut Export,
    write: &mut StreamWriter,
    stop: &Stop,
) -> Result<(), StreamError> {
    loop {
        let piece = tokio::select! {
            piece = export.next() => piece,
            () = stop.asked() => {
                let error = "the daemon is stopping".to_owned();
                return write.send_control(&Control::Lost { error }).await;
            }
        };
        match piece {
            Ok(Some(bytes)) => write.send_data(Stream::Stdout, &bytes).await?,
            Ok(None) => {
                write.put_end(Stream::Stdout);
                return write.send_control(&Control::Exit { exit_code: 0 }).await;
            }
            Err(error) => {
                let rpc = Fault::from(error).into_rpc("export".to_owned());
                let kind = rpc.data.as_ref().map(|data| data.kind.clone());
                return write
                    .send_control(&Control::Error {
                        error: in_one_line(&rpc),
                        kind: kind.unwrap_or_default(),
                    })
                    .await;
            }
        }
    }
}

fn request_of(what: Carry, method: &'static str) -> Result<PrepareRequest, Fault> {
    let source = source_of(Some(what.path), what.any_owner, method)?;
    let guest_path = match what.guest_path {
        Some(path) => GuestPath::new(&Vec::from(path))
            .map_err(|error| Error::from(WorkspaceError::from(error)))?,
        None => GuestPath::default(),
    };
    let mode = match what.mode.as_deref() {
        None => WorkspaceMode::default(),
        Some(word) => WorkspaceMode::from_word(word).ok_or_else(|| Fault::Params {
            method,
            reason: format!("mode: {word:?}; there are shallow and full-copy"),
        })?,
    };
    Ok(PrepareRequest {
        source: source.unwrap_or_else(|| Source::new("/")),
        mode,
        branch: what.branch,
        from: what.from,
        untracked: match what.include_untracked {
            true => Untracked::Carry,
            false => Untracked::Leave,
        },
        guest_path,
        overwrite: match what.force {
            true => Overwrite::Force,
            false => Overwrite::Refuse,
        },
    })
}

/// A commit as people say it.
fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

fn source_of(
    path: Option<Bytes>,
    any_owner: bool,
    method: &'static str,
) -> Result<Option<Source>, Fault> {
    let Some(path) = path else {
        return Ok(None);
    };
    let path = PathBuf::from(OsString::from_vec(path.into()));
    if !path.is_absolute() {
        return Err(Fault::Params {
            method,
            reason: format!("path: {} is not absolute", path.display()),
        });
    }
    let ownership = match any_owner {
        true => Ownership::Anybody,
        false => Ownership::OurOwn,
    };
    Ok(Some(Source { path, ownership }))
}

impl From<Inspection> for RepositoryInfo {
    fn from(found: Inspection) -> Self {
        let bytes =
            |paths: Vec<banger_core::ByteText>| paths.into_iter().map(|p| p.0.into()).collect();
        RepositoryInfo {
            root: found.root.0.into(),
            name: found.name,
            head: found.head,
            branch: found.branch,
            origin: found.origin,
            identity: found.identity,
            changed: bytes(found.changed),
            deleted: bytes(found.deleted),
            untracked: bytes(found.untracked),
            submodules: bytes(found.submodules),
            notes: found.notes,
        }
    }
}

impl From<Prepared> for PrepareAnswer {
    fn from(prepared: Prepared) -> Self {
        PrepareAnswer {
            workspace: Some(prepared.workspace.into()),
            repository: prepared.inspection.into(),
            bytes: prepared.bytes,
            replaces: prepared.replaced,
        }
    }
}

impl From<Workspace> for WorkspaceInfo {
    fn from(workspace: Workspace) -> Self {
        WorkspaceInfo {
            guest_path: workspace.guest_path.0.into(),
            host_root: workspace.host_root.0.into(),
            name: workspace.name,
            mode: workspace.mode,
            branch: workspace.branch,
            head: workspace.head,
            base: workspace.base,
            host_head: workspace.host_head,
            carried: workspace.carried,
            prepared_at: workspace.prepared_at.to_string(),
        }
    }
}

impl From<Change> for FileChange {
    fn from(change: Change) -> Self {
        FileChange {
            change: change.kind.as_str().to_owned(),
            path: change.path.into(),
            old_path: change.old_path.map(Bytes::from),
            mode: (change.new_mode != 0).then(|| format!("{:06o}", change.new_mode)),
            added: change.lines.map(|(added, _)| added),
            removed: change.lines.map(|(_, removed)| removed),
            look: None,
        }
    }
}

impl From<TouchedFile> for FileChange {
    fn from(file: TouchedFile) -> Self {
        FileChange {
            look: file.look,
            ..file.change.into()
        }
    }
}

impl From<Applied> for ApplyAnswer {
    fn from(applied: Applied) -> Self {
        ApplyAnswer {
            root: applied.root.0.into(),
            files: applied.files.into_iter().map(FileChange::from).collect(),
            undo_ref: applied.undo_ref,
            notes: applied.notes,
        }
    }
}
