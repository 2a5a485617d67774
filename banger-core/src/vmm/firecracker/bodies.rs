//! The bodies of Firecracker's API, as its published description (`firecracker.yaml`) has them. Only
//! fields that are set here: it refuses those that it does not know.

use serde::{Deserialize, Serialize};

/// `PUT /machine-config`.
#[derive(Debug, Serialize)]
pub(super) struct MachineConfig {
    pub(super) vcpu_count: u32,
    pub(super) mem_size_mib: u64,
}

/// `PUT /boot-source`.
#[derive(Debug, Serialize)]
pub(super) struct BootSource {
    pub(super) kernel_image_path: String,
    pub(super) initrd_path: String,
    pub(super) boot_args: String,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Serialize)]
pub(super) struct Drive {
    pub(super) drive_id: &'static str,
    pub(super) path_on_host: String,
    pub(super) is_root_device: bool,
    pub(super) is_read_only: bool,
    pub(super) cache_type: CacheType,
}

/// Whether a guest's flush reaches the disk.
#[derive(Debug, Serialize)]
pub(super) enum CacheType {
    Writeback,
}

/// `PUT /network-interfaces/{iface_id}`.
#[derive(Debug, Serialize)]
pub(super) struct NetworkInterface {
    pub(super) iface_id: &'static str,
    pub(super) host_dev_name: String,
    pub(super) guest_mac: String,
}

/// `PUT /vsock`.
#[derive(Debug, Serialize)]
pub(super) struct Vsock {
    pub(super) guest_cid: u32,
    pub(super) uds_path: String,
}

/// `PUT /metrics`.
#[derive(Debug, Serialize)]
pub(super) struct Metrics {
    pub(super) metrics_path: String,
}

/// `PUT /entropy`.
#[derive(Debug, Serialize)]
pub(super) struct Entropy {}

/// `PUT /actions`.
#[derive(Debug, Serialize)]
pub(super) struct Action {
    pub(super) action_type: ActionType,
}

/// What is to be done at once.
#[derive(Debug, Serialize)]
pub(super) enum ActionType {
    InstanceStart,
    SendCtrlAltDel,
}

/// `PATCH /vm`.
#[derive(Debug, Serialize)]
pub(super) struct VmChange {
    pub(super) state: VmTarget,
}

/// What a started machine is to do.
#[derive(Debug, Serialize)]
pub(super) enum VmTarget {
    Paused,
    Resumed,
}

/// The answer to `GET /`. What else is in it is not looked at.
#[derive(Debug, Deserialize)]
pub(super) struct InstanceInfo {
    pub(super) state: InstanceState,
    pub(super) vmm_version: String,
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum InstanceState {
    #[serde(rename = "Not started")]
    NotStarted,
    Running,
    Paused,
}

/// The body of every refusal.
#[derive(Debug, Deserialize)]
pub(super) struct Fault {
    pub(super) fault_message: String,
}
