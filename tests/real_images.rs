//! Images that somebody else has made, registered and booted for real.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use banger_core::{
    Clause, CreateRequest, Engine, Error, ErrorKind, ExecRequest, ImageError, ImageManifest,
    ImageName, Progress, Registration, TestBoot,
};
use banger_tests::{Home, Rig, alone, eventually, kill, skipped, target};

fn image(name: &str) -> ImageName {
    name.parse().expect("a valid name")
}

/// Registers, which boots it, boots a VM of it, asks for the release of the kernel, and leaves nothing.
async fn boots(engine: &Engine, registration: Registration) -> String {
    let silent = Progress::silent();
    let name = registration.name.clone();
    let begun = std::time::Instant::now();
    let view = engine
        .register_image(registration, &silent)
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain().join(": ")));
    println!("{name}: registered after {:.1?}", begun.elapsed());
    assert_eq!(view.problem, None);
    let booted = view.manifest.as_ref().and_then(|it| it.booted.as_ref());
    assert_eq!(booted.map(|booted| booted.vmm.as_str()), Some("qemu"));
    assert!(engine.list().await.expect("a list").is_empty());
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
    let (rootfs, kernel, initrd) = parts(&rig);
    let registration = Registration {
        name: image("again"),
        rootfs,
        kernel,
        initrd: Some(initrd),
        test_boot: TestBoot::Wanted,
    };
    boots(&engine, registration).await;
    engine.close().await;
}

/// The root file system, the kernel and the initramfs of the default image.
fn parts(rig: &Rig) -> (PathBuf, PathBuf, PathBuf) {
    let folder = rig.config.state_dir.join("images/debian-12");
    let manifest = std::fs::read(folder.join("manifest.json")).expect("it is there");
    let manifest = ImageManifest::parse(&manifest).expect("a manifest");
    (
        manifest.rootfs_path(&folder),
        manifest.kernel_path(&folder),
        manifest.initrd_path(&folder),
    )
}

#[test]
fn a_guest_that_breaks_the_contract_is_refused_by_name_and_nothing_is_left() {
    if skipped() {
        return;
    }
    let _turn = alone();
    finish(broken_contracts());
}

async fn broken_contracts() {
    let mut rig = Rig::with_images_of_its_own().await;
    // Long enough to come to its init; a guest without an ssh server takes all of it.
    rig.config.limits.ready = Duration::from_secs(20);
    let engine = rig.open().await;
    let (rootfs, kernel, _) = parts(&rig);
    let silent = Progress::silent();
    for (spoil, expected) in [
        // Seen without a boot.
        ("rm /usr/sbin/sshd", None),
        ("rm /usr/lib/systemd/systemd", Some(Clause::Init)),
        (
            "rm /etc/systemd/system/multi-user.target.wants/ssh.service",
            Some(Clause::Ssh),
        ),
    ] {
        let spoiled = rig.folder().join("spoiled.ext4");
        run(Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(&rootfs)
            .arg(&spoiled));
        run(Command::new("sh")
            .args([
                "-euc",
                "chmod u+w \"$1\"; PATH=$PATH:/usr/sbin:/sbin; debugfs -w -R \"$2\" \"$1\"; e2fsck -fy \"$1\" || :",
                "sh",
            ])
            .arg(&spoiled)
            .arg(spoil));
        let registration = Registration {
            name: image("theirs"),
            rootfs: spoiled.clone(),
            kernel: kernel.clone(),
            initrd: None,
            test_boot: TestBoot::Wanted,
        };
        let begun = std::time::Instant::now();
        let error = engine.register_image(registration, &silent).await;
        let error = error.expect_err("it is refused");
        println!("{spoil}, after {:.1?}: {error}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Invalid);
        match (expected, error) {
            (None, Error::Image(ImageError::Contract { missing, .. })) => {
                assert_eq!(missing, ["sshd (the way in)"]);
            }
            (
                Some(expected),
                Error::Image(ImageError::TestBoot {
                    clause, console, ..
                }),
            ) => {
                assert_eq!(clause, expected);
                assert!(!console.is_empty());
            }
            (_, error) => panic!("{error:?}"),
        }
        rig.assert_nothing_left();
        assert_eq!(images(&rig), ["debian-12"]);
        std::fs::remove_file(&spoiled).expect("it is there");
    }
    assert!(engine.prove().await.expect("a proof").is_clean());
    engine.close().await;
}

/// What there is in the folder of images, what is being made included.
fn images(rig: &Rig) -> Vec<String> {
    let folder = rig.config.state_dir.join("images");
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_daemon_that_is_killed_during_a_test_boot_leaves_nothing_for_the_next() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::with_images_of_its_own();
    let (rootfs, kernel, _) = parts(&home.rig);
    let mut client = home
        .command(&["image", "register", "theirs", "--rootfs"])
        .arg(rootfs)
        .arg("--kernel")
        .arg(kernel)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let check = || {
        let vms = home.json(&["vm", "list"]);
        let running = vms.as_array()?.iter().find(|vm| vm["state"] == "running")?;
        Some(running["name"].as_str()?.to_owned())
    };
    eventually("its VM runs", || check().is_some());
    assert!(check().is_some_and(|name| name.starts_with("check-")));
    assert_eq!(images(&home.rig).len(), 2, "it has no name yet");
    kill(home.daemon());
    let ended = client.wait().expect("it ends");
    assert!(!ended.success(), "its daemon was killed");
    assert_eq!(home.json(&["vm", "list"]), serde_json::json!([]));
    assert_eq!(images(&home.rig), ["debian-12"]);
    home.assert_proven("after a test boot whose daemon was killed");
    home.rig.assert_nothing_left();
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
            test_boot: TestBoot::Wanted,
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
