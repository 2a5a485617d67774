//! Answers to give.

use banger_daemon::protocol::{ChangeAnswer, Status, VERSION, VmInfo};

pub(crate) fn status() -> Status {
    Status {
        version: VERSION.to_owned(),
        pid: 4711,
        engine: "0a1b2c3d".to_owned(),
        state_dir: "/var/lib/banger".into(),
        runtime_dir: "/run/banger".into(),
        started_at: "2030-01-31T12:00:00Z".to_owned(),
        running: 2,
    }
}

/// A VM that runs.
pub(crate) fn vm(name: &str) -> VmInfo {
    VmInfo {
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        name: name.to_owned(),
        state: "running".to_owned(),
        paused: None,
        image: "debian".to_owned(),
        vcpus: 2,
        memory_mib: 1024,
        work_disk_mib: 1536,
        vmm: "qemu".to_owned(),
        disk: "overlay".to_owned(),
        network: "user".to_owned(),
        nat: false,
        ephemeral: false,
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        dns_name: format!("{name}.vm"),
        guest_ip: Some("10.0.2.15".to_owned()),
        vm_dir: "/var/lib/banger/vms/0123".into(),
        console_log: "/var/lib/banger/vms/0123/console.log".into(),
        api_socket: "/run/banger/0123/qmp.sock".into(),
        pid: Some(815),
        ssh_port: Some(46519),
        last_error: None,
        stop_reason: None,
        restarts: 0,
        restart_at: None,
        // In the future, so that its age is always the same.
        workspace: None,
        created_at: "2130-01-31T12:00:00Z".to_owned(),
        updated_at: "2130-01-31T12:00:01Z".to_owned(),
    }
}

/// A VM that does not.
pub(crate) fn stopped(name: &str) -> VmInfo {
    VmInfo {
        state: "stopped".to_owned(),
        guest_ip: None,
        pid: None,
        ssh_port: None,
        stop_reason: Some("the guest powered off".to_owned()),
        ..vm(name)
    }
}

pub(crate) fn changed(name: &str, outcome: &str, detail: Option<&str>) -> ChangeAnswer {
    ChangeAnswer {
        outcome: outcome.to_owned(),
        detail: detail.map(str::to_owned),
        vm: Some(vm(name)),
        name: name.to_owned(),
    }
}
