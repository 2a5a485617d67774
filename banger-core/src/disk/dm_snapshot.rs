//! A device-mapper snapshot: the image, read only on a loop device, and over it a sparse file that takes
//! the writes. Any monitor takes it; it needs root.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{Access, BlockFormat, BlockSource, Disk, DiskError, LayerRun, refuse_missing};
use crate::choice::Probe;
use crate::handles::VMHandles;
use crate::host::{DeviceRemoval, Host, SnapshotSpec, SnapshotState};
use crate::marks::Marks;
use crate::vm::DiskKind;

/// The disk `dm-snapshot`.
#[derive(Debug)]
pub(crate) struct DmSnapshotDisk;

/// Whoever looks at a new or changed device (udev does) has it open for some milliseconds.
const BUSY: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[async_trait]
impl Disk for DmSnapshotDisk {
    fn kind(&self) -> DiskKind {
        DiskKind::DmSnapshot
    }

    fn format(&self) -> BlockFormat {
        BlockFormat::Raw
    }

    async fn probe(&self, host: &dyn Host) -> Probe {
        match host.snapshot_support().await {
            Ok(()) => Probe::works("device-mapper and loop devices"),
            Err(why) => Probe::fails(why, None),
        }
    }

    fn layer(&self) -> &'static str {
        "root.cow"
    }

    async fn create(
        &self,
        host: &dyn Host,
        image_rootfs: &Path,
        vm_dir: &Path,
    ) -> Result<(), DiskError> {
        let image = refuse_missing(host, image_rootfs).await?;
        // Every 4 KiB of the image may be written once, and 16 bytes are kept of each: with this much room
        // the layer itself is never what is full. The file is sparse, and its zeros say that it is new.
        let bytes = image + image / 128 + (1 << 20);
        let layer = vm_dir.join(self.layer());
        Ok(host.grow_file(&layer, bytes.next_multiple_of(4096)).await?)
    }

    fn plan(&self, marks: &Marks, handles: &mut VMHandles) {
        handles.dm_name = Some(marks.dm_name());
    }

    async fn attach(
        &self,
        host: &dyn Host,
        run: &LayerRun<'_>,
        handles: &mut VMHandles,
    ) -> Result<BlockSource, DiskError> {
        refuse_missing(host, run.image_rootfs).await?;
        let name = run.marks.dm_name();
        let made = host
            .make_snapshot(&SnapshotSpec {
                name: name.clone(),
                uuid: run.marks.dm_uuid(),
                base: run.image_rootfs.to_owned(),
                base_label: run.marks.base_label(),
                layer: run.layer.to_owned(),
                layer_label: run.marks.layer_label(),
            })
            .await?;
        handles.base_loop = Some(made.base_loop);
        handles.cow_loop = Some(made.layer_loop);
        handles.dm_dev = Some(made.device.clone());
        // A layer that once lost a write says so in its file, for ever.
        if host.snapshot_state(&name).await? == Some(SnapshotState::Lost) {
            return Err(DiskError::LayerLost {
                layer: run.layer.to_owned(),
            });
        }
        Ok(BlockSource {
            path: made.device.into(),
            format: BlockFormat::Raw,
            access: Access::ReadWrite,
        })
    }

    async fn find(
        &self,
        host: &dyn Host,
        marks: &Marks,
        handles: &mut VMHandles,
    ) -> Result<(), DiskError> {
        let name = marks.dm_name();
        let (base, layer) = (marks.base_label(), marks.layer_label());
        let common = base.trim_end_matches("base");
        let found = host.list_devices(&name, common).await?;
        let snapshot = found.snapshots.into_iter().find(|s| s.name == name);
        handles.dm_dev = snapshot.map(|snapshot| snapshot.device);
        for device in found.loops {
            if device.label == base {
                handles.base_loop = Some(device.device);
            } else if device.label == layer {
                handles.cow_loop = Some(device.device);
            }
        }
        Ok(())
    }

    async fn detach(&self, host: &dyn Host, handles: &VMHandles) -> Result<(), DiskError> {
        let Some(name) = &handles.dm_name else {
            return Ok(());
        };
        remove_snapshot(host, name).await
    }

    async fn trouble(&self, host: &dyn Host, handles: &VMHandles) -> Option<String> {
        let name = handles.dm_name.as_ref()?;
        match host.snapshot_state(name).await {
            Ok(Some(SnapshotState::Lost)) => Some(
                "the disk of its root layer is full, or failed: what the guest wrote to its root disk is lost"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Removes a snapshot, waiting for whoever just looks at it.
pub(crate) async fn remove_snapshot(host: &dyn Host, name: &str) -> Result<(), DiskError> {
    let deadline = Instant::now() + BUSY;
    loop {
        match host.remove_snapshot(name).await? {
            DeviceRemoval::Removed | DeviceRemoval::AlreadyGone => return Ok(()),
            DeviceRemoval::Busy if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            DeviceRemoval::Busy => {
                return Err(DiskError::Busy {
                    name: name.to_owned(),
                    limit: BUSY,
                });
            }
        }
    }
}
