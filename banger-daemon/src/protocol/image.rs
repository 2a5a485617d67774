//! `image.…`: what VMs boot from.
//!
//! `image.build` and `image.register` are given up when their client's connection ends: then nothing of
//! them is left. The files of a registration are named by their paths on the daemon's host, where they
//! share their blocks or at least keep their holes; no bytes go over the connection.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `image.build`. What is left out is the daemon's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageBuildParams {
    /// Its name: without one the suite's, and without that either the default image's.
    pub name: Option<String>,
    /// The Debian release.
    pub suite: Option<String>,
    /// Packages besides those that every image has.
    pub include: Vec<String>,
    /// The size of its root disk in MiB.
    pub size_mib: Option<u64>,
    /// The only mirror to ask.
    pub mirror: Option<String>,
}

/// `image.register`. Absolute paths on the daemon's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRegisterParams {
    /// Its name.
    pub name: String,
    /// A file that holds an ext4 file system.
    pub rootfs: PathBuf,
    /// A vmlinux or a bzImage.
    pub kernel: PathBuf,
    /// An initramfs with the kernel's modules.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Do not boot it before it is published.
    #[serde(default)]
    pub no_check: bool,
}

/// Names one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageParams {
    /// Its name.
    pub image: String,
}

/// An image as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Its name.
    pub name: String,
    /// `ready`, or `damaged`: no VM boots from it.
    pub state: String,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// Tells two images of one name apart: 16 digits.
    pub id: Option<String>,
    /// Whether VMs boot from it that name no image.
    pub default: bool,
    /// The Debian release; none for an image that was registered.
    pub suite: Option<String>,
    /// How many packages are installed; none for an image that was registered.
    pub packages: Option<u32>,
    /// What `uname -r` says in its guests.
    pub kernel: Option<String>,
    /// When it passed its test boot (RFC 3339); none for one that was built, or registered unchecked.
    pub booted_at: Option<String>,
    /// The monitor of that.
    pub booted_by: Option<String>,
    /// The size of its root disk as the guest sees it, in bytes.
    pub rootfs_bytes: Option<u64>,
    /// What it takes on the disk, in bytes.
    pub disk_bytes: u64,
    /// The VMs that boot from it.
    pub used_by: Vec<String>,
    /// Its folder.
    pub folder: PathBuf,
    /// When it was made (RFC 3339).
    pub created_at: Option<String>,
}

/// `image.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageListAnswer {
    /// By name.
    pub images: Vec<ImageInfo>,
}
