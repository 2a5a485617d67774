//! Images: a root file system, the kernel that it boots with, and an initramfs of our own.
//!
//! An image is a folder `<state>/images/<name>/` with `manifest.json`, `rootfs.ext4`, `vmlinux` and
//! `initrd.cpio`, all read-only. [`build`] makes one from Debian packages, aside, and publishes it by
//! a rename; the recipe is data (`recipe`), the guest's side are the shell scripts beside it.

mod build;
mod contract;
mod error;
mod files;
mod initramfs;
mod kernel;
mod manifest;
mod modules;
mod recipe;
mod register;
mod workshop;

pub(crate) use build::build;
pub(crate) use contract::PARSER;
pub use error::{Clause, ImageError};
pub(crate) use initramfs::{GuestNetwork, Identity, identity_archive};
pub use kernel::KernelError;
pub(crate) use manifest::MANIFEST;
pub use manifest::{Booted, Capability, ImageManifest, Initrd, Kernel, ManifestError, Rootfs};
#[cfg(test)]
pub(crate) use recipe::SMALLEST_SIZE;
pub use recipe::{ImageSpec, Mirror, PackageName, SpecError, Suite};
pub(crate) use register::{Candidate, Registering};
pub use register::{Registration, TestBoot};
pub(crate) use workshop::{SCRATCH, Workshop, scratch_folder};
