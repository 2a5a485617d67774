//! The seam for root disks: how a VM's writes lie over its image, which stays as it is.

mod file;
mod overlay;
mod sim;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use crate::choice::Probe;
use crate::handles::VMHandles;
use crate::host::{Host, HostError, Program};
use crate::inventory::ObjectKind;
use crate::names::Mebibytes;
use crate::vm::DiskKind;

pub(crate) use file::FileDisk;
pub(crate) use overlay::OverlayDisk;
pub(crate) use sim::SimDisk;

/// Why a disk could not be made, attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image's root file system is not where it should be.
    #[error("the image's root file system {} is missing", path.display())]
    ImageMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A program said no.
    #[error("{program} failed with status {status}: {message}")]
    Program {
        /// Which.
        program: &'static str,
        /// Its status.
        status: i32,
        /// Its last lines.
        message: String,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl DiskError {
    /// Returns the next step for whoever reads the message, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            DiskError::Host(host) => host.hint(),
            DiskError::Program { message, .. } if message.contains("No space left") => {
                Some("the disk is full: free some space and try again".to_owned())
            }
            _ => None,
        }
    }
}

/// What a virtual disk is made of on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSource {
    /// A file or block device.
    pub path: PathBuf,
    /// What is in it.
    pub format: BlockFormat,
    /// Whether the guest may write.
    pub access: Access,
}

/// The format of a block source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFormat {
    /// Sector by sector.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// Whether a guest may write to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may not.
    ReadOnly,
    /// It may.
    ReadWrite,
}

/// How a root disk lies over an image.
#[async_trait]
pub trait Disk: fmt::Debug + Send + Sync {
    /// Which one this is.
    fn kind(&self) -> DiskKind;

    /// Returns the kinds of host objects that it can leave beside its files: the proof that nothing was
    /// leaked looks for them.
    fn holds(&self) -> &'static [ObjectKind];

    /// Says whether it works on this host.
    async fn probe(&self, host: &dyn Host) -> Probe;

    /// Returns the name, in a VM's folder, of the layer that takes its writes.
    fn layer(&self) -> &'static str;

    /// Makes the layer in a VM's folder that is still being built.
    async fn create(
        &self,
        host: &dyn Host,
        image_rootfs: &Path,
        vm_dir: &Path,
    ) -> Result<(), DiskError>;

    /// Makes the layer usable for a run; what the kernel then holds is named in `handles`.
    async fn attach(
        &self,
        host: &dyn Host,
        layer: &Path,
        handles: &VMHandles,
    ) -> Result<BlockSource, DiskError>;

    /// Lets go of what a run held. By name, so that it can be repeated; "already gone" is success.
    async fn detach(&self, host: &dyn Host, handles: &VMHandles) -> Result<(), DiskError>;
}

/// The name of a VM's own disk in its folder.
pub(crate) const WORK_DISK: &str = "work.ext4";

/// The name, in a VM's folder, of the file that says that its own disk was ever grown.
pub(crate) const GROWN: &str = "work.grown";

/// Makes a VM's own disk: an empty ext4, sparse. A minute is enough for terabytes: nothing but the
/// first block groups is written, the guest initialises the rest when it needs it.
pub(crate) async fn create_work_disk(
    host: &dyn Host,
    vm_dir: &Path,
    size: Mebibytes,
) -> Result<(), DiskError> {
    let path = vm_dir.join(WORK_DISK);
    host.grow_file(&path, size.bytes()).await?;
    let made = host
        .run(
            &Program::new("mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-L", "banger-work", "-m", "0"])
                .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
                .arg(&path)
                .timeout(Duration::from_secs(60)),
        )
        .await?;
    refuse_failure("mke2fs", &made)
}

fn refuse_failure(
    program: &'static str,
    output: &crate::host::ProgramOutput,
) -> Result<(), DiskError> {
    if output.success() {
        return Ok(());
    }
    Err(DiskError::Program {
        program,
        status: output.status,
        message: output.last_lines(3),
    })
}

async fn refuse_missing(host: &dyn Host, rootfs: &Path) -> Result<(), DiskError> {
    match host.stat(rootfs).await? {
        Some(facts) if !facts.is_dir => Ok(()),
        _ => Err(DiskError::ImageMissing {
            path: rootfs.to_owned(),
        }),
    }
}
