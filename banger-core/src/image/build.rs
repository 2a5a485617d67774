//! Makes a Debian image: aside, checked, and published by one rename.
//!
//! ```text
//! images/.new-<id>/  ── mmdebstrap (tree, kernel, file system) ── check ── sync ──►  images/<name>/
//! <scratch>/banger-image-<id>/   the tree, and what the hooks hand out
//! ```
//!
//! The scratch folder lies apart because subordinate ids must reach it, and they cannot pass a home
//! folder of mode 0700. Its name follows from the other's, so that a build that was killed is swept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::error::{ImageError, refusal};
use super::initramfs::{BaseParts, base_archive};
use super::kernel::extract_vmlinux;
use super::manifest::{INITRD, ImageManifest, KERNEL, MANIFEST, ROOTFS};
use super::recipe::{ImageSpec, Privilege, SMALLEST_SIZE, environment, mmdebstrap_arguments};
use crate::host::{Host, Program};
use crate::places::NEW;
use crate::progress::Progress;

/// Where a tree grows unless the configuration says otherwise. Not /tmp: that is often memory.
pub(crate) const SCRATCH: &str = "/var/tmp";

/// Makes an image and returns its manifest. Until the last step nobody sees it; whatever fails leaves
/// nothing behind. Takes half a minute and, meanwhile, [`NEEDED_BYTES`] in each of the two folders.
pub(crate) async fn build(
    host: &dyn Host,
    images: &Path,
    scratch: &Path,
    spec: &ImageSpec,
    progress: &Progress,
) -> Result<ImageManifest, ImageError> {
    if spec.size < SMALLEST_SIZE {
        return Err(ImageError::TooSmall {
            size: spec.size,
            smallest: SMALLEST_SIZE,
        });
    }
    let id = random_id()?;
    let build = Build {
        host,
        spec,
        published: images.join(spec.name.as_str()),
        new: images.join(format!("{NEW}{id}")),
        scratch: scratch_folder(scratch, &id),
        privilege: privilege(host),
        id,
    };
    build.check_host(images, scratch).await?;
    let made = build.make(progress).await;
    let swept = remove(host, build.privilege, &build.scratch).await;
    if made.is_err()
        && let Err(error) = host.remove_tree(&build.new).await
    {
        // The first error is the one to tell; the next start-up sweeps what is left.
        tracing::warn!(%error, "could not remove what a failed build left");
    }
    let manifest = made?;
    swept?;
    Ok(manifest)
}

/// Removes what builds that were killed have left. No other build may be running on these folders.
pub(crate) async fn sweep(
    host: &dyn Host,
    images: &Path,
    scratch: &Path,
) -> Result<usize, ImageError> {
    let mut swept = 0;
    for name in host.list_dir(images).await? {
        if let Some(id) = name.strip_prefix(NEW) {
            sweep_one(host, images, scratch, id).await?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Removes what one build that was killed has left.
pub(crate) async fn sweep_one(
    host: &dyn Host,
    images: &Path,
    scratch: &Path,
    id: &str,
) -> Result<(), ImageError> {
    // Order matters here: the folder that names the other goes last.
    remove(host, privilege(host), &scratch_folder(scratch, id)).await?;
    Ok(host.remove_tree(&images.join(format!("{NEW}{id}"))).await?)
}

/// What a build needs free: the tree and the file system made of it, with room for a few packages.
pub(super) const NEEDED_BYTES: u64 = 1200 << 20;

/// A mirror that trickles is given up after this long.
const BUILD_TIMEOUT: Duration = Duration::from_secs(30 * 60);

struct Build<'a> {
    host: &'a dyn Host,
    spec: &'a ImageSpec,
    id: String,
    published: PathBuf,
    new: PathBuf,
    scratch: PathBuf,
    privilege: Privilege,
}

impl Build<'_> {
    async fn check_host(&self, images: &Path, scratch: &Path) -> Result<(), ImageError> {
        self.host.create_dir(images).await?;
        if self.host.stat(&self.published).await?.is_some() {
            return Err(ImageError::Exists {
                name: self.spec.name.clone(),
            });
        }
        if self.privilege == Privilege::Subordinate
            && self.host.find_program("newuidmap").await.is_none()
        {
            return Err(ImageError::NoUidmap);
        }
        if self.host.find_program("mmdebstrap").await.is_none() {
            // Said before anything is made; running it would say the same.
            self.host
                .run(&Program::new("mmdebstrap").arg("--version"))
                .await?;
        }
        for folder in [images, scratch] {
            let free = self.host.free_bytes(folder).await?;
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

    async fn make(&self, progress: &Progress) -> Result<ImageManifest, ImageError> {
        let host = self.host;
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
        let mut fsck = Program::new("e2fsck").arg("-fn").arg(out.join(ROOTFS));
        fsck.timeout = BUILD_TIMEOUT;
        self.run_checked(fsck).await?;
        let manifest = self.collect(&out).await?;
        self.move_in(&out.join(ROOTFS), &self.new.join(ROOTFS))
            .await?;
        let json = manifest.to_json();
        host.write_file(&self.new.join(MANIFEST), &json, 0o444)
            .await?;

        progress.tell("image-publish", "writing the image to the disk");
        host.sync_dir(&self.new).await?;
        host.rename(&self.new, &self.published).await?;
        Ok(manifest)
    }

    /// Lets the build's ids into the scratch folder, and nobody else into what it hands out.
    async fn open_scratch(&self, out: &Path) -> Result<(), ImageError> {
        let chmod = Program::new("chmod").arg("0711").arg(&self.scratch);
        self.run_checked(chmod).await?;
        if self.privilege == Privilege::Subordinate {
            // Id 1 here is the first subordinate id, which is root's inside mmdebstrap.
            self.run_checked(in_namespace("chown").arg("1:1").arg(out))
                .await?;
        }
        Ok(())
    }

    async fn run_mmdebstrap(&self, out: &Path) -> Result<(), ImageError> {
        let mut program = Program::new("mmdebstrap")
            .args(mmdebstrap_arguments(self.spec, self.privilege))
            .timeout(BUILD_TIMEOUT);
        for (name, value) in environment(self.spec, &self.scratch, out) {
            program = program.env(name, value);
        }
        let output = self.host.run(&program).await?;
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
            self.run_checked(chown).await?;
        }
        Ok(())
    }

    /// Writes kernel and initramfs, and describes the whole.
    async fn collect(&self, out: &Path) -> Result<ImageManifest, ImageError> {
        let host = self.host;
        let source = out.join("vmlinuz");
        let vmlinux = extract_vmlinux(&self.part(&source).await?).map_err(|source_error| {
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
        match self.host.read_file(path).await? {
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
        if self.host.rename(from, to).await.is_err() {
            self.host.clone_file(from, to).await?;
            let chmod = Program::new("chmod").arg("0444").arg(to);
            self.run_checked(chmod).await?;
        }
        Ok(())
    }

    async fn run_checked(&self, program: Program) -> Result<(), ImageError> {
        run_checked(self.host, program).await
    }
}

fn privilege(host: &dyn Host) -> Privilege {
    match host.user_id() {
        0 => Privilege::Root,
        _ => Privilege::Subordinate,
    }
}

pub(crate) fn scratch_folder(scratch: &Path, id: &str) -> PathBuf {
    scratch.join(format!("banger-image-{id}"))
}

/// A program that acts as root over the user and its subordinate ids.
fn in_namespace(program: &str) -> Program {
    Program::new("unshare").args(["--user", "--map-root-user", "--map-auto", program])
}

/// Removes a folder in which subordinate ids may own files.
async fn remove(host: &dyn Host, privilege: Privilege, folder: &Path) -> Result<(), ImageError> {
    if privilege == Privilege::Subordinate && host.stat(folder).await?.is_some() {
        let rm = in_namespace("rm")
            .args(["-rf", "--one-file-system", "--"])
            .arg(folder);
        run_checked(host, rm.timeout(BUILD_TIMEOUT)).await?;
    }
    Ok(host.remove_tree(folder).await?)
}

async fn run_checked(host: &dyn Host, program: Program) -> Result<(), ImageError> {
    let output = host.run(&program).await?;
    if output.success() {
        return Ok(());
    }
    Err(ImageError::Program {
        program: program.program,
        status: output.status,
        output: output.last_lines(5),
    })
}

fn random_id() -> Result<String, ImageError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| ImageError::Random {
        source: std::io::Error::other(error),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{LinuxHost, LinuxHostConfig};

    /// Names in a folder that builds would have left.
    async fn left(host: &dyn Host, folder: &Path, prefix: &str) -> Vec<String> {
        let mut names = host.list_dir(folder).await.unwrap();
        names.retain(|name| name.starts_with(prefix));
        names
    }

    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let base = tempfile::tempdir_in(SCRATCH).unwrap();
        let scratch = base.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        // Subordinate ids pass through it.
        for folder in [base.path(), &scratch] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o711)).unwrap();
        }
        let images = base.path().join("images");
        (base, images, scratch)
    }

    fn host() -> LinuxHost {
        LinuxHost::new(LinuxHostConfig::default())
    }

    async fn spec_fails(spec: &ImageSpec) -> ImageError {
        let (_base, images, scratch) = folders();
        let error = build(&host(), &images, &scratch, spec, &Progress::silent())
            .await
            .unwrap_err();
        assert!(host().list_dir(&images).await.unwrap().is_empty());
        assert!(host().list_dir(&scratch).await.unwrap().is_empty());
        error
    }

    #[tokio::test]
    #[ignore = "takes a minute, a gigabyte of disk and a Debian mirror; BANGER_TEST_IMAGES keeps what it makes"]
    async fn a_real_image_is_built_and_published_whole() {
        let (_base, mut images, scratch) = folders();
        if let Some(kept) = std::env::var_os("BANGER_TEST_IMAGES") {
            images = kept.into();
        }
        let host = host();
        let spec = ImageSpec::new("debian".parse().unwrap());
        let started = std::time::Instant::now();
        let progress = Progress::new(move |stage| println!("{:.1?} {stage}", started.elapsed()));
        let manifest = build(&host, &images, &scratch, &spec, &progress)
            .await
            .unwrap();
        println!("{:.1?} done", started.elapsed());
        let folder = images.join("debian");
        let json = host
            .read_file(&folder.join(MANIFEST))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(ImageManifest::parse(&json).unwrap(), manifest);
        println!("{}", String::from_utf8_lossy(&json));
        for path in [
            manifest.rootfs_path(&folder),
            manifest.kernel_path(&folder),
            manifest.initrd_path(&folder),
        ] {
            let facts = host.stat(&path).await.unwrap().unwrap();
            println!("{} takes {} bytes", path.display(), facts.allocated_bytes);
            assert!(std::fs::metadata(&path).unwrap().permissions().readonly());
        }
        assert!(left(&host, &images, NEW).await.is_empty());
        assert!(left(&host, &scratch, "").await.is_empty());
        let again = build(&host, &images, &scratch, &spec, &progress).await;
        assert!(matches!(again, Err(ImageError::Exists { .. })));
    }

    #[tokio::test]
    async fn a_mirror_that_does_not_answer_is_named_and_leaves_nothing() {
        if host().find_program("mmdebstrap").await.is_none() {
            return println!("skipped: mmdebstrap is not installed");
        }
        let mut spec = ImageSpec::new("debian".parse().unwrap());
        // Port 1 of loopback: refused at once.
        spec.mirror = Some("http://127.0.0.1:1/debian".parse().unwrap());
        let error = spec_fails(&spec).await;
        assert!(
            matches!(&error, ImageError::Mirror { mirror, .. } if mirror == "http://127.0.0.1:1/debian"),
            "{error:?}"
        );
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
        assert!(error.hint().unwrap().contains("--mirror"));
    }

    #[tokio::test]
    async fn without_mmdebstrap_the_package_to_install_is_named() {
        let (_base, images, scratch) = folders();
        // Coreutils are there, mmdebstrap is not.
        let bin = scratch.parent().unwrap().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for program in ["chmod", "chown", "rm", "unshare", "newuidmap", "newgidmap"] {
            if let Some(path) = host().find_program(program).await {
                std::os::unix::fs::symlink(path, bin.join(program)).unwrap();
            }
        }
        let host = LinuxHost::new(LinuxHostConfig {
            program_folders: vec![bin],
            ..LinuxHostConfig::default()
        });
        let spec = ImageSpec::new("debian".parse().unwrap());
        let error = build(&host, &images, &scratch, &spec, &Progress::silent())
            .await
            .unwrap_err();
        assert!(
            error.to_string().starts_with("mmdebstrap is not installed"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("mmdebstrap"));
        assert!(host.list_dir(&images).await.unwrap().is_empty());
        assert!(host.list_dir(&scratch).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_root_disk_that_is_too_small_is_refused_before_anything_is_made() {
        let mut spec = ImageSpec::new("debian".parse().unwrap());
        spec.size.0 = 100;
        assert!(matches!(
            spec_fails(&spec).await,
            ImageError::TooSmall { .. }
        ));
    }

    #[tokio::test]
    async fn a_sweep_removes_both_folders_of_a_build_that_was_killed() {
        let (_base, images, scratch) = folders();
        let host = host();
        let abandoned = scratch.join("banger-image-00ff/out/etc");
        host.create_dir(&abandoned).await.unwrap();
        host.create_dir(&images.join(".new-00ff")).await.unwrap();
        host.create_dir(&images.join("debian")).await.unwrap();
        assert_eq!(sweep(&host, &images, &scratch).await.unwrap(), 1);
        assert_eq!(host.list_dir(&images).await.unwrap(), ["debian"]);
        assert!(host.list_dir(&scratch).await.unwrap().is_empty());
        assert_eq!(sweep(&host, &images, &scratch).await.unwrap(), 0);
    }
}
