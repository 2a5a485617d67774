//! Images on the simulator: the same calls as for real, and programs that leave in small what the real
//! ones leave. What only a real host can show is in `src/image/build/tests.rs` and `tests/real_images.rs`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use banger_core::{
    CreateRequest, Engine, Error, ErrorKind, Fault, ImageName, ImageSpec, Program, ProgramOutput,
    Progress, Registration, TestBoot,
};

#[path = "images/parts.rs"]
mod parts;
#[path = "proof/rig.rs"]
#[allow(dead_code, reason = "shared with the other proofs")]
mod rig;

use parts::Parts;
use rig::Rig;

fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec::new(image(name))
}

async fn build(engine: &Engine, name: &str) -> Result<(), Error> {
    let made = engine.build_image(spec(name), &Progress::silent()).await;
    made.map(drop)
}

async fn vm_of(engine: &Engine, name: &str, of: &str) -> Result<(), Error> {
    let request = CreateRequest {
        image: Some(image(of)),
        ..CreateRequest::named(name.parse().unwrap())
    };
    let made = engine.create(request, &Progress::silent()).await;
    made.map(drop)
}

async fn names(engine: &Engine) -> Vec<String> {
    let views = engine.images().await.unwrap();
    views
        .into_iter()
        .map(|view| view.name.to_string())
        .collect()
}

/// What there is in the folder of images, makings and deletions included, and of scratch folders.
fn on_disk(rig: &Rig) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["images", "scratch"] {
        let folder = rig.config.state_dir.join(folder);
        for entry in fs::read_dir(folder).into_iter().flatten() {
            found.push(entry.unwrap().file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn an_image_is_built_shown_and_deleted() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let stages = Arc::new(Mutex::new(Vec::new()));
    let told = stages.clone();
    let progress = Progress::new(move |stage| told.lock().unwrap().push(stage.name));
    let view = engine.build_image(spec("mine"), &progress).await.unwrap();
    assert_eq!(
        *stages.lock().unwrap(),
        ["image", "image-check", "image-publish"]
    );
    assert_eq!(view.problem, None);
    let manifest = view.manifest.clone().unwrap();
    assert_eq!(manifest.suite.as_deref(), Some("bookworm"));
    assert_eq!(manifest.kernel.release.as_deref(), Some("6.1.0-sim"));
    assert!(view.disk_bytes > 0);
    assert_eq!(engine.image(&image("mine")).await.unwrap(), view);
    assert_eq!(names(&engine).await, ["mine"]);

    engine.delete_image(&image("mine")).await.unwrap();
    assert!(on_disk(&rig).is_empty(), "{:?}", on_disk(&rig));
    for again in [
        engine.delete_image(&image("mine")).await.err(),
        engine.image(&image("mine")).await.err(),
    ] {
        assert_eq!(again.unwrap().kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn of_two_builds_of_one_name_one_wins_and_the_other_is_told() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let (first, second) = tokio::join!(build(&engine, "mine"), build(&engine, "mine"));
    let refused = [first, second].into_iter().filter_map(Result::err);
    let refused: Vec<_> = refused.collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].kind(), ErrorKind::NameTaken);
    assert!(refused[0].hint().unwrap().contains("image delete mine"));
    assert_eq!(on_disk(&rig), ["mine"]);
}

#[tokio::test]
async fn an_image_is_not_deleted_while_vms_boot_from_it_and_they_are_named() {
    let rig = Rig::new();
    let engine = rig.open().await;
    build(&engine, "mine").await.unwrap();
    vm_of(&engine, "one", "mine").await.unwrap();
    vm_of(&engine, "two", "mine").await.unwrap();
    let error = engine.delete_image(&image("mine")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert_eq!(
        error.to_string(),
        "the image mine is in use by 2 VMs: one, two"
    );
    assert_eq!(
        error.hint().unwrap(),
        "delete these VMs first: banger vm delete one two"
    );
    let view = engine.image(&image("mine")).await.unwrap();
    assert_eq!(view.used_by.len(), 2);
    for vm in ["one", "two"] {
        engine.delete(vm).await.unwrap();
    }
    engine.delete_image(&image("mine")).await.unwrap();
}

#[tokio::test]
async fn an_image_that_nobody_made_is_named_and_the_vm_is_not_made() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let error = vm_of(&engine, "box", "nothing").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no image nothing");
    let hint = error.hint().unwrap();
    assert!(hint.contains("banger image list"), "{hint}");
    assert!(hint.contains("banger image build nothing"), "{hint}");
    assert!(engine.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_image_whose_file_vanished_says_which_and_its_name_is_free_after_a_delete() {
    let rig = Rig::new();
    let engine = rig.open().await;
    build(&engine, "mine").await.unwrap();
    let kernel = engine.places().image(&image("mine")).join("vmlinux");
    fs::remove_file(&kernel).unwrap();
    let error = vm_of(&engine, "box", "mine").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(
        error.to_string().contains(&*kernel.to_string_lossy()),
        "{error}"
    );
    assert!(error.hint().is_some());
    assert!(engine.list().await.unwrap().is_empty());
    let view = engine.images().await.unwrap().remove(0);
    assert!(view.problem.unwrap().contains("vmlinux"));
    engine.delete_image(&image("mine")).await.unwrap();
    build(&engine, "mine").await.unwrap();
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_is_a_problem_of_that_image_alone() {
    let rig = Rig::new();
    let engine = rig.open().await;
    for name in ["good", "odd"] {
        build(&engine, name).await.unwrap();
    }
    let manifest = engine.places().image(&image("odd")).join("manifest.json");
    fs::remove_file(&manifest).unwrap();
    fs::write(&manifest, r#"{"version": 7}"#).unwrap();
    let views = engine.images().await.unwrap();
    assert_eq!(views[0].problem, None);
    assert!(views[1].manifest.is_none());
    assert!(views[1].problem.as_deref().unwrap().contains("version 7"));
    engine.delete_image(&image("odd")).await.unwrap();
    assert_eq!(names(&engine).await, ["good"]);
}

#[tokio::test]
async fn a_build_that_fails_at_any_call_leaves_nothing_and_the_name_free() {
    let rig = Rig::new();
    let engine = rig.open().await;
    build(&engine, "other").await.unwrap();
    rig.host.revive();
    build(&engine, "mine").await.unwrap();
    let calls = rig.host.calls();
    assert!(calls.len() > 10, "{calls:?}");
    engine.delete_image(&image("mine")).await.unwrap();
    for n in 1..=calls.len() {
        for fault in [
            Fault::Once(n, io::ErrorKind::PermissionDenied),
            // A disk that is full still lets what was made be removed.
            Fault::Lasting(n, io::ErrorKind::StorageFull),
        ] {
            rig.host.fail(fault);
            let made = build(&engine, "mine").await;
            rig.host.revive();
            match made {
                // A move that fails becomes a copy, and what cannot be removed one way is another way.
                Ok(()) => engine.delete_image(&image("mine")).await.unwrap(),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
            assert_eq!(on_disk(&rig), ["other"], "{fault:?} at {}", calls[n - 1]);
        }
    }
    drop(engine);
    let engine = rig.open().await;
    assert_eq!(on_disk(&rig), ["other"]);
    build(&engine, "mine").await.unwrap();
}

#[tokio::test]
async fn too_little_room_is_told_before_anything_is_made() {
    let rig = Rig::new();
    let engine = rig.open().await;
    rig.host.set_free_bytes(300 << 20);
    let error = build(&engine, "mine").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("has 300 MiB free"), "{error}");
    assert!(on_disk(&rig).is_empty());
}

#[tokio::test]
async fn an_engine_that_closes_gives_up_what_it_makes_and_begins_nothing() {
    let rig = Rig::new();
    let engine = rig.open().await;
    engine.give_up_images().await;
    let error = build(&engine, "mine").await.unwrap_err();
    assert!(matches!(error, Error::Closing), "{error:?}");
    assert!(on_disk(&rig).is_empty(), "{:?}", on_disk(&rig));
}

/// Asks for an image `theirs` of these files.
fn registration(parts: &Parts, test_boot: TestBoot) -> Registration {
    Registration {
        name: "theirs".parse().unwrap(),
        rootfs: parts.rootfs.clone(),
        kernel: parts.kernel.clone(),
        initrd: None,
        test_boot,
    }
}

async fn register(engine: &Engine, registration: Registration) -> Result<(), Error> {
    let silent = Progress::silent();
    let made = engine.register_image(registration, &silent).await;
    made.map(drop)
}

#[tokio::test]
async fn a_root_file_system_and_a_kernel_become_an_image_that_no_longer_needs_them() {
    let rig = Rig::new();
    let engine = rig.open().await;
    // It brings the busybox that a registered image starts with.
    build(&engine, "debian-12").await.unwrap();
    let parts = Parts::new();
    register(&engine, registration(&parts, TestBoot::Skipped))
        .await
        .unwrap();
    drop(parts);
    let view = engine.image(&image("theirs")).await.unwrap();
    assert_eq!(view.problem, None);
    let manifest = view.manifest.unwrap();
    assert_eq!(manifest.suite, None);
    assert_eq!(manifest.kernel.release.as_deref(), Some("6.1.0-mine"));
    assert_eq!(manifest.rootfs.size_bytes, 255 * 4096);
    vm_of(&engine, "box", "theirs").await.unwrap();
}

#[tokio::test]
async fn without_a_busybox_it_is_said_where_one_comes_from() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let error = register(&engine, registration(&Parts::new(), TestBoot::Skipped))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.hint().unwrap().contains("banger image build"));
    assert!(on_disk(&rig).is_empty());
}

/// Spoils one thing, and says how that is told.
type Spoiled = (fn(&Parts, &mut Registration), &'static str);

#[tokio::test]
async fn what_cannot_boot_is_refused_by_its_name_and_leaves_nothing() {
    let rig = Rig::new();
    let engine = rig.open().await;
    build(&engine, "debian-12").await.unwrap();
    let spoiled: [Spoiled; 8] = [
        (
            |parts, _| fs::write(&parts.rootfs, "hello").unwrap(),
            "root.img is no ext4 file system: it has no superblock",
        ),
        (
            |parts, _| fs::write(&parts.rootfs, b"QFI\xfb").unwrap(),
            "it is a qcow2 disk",
        ),
        (
            |parts, _| {
                fs::File::options()
                    .write(true)
                    .open(&parts.rootfs)
                    .unwrap()
                    .set_len(500_000)
                    .unwrap()
            },
            "it is cut off",
        ),
        (
            |parts, asked| asked.rootfs = parts.rootfs.parent().unwrap().to_owned(),
            "it is a folder",
        ),
        (
            |_, asked| asked.rootfs = "/no/such/file".into(),
            "there is no file /no/such/file",
        ),
        (
            |parts, _| fs::write(&parts.kernel, "hello").unwrap(),
            "it is no bzImage",
        ),
        (
            |parts, _| {
                let mut elf = fs::read(&parts.kernel).unwrap();
                elf[64] = 1;
                fs::write(&parts.kernel, elf).unwrap();
            },
            "it has no PVH entry",
        ),
        (
            |parts, asked| asked.initrd = Some(parts.rootfs.clone()),
            "root.img is no initramfs: it holds no cpio archive",
        ),
    ];
    for (spoil, told) in spoiled {
        let parts = Parts::new();
        let mut asked = registration(&parts, TestBoot::Skipped);
        spoil(&parts, &mut asked);
        let error = register(&engine, asked).await.unwrap_err();
        let text = error.chain().join(": ");
        assert!(text.contains(told), "{text}");
        assert_eq!(on_disk(&rig), ["debian-12"], "{told}");
    }
}

#[tokio::test]
async fn a_root_disk_without_an_ssh_server_is_refused_with_all_that_it_lacks() {
    let rig = Rig::new();
    let engine = rig.open().await;
    build(&engine, "debian-12").await.unwrap();
    let lacking = |program: &Program| {
        let asks_for = |path: &str| {
            let mut arguments = program.arguments.iter();
            arguments.any(|argument| argument.to_string_lossy().ends_with(path))
        };
        let found = !asks_for("sshd") && !asks_for("/sbin/init");
        Ok(ProgramOutput {
            status: 0,
            stdout: if found {
                b"Inode: 12\n".to_vec()
            } else {
                Vec::new()
            },
            stderr: b"File not found by ext2_lookup\n".to_vec(),
        })
    };
    rig.host.answer("debugfs", Some(lacking));
    let parts = Parts::new();
    let error = register(&engine, registration(&parts, TestBoot::Skipped))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.to_string(),
        format!(
            "the root disk {} has no /sbin/init (the init that it boots into), no sshd (the way in)",
            parts.rootfs.display()
        )
    );
    assert!(error.hint().unwrap().contains("docs/images.md"));
    assert_eq!(on_disk(&rig), ["debian-12"]);
}

#[tokio::test]
async fn a_registration_that_fails_at_any_call_leaves_nothing() {
    let rig = Rig::new();
    let engine = rig.open().await;
    build(&engine, "debian-12").await.unwrap();
    let parts = Parts::new();
    rig.host.revive();
    register(&engine, registration(&parts, TestBoot::Skipped))
        .await
        .unwrap();
    let calls = rig.host.calls();
    engine.delete_image(&image("theirs")).await.unwrap();
    for n in 1..=calls.len() {
        rig.host.fail(Fault::Once(n, io::ErrorKind::StorageFull));
        let made = register(&engine, registration(&parts, TestBoot::Skipped)).await;
        rig.host.revive();
        assert!(made.is_err(), "{}", calls[n - 1]);
        assert_eq!(on_disk(&rig), ["debian-12"], "at {}", calls[n - 1]);
    }
}

#[tokio::test]
async fn what_a_crash_left_in_the_folder_of_images_is_swept_at_the_next_start() {
    let rig = Rig::new();
    let engine = rig.open().await;
    build(&engine, "mine").await.unwrap();
    engine.close().await;
    let images = rig.config.state_dir.join("images");
    for folder in [
        images.join(".new-00ff"),
        images.join(".trash-old"),
        rig.config.state_dir.join("scratch/banger-image-00ff"),
    ] {
        fs::create_dir_all(Path::new(&folder).join("half")).unwrap();
    }
    let engine = rig.open().await;
    assert_eq!(on_disk(&rig), ["mine"]);
    drop(engine);
}
