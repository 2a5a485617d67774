//! What a machine uses, and changing what it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `vm.stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatsParams {
    /// Which VMs; all that run if none is named.
    pub vms: Vec<String>,
}

/// `vm.stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsAnswer {
    /// In the order asked for.
    pub vms: Vec<VmUsage>,
}

/// What a VM uses of the host. What a VM that does not run uses none of is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmUsage {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How it is, as in [`VmInfo`](super::VmInfo).
    pub state: String,
    /// Processor time of its monitor, the guest's included, since the start, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Memory that its monitor holds, the guest's included, in bytes.
    pub memory_bytes: Option<u64>,
    /// The time since the start, in milliseconds.
    pub uptime_ms: Option<u64>,
    /// What its writes over the image take on the host, in bytes.
    pub root_disk_bytes: u64,
    /// What its own disk takes on the host, in bytes.
    pub work_disk_bytes: u64,
    /// What its own disk may take, in MiB.
    pub work_disk_mib: u64,
}

/// `vm.set`. What is left out stays. Sizes in MiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SetParams {
    /// The VM.
    pub vm: String,
    /// Virtual processors.
    pub vcpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// The size of its own disk in MiB; it only grows.
    pub work_disk_mib: Option<u64>,
    /// Words of its owner; one that is `null` is taken away.
    pub labels: BTreeMap<String, Option<String>>,
    /// Whether an ephemeral VM is to outlive its client.
    pub keep: bool,
}
