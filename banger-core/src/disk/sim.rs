//! The simulator's disk: a file with a line in it.

use std::path::Path;

use async_trait::async_trait;

use super::{Access, BlockFormat, BlockSource, Disk, DiskError, LayerRun};
use crate::choice::Probe;
use crate::handles::VMHandles;
use crate::host::Host;
use crate::marks::Marks;
use crate::vm::DiskKind;

/// The disk `sim`.
#[derive(Debug)]
pub(crate) struct SimDisk;

#[async_trait]
impl Disk for SimDisk {
    fn kind(&self) -> DiskKind {
        DiskKind::Sim
    }

    async fn probe(&self, _host: &dyn Host) -> Probe {
        Probe::works("simulated")
    }

    fn format(&self) -> BlockFormat {
        BlockFormat::Raw
    }

    fn plan(&self, _marks: &Marks, _handles: &mut VMHandles) {}

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
        run: &LayerRun<'_>,
        _handles: &mut VMHandles,
    ) -> Result<BlockSource, DiskError> {
        Ok(BlockSource {
            path: run.layer.to_owned(),
            format: BlockFormat::Raw,
            access: Access::ReadWrite,
        })
    }

    async fn find(
        &self,
        _host: &dyn Host,
        _marks: &Marks,
        _handles: &mut VMHandles,
    ) -> Result<(), DiskError> {
        Ok(())
    }

    async fn detach(&self, _host: &dyn Host, _handles: &VMHandles) -> Result<(), DiskError> {
        Ok(())
    }

    async fn trouble(&self, _host: &dyn Host, _handles: &VMHandles) -> Option<String> {
        None
    }
}
