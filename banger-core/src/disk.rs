//! The seam for root disks: how a VM's writes lie over its image, which stays as it is.

mod dm_snapshot;
mod file;
mod overlay;
mod sim;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use crate::choice::Probe;
use crate::handles::VMHandles;
use crate::host::{Host, HostError, Program, ProgramLimits};
use crate::marks::Marks;
use crate::names::Mebibytes;
use crate::vm::DiskKind;

pub(crate) use dm_snapshot::{DmSnapshotDisk, remove_snapshot};
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
    /// Somebody has the device open and does not let go.
    #[error("the device-mapper target {name} was still in use after {} s", limit.as_secs())]
    Busy {
        /// The target.
        name: String,
        /// How long it was tried.
        limit: Duration,
    },
    /// The layer lost a write once, and with it everything.
    #[error(
        "the layer {} is lost: its disk was full, or failed, while the guest wrote", layer.display()
    )]
    LayerLost {
        /// The layer.
        layer: PathBuf,
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
            DiskError::LayerLost { .. } => Some(
                "what the VM has under /root is on another disk; free some space and make the VM anew"
                    .to_owned(),
            ),
            DiskError::Busy { name, .. } => Some(format!(
                "dmsetup info {name} says how often it is open; delete the VM again once it is not"
            )),
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

/// What a root disk is attached by in one run.
#[derive(Clone, Copy, Debug)]
pub struct LayerRun<'a> {
    /// The image's root file system.
    pub image_rootfs: &'a Path,
    /// The layer that takes the VM's writes.
    pub layer: &'a Path,
    /// The names of what it holds in the kernel.
    pub marks: &'a Marks,
}

/// How a root disk lies over an image.
#[async_trait]
pub trait Disk: fmt::Debug + Send + Sync {
    /// Which one this is.
    fn kind(&self) -> DiskKind;

    /// Says whether it works on this host.
    async fn probe(&self, host: &dyn Host) -> Probe;

    /// Returns the format in which a monitor is given it.
    fn format(&self) -> BlockFormat;

    /// Returns the name, in a VM's folder, of the layer that takes its writes.
    fn layer(&self) -> &'static str;

    /// Makes the layer in a VM's folder that is still being built.
    async fn create(
        &self,
        host: &dyn Host,
        image_rootfs: &Path,
        vm_dir: &Path,
    ) -> Result<(), DiskError>;

    /// Names, in a run's handles, what it will hold: they are written down before anything is acquired.
    fn plan(&self, marks: &Marks, handles: &mut VMHandles);

    /// Makes the layer usable for a run, and adds to `handles` what the kernel has chosen.
    async fn attach(
        &self,
        host: &dyn Host,
        run: &LayerRun<'_>,
        handles: &mut VMHandles,
    ) -> Result<BlockSource, DiskError>;

    /// Finds again, by their names, the devices of a run whose handles were lost.
    async fn find(
        &self,
        host: &dyn Host,
        marks: &Marks,
        handles: &mut VMHandles,
    ) -> Result<(), DiskError>;

    /// Lets go of what a run held. By name, so that it can be repeated; "already gone" is success.
    async fn detach(&self, host: &dyn Host, handles: &VMHandles) -> Result<(), DiskError>;

    /// Says what is wrong with the disk of a run, if anything is.
    async fn trouble(&self, host: &dyn Host, handles: &VMHandles) -> Option<String>;
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
                .limits(ProgramLimits::DISK),
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

/// Returns the size of an image's root file system, in bytes.
async fn refuse_missing(host: &dyn Host, rootfs: &Path) -> Result<u64, DiskError> {
    match host.stat(rootfs).await? {
        Some(facts) if !facts.is_dir => Ok(facts.bytes),
        _ => Err(DiskError::ImageMissing {
            path: rootfs.to_owned(),
        }),
    }
}
