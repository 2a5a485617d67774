//! What each method does: read its parameters, ask the engine, put the answer into the protocol's form.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use banger_core::{
    Condition, CreateRequest, Engine, Error, ErrorKind, ExecRequest, ExecStdin, Internet, Lifetime,
    Mebibytes, NameError, Nesting, Progress, PruneOutcome, StartOutcome, StopOutcome, VmView,
};
use serde_json::Value;

use super::Shared;
use super::ephemeral::Ephemerals;
use super::fault::Fault;
use super::stop::Stop;
use super::tickets::{Held, Started};
use super::views::{start_word, stop_words};
use crate::protocol::*;

/// The most that `vm.logs` returns, in bytes: in JSON a byte may take six.
const MAX_LOG_BYTES: u64 = 512 << 10;

/// One request at work.
pub(super) struct Operation {
    pub(super) shared: Arc<Shared>,
    /// The connection's.
    pub(super) ephemerals: Arc<Ephemerals>,
    /// Asked when the connection has ended.
    pub(super) gone: Stop,
    pub(super) progress: Progress,
}

impl Operation {
    /// Carries out a method.
    pub(super) async fn carry_out(&self, method: &str, params: Value) -> Result<Value, Fault> {
        match method {
            DaemonStatus::NAME => with::<DaemonStatus, _>(params, |_| self.status()).await,
            DaemonStop::NAME => with::<DaemonStop, _>(params, |_| self.stop_daemon()).await,
            DaemonReconcile::NAME => {
                with::<DaemonReconcile, _>(params, |params| self.reconcile(params)).await
            }
            DoctorProve::NAME => with::<DoctorProve, _>(params, |_| self.prove()).await,
            DoctorFix::NAME => with::<DoctorFix, _>(params, |params| self.fix(params)).await,
            Doctor::NAME => with::<Doctor, _>(params, |_| self.doctor()).await,
            VmCreate::NAME => with::<VmCreate, _>(params, |params| self.create(params)).await,
            VmStart::NAME => with::<VmStart, _>(params, |params| self.start(params)).await,
            VmStop::NAME => with::<VmStop, _>(params, |params| self.stop(params)).await,
            VmKill::NAME => with::<VmKill, _>(params, |params| self.kill(params)).await,
            VmRestart::NAME => with::<VmRestart, _>(params, |params| self.restart(params)).await,
            VmDelete::NAME => with::<VmDelete, _>(params, |params| self.delete(params)).await,
            VmPrune::NAME => with::<VmPrune, _>(params, |params| self.prune(params)).await,
            VmList::NAME => with::<VmList, _>(params, |p| self.list(p)).await,
            VmShow::NAME => with::<VmShow, _>(params, |params| self.show(params)).await,
            VmLogs::NAME => with::<VmLogs, _>(params, |params| self.logs(params)).await,
            VmFollowLogs::NAME => {
                with::<VmFollowLogs, _>(params, |params| self.follow_logs(params)).await
            }
            VmConsole::NAME => with::<VmConsole, _>(params, |params| self.console(params)).await,
            VmStats::NAME => with::<VmStats, _>(params, |params| self.stats(params)).await,
            VmSet::NAME => with::<VmSet, _>(params, |params| self.set(params)).await,
            VmSsh::NAME => with::<VmSsh, _>(params, |params| self.ssh(params)).await,
            VmExec::NAME => with::<VmExec, _>(params, |params| self.exec(params)).await,
            ImageBuild::NAME => {
                with::<ImageBuild, _>(params, |params| self.image_build(params)).await
            }
            ImageRegister::NAME => {
                with::<ImageRegister, _>(params, |params| self.image_register(params)).await
            }
            ImageList::NAME => with::<ImageList, _>(params, |_| self.image_list()).await,
            ImageShow::NAME => with::<ImageShow, _>(params, |params| self.image_show(params)).await,
            ImageDelete::NAME => {
                with::<ImageDelete, _>(params, |params| self.image_delete(params)).await
            }
            VmDial::NAME => with::<VmDial, _>(params, |params| self.dial(params)).await,
            VmHostKey::NAME => with::<VmHostKey, _>(params, |params| self.host_key(params)).await,
            DaemonSsh::NAME => with::<DaemonSsh, _>(params, |_| self.ssh_client()).await,
            SessionStart::NAME => {
                with::<SessionStart, _>(params, |params| self.session_start(params)).await
            }
            SessionList::NAME => {
                with::<SessionList, _>(params, |params| self.session_list(params)).await
            }
            SessionShow::NAME => {
                with::<SessionShow, _>(params, |params| self.session_show(params)).await
            }
            SessionLogs::NAME => {
                with::<SessionLogs, _>(params, |params| self.session_logs(params)).await
            }
            SessionSend::NAME => {
                with::<SessionSend, _>(params, |params| self.session_send(params)).await
            }
            SessionAttach::NAME => {
                with::<SessionAttach, _>(params, |params| self.session_attach(params)).await
            }
            SessionStop::NAME => {
                with::<SessionStop, _>(params, |params| self.session_stop(params)).await
            }
            SessionKill::NAME => {
                with::<SessionKill, _>(params, |params| self.session_kill(params)).await
            }
            SessionDelete::NAME => {
                with::<SessionDelete, _>(params, |params| self.session_delete(params)).await
            }
            other => self.carry_out_for_workspace(other, params).await,
        }
    }

    /// The methods of workspaces.
    async fn carry_out_for_workspace(&self, method: &str, params: Value) -> Result<Value, Fault> {
        match method {
            WorkspaceInspect::NAME => {
                with::<WorkspaceInspect, _>(params, |params| self.workspace_inspect(params)).await
            }
            WorkspaceRefresh::NAME => {
                with::<WorkspaceRefresh, _>(params, |params| self.workspace_refresh(params)).await
            }
            WorkspacePrepare::NAME => {
                with::<WorkspacePrepare, _>(params, |params| self.workspace_prepare(params)).await
            }
            WorkspaceShow::NAME => {
                with::<WorkspaceShow, _>(params, |params| self.workspace_show(params)).await
            }
            WorkspaceExport::NAME => {
                with::<WorkspaceExport, _>(params, |params| self.workspace_export(params)).await
            }
            WorkspaceChanges::NAME => {
                with::<WorkspaceChanges, _>(params, |params| self.workspace_changes(params)).await
            }
            WorkspaceApply::NAME => {
                with::<WorkspaceApply, _>(params, |params| self.workspace_apply(params)).await
            }
            WorkspaceUndo::NAME => {
                with::<WorkspaceUndo, _>(params, |params| self.workspace_undo(params)).await
            }
            _ => Err(Fault::NoMethod {
                method: method.to_owned(),
            }),
        }
    }

    async fn status(&self) -> Result<Status, Fault> {
        let engine = self.engine();
        let runs =
            |view: &&VmView| matches!(view.condition, Condition::Running | Condition::Paused);
        Ok(Status {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            engine: engine.id().to_string(),
            state_dir: engine.places().state().to_owned(),
            runtime_dir: engine.places().runtime().to_owned(),
            started_at: self.shared.started_at.to_string(),
            running: engine.list_running().await?.iter().filter(runs).count(),
        })
    }

    async fn stop_daemon(&self) -> Result<Nothing, Fault> {
        tracing::info!("asked to stop");
        self.shared.stop.ask();
        Ok(Nothing {})
    }

    async fn reconcile(&self, params: ReconcileParams) -> Result<ReconcileAnswer, Fault> {
        let report = match params.dry_run {
            true => self.engine().reconcile_plan().await?,
            false => self.engine().reconcile().await?,
        };
        Ok(report.into())
    }

    async fn doctor(&self) -> Result<DoctorAnswer, Fault> {
        Ok(self.engine().doctor().await?.into())
    }

    async fn prove(&self) -> Result<ProveAnswer, Fault> {
        Ok(self.engine().prove().await?.into())
    }

    async fn fix(&self, params: FixParams) -> Result<FixAnswer, Fault> {
        Ok(super::strays::fix(self.engine(), params).await?)
    }

    async fn create(&self, params: CreateParams) -> Result<VmInfo, Fault> {
        let ephemeral = params.ephemeral;
        let request = create_request(params)?;
        let progress = self.progress.clone();
        let vm = match ephemeral {
            true => {
                let ephemerals = &self.ephemerals;
                ephemerals.create(self.engine(), request, progress).await?
            }
            false => self.engine().create(request, &progress).await?,
        };
        Ok(self.engine().show(vm.id.as_str()).await?.into())
    }

    async fn start(&self, params: StartParams) -> Result<ChangeAnswer, Fault> {
        let outcome = self.engine().start(&params.vm, &self.progress).await?;
        self.started(outcome, params.wait).await
    }

    async fn restart(&self, params: StartParams) -> Result<ChangeAnswer, Fault> {
        let outcome = self.engine().restart(&params.vm, &self.progress).await?;
        self.started(outcome, params.wait).await
    }

    async fn stop(&self, params: StopParams) -> Result<ChangeAnswer, Fault> {
        let outcome = match params.timeout_s {
            Some(seconds) => {
                let limit = Duration::from_secs(seconds);
                self.engine().stop_within(&params.vm, limit).await?
            }
            None => self.engine().stop(&params.vm).await?,
        };
        self.stopped(outcome).await
    }

    async fn kill(&self, params: VmParams) -> Result<ChangeAnswer, Fault> {
        let outcome = self.engine().kill(&params.vm).await?;
        self.stopped(outcome).await
    }

    async fn delete(&self, params: VmParams) -> Result<ChangeAnswer, Fault> {
        let deleted = self.engine().delete(&params.vm).await?;
        Ok(ChangeAnswer {
            outcome: "deleted".to_owned(),
            detail: None,
            vm: None,
            name: deleted.name.to_string(),
        })
    }

    async fn prune(&self, params: PruneParams) -> Result<PruneAnswer, Fault> {
        let mut answer = PruneAnswer::default();
        for vm in params.vms {
            match self.engine().delete_stopped(&vm).await {
                Ok(PruneOutcome::Deleted(name)) => answer.deleted.push(name.to_string()),
                Ok(PruneOutcome::Left(name)) => answer.left.push(name.to_string()),
                // Somebody else was quicker.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => answer.failed.push(PruneFailure {
                    vm: match self.engine().lookup(&vm).await {
                        Ok(record) => record.name.to_string(),
                        Err(_) => vm,
                    },
                    error: error.chain().join(": "),
                }),
            }
        }
        Ok(answer)
    }

    async fn list(&self, params: VmListParams) -> Result<VmListAnswer, Fault> {
        let views = match params.only {
            None => self.engine().list().await?,
            Some(VmFilter::Running) => self.engine().list_running().await?,
        };
        Ok(VmListAnswer {
            vms: views.into_iter().map(VmInfo::from).collect(),
        })
    }

    async fn show(&self, params: VmParams) -> Result<VmInfo, Fault> {
        Ok(self.engine().show(&params.vm).await?.into())
    }

    async fn logs(&self, params: LogsParams) -> Result<LogsAnswer, Fault> {
        let path = self.engine().lookup(&params.vm).await?.runtime.log_path;
        let tail = self
            .engine()
            .console_tail(&params.vm, MAX_LOG_BYTES)
            .await?;
        let text = String::from_utf8_lossy(&tail);
        let text = match params.lines {
            Some(count) => last_lines(&text, count as usize).to_owned(),
            None => text.into_owned(),
        };
        Ok(LogsAnswer { text, path })
    }

    async fn ssh(&self, params: VmParams) -> Result<SshAnswer, Fault> {
        let access = self.engine().ssh_access(&params.vm, &self.progress);
        let access = self.waiting_for_guest(&params.vm, access).await?;
        let workspace = self.engine().workspace(&params.vm).await?;
        Ok(SshAnswer {
            workspace: workspace.map(|workspace| workspace.guest_path.0.into()),
            ..access.into()
        })
    }

    async fn exec(&self, params: ExecParams) -> Result<TicketAnswer, Fault> {
        let (cwd, note) = match params.cwd {
            None if params.in_workspace => self.workspace_home(&params.vm).await?,
            cwd => (cwd.map(Vec::from), None),
        };
        let folder = cwd.clone().unwrap_or_default();
        let request = ExecRequest {
            argv: params.argv.into_iter().map(Vec::from).collect(),
            env: (params.env.into_iter())
                .map(|(name, value)| (name, value.into()))
                .collect(),
            cwd,
            stdin: match params.stdin_closed {
                true => ExecStdin::Closed,
                false => ExecStdin::Channel,
            },
        };
        let started = self.engine().exec(&params.vm, &request);
        let execution = self.waiting_for_guest(&params.vm, started).await?;
        let ticket = self.shared.tickets.issue(Held::Exec(Started {
            execution,
            folder: String::from_utf8_lossy(&folder).into_owned(),
        }))?;
        Ok(TicketAnswer { ticket, note })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    async fn started(&self, outcome: StartOutcome, wait: bool) -> Result<ChangeAnswer, Fault> {
        let id = outcome.vm().id.as_str();
        if wait {
            let ready = self.engine().wait_ready(id, &self.progress);
            self.waiting_for_guest(id, ready).await?;
        }
        Ok(ChangeAnswer {
            outcome: start_word(&outcome).to_owned(),
            detail: None,
            name: outcome.vm().name.to_string(),
            vm: Some(self.engine().show(id).await?.into()),
        })
    }

    async fn stopped(&self, outcome: StopOutcome) -> Result<ChangeAnswer, Fault> {
        let (word, detail) = stop_words(&outcome);
        Ok(ChangeAnswer {
            outcome: word.to_owned(),
            detail,
            name: outcome.vm().name.to_string(),
            vm: Some(self.engine().show(outcome.vm().id.as_str()).await?.into()),
        })
    }

    /// Waits for what is of use to its client alone: when that has gone, or the daemon is to end, it is dropped.
    pub(super) async fn while_wanted<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        // What is done is told.
        tokio::select! {
            biased;
            done = work => done,
            () = self.gone.asked() => Err(Fault::Stopping),
            () = self.shared.stop.asked() => Err(Fault::Stopping),
        }
    }

    /// Waits for what needs a guest's answer, which may take minutes: not when the daemon is to end. A
    /// VM that was to go with its client and never came up is kept, to be looked at.
    pub(super) async fn waiting_for_guest<T>(
        &self,
        vm: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Fault> {
        let done = tokio::select! {
            done = work => done,
            // Cancel-safe: nothing but a wait is dropped.
            () = self.shared.stop.asked() => return Err(Fault::Stopping),
        };
        if let Err(error) = &done
            && matches!(error.kind(), ErrorKind::NotReady | ErrorKind::Paused)
            && let Ok(record) = self.engine().lookup(vm).await
            && record.spec.lifetime == Lifetime::Ephemeral
            && let Err(error) = self.engine().keep(record.id.as_str()).await
        {
            tracing::warn!(%error, vm = %record.name, "could not keep a VM that never came up");
        }
        Ok(done?)
    }
}

/// Reads a method's parameters and writes its answer.
async fn with<M: Method, W>(
    params: Value,
    work: impl FnOnce(M::Params) -> W,
) -> Result<Value, Fault>
where
    W: Future<Output = Result<M::Answer, Fault>>,
{
    let params = serde_json::from_value(params).map_err(|error| Fault::Params {
        method: M::NAME,
        reason: error.to_string(),
    })?;
    let answer = work(params).await?;
    serde_json::to_value(answer).map_err(|error| Fault::Bug {
        reason: format!("the answer cannot be written: {error}"),
    })
}

fn create_request(params: CreateParams) -> Result<CreateRequest, Fault> {
    let name = params.name.map(|name| name.parse()).transpose();
    let image = params.image.map(|image| image.parse()).transpose();
    Ok(CreateRequest {
        name: name.map_err(Error::Name)?,
        image: image.map_err(Error::Name)?,
        vcpus: params.vcpus,
        memory: params.memory_mib.map(Mebibytes),
        work_disk: params.work_disk_mib.map(Mebibytes),
        vmm: backend(params.vmm)?,
        disk: backend(params.disk)?,
        network: backend(params.network)?,
        internet: params.nat.map(|nat| match nat {
            true => Internet::Open,
            false => Internet::Closed,
        }),
        lifetime: Some(Lifetime::Kept),
        nesting: match params.nested {
            true => Nesting::Wanted,
            false => Nesting::Unasked,
        },
        labels: params.labels,
    })
}

/// Reads the name of a backend; `auto` is none.
fn backend<T: FromStr<Err = NameError>>(name: Option<String>) -> Result<Option<T>, Fault> {
    match name.as_deref() {
        None | Some("auto") => Ok(None),
        Some(name) => Ok(Some(name.parse().map_err(Error::Name)?)),
    }
}

fn last_lines(text: &str, count: usize) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    match count {
        0 => "",
        _ => match body.rmatch_indices('\n').nth(count - 1) {
            Some((at, _)) => &text[at + 1..],
            None => text,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_last_lines_are_counted_with_or_without_a_final_newline() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a\nb\n", 2), "a\nb\n");
        assert_eq!(last_lines("a\nb\n", 9), "a\nb\n");
        assert_eq!(last_lines("a\n", 0), "");
        assert_eq!(last_lines("", 3), "");
    }
}
