//! A real engine on a host that lacks something: a clear error with the next step, and nothing left.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use banger_core::{
    CreateRequest, Engine, EngineConfig, Error, ErrorKind, LinuxHost, LinuxHostConfig, Progress,
};

/// A host with these programs and no others. They do nothing.
fn host_with(programs: &[&str], folder: &Path) -> Arc<LinuxHost> {
    for program in programs {
        let path = folder.join(program);
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    Arc::new(LinuxHost::new(LinuxHostConfig {
        program_folders: vec![folder.to_owned()],
        ..LinuxHostConfig::default()
    }))
}

async fn create_fails(config: EngineConfig) -> Error {
    let (state, vms) = (config.state_dir.clone(), config.state_dir.join("vms"));
    let (engine, _) = Engine::open(config).await.unwrap();
    let request = CreateRequest::named("box".parse().unwrap());
    let error = engine
        .create(request, &Progress::silent())
        .await
        .expect_err("it lacks something");
    assert_eq!(engine.list().await.unwrap(), []);
    assert_eq!(
        std::fs::read_dir(vms).unwrap().count(),
        0,
        "a VM folder is left"
    );
    let images = std::fs::read_dir(state.join("images")).unwrap().count();
    assert_eq!(images, 0, "half an image is left");
    error
}

fn config(scratch: &Path) -> EngineConfig {
    EngineConfig::new(scratch.join("state"), scratch.join("run"))
}

#[tokio::test]
async fn without_qemu_the_error_names_its_package() {
    let scratch = tempfile::tempdir().unwrap();
    let mut config = config(scratch.path());
    config.host = host_with(&["qemu-img", "mke2fs", "ssh", "mmdebstrap"], scratch.path());
    let error = create_fails(config).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error
            .to_string()
            .contains("qemu-system-x86_64 is not installed"),
        "{error}"
    );
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("apt-get install") && hint.contains("qemu-system-x86"),
        "{hint}"
    );
}

#[tokio::test]
async fn without_mmdebstrap_the_error_names_its_package() {
    let scratch = tempfile::tempdir().unwrap();
    let mut config = config(scratch.path());
    let programs = [
        "qemu-system-x86_64",
        "qemu-img",
        "mke2fs",
        "ssh",
        "newuidmap",
        "unshare",
    ];
    config.host = host_with(&programs, scratch.path());
    let error = create_fails(config).await;
    let text = error.chain().join(": ");
    assert!(text.contains("mmdebstrap"), "{text}");
    assert!(error.hint().unwrap().contains("mmdebstrap"), "{error:?}");
}

#[tokio::test]
async fn a_mirror_that_does_not_answer_is_named_and_half_an_image_is_never_left() {
    let installed = std::process::Command::new("mmdebstrap")
        .arg("--version")
        .output();
    if !installed.is_ok_and(|output| output.status.success()) {
        println!("SKIP: mmdebstrap is not installed (make setup installs it)");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut config = config(scratch.path());
    // Port 9 (discard) of the loopback: nobody listens.
    config.mirror = Some("http://127.0.0.1:9/debian".to_owned());
    let error = create_fails(config).await;
    if error.kind() == ErrorKind::Unavailable {
        println!("SKIP: {error}");
        return;
    }
    let text = error.chain().join(": ");
    assert!(text.contains("127.0.0.1:9"), "{text}");
    assert!(error.hint().is_some(), "{error:?}");
}

#[tokio::test]
async fn a_runtime_folder_that_is_too_deep_is_refused_before_anything_is_made() {
    let scratch = tempfile::tempdir().unwrap();
    let mut config = config(scratch.path());
    config.runtime_dir = scratch.path().join("r".repeat(120));
    let error = Engine::open(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("choose one of at most"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
