//! What is *currently true* of a VM: its live grips on the kernel. Never in the database.
//!
//! They are held in memory by [`HandleCache`] and written ahead to `handles.json` in the VM's folder.
//! Losing the cache costs time, losing the file costs time, neither costs truth: every handle can be
//! found again from the operating system.

mod cache;
mod file;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::BootId;
use crate::liveness::ProcessHandle;
use crate::names::RunId;

pub use cache::HandleCache;
pub(crate) use file::{HANDLES_ASIDE, HANDLES_FILE, HandlesPeek, peek_handles_file};
pub use file::{
    HandlesError, HandlesFile, read_handles_file, remove_handles_file, write_handles_file,
};

/// The live grips of one run of a VM. What is planned but not yet held is in here too: the file is
/// written before anything is acquired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VMHandles {
    /// The run they belong to.
    pub run_id: RunId,
    /// The boot of the host they belong to; under another they are all gone.
    pub boot_id: BootId,
    /// The monitor's process, once it was started.
    #[serde(flatten)]
    pub process: Option<ProcessHandle>,
    /// The monitor's control socket.
    pub api_socket: PathBuf,
    /// The ssh port on the host's loopback, once the monitor has chosen it (network `user`).
    pub ssh_port: Option<u16>,
    /// The control socket of the ssh master, planned.
    pub ssh_control: Option<PathBuf>,
    /// The systemd scope that the monitor is in, planned; none where there is no systemd.
    #[serde(default)]
    pub scope: Option<String>,
    /// The network namespace, planned.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The tap device in it, planned.
    pub tap_device: Option<String>,
    /// Its end of the way out in the host, planned (network `tap`, with `--nat`).
    #[serde(default)]
    pub uplink: Option<String>,
    /// The table of firewall rules in the host, planned.
    #[serde(default)]
    pub nft_table: Option<String>,
    /// The loop device on the image.
    pub base_loop: Option<String>,
    /// The loop device on the copy-on-write file.
    pub cow_loop: Option<String>,
    /// The name of the device-mapper target, planned.
    pub dm_name: Option<String>,
    /// The device of the device-mapper target.
    pub dm_dev: Option<String>,
}

impl VMHandles {
    /// Plans a run that holds nothing yet.
    pub fn planned(run_id: RunId, boot_id: BootId, api_socket: PathBuf) -> Self {
        VMHandles {
            run_id,
            boot_id,
            process: None,
            api_socket,
            ssh_port: None,
            ssh_control: None,
            scope: None,
            namespace: None,
            tap_device: None,
            uplink: None,
            nft_table: None,
            base_loop: None,
            cow_loop: None,
            dm_name: None,
            dm_dev: None,
        }
    }
}
