//! Block devices of the kernel's own: an image and a VM's layer over it, as one device-mapper snapshot.

use std::path::PathBuf;

use async_trait::async_trait;

use super::HostError;

/// The part of a [`Host`](super::Host) that makes and removes block devices.
#[async_trait]
pub trait Devices {
    /// Says whether snapshots can be made here, and if not, why.
    async fn snapshot_support(&self) -> Result<(), String>;

    /// Makes a snapshot device. One that was half made when the process died is there under its name,
    /// without a table; the loop devices below it never outlive both the process and the snapshot.
    async fn make_snapshot(&self, snapshot: &SnapshotSpec) -> Result<SnapshotDevice, HostError>;

    /// Removes a snapshot device, and with it the loop devices below: at once, or when udev, which looks at
    /// devices that change, has let go of them.
    async fn remove_snapshot(&self, name: &str) -> Result<DeviceRemoval, HostError>;

    /// Says how full the layer of a snapshot is; none if there is no such device.
    async fn snapshot_state(&self, name: &str) -> Result<Option<SnapshotState>, HostError>;

    /// Lists the snapshots whose names begin so, and the loop devices whose labels do, each sorted.
    async fn list_devices(
        &self,
        name_prefix: &str,
        label_prefix: &str,
    ) -> Result<DeviceList, HostError>;
}

/// A snapshot to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// Its device-mapper name: at most 127 bytes.
    pub name: String,
    /// Its device-mapper uuid: at most 128 bytes.
    pub uuid: String,
    /// What lies below: read only.
    pub base: PathBuf,
    /// The label of the loop device on it: at most 63 bytes.
    pub base_label: String,
    /// What takes the writes: a file that begins with zeros the first time.
    pub layer: PathBuf,
    /// The label of the loop device on it: at most 63 bytes.
    pub layer_label: String,
}

/// A snapshot that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDevice {
    /// The device, `/dev/dm-N`.
    pub device: String,
    /// The loop device on what lies below.
    pub base_loop: String,
    /// The loop device on what takes the writes.
    pub layer_loop: String,
}

/// What became of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceRemoval {
    /// It is gone.
    Removed,
    /// There was none.
    AlreadyGone,
    /// Somebody still has it open.
    Busy,
}

/// The state of a snapshot's layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// It takes writes. Units: sectors of 512 bytes.
    Healthy {
        /// What is in it.
        used: u64,
        /// What it has room for.
        total: u64,
    },
    /// It lost a write (its file system was full, its file damaged), and with it everything.
    Lost,
}

/// What [`Devices::list_devices`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceList {
    /// The snapshots.
    pub snapshots: Vec<SnapshotFacts>,
    /// The loop devices.
    pub loops: Vec<LoopFacts>,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotFacts {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// The device, `/dev/dm-N`; one that was half made has a device too.
    pub device: String,
}

/// One loop device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoopFacts {
    /// The device, `/dev/loopN`.
    pub device: String,
    /// Its label.
    pub label: String,
}
