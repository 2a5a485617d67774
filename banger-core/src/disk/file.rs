//! A copy of the image a VM: a reflink where the file system can, else a sparse copy (the image's
//! own size on the disk, a second or so for the default one).

use std::path::Path;

use async_trait::async_trait;

use super::{Access, BlockFormat, BlockSource, Disk, DiskError, LayerRun, refuse_missing};
use crate::choice::Probe;
use crate::handles::VMHandles;
use crate::host::Host;
use crate::marks::Marks;
use crate::vm::DiskKind;

/// The disk `file`.
#[derive(Debug)]
pub(crate) struct FileDisk;

#[async_trait]
impl Disk for FileDisk {
    fn kind(&self) -> DiskKind {
        DiskKind::File
    }

    async fn probe(&self, _host: &dyn Host) -> Probe {
        Probe::works("a copy of the image for each VM")
    }

    fn format(&self) -> BlockFormat {
        BlockFormat::Raw
    }

    fn plan(&self, _marks: &Marks, _handles: &mut VMHandles) {}

    fn layer(&self) -> &'static str {
        "root.ext4"
    }

    async fn create(
        &self,
        host: &dyn Host,
        image_rootfs: &Path,
        vm_dir: &Path,
    ) -> Result<(), DiskError> {
        refuse_missing(host, image_rootfs).await?;
        let how = host
            .clone_file(image_rootfs, &vm_dir.join(self.layer()))
            .await?;
        tracing::debug!(?how, "copied the image");
        Ok(())
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
