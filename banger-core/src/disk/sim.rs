//! The simulator's disk: a file with a line in it.

use std::path::Path;

use async_trait::async_trait;

use super::{Access, BlockFormat, BlockSource, Disk, DiskError};
use crate::choice::Probe;
use crate::handles::VMHandles;
use crate::host::Host;
use crate::inventory::ObjectKind;
use crate::vm::DiskKind;

/// The disk `sim`.
#[derive(Debug)]
pub(crate) struct SimDisk;

#[async_trait]
impl Disk for SimDisk {
    fn holds(&self) -> &'static [ObjectKind] {
        &[]
    }

    fn kind(&self) -> DiskKind {
        DiskKind::Sim
    }

    async fn probe(&self, _host: &dyn Host) -> Probe {
        Probe::works("simulated")
    }

    fn layer(&self) -> &'static str {
        "root.sim"
    }

    async fn create(
        &self,
        host: &dyn Host,
        _image_rootfs: &Path,
        vm_dir: &Path,
    ) -> Result<(), DiskError> {
        Ok(host
            .write_file(&vm_dir.join(self.layer()), b"simulated\n", 0o600)
            .await?)
    }

    async fn attach(
        &self,
        _host: &dyn Host,
        layer: &Path,
        _handles: &VMHandles,
    ) -> Result<BlockSource, DiskError> {
        Ok(BlockSource {
            path: layer.to_owned(),
            format: BlockFormat::Raw,
            access: Access::ReadWrite,
        })
    }

    async fn detach(&self, _host: &dyn Host, _handles: &VMHandles) -> Result<(), DiskError> {
        Ok(())
    }
}
