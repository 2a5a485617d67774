//! A copy of the image a VM: a reflink where the file system can, else a sparse copy (the image's
//! own size on the disk, a second or so for the default one).

use std::path::Path;

use async_trait::async_trait;

use super::{Access, BlockFormat, BlockSource, Disk, DiskError, refuse_missing};
use crate::choice::Probe;
use crate::handles::VMHandles;
use crate::host::Host;
use crate::inventory::ObjectKind;
use crate::vm::DiskKind;

/// The disk `file`.
#[derive(Debug)]
pub(crate) struct FileDisk;

#[async_trait]
impl Disk for FileDisk {
    fn holds(&self) -> &'static [ObjectKind] {
        &[]
    }

    fn kind(&self) -> DiskKind {
        DiskKind::File
    }

    async fn probe(&self, _host: &dyn Host) -> Probe {
        Probe::works("a copy of the image for each VM")
    }

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
