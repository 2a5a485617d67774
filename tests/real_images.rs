//! Images that somebody else has made, registered and booted for real.

use std::path::{Path, PathBuf};
use std::process::Command;

use banger_core::{
    CreateRequest, Engine, ErrorKind, ExecRequest, ImageManifest, ImageName, Progress, Registration,
};
use banger_tests::{Rig, alone, skipped, target};

fn image(name: &str) -> ImageName {
    name.parse().expect("a valid name")
}

/// Registers, boots, asks for the release of the kernel, and leaves nothing.
async fn boots(engine: &Engine, registration: Registration) -> String {
    let silent = Progress::silent();
    let name = registration.name.clone();
    let view = engine
        .register_image(registration, &silent)
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain().join(": ")));
    assert_eq!(view.problem, None);
    let request = CreateRequest {
        image: Some(name.clone()),
        ..CreateRequest::named("box".parse().expect("a valid name"))
    };
    engine
        .create(request, &silent)
        .await
        .expect("it is created");
    engine.start("box", &silent).await.expect("it starts");
    let begun = std::time::Instant::now();
    if let Err(error) = engine.wait_ready("box", &silent).await {
        let console = engine.console_tail("box", 4000).await.unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        panic!("{}\n{console}", error.chain().join(": "));
    }
    println!("{name}: ssh after {:.1?}", begun.elapsed());
    let uname = ExecRequest::new(["uname", "-r"]);
    let output = engine.exec_output("box", &uname).await.expect("it runs");
    let in_use = engine.delete_image(&name).await.expect_err("it is used");
    assert_eq!(in_use.kind(), ErrorKind::InUse);
    engine.delete("box").await.expect("it is deleted");
    engine.delete_image(&name).await.expect("it is deleted");
    let release = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let manifest = view.manifest.expect("a manifest");
    assert_eq!(manifest.kernel.release.as_deref(), Some(release.as_str()));
    release
}

/// Runs a test to its end.
fn finish(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(test);
}

#[test]
fn the_parts_of_one_image_make_another() {
    if skipped() {
        return;
    }
    let _turn = alone();
    finish(parts_of_one_image());
}

async fn parts_of_one_image() {
    let rig = Rig::with_images_of_its_own().await;
    let engine = rig.open().await;
    let folder = engine.places().image(&image("debian-12"));
    let manifest: ImageManifest =
        ImageManifest::parse(&std::fs::read(folder.join("manifest.json")).expect("it is there"))
            .expect("a manifest");
    // Its kernel's modules are found in its root file system.
    let registration = Registration {
        name: image("again"),
        rootfs: manifest.rootfs_path(&folder),
        kernel: manifest.kernel_path(&folder),
        initrd: None,
    };
    boots(&engine, registration).await;
    engine.close().await;
}

#[test]
fn a_debian_that_knows_nothing_of_banger_boots_with_its_own_kernel() {
    if skipped() {
        return;
    }
    let _turn = alone();
    if let Some(foreign) = foreign() {
        finish(somebody_elses(&foreign));
    }
}

async fn somebody_elses(foreign: &Path) {
    let rig = Rig::with_images_of_its_own().await;
    let engine = rig.open().await;
    for initrd in [None, Some(foreign.join("initrd.img"))] {
        let registration = Registration {
            name: image("theirs"),
            rootfs: foreign.join("root.ext4"),
            kernel: foreign.join("vmlinuz"),
            initrd,
        };
        boots(&engine, registration).await;
    }
    engine.close().await;
}

/// Makes a small Debian by its own tools alone, once, below `target`.
fn foreign() -> Option<PathBuf> {
    let folder = target().join("test-foreign");
    if folder.join("done").exists() {
        return Some(folder);
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: only root makes a root file system by mmdebstrap and mke2fs alone");
        return None;
    }
    std::fs::create_dir_all(&folder).expect("a folder");
    let tree = folder.join("tree");
    let packages = "--include=systemd-sysv,openssh-server,iproute2,linux-image-cloud-amd64";
    run(Command::new("mmdebstrap")
        .args(["--variant=minbase", "--mode=root", packages, "bookworm"])
        .arg(&tree));
    run(Command::new("sh").current_dir(&folder).args([
        "-euc",
        "cp tree/boot/vmlinuz-* vmlinuz; cp tree/boot/initrd.img-* initrd.img; rm -f root.ext4; \
         PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -d tree root.ext4 2G; rm -rf tree; : >done",
    ]));
    Some(folder)
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
