//! The engine's types in the protocol's form.

use banger_core::{
    Candidate, Condition, Doctor, Fact, Internet, Lifetime, Report, SshAccess, StartOutcome,
    StopOutcome, Usable, VmView,
};

use crate::protocol::{
    DoctorAnswer, DoctorLine, ReconcileAnswer, ReconcileLine, SshAnswer, VmInfo, WorkspaceInfo,
};

impl From<VmView> for VmInfo {
    fn from(view: VmView) -> Self {
        let VmView {
            vm,
            condition,
            paused,
            handles,
            workspace,
        } = view;
        // What is held of a VM that does not run is not shown: it is about to be released.
        let handles = handles.filter(|_| condition.has_monitor());
        VmInfo {
            id: vm.id.to_string(),
            name: vm.name.to_string(),
            state: condition.to_string(),
            paused,
            image: vm.image.to_string(),
            vcpus: vm.spec.vcpus,
            memory_mib: vm.spec.memory.0,
            work_disk_mib: vm.spec.work_disk.0,
            vmm: vm.spec.vmm.to_string(),
            disk: vm.spec.disk.to_string(),
            network: vm.spec.network.to_string(),
            nat: vm.spec.internet == Internet::Open,
            ephemeral: vm.spec.lifetime == Lifetime::Ephemeral,
            labels: vm.spec.labels,
            dns_name: vm.runtime.dns_name,
            guest_ip: vm.runtime.guest_ip.map(|address| address.to_string()),
            vm_dir: vm.runtime.vm_dir,
            console_log: vm.runtime.log_path,
            api_socket: vm.runtime.api_sock_path,
            // A pid is for people here: the engine never lets one be compared.
            pid: handles
                .as_ref()
                .and_then(|handles| handles.process.as_ref()?.to_string().parse().ok()),
            ssh_port: handles.and_then(|handles| handles.ssh_port),
            last_error: vm.runtime.last_error,
            stop_reason: vm.runtime.stop_reason,
            restarts: vm.runtime.restarts,
            restart_at: (vm.runtime.restart_at)
                .filter(|_| condition == Condition::Restarting)
                .map(|at| at.to_string()),
            workspace: workspace.map(WorkspaceInfo::from),
            created_at: vm.created_at.to_string(),
            updated_at: vm.updated_at.to_string(),
        }
    }
}

impl From<Report> for ReconcileAnswer {
    fn from(report: Report) -> Self {
        let lines = report.lines.into_iter().map(|line| ReconcileLine {
            vm: line.vm,
            action: line.action,
            detail: line.detail,
            error: line.error,
        });
        ReconcileAnswer {
            lines: lines.collect(),
        }
    }
}

impl From<Doctor> for DoctorAnswer {
    fn from(doctor: Doctor) -> Self {
        DoctorAnswer {
            candidates: doctor
                .candidates
                .into_iter()
                .map(DoctorLine::from)
                .collect(),
            facts: doctor.facts.into_iter().map(DoctorLine::from).collect(),
        }
    }
}

impl From<Candidate> for DoctorLine {
    fn from(candidate: Candidate) -> Self {
        DoctorLine {
            subject: candidate.seam,
            name: candidate.name,
            works: candidate.probe.usable == Usable::Yes,
            picked: candidate.picked,
            reason: candidate.probe.reason,
            hint: candidate.probe.hint,
        }
    }
}

impl From<Fact> for DoctorLine {
    fn from(fact: Fact) -> Self {
        DoctorLine {
            subject: fact.subject,
            name: fact.name,
            works: fact.probe.usable == Usable::Yes,
            picked: false,
            reason: fact.probe.reason,
            hint: fact.probe.hint,
        }
    }
}

impl From<SshAccess> for SshAnswer {
    fn from(access: SshAccess) -> Self {
        SshAnswer {
            config: access.config,
            host: access.host,
            workspace: None,
        }
    }
}

/// The word for what a start changed.
pub(super) fn start_word(outcome: &StartOutcome) -> &'static str {
    match outcome {
        StartOutcome::Started(_) => "started",
        StartOutcome::AlreadyRunning(_) => "already_running",
    }
}

/// The word for what a stop changed, and how.
pub(super) fn stop_words(outcome: &StopOutcome) -> (&'static str, Option<String>) {
    match outcome {
        StopOutcome::Stopped { by, .. } => ("stopped", Some(by.to_string())),
        StopOutcome::AlreadyStopped(_) => ("already_stopped", None),
    }
}
