//! Images that mean harm, registered for real: read in bounds, by parsers that reach nothing.

// clippy.toml allows it in `#[test]` functions only, not in what they share.
#![allow(clippy::unwrap_used)]

#[path = "images/parts.rs"]
mod parts;

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_core::{Engine, EngineConfig, Error, Progress, Registration, TestBoot};

const RELEASE: &str = "6.1.0-mine";

struct Rig {
    scratch: tempfile::TempDir,
    engine: Engine,
}

impl Rig {
    async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut config =
            EngineConfig::new(scratch.path().join("state"), scratch.path().join("run"));
        config.reserve = banger_core::Mebibytes(0);
        // A program that runs without libraries, of which every guest needs one.
        let programs = scratch.path().join("bin");
        std::fs::create_dir(&programs).unwrap();
        std::fs::copy(&parts::Parts::new().kernel, programs.join("busybox")).unwrap();
        run(Command::new("chmod")
            .arg("755")
            .arg(programs.join("busybox")));
        let mut surroundings = banger_core::LinuxHostConfig::default();
        surroundings.program_folders.insert(0, programs);
        config.host = std::sync::Arc::new(banger_core::LinuxHost::new(surroundings));
        let (engine, _) = Engine::open(config).await.unwrap();
        Rig { scratch, engine }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// An ext4 that holds what a guest must have, with these lists of modules.
    fn rootfs(&self, modules: &[(&str, &str)]) -> PathBuf {
        let (tree, image) = (self.path("tree"), self.path("rootfs.ext4"));
        let _ = std::fs::remove_dir_all(&tree);
        let _ = std::fs::remove_file(&image);
        for folder in ["sbin", "usr/sbin", "etc", "proc", "sys", "dev"] {
            std::fs::create_dir_all(tree.join(folder)).unwrap();
        }
        std::fs::write(tree.join("sbin/init"), "init").unwrap();
        std::fs::write(tree.join("usr/sbin/sshd"), "sshd").unwrap();
        for (name, text) in modules {
            let path = tree.join(format!("lib/modules/{RELEASE}/{name}"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::File::create(&image)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        run(Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(&tree)
            .arg(&image));
        image
    }

    fn kernel(&self) -> PathBuf {
        let path = self.path("vmlinux");
        let parts = parts::Parts::new();
        assert!(parts.rootfs.exists());
        std::fs::copy(&parts.kernel, &path).unwrap();
        path
    }

    async fn register(
        &self,
        rootfs: &Path,
        kernel: &Path,
        initrd: Option<&Path>,
    ) -> Result<(), Error> {
        let registration = Registration {
            name: "theirs".parse().unwrap(),
            rootfs: rootfs.to_owned(),
            kernel: kernel.to_owned(),
            initrd: initrd.map(Path::to_owned),
            test_boot: TestBoot::Skipped,
        };
        let silent = Progress::silent();
        let register = self.engine.register_image(registration, &silent);
        let done = tokio::time::timeout(Duration::from_secs(100), register).await;
        done.expect("it is waited for").map(drop)
    }

    /// Registers what must be refused, and returns what is told.
    async fn refused(&self, rootfs: &Path, kernel: &Path, initrd: Option<&Path>) -> String {
        let (begun, before) = (Instant::now(), peak());
        let error = self.register(rootfs, kernel, initrd).await.unwrap_err();
        let told = error.chain().join(": ");
        println!(
            "{:.1?}, {} MiB more: {told}",
            begun.elapsed(),
            peak().saturating_sub(before) >> 20
        );
        let left: Vec<_> = std::fs::read_dir(self.path("state/images"))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "something is left: {left:?}");
        told
    }
}

/// The most memory that this process has held, in bytes. The kernel counts it roughly: it may shrink a little.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

fn run(command: &mut Command) {
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap());
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A module that each of the needed ones is, and the list that says so.
fn needed(name: &str) -> String {
    let names = ["ext4", "virtio_mmio", "virtio_blk", "virtio_net"];
    names
        .map(|module| format!("{name}/{module}.ko:\n"))
        .concat()
}

#[tokio::test]
async fn a_list_of_modules_of_a_terabyte_in_a_small_image_is_refused_in_bounded_memory() {
    let rig = Rig::new().await;
    let (rootfs, kernel) = (rig.rootfs(&[("modules.dep", "x")]), rig.kernel());
    let grow = format!("set_inode_field /lib/modules/{RELEASE}/modules.dep size 1099511627776");
    run(Command::new("debugfs")
        .args(["-w", "-R", &grow])
        .arg(&rootfs));
    let before = peak();
    let told = rig.refused(&rootfs, &kernel, None).await;
    assert!(
        told.contains("modules.dep") && told.contains("8 MiB"),
        "{told}"
    );
    // The file that was handed in is told, and not a copy that is gone.
    assert!(told.contains(rootfs.to_str().unwrap()), "{told}");
    assert!(
        peak().saturating_sub(before) < 100 << 20,
        "{} MiB",
        peak().saturating_sub(before) >> 20
    );
}

#[tokio::test]
async fn a_module_whose_name_is_another_request_or_leads_away_is_refused_by_name() {
    let rig = Rig::new().await;
    let kernel = rig.kernel();
    for name in [
        "kernel/a b",
        "kernel/$(reboot)",
        "kernel/\"x\"",
        "../../../../etc",
        "kernel/;ls",
    ] {
        let rootfs = rig.rootfs(&[("modules.dep", &needed(name))]);
        let told = rig.refused(&rootfs, &kernel, None).await;
        assert!(told.contains("which is not looked for"), "{name}: {told}");
        assert!(told.contains(rootfs.to_str().unwrap()), "{told}");
    }
}

#[tokio::test]
async fn a_module_that_is_listed_and_not_there_is_named() {
    let rig = Rig::new().await;
    let rootfs = rig.rootfs(&[("modules.dep", &needed("kernel"))]);
    let told = rig.refused(&rootfs, &rig.kernel(), None).await;
    assert!(told.contains("needs its modules"), "{told}");
}

#[tokio::test]
async fn what_unpacks_to_everything_is_refused_in_bounded_memory_and_leaves_no_file() {
    let rig = Rig::new().await;
    let rootfs = rig.rootfs(&[("modules.dep", &needed("kernel"))]);
    let kernel = rig.kernel();
    let packed = |program: &str, name: &str, bytes: u64| {
        let path = rig.path(name);
        let mut packer = Command::new(program)
            .args(["-c", "-1"])
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(&path).unwrap())
            .spawn()
            .unwrap();
        let mut stdin = packer.stdin.take().unwrap();
        let zeros = vec![0; 1 << 20];
        for _ in 0..bytes >> 20 {
            stdin.write_all(&zeros).unwrap();
        }
        drop(stdin);
        assert!(packer.wait().unwrap().success());
        path
    };
    let before = peak();
    // An initramfs of three gigabytes of nothing, and a module of half of one.
    let bomb = packed("gzip", "initrd.gz", 3 << 30);
    let told = rig.refused(&rootfs, &kernel, Some(&bomb)).await;
    assert!(
        told.contains("too large") || told.contains("File too large"),
        "{told}"
    );
    let module = std::fs::read(packed("xz", "bomb.xz", 512 << 20)).unwrap();
    let list = needed("kernel").replace(".ko:", ".ko.xz:");
    let rootfs = rig.rootfs(&[("modules.dep", &list)]);
    let place = rig.path("module");
    std::fs::write(&place, module).unwrap();
    for name in ["ext4", "virtio_mmio", "virtio_blk", "virtio_net"] {
        let folder = format!("mkdir /lib/modules/{RELEASE}/kernel");
        run(Command::new("debugfs")
            .args(["-w", "-R", &folder])
            .arg(&rootfs));
        let write = format!(
            "write {} /lib/modules/{RELEASE}/kernel/{name}.ko.xz",
            place.display()
        );
        run(Command::new("debugfs")
            .args(["-w", "-R", &write])
            .arg(&rootfs));
    }
    let told = rig.refused(&rootfs, &kernel, None).await;
    assert!(told.contains("32 MiB"), "{told}");
    assert!(
        peak().saturating_sub(before) < 150 << 20,
        "{} MiB",
        peak().saturating_sub(before) >> 20
    );
}

#[tokio::test]
async fn what_is_no_file_is_not_waited_for_in_the_place_of_any_part() {
    let rig = Rig::new().await;
    let (rootfs, kernel) = (rig.rootfs(&[]), rig.kernel());
    let pipe = rig.path("pipe");
    run(Command::new("mkfifo").arg(&pipe));
    let endless = rig.path("endless");
    symlink("/dev/zero", &endless).unwrap();
    let socket = rig.path("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let hole = rig.path("hole");
    std::fs::File::create(&hole)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let begun = Instant::now();
    for odd in [&pipe, &endless, &socket, &hole] {
        for (rootfs, kernel, initrd) in [
            (odd.as_path(), kernel.as_path(), None),
            (&rootfs, odd, None),
            (&rootfs, &kernel, Some(odd.as_path())),
        ] {
            let told = rig.refused(rootfs, kernel, initrd).await;
            assert!(told.contains(&*odd.to_string_lossy()), "{told}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
}
