//! A qcow2 file over the read-only image: 0.01 s and some hundred kilobytes a VM. QEMU only.

use std::path::Path;

use async_trait::async_trait;

use super::{
    Access, BlockFormat, BlockSource, Disk, DiskError, LayerRun, refuse_failure, refuse_missing,
};
use crate::choice::Probe;
use crate::handles::VMHandles;
use crate::host::{Host, Program, ProgramLimits};
use crate::marks::Marks;
use crate::vm::DiskKind;

/// The disk `overlay`.
#[derive(Debug)]
pub(crate) struct OverlayDisk;

#[async_trait]
impl Disk for OverlayDisk {
    fn kind(&self) -> DiskKind {
        DiskKind::Overlay
    }

    async fn probe(&self, host: &dyn Host) -> Probe {
        Probe::needs_program(host, "qemu-img").await
    }

    fn format(&self) -> BlockFormat {
        BlockFormat::Qcow2
    }

    fn plan(&self, _marks: &Marks, _handles: &mut VMHandles) {}

    fn layer(&self) -> &'static str {
        "root.qcow2"
    }

    async fn create(
        &self,
        host: &dyn Host,
        image_rootfs: &Path,
        vm_dir: &Path,
    ) -> Result<(), DiskError> {
        refuse_missing(host, image_rootfs).await?;
        let made = host
            .run(
                &Program::new("qemu-img")
                    .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                    .arg(image_rootfs)
                    .arg(vm_dir.join(self.layer()))
                    .limits(ProgramLimits::DISK),
            )
            .await?;
        refuse_failure("qemu-img", &made)
    }

    async fn attach(
        &self,
        _host: &dyn Host,
        run: &LayerRun<'_>,
        _handles: &mut VMHandles,
    ) -> Result<BlockSource, DiskError> {
        Ok(BlockSource {
            path: run.layer.to_owned(),
            format: BlockFormat::Qcow2,
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
        // The monitor opens and closes the file; nothing else holds it.
        Ok(())
    }

    async fn trouble(&self, _host: &dyn Host, _handles: &VMHandles) -> Option<String> {
        None
    }
}
