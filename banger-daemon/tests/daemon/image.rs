//! Images by RPC on the simulator; and real builds that nobody wants any more.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use banger_daemon::client::{Client, ClientError};
use banger_daemon::protocol::*;

use crate::parts::Parts;
use crate::rig::{LIMIT, Rig, named, quietly, until};

fn kind(error: &ClientError) -> &str {
    match error {
        ClientError::Rpc(error) => &error.data.as_ref().unwrap().kind,
        other => panic!("{other}"),
    }
}

fn image(name: &str) -> ImageParams {
    ImageParams {
        image: name.to_owned(),
    }
}

#[tokio::test]
async fn an_image_goes_through_its_life_by_rpc() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let params = ImageBuildParams {
        suite: Some("trixie".to_owned()),
        include: vec!["make".to_owned()],
        ..ImageBuildParams::default()
    };
    let mut stages = Vec::new();
    let mut note = |progress: ProgressParams| stages.push(progress.stage);
    let made = client.call::<ImageBuild>(&params, &mut note).await.unwrap();
    assert_eq!(made.name, "trixie", "the suite's name where none is given");
    assert_eq!(
        (made.state.as_str(), made.default, made.suite.as_deref()),
        ("ready", false, Some("trixie"))
    );
    assert_eq!(made.rootfs_bytes, Some(8 << 30));
    assert_eq!(stages, ["image", "image-check", "image-publish"]);
    let again = quietly::<ImageBuild>(&mut client, &params).await;
    assert_eq!(kind(&again.unwrap_err()), "name_taken");

    let mut create = named("box");
    create.image = Some("trixie".to_owned());
    quietly::<VmCreate>(&mut client, &create).await.unwrap();
    let listed = quietly::<ImageList>(&mut client, &Nothing {})
        .await
        .unwrap();
    assert_eq!(listed.images.len(), 1);
    assert_eq!(listed.images[0].used_by, ["box"]);
    let shown = quietly::<ImageShow>(&mut client, &image("trixie")).await;
    assert_eq!(shown.unwrap(), listed.images[0]);
    let refused = quietly::<ImageDelete>(&mut client, &image("trixie")).await;
    assert_eq!(kind(&refused.unwrap_err()), "in_use");
    let vm = VmParams {
        vm: "box".to_owned(),
    };
    quietly::<VmDelete>(&mut client, &vm).await.unwrap();
    quietly::<ImageDelete>(&mut client, &image("trixie"))
        .await
        .unwrap();
    let gone = quietly::<ImageShow>(&mut client, &image("trixie")).await;
    assert_eq!(kind(&gone.unwrap_err()), "not_found");
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_before_anything_is() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let build = |change: fn(&mut ImageBuildParams)| {
        let mut params = ImageBuildParams::default();
        change(&mut params);
        params
    };
    for (params, told) in [
        (build(|p| p.name = Some("../x".to_owned())), "../x"),
        (build(|p| p.suite = Some("-o".to_owned())), "-o"),
        (build(|p| p.include = vec!["a;b".to_owned()]), "a;b"),
        (build(|p| p.mirror = Some("ftp://m".to_owned())), "ftp://m"),
        (build(|p| p.size_mib = Some(1)), "too small"),
    ] {
        let error = quietly::<ImageBuild>(&mut client, &params)
            .await
            .unwrap_err();
        assert_eq!(kind(&error), "invalid");
        assert!(error.to_string().contains(told), "{error}");
    }
    let relative = ImageRegisterParams {
        name: "mine".to_owned(),
        rootfs: "root.img".into(),
        kernel: "/k".into(),
        initrd: None,
        no_check: false,
    };
    let error = quietly::<ImageRegister>(&mut client, &relative).await;
    assert!(error.unwrap_err().to_string().contains("no absolute path"));
}

/// A registration of files that the simulator takes for what they should be.
fn registration(parts: &Parts) -> ImageRegisterParams {
    ImageRegisterParams {
        name: "mine".to_owned(),
        rootfs: parts.rootfs.clone(),
        kernel: parts.kernel.clone(),
        initrd: None,
        no_check: false,
    }
}

#[tokio::test]
async fn a_registered_image_is_booted_first_and_says_so_unless_that_was_not_wanted() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let built = quietly::<ImageBuild>(&mut client, &ImageBuildParams::default()).await;
    built.unwrap();
    let parts = Parts::new();
    let mut stages = Vec::new();
    let mut note = |progress: ProgressParams| stages.push(progress.stage);
    let params = registration(&parts);
    let checked = client.call::<ImageRegister>(&params, &mut note);
    let checked = match checked.await {
        Err(error) if format!("{error:?}").contains("cannot be simulated here") => {
            eprintln!("SKIP: the simulator has no guests here: {error}");
            return;
        }
        checked => checked.unwrap(),
    };
    assert_eq!(checked.booted_by.as_deref(), Some("sim"));
    assert!(checked.booted_at.is_some());
    for stage in ["image-boot", "kernel", "image-look", "image-publish"] {
        assert!(stages.iter().any(|told| told == stage), "{stages:?}");
    }
    let unchecked = ImageRegisterParams {
        name: "other".to_owned(),
        no_check: true,
        ..params
    };
    let unchecked = quietly::<ImageRegister>(&mut client, &unchecked).await;
    assert_eq!(unchecked.unwrap().booted_at, None);
    let vms = quietly::<VmList>(&mut client, &VmListParams::default())
        .await
        .unwrap();
    assert!(vms.vms.is_empty(), "{vms:?}");
}

#[tokio::test]
async fn a_test_boot_ends_with_its_client_and_leaves_nothing() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let built = quietly::<ImageBuild>(&mut client, &ImageBuildParams::default()).await;
    built.unwrap();
    let parts = Parts::new();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut note = |progress: ProgressParams| drop(tell.send(progress.stage));
    let params = registration(&parts);
    let registering = client.call::<ImageRegister>(&params, &mut note);
    let booting = async { while told.recv().await.unwrap() != "vmm" {} };
    tokio::select! {
        biased;
        () = booting => {}
        done = registering => panic!("{done:?}"),
    }
    drop(client);
    let images = rig.scratch.path().join("state/images");
    until("nothing is left of the image", || async {
        names(&images) == ["debian-12"]
    })
    .await;
    assert!(rig.living().is_empty(), "{:?}", rig.living());
    assert!(rig.engine.list().await.unwrap().is_empty());
    assert!(rig.engine.prove().await.unwrap().is_clean());
}

/// A daemon that is no simulator, and a mirror that takes calls and says nothing.
struct Silence {
    scratch: tempfile::TempDir,
    daemon: std::process::Child,
    mirror: TcpListener,
}

impl Silence {
    /// None, with the reason printed, where no image can be made.
    async fn begin() -> Option<Self> {
        let installed = Command::new("mmdebstrap").arg("--version").output();
        if !installed.is_ok_and(|output| output.status.success()) {
            println!("SKIP: mmdebstrap is not installed (make setup installs it)");
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_bangerd"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", scratch.path())
            .arg("--state")
            .arg(scratch.path().join("state"))
            .arg("--runtime")
            .arg(scratch.path().join("run"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let silence = Silence {
            scratch,
            daemon,
            mirror: TcpListener::bind("127.0.0.1:0").unwrap(),
        };
        until("the daemon answers", || async {
            Client::connect(&silence.socket()).await.is_ok()
        })
        .await;
        Some(silence)
    }

    fn socket(&self) -> std::path::PathBuf {
        self.scratch.path().join("run").join(SOCKET)
    }

    fn params(&self) -> ImageBuildParams {
        let address = self.mirror.local_addr().unwrap();
        ImageBuildParams {
            name: Some("mine".to_owned()),
            mirror: Some(format!("http://{address}/debian")),
            ..ImageBuildParams::default()
        }
    }

    /// Waits until a program of the build, far down its tree, has called.
    async fn called(&self) -> TcpStream {
        let mirror = self.mirror.try_clone().unwrap();
        let accept = tokio::task::spawn_blocking(move || mirror.accept().unwrap().0);
        tokio::time::timeout(LIMIT, accept).await.unwrap().unwrap()
    }

    /// The program that called is gone: its connection has ended. So are its files.
    async fn leaves_nothing(&self, mut call: TcpStream) {
        call.set_read_timeout(Some(LIMIT)).unwrap();
        let ended = tokio::task::spawn_blocking(move || call.read_to_end(&mut Vec::new()));
        // Killed in the middle it may also be reset.
        let _ = tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap();
        let images = self.scratch.path().join("state/images");
        until("nothing is left of the image", || async {
            names(&images).is_empty()
        })
        .await;
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test]
async fn a_build_ends_with_its_client_and_leaves_no_program_and_no_file() {
    let Some(silence) = Silence::begin().await else {
        return;
    };
    let mut client = Client::connect(&silence.socket()).await.unwrap();
    let params = silence.params();
    let mut ignore = |_: ProgressParams| {};
    let call = tokio::select! {
        call = silence.called() => call,
        made = client.call::<ImageBuild>(&params, &mut ignore) => panic!("{made:?}"),
    };
    drop(client);
    silence.leaves_nothing(call).await;
    // The daemon is none the worse.
    let mut client = Client::connect(&silence.socket()).await.unwrap();
    let listed = quietly::<ImageList>(&mut client, &Nothing {})
        .await
        .unwrap();
    assert!(listed.images.is_empty());
}

#[tokio::test]
async fn a_build_ends_with_its_daemon_and_its_client_is_told() {
    let Some(mut silence) = Silence::begin().await else {
        return;
    };
    let mut client = Client::connect(&silence.socket()).await.unwrap();
    let params = silence.params();
    let mut ignore = |_: ProgressParams| {};
    let stopping = async {
        let call = silence.called().await;
        let mut other = Client::connect(&silence.socket()).await.unwrap();
        quietly::<DaemonStop>(&mut other, &Nothing {})
            .await
            .unwrap();
        call
    };
    let building = client.call::<ImageBuild>(&params, &mut ignore);
    let both = async { tokio::join!(building, stopping) };
    let (told, call) = tokio::time::timeout(LIMIT, both).await.unwrap();
    assert!(told.unwrap_err().to_string().contains("stopping"));
    silence.leaves_nothing(call).await;
    let begun = std::time::Instant::now();
    while silence.daemon.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it runs on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
