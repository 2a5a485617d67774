//! Makes a Debian image: aside, checked, and published by one rename.
//!
//! ```text
//! images/.new-<id>/  ── mmdebstrap (tree, kernel, file system) ── check ── sync ──►  images/<name>/
//! <scratch>/banger-image-<id>/   the tree, and what the hooks hand out
//! ```

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::contract;
use super::error::{ImageError, refusal};
use super::initramfs::{BaseParts, base_archive};
use super::kernel::extract_vmlinux;
use super::manifest::{INITRD, ImageManifest, KERNEL, ROOTFS};
use super::recipe::{ImageSpec, Privilege, SMALLEST_SIZE, environment, mmdebstrap_arguments};
use super::workshop::{Workshop, in_namespace, random_id, scratch_folder, token};
use crate::host::{HostError, Program, ProgramLimits};

/// Makes an image and returns its manifest. Until the last step nobody sees it; whatever fails, or is
/// given up because `given_up` has come true, leaves neither a file nor a process. Takes half a minute
/// and, meanwhile, [`NEEDED_BYTES`] in each of the two folders.
pub(crate) async fn build(
    shop: Workshop<'_>,
    spec: &ImageSpec,
    given_up: impl Future<Output = ()>,
) -> Result<ImageManifest, ImageError> {
    if spec.size < SMALLEST_SIZE {
        return Err(ImageError::TooSmall {
            size: spec.size,
            smallest: SMALLEST_SIZE,
        });
    }
    let id = random_id()?;
    let build = Build {
        shop,
        spec,
        new: shop.new_folder(&id),
        scratch: scratch_folder(shop.scratch, &id),
        privilege: shop.privilege(),
        id,
    };
    build.check_host().await?;
    let made = tokio::select! {
        // An image that is there is there, even if somebody has just given it up.
        biased;
        made = build.make() => made,
        // What is dropped here kills the program that is at work, and its group.
        () = given_up => Err(ImageError::GivenUp { name: spec.name.clone() }),
    };
    if made.is_err() {
        shop.clear_away(&build.id).await;
    }
    made
}

/// What a build needs free: the tree and the file system made of it, with room for a few packages.
pub(super) const NEEDED_BYTES: u64 = 1200 << 20;

struct Build<'a> {
    shop: Workshop<'a>,
    spec: &'a ImageSpec,
    id: String,
    new: PathBuf,
    scratch: PathBuf,
    privilege: Privilege,
}

impl Build<'_> {
    async fn check_host(&self) -> Result<(), ImageError> {
        let host = self.shop.host;
        self.shop.refuse_taken(&self.spec.name).await?;
        if self.privilege == Privilege::Subordinate
            && host.find_program("newuidmap").await.is_none()
        {
            return Err(ImageError::NoUidmap);
        }
        if host.find_program("mmdebstrap").await.is_none() {
            // Said before anything is made; running it would say the same.
            host.run(&Program::new("mmdebstrap").arg("--version"))
                .await?;
        }
        host.create_dir(self.shop.scratch).await?;
        for folder in [self.shop.images, self.shop.scratch] {
            let free = host.free_bytes(folder).await?;
            if free < NEEDED_BYTES {
                return Err(ImageError::NoSpace {
                    folder: folder.to_owned(),
                    free,
                    needed: NEEDED_BYTES,
                });
            }
        }
        Ok(())
    }

    async fn make(&self) -> Result<ImageManifest, ImageError> {
        let (host, progress) = (self.shop.host, self.shop.progress);
        let out = self.scratch.join("out");
        // Order matters here: the first folder's name is what leads a sweep to the second.
        host.create_dir(&self.new).await?;
        host.create_dir(&out).await?;
        self.open_scratch(&out).await?;

        progress.tell(
            "image",
            format!("fetching and unpacking Debian ({})", self.spec.suite),
        );
        self.run_mmdebstrap(&out).await?;
        self.take_over(&out).await?;

        progress.tell("image-check", "checking the file system and the kernel");
        contract::check_filesystem(&self.shop, &out.join(ROOTFS)).await?;
        let manifest = self.collect(&out).await?;
        self.move_in(&out.join(ROOTFS), &self.new.join(ROOTFS))
            .await?;
        // Order matters here: once the image has its name, nothing leads to the scratch folder any more.
        self.shop.remove_scratch(&self.id).await?;
        self.shop.publish(&self.id, &manifest).await?;
        Ok(manifest)
    }

    /// Lets the build's ids into the scratch folder, and nobody else into what it hands out.
    async fn open_scratch(&self, out: &Path) -> Result<(), ImageError> {
        let chmod = Program::new("chmod").arg("0711").arg(&self.scratch);
        self.shop.run_checked(chmod).await?;
        if self.privilege == Privilege::Subordinate {
            // Id 1 here is the first subordinate id, which is root's inside mmdebstrap.
            let chown = in_namespace("chown").arg("1:1").arg(out);
            self.shop.run_checked(chown).await?;
        }
        Ok(())
    }

    async fn run_mmdebstrap(&self, out: &Path) -> Result<(), ImageError> {
        let words = mmdebstrap_arguments(
            self.spec,
            self.privilege,
            self.shop.patience,
            &token(&self.id),
        );
        let mut program = Program::new("mmdebstrap")
            .args(words)
            .limits(ProgramLimits::BUILD);
        for (name, value) in environment(self.spec, &self.scratch, out) {
            program = program.env(name, value);
        }
        let output = match self.shop.host.run(&program).await {
            Err(HostError::ProgramTimeout { limit, .. }) => {
                return Err(ImageError::Mirror {
                    mirror: self.spec.mirror_name(),
                    suite: self.spec.suite.to_string(),
                    output: format!("it was still at it after {} minutes", limit.as_secs() / 60),
                });
            }
            output => output?,
        };
        if output.success() {
            Ok(())
        } else {
            tracing::debug!(output = %String::from_utf8_lossy(&output.stderr), "mmdebstrap failed");
            Err(refusal(self.spec, &self.scratch, &output))
        }
    }

    /// Makes ours what the build's ids made.
    async fn take_over(&self, out: &Path) -> Result<(), ImageError> {
        if self.privilege == Privilege::Subordinate {
            let chown = in_namespace("chown").args(["-R", "0:0"]).arg(out);
            self.shop.run_checked(chown).await?;
        }
        Ok(())
    }

    /// Writes kernel and initramfs, and describes the whole.
    async fn collect(&self, out: &Path) -> Result<ImageManifest, ImageError> {
        let host = self.shop.host;
        let source = out.join("vmlinuz");
        let vmlinux = extract_vmlinux(self.part(&source).await?).map_err(|source_error| {
            ImageError::Kernel {
                path: source,
                source: source_error,
            }
        })?;
        host.write_file(&self.new.join(KERNEL), &vmlinux, 0o444)
            .await?;

        let mut parts = BaseParts {
            busybox: self.part(&out.join("busybox")).await?,
            modules: Vec::new(),
        };
        // A kernel with everything built in needs no modules.
        let order = host.read_file(&out.join("module-order")).await?;
        for name in String::from_utf8_lossy(&order.unwrap_or_default()).lines() {
            let module = self.part(&out.join("modules").join(name)).await?;
            parts.modules.push((name.to_owned(), module));
        }
        host.write_file(&self.new.join(INITRD), &base_archive(&parts), 0o444)
            .await?;

        let size = self.spec.size.bytes();
        let name = self.spec.name.clone();
        let mut manifest = ImageManifest::new(name, self.id.clone(), Timestamp::now(), size);
        manifest.suite = Some(self.spec.suite.to_string());
        manifest.kernel.release = Some(self.line(&out.join("release")).await?);
        manifest.packages = self.line(&out.join("packages")).await?.parse().ok();
        Ok(manifest)
    }

    async fn part(&self, path: &Path) -> Result<Vec<u8>, ImageError> {
        match self.shop.host.read_file(path).await? {
            Some(contents) if !contents.is_empty() => Ok(contents),
            _ => Err(ImageError::PartMissing {
                path: path.to_owned(),
            }),
        }
    }

    async fn line(&self, path: &Path) -> Result<String, ImageError> {
        let text = self.part(path).await?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// Renames, or copies where the two folders lie on different file systems.
    async fn move_in(&self, from: &Path, to: &Path) -> Result<(), ImageError> {
        let host = self.shop.host;
        if host.rename(from, to).await.is_err() {
            host.clone_file(from, to).await?;
            let chmod = Program::new("chmod").arg("0444").arg(to);
            self.shop.run_checked(chmod).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
