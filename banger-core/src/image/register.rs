//! Takes a root file system and a kernel that somebody else has made: checked as far as can be without
//! booting them, copied aside, booted there (see `images/test_boot.rs`), and published by one rename.
//!
//! The initramfs is ours in any case, or a guest would never get its identity: of one that is handed in
//! the modules are used.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::contract::{HEAD, Superblock, check_contents, check_filesystem};
use super::error::ImageError;
use super::files::{Files, UNPACKED};
use super::initramfs::{BaseParts, base_archive};
use super::kernel::{
    KernelError, LARGEST as LARGEST_VMLINUX, extract_vmlinux, has_pvh_entry, is_elf_vmlinux,
    packing, payload, release,
};
use super::manifest::{Booted, INITRD, ImageManifest, KERNEL, ROOTFS};
use super::modules::{Shelves, unpack};
use super::workshop::{Workshop, random_id};
use banger_foreign::ForeignError;

use crate::host::{HostError, Program};
use crate::names::ImageName;

/// What an image is to be made from. The files are read, and never needed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub name: ImageName,
    /// A file that holds an ext4 file system.
    pub rootfs: PathBuf,
    /// A kernel: an ELF vmlinux with a PVH entry, or a bzImage that holds one.
    pub kernel: PathBuf,
    /// An initramfs with the kernel's modules; without it they are looked for in the root file system.
    pub initrd: Option<PathBuf>,
    /// Whether it is booted before it is published.
    pub test_boot: TestBoot,
}

/// Whether an image that is registered is booted before it is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TestBoot {
    /// It is, and what does not come up is refused.
    #[default]
    Wanted,
    /// It is published as it is: for a host on which no VM can run, or a guest without ssh.
    Skipped,
}

/// The most that a packed kernel may have, in bytes.
const LARGEST_PACKED: u64 = 48 << 20;

/// A busybox larger than this is none.
const LARGEST_BUSYBOX: u64 = 16 << 20;

/// A registration that is under way, aside. Until [`Registering::publish`] nobody sees it; whoever gives
/// it up, or fails, calls [`Registering::clear_away`].
pub(crate) struct Registering<'a> {
    shop: Workshop<'a>,
    asked: &'a Registration,
    id: String,
    new: PathBuf,
}

/// The files of an image that has no name yet.
pub(crate) struct Candidate {
    pub(crate) rootfs: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    manifest: ImageManifest,
}

impl Candidate {
    /// Returns the name that it is to have.
    pub(crate) fn name(&self) -> &ImageName {
        &self.manifest.name
    }
}

impl<'a> Registering<'a> {
    /// Begins one; refuses a name that is taken.
    pub(crate) async fn begin(
        shop: Workshop<'a>,
        asked: &'a Registration,
    ) -> Result<Self, ImageError> {
        shop.refuse_taken(&asked.name).await?;
        let id = random_id()?;
        Ok(Registering {
            shop,
            asked,
            new: shop.new_folder(&id),
            id,
        })
    }

    /// Returns the id of what is being made: 16 digits.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Checks and copies. Takes as long as the file system takes to copy (no time where it can share its
    /// blocks). Cancel-safe, if it is then cleared away.
    pub(crate) async fn make(&self) -> Result<Candidate, ImageError> {
        // What is told is the file that was handed in, not its copy.
        let made = self.check_and_copy().await;
        made.map_err(|error| error.speaking_of(&self.new.join(ROOTFS), &self.asked.rootfs))
    }

    async fn check_and_copy(&self) -> Result<Candidate, ImageError> {
        let (host, progress) = (self.shop.host, self.shop.progress);
        progress.tell("image-check", "checking the file system and the kernel");
        // What takes no time comes first: nothing has been copied when it is refused.
        let superblock = self.check_superblock().await?;
        let vmlinux = self.kernel().await?;
        let release = release(&vmlinux);

        progress.tell("image", "copying the root file system");
        let (rootfs, kernel, initrd) = (
            self.new.join(ROOTFS),
            self.new.join(KERNEL),
            self.new.join(INITRD),
        );
        host.create_dir(&self.new).await?;
        host.write_file(&kernel, &vmlinux, 0o444).await?;
        drop(vmlinux);
        host.clone_file(&self.asked.rootfs, &rootfs).await?;
        let chmod = Program::new("chmod").arg("0444").arg(&rootfs);
        self.shop.run_checked(chmod).await?;
        self.check_rootfs(&superblock, &rootfs).await?;

        let initramfs = match &self.asked.initrd {
            Some(path) => {
                let aside = self.new.join(UNPACKED);
                Some(Files::open(&self.shop, path, &aside).await?)
            }
            None => None,
        };
        let shelves = Shelves {
            release: release.as_deref().unwrap_or_default(),
            initramfs: initramfs.as_ref(),
            rootfs: rootfs.clone(),
        };
        let parts = BaseParts {
            busybox: self.busybox(initramfs.as_ref()).await?,
            modules: shelves.gather(&self.shop).await?,
        };
        host.write_file(&initrd, &base_archive(&parts), 0o444)
            .await?;
        let name = self.asked.name.clone();
        let mut manifest =
            ImageManifest::new(name, self.id.clone(), Timestamp::now(), superblock.bytes);
        manifest.kernel.release = release;
        Ok(Candidate {
            rootfs,
            kernel,
            initrd,
            manifest,
        })
    }

    /// Gives the image its name, with what was seen of its test boot, if there was one.
    pub(crate) async fn publish(
        &self,
        candidate: Candidate,
        booted: Option<Booted>,
    ) -> Result<ImageManifest, ImageError> {
        let manifest = ImageManifest {
            booted,
            ..candidate.manifest
        };
        self.shop.publish(&self.id, &manifest).await?;
        Ok(manifest)
    }

    /// Removes what has been made.
    pub(crate) async fn clear_away(&self) {
        self.shop.clear_away(&self.id).await;
    }

    async fn check_superblock(&self) -> Result<Superblock, ImageError> {
        let path = &self.asked.rootfs;
        let missing = || ImageError::NoFile { path: path.clone() };
        let facts = self.shop.host.stat(path).await?.ok_or_else(missing)?;
        let no_filesystem = |found: String| ImageError::NoFilesystem {
            path: path.clone(),
            found,
        };
        if facts.is_dir {
            return Err(no_filesystem("it is a folder".to_owned()));
        }
        // Only a regular file is opened at all.
        drop(self.shop.host.open_foreign(path).await?);
        let head = self.shop.host.read_head(path, HEAD).await?;
        let head = head.ok_or_else(missing)?;
        Superblock::read(&head, facts.bytes).map_err(no_filesystem)
    }

    /// Checks the copy: the file that was handed in may still change.
    async fn check_rootfs(&self, superblock: &Superblock, rootfs: &Path) -> Result<(), ImageError> {
        // With its journal not yet replayed e2fsck would find faults that are none; the guest replays it.
        if !superblock.needs_recovery {
            check_filesystem(&self.shop, rootfs).await?;
        }
        check_contents(&self.shop, rootfs).await
    }

    async fn kernel(&self) -> Result<Vec<u8>, ImageError> {
        let path = &self.asked.kernel;
        let refused = |source| ImageError::Kernel {
            path: path.clone(),
            source,
        };
        let image = self.read(path, LARGEST_VMLINUX as u64).await?;
        let vmlinux = match payload(&image) {
            _ if is_elf_vmlinux(&image) => extract_vmlinux(image),
            Ok(_) if image.len() as u64 > LARGEST_PACKED => {
                return Err(ImageError::TooLarge {
                    path: path.to_owned(),
                    largest: LARGEST_PACKED,
                });
            }
            Ok(packed) => match packing(packed) {
                packing @ ("gzip" | "xz" | "zstd") => {
                    // All but gzip's are followed by the unpacked length (the kernel's scripts/Makefile.lib).
                    let end = match packing {
                        "gzip" => packed.len(),
                        _ => packed.len().saturating_sub(4),
                    };
                    let packed = packed[..end].to_vec();
                    let whole = unpack(&self.shop, packing, packed, LARGEST_VMLINUX as u64);
                    extract_vmlinux(whole.await?)
                }
                _ => extract_vmlinux(image),
            },
            Err(error) => Err(error),
        };
        let vmlinux = vmlinux.map_err(refused)?;
        match has_pvh_entry(&vmlinux) {
            true => Ok(vmlinux),
            false => Err(refused(KernelError::NoPvhEntry)),
        }
    }

    async fn read(&self, path: &Path, largest: u64) -> Result<Vec<u8>, ImageError> {
        let path_of = || path.to_owned();
        match self.shop.host.read_foreign(path, largest).await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(ImageError::NoFile { path: path_of() }),
            Err(HostError::Foreign(ForeignError::TooLarge { .. })) => Err(ImageError::TooLarge {
                path: path_of(),
                largest,
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds a busybox that runs without libraries: another image's, the initramfs's, the host's.
    async fn busybox(&self, initramfs: Option<&Files>) -> Result<Vec<u8>, ImageError> {
        let (host, images) = (self.shop.host, self.shop.images);
        const BUSYBOX: &str = "bin/busybox";
        for name in host.list_dir(images).await? {
            let path = images.join(&name).join(INITRD);
            let published = name.parse::<ImageName>().is_ok();
            if published {
                // One that is damaged is no reason not to look at the next.
                let files = Files::open(&self.shop, &path, &self.new.join(UNPACKED)).await;
                if let Ok(files) = files
                    && let Some(busybox) = files.read(BUSYBOX, LARGEST_BUSYBOX).await?
                {
                    return Ok(busybox);
                }
            }
        }
        if let Some(files) = initramfs
            && let Some(busybox) = files.read(BUSYBOX, LARGEST_BUSYBOX).await?
            && is_static(&busybox)
        {
            return Ok(busybox);
        }
        if let Some(path) = host.find_program("busybox").await
            && let Some(busybox) = host.read_foreign(&path, LARGEST_BUSYBOX).await?
            && is_static(&busybox)
        {
            return Ok(busybox);
        }
        Err(ImageError::NoBusybox)
    }
}

/// Says whether an x86-64 program asks for no loader (ELF: no PT_INTERP).
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let headers = super::kernel::program_headers(program);
    headers.is_some_and(|headers| headers.iter().all(|header| header.kind != PT_INTERP))
}
