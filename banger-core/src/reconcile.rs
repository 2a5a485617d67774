//! Making the records and the host agree again: collect, decide, do.
//!
//! Visits the union of rows, VM folders and host objects that carry this engine's id. Run at start-up,
//! and on demand while verbs are at work: each VM is visited in its turn. Running it twice does nothing
//! the second time.

mod plan;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::Error;
use crate::handles::{
    HandlesError, HandlesFile, HandlesPeek, VMHandles, peek_handles_file, read_handles_file,
};
use crate::host::{BootId, Host, HostError};
use crate::inventory::is_temporary;
use crate::liveness::{Monitor, Promise, VMState, Verdict, hold};
use crate::names::VmId;
use crate::places::{NEW, TRASH};
use crate::vm::VMRecord;

use plan::{Action, Facts, Folder, decide};

/// What a reconcile did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// One line for each VM with something to tell; those at rest are not in here.
    pub lines: Vec<ReportLine>,
}

/// What was done about one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportLine {
    /// Its name, or its id where there is no record.
    pub vm: String,
    /// A stable word: `kept`, `stopped`, `cleaned`, …
    pub action: String,
    /// The reason.
    pub detail: String,
    /// What went wrong while doing it.
    pub error: Option<String>,
}

impl Report {
    /// Says whether anything was, or would be, changed.
    pub fn changed(&self) -> bool {
        self.lines
            .iter()
            .any(|line| !matches!(line.action.as_str(), "kept" | "left alone" | "orphan"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            write!(f, "{}: {} ({})", line.vm, line.action, line.detail)?;
            if let Some(error) = &line.error {
                write!(f, "; failed: {error}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Whether a reconcile changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nobody is connected yet: what was to live no longer than its client is deleted.
    Opening,
    /// On demand, while clients are.
    Apply,
    Plan,
}

impl Engine {
    /// Makes the records and the host agree again. One VM's failure does not stop the others.
    pub async fn reconcile(&self) -> Result<Report, Error> {
        let engine = self.clone();
        self.to_its_end(async move { engine.visit_all(Mode::Apply).await })
            .await
    }

    /// Reconciles before anybody is served.
    pub(crate) async fn reconcile_at_start(&self) -> Result<Report, Error> {
        let engine = self.clone();
        self.to_its_end(async move { engine.visit_all(Mode::Opening).await })
            .await
    }

    /// Says what a reconcile would do, and does nothing.
    pub async fn reconcile_plan(&self) -> Result<Report, Error> {
        self.visit_all(Mode::Plan).await
    }

    async fn visit_all(&self, mode: Mode) -> Result<Report, Error> {
        let survey = Arc::new(self.survey().await?);
        let mut visits = tokio::task::JoinSet::new();
        let abreast = Arc::new(tokio::sync::Semaphore::new(16));
        for id in survey.ids.clone() {
            let (engine, survey, abreast) = (self.clone(), survey.clone(), abreast.clone());
            visits.spawn(async move {
                let _place = abreast.acquire_owned().await;
                engine.visit(&id, &survey, mode).await
            });
        }
        let mut lines = Vec::new();
        while let Some(visited) = visits.join_next().await {
            match visited {
                Ok(line) => lines.extend(line?),
                Err(stopped) if stopped.is_panic() => {
                    std::panic::resume_unwind(stopped.into_panic())
                }
                Err(_) => return Err(Error::Closing),
            }
        }
        lines.extend(self.sweep_runtime_folders(&survey, mode).await?);
        lines.sort_by(|a, b| a.vm.cmp(&b.vm));
        Ok(Report { lines })
    }

    /// Visits one VM in its turn.
    async fn visit(
        &self,
        id: &VmId,
        survey: &Survey,
        mode: Mode,
    ) -> Result<Option<ReportLine>, Error> {
        let _turn = self.inner.turn(id).await;
        let (facts, row, handles) = match self.collect(id, survey, mode).await {
            Ok(collected) => collected,
            Err(error) if died(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(vm = %id, %error, "reconcile could not look at a VM");
                return Ok(Some(ReportLine {
                    vm: id.to_string(),
                    action: "left alone".to_owned(),
                    detail: "it could not be looked at".to_owned(),
                    error: Some(error.chain().join(": ")),
                }));
            }
        };
        let action = decide(&facts);
        let Some((word, detail)) = action.told() else {
            return Ok(None);
        };
        let name = match &row {
            Some(row) => row.name.to_string(),
            None => id.to_string(),
        };
        tracing::info!(vm = %name, action = word, reason = %detail, "reconcile");
        let mut error = None;
        if mode != Mode::Plan
            && let Err(failed) = self.apply(id, row, handles, action).await
        {
            if died(&failed) {
                return Err(failed);
            }
            tracing::warn!(vm = %name, error = %failed, "reconcile failed");
            error = Some(failed.chain().join(": "));
        }
        Ok(Some(ReportLine {
            vm: name,
            action: word.to_owned(),
            detail,
            error,
        }))
    }

    async fn survey(&self) -> Result<Survey, Error> {
        let inner = &self.inner;
        let boot = inner.host().boot_id().await?;
        let census = inner.liveness.census().await?;
        let monitors: BTreeSet<VmId> = census.ours.into_iter().map(|seen| seen.vm).collect();
        let held: BTreeSet<VmId> = inner.held().await?.owners().cloned().collect();
        let runs = inner.host().list_dir(&inner.places.runs()).await?;
        let mut ids: BTreeSet<VmId> = monitors.union(&held).cloned().collect();
        for row in inner.store.vms().await? {
            ids.insert(row.id);
        }
        for name in inner.host().list_dir(&inner.places.vms()).await? {
            let bare = name
                .strip_prefix(NEW)
                .or_else(|| name.strip_prefix(TRASH))
                .unwrap_or(&name);
            // A name that is no id is nothing that we have made.
            ids.extend(bare.parse::<VmId>());
        }
        Ok(Survey {
            ids,
            monitors,
            held,
            runs: runs.into_iter().collect(),
            boot,
        })
    }

    async fn collect(
        &self,
        id: &VmId,
        survey: &Survey,
        mode: Mode,
    ) -> Result<(Facts, Option<VMRecord>, Option<VMHandles>), Error> {
        let (inner, host) = (&self.inner, self.inner.host());
        let places = &inner.places;
        let there = async |path: std::path::PathBuf| -> Result<bool, Error> {
            Ok(host.stat(&path).await?.is_some())
        };
        let folder = if there(places.vm(id)).await? {
            Folder::Complete
        } else if there(places.vm_trash(id)).await? {
            Folder::Trash
        } else if there(places.vm_new(id)).await? {
            Folder::New
        } else {
            Folder::None
        };
        let row = inner.store.vm(id).await?;
        let mut handles = inner.cache.get(id);
        // Seen in the survey and there still: a verb that has ended since may have removed it.
        let mut left = survey.runs.contains(id.short()) && there(places.run(id)).await?;
        left |= survey.held.contains(id) && inner.held().await?.owners().any(|vm| vm == id);
        if handles.is_none() && folder == Folder::Complete {
            match read_or_peek(host, &places.vm(id), mode).await {
                Ok(found) => handles = found,
                Err(HandlesError::Newer { path, found }) => {
                    let reason = format!("{} has version {found}", path.display());
                    let facts = Facts::unknowable(row.as_ref(), folder, reason);
                    return Ok((facts, row, None));
                }
                Err(error) => return Err(error.into()),
            }
            let names = host.list_dir(&places.vm(id)).await?;
            left |= names.iter().any(|name| is_temporary(name));
        }
        // One look over all processes has been taken; only who is in it, or has handles, is looked at again.
        let verdict = match handles.is_some() || survey.monitors.contains(id) {
            true => inner.liveness.judge(id, handles.as_ref()).await,
            false => Verdict::Gone,
        };
        let rebooted = handles.as_ref().is_some_and(|h| h.boot_id != survey.boot);
        let promise = row.as_ref().map_or_else(
            || Promise::of(VMState::Created),
            |row| row.runtime.state.clone(),
        );
        let run = row.as_ref().and_then(|row| row.runtime.run_id.as_ref());
        let facts = Facts {
            row: row.as_ref().map(|row| row.spec.lifetime),
            folder,
            standing: hold(&promise, run, verdict),
            leftovers: match handles.is_some() || left {
                true => plan::Leftovers::Some,
                false => plan::Leftovers::None,
            },
            rebooted,
            watched: inner.live(id).is_some(),
            opening: mode == Mode::Opening,
            files_gone_noted: row
                .as_ref()
                .is_some_and(|row| row.runtime.last_error.as_deref() == Some(FILES_GONE)),
        };
        Ok((facts, row, handles))
    }

    async fn apply(
        &self,
        id: &VmId,
        row: Option<VMRecord>,
        handles: Option<VMHandles>,
        action: Action,
    ) -> Result<(), Error> {
        let (inner, places) = (&self.inner, &self.inner.places);
        match (action, row) {
            (Action::Keep(monitor), Some(vm)) => {
                self.take_up(vm, handles, monitor).await?;
            }
            (Action::MarkStopped(reason), Some(vm)) => {
                inner.release_and_mark_stopped(vm, &reason).await?;
            }
            (Action::UndoStart(monitor), Some(vm)) => {
                inner.kill_and_wait(&vm, &monitor).await?;
                inner.unwatch(id);
                inner.release(&vm, handles.as_ref()).await?;
                inner.forget_handles(&vm).await?;
            }
            (Action::CleanUp, Some(vm)) => {
                inner.release(&vm, handles.as_ref()).await?;
                inner.forget_handles(&vm).await?;
            }
            (Action::FinishCreate, Some(_)) => {
                let host = inner.host();
                host.rename(&places.vm_new(id), &places.vm(id)).await?;
            }
            (Action::DeleteEphemeral, Some(vm)) => {
                self.delete_in_turn(vm).await?;
            }
            (Action::FilesGone, Some(vm)) => {
                inner.release(&vm, None).await?;
                inner
                    .mark(vm, VMState::Error, |runtime| {
                        runtime.run_id = None;
                        runtime.last_error = Some(FILES_GONE.to_owned());
                    })
                    .await?;
            }
            (Action::FinishDelete(monitor), row) => {
                if let Some(monitor) = monitor {
                    inner.end_stray_monitor(&monitor).await?;
                }
                match &row {
                    Some(vm) => inner.release(vm, handles.as_ref()).await?,
                    None => {
                        inner.remove_held(id).await?;
                        inner.host().remove_tree(&places.run(id)).await?;
                    }
                }
                self.bury(id).await?;
            }
            (Action::RemoveHeld, _) => {
                inner.remove_held(id).await?;
                inner.host().remove_tree(&places.run(id)).await?;
            }
            (Action::RemoveUnborn, _) => {
                inner.host().remove_tree(&places.vm_new(id)).await?;
            }
            (Action::EndStray(monitor), _) => {
                inner.end_stray_monitor(&monitor).await?;
                inner.remove_held(id).await?;
                inner.host().remove_tree(&places.run(id)).await?;
            }
            (Action::LeaveAlone(_), _) => {
                // Whoever looks at it again must look at the same process.
                if let Some(handles) = handles {
                    inner.cache.set(id, handles);
                }
            }
            (Action::Nothing | Action::Orphan, _) => {}
            // Decided for a row that there is not: the decision table has no such line.
            (action, None) => {
                tracing::error!(?action, vm = %id, "no row to act on");
            }
        }
        Ok(())
    }

    /// Takes up a VM that runs: what the host shows beats what the file says.
    async fn take_up(
        &self,
        vm: VMRecord,
        handles: Option<VMHandles>,
        monitor: Monitor,
    ) -> Result<(), Error> {
        let inner = &self.inner;
        let known = handles
            .as_ref()
            .is_some_and(|handles| handles.process.as_ref() == Some(&monitor.handle()));
        let mut handles = match handles {
            Some(handles) if handles.run_id == *monitor.run() => handles,
            _ => {
                let boot = inner.host().boot_id().await?;
                let mut handles = inner.planned(&vm, monitor.run().clone(), boot);
                let (disk, marks) = (inner.backends.disk(vm.spec.disk)?, inner.marks(&vm.id));
                disk.find(inner.host(), &marks, &mut handles).await?;
                handles
            }
        };
        if !known {
            handles.process = Some(monitor.handle());
            crate::handles::write_handles_file(inner.host(), &vm.runtime.vm_dir, &handles).await?;
        }
        inner.cache.set(&vm.id, handles);
        inner.watch(&vm, monitor, None);
        Ok(())
    }

    /// Removes runtime folders of VMs that are nowhere else any more.
    async fn sweep_runtime_folders(
        &self,
        survey: &Survey,
        mode: Mode,
    ) -> Result<Vec<ReportLine>, Error> {
        let known: BTreeSet<&str> = survey.ids.iter().map(VmId::short).collect();
        let mut lines = Vec::new();
        for name in &survey.runs {
            let is_known = known.contains(name.as_str());
            if is_known || !self.inner.store.vms_with_prefix(name).await?.is_empty() {
                continue;
            }
            let path = self.inner.places.runs().join(name);
            let mut error = None;
            if mode != Mode::Plan
                && let Err(failed) = self
                    .inner
                    .host()
                    .remove_tree(&path)
                    .await
                    .map_err(Error::from)
            {
                if died(&failed) {
                    return Err(failed);
                }
                error = Some(failed.chain().join(": "));
            }
            lines.push(ReportLine {
                vm: name.clone(),
                action: "cleaned".to_owned(),
                detail: "a runtime folder of a VM that is no more".to_owned(),
                error,
            });
        }
        Ok(lines)
    }
}

/// Reads a VM's handles. A damaged file is set aside, unless nothing is to be changed.
async fn read_or_peek(
    host: &dyn Host,
    vm_dir: &Path,
    mode: Mode,
) -> Result<Option<VMHandles>, HandlesError> {
    if mode == Mode::Plan {
        return Ok(match peek_handles_file(host, vm_dir).await? {
            HandlesPeek::Found(handles) => Some(*handles),
            HandlesPeek::Missing | HandlesPeek::Damaged { .. } => None,
        });
    }
    Ok(match read_handles_file(host, vm_dir).await? {
        HandlesFile::Found(handles) => Some(*handles),
        HandlesFile::Missing => None,
        HandlesFile::SetAside { path, reason } => {
            tracing::warn!(path = %path.display(), %reason, "set a damaged handles file aside");
            None
        }
    })
}

/// Says whether the host died in the middle of this (in a test): that ends everything, as it would.
fn died(error: &Error) -> bool {
    matches!(error.host_error(), Some(HostError::Died { .. }))
}

/// What one look at everything showed.
struct Survey {
    ids: BTreeSet<VmId>,
    monitors: BTreeSet<VmId>,
    /// Those with something in the kernel.
    held: BTreeSet<VmId>,
    runs: BTreeSet<String>,
    boot: BootId,
}

const FILES_GONE: &str = "its files are gone";
