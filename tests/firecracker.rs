//! The monitor `firecracker`, over a stand-in that checks every call against the published API and does
//! on demand what goes wrong. The real one runs in the lab.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_core::{
    Condition, CreateRequest, DiskKind, Engine, EngineConfig, Error, ErrorKind, LinuxHost,
    LinuxHostConfig, NetworkKind, Progress, StopOutcome, StopRung, VmmKind,
};
use banger_tests::folder_with_a_stand_in;

/// An engine's folders, an image of nothing, and a `firecracker` that does as it is told.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new(script: &str) -> Self {
        let folder = folder_with_a_stand_in("fake_firecracker", "firecracker");
        let stage = Stage { folder };
        stage.script(script);
        stage
    }

    fn script(&self, script: &str) {
        std::fs::write(self.path("bin/script"), script).expect("a file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("bin/calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn open(&self) -> Engine {
        let mut config = EngineConfig::new(self.path("state"), self.path("run"));
        let mut host = LinuxHostConfig::default();
        host.program_folders.insert(0, self.path("bin"));
        // Nothing here runs a guest.
        host.kvm = Some(Ok(()));
        config.host = Arc::new(LinuxHost::new(host));
        config.limits.control = Duration::from_secs(2);
        config.limits.power_off = Duration::ZERO;
        Engine::open(config).await.expect("the engine opens").0
    }

    async fn create(&self, engine: &Engine) -> Result<(), Error> {
        let request = CreateRequest {
            vmm: Some(VmmKind::Firecracker),
            disk: Some(DiskKind::File),
            network: Some(NetworkKind::None),
            ..CreateRequest::named("box".parse().expect("a valid name"))
        };
        engine.create(request, &Progress::silent()).await.map(drop)
    }

    async fn start(&self, engine: &Engine) -> Result<(), Error> {
        engine.start("box", &Progress::silent()).await.map(drop)
    }

    /// The processes that have this folder on their command line.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&folder) {
                found.push(line);
            }
        }
        found
    }

    /// Nothing of a run is left, and the VM can still be started or deleted.
    async fn assert_undone(&self, engine: &Engine) {
        assert_eq!(self.processes(), [""; 0]);
        let view = engine.show("box").await.expect("it is shown");
        assert_eq!(view.condition, Condition::Created, "{view:?}");
        assert!(!view.vm.runtime.vm_dir.join("handles.json").exists());
        let inventory = engine.prove().await.expect("it is proven");
        assert!(inventory.is_clean(), "{inventory}");
    }
}

fn stopped_by(outcome: StopOutcome) -> StopRung {
    match outcome {
        StopOutcome::Stopped { by, .. } => by,
        StopOutcome::AlreadyStopped(_) => panic!("it ran"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_put_together_call_by_call_and_started_last() {
    let stage = Stage::new("");
    let engine = stage.open().await;
    stage.create(&engine).await.expect("it is created");
    stage.start(&engine).await.expect("it starts");
    let calls = stage.calls();
    let names: Vec<String> = calls
        .iter()
        .map(|call| call.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "GET /",
        "PUT /metrics",
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/root",
        "PUT /drives/work",
        "PUT /vsock",
        "PUT /entropy",
        "GET /",
        "PUT /actions",
    ];
    let (to_start, then) = names.split_at(expected.len());
    assert_eq!(to_start, expected);
    // Nothing but questions how its guest is.
    assert!(then.iter().all(|call| call == "GET /"), "{then:?}");
    let boot: serde_json::Value =
        serde_json::from_str(calls[3].splitn(3, ' ').last().expect("a body")).expect("JSON");
    let line = boot["boot_args"].as_str().expect("a line");
    assert!(
        line.contains("console=ttyS0") && line.contains("reboot=k"),
        "{line}"
    );

    let view = engine.show("box").await.expect("it is shown");
    assert_eq!(view.vm.runtime.vsock_cid, Some(3));
    let console = &view.vm.runtime.log_path;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !std::fs::read_to_string(console).is_ok_and(|text| text.contains("the console of")) {
        assert!(Instant::now() < deadline, "the console's log stays empty");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // It outlives its engine, and is found by the next one, which can press its keys.
    drop(engine);
    let engine = stage.open().await;
    let view = engine.show("box").await.expect("it is shown");
    assert_eq!(view.condition, Condition::Running);
    let deadline = Instant::now() + Duration::from_secs(5);
    while stage.calls().len() == calls.len() {
        assert!(
            Instant::now() < deadline,
            "the next engine does not speak to it"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let by = stopped_by(engine.stop("box").await.expect("it stops"));
    assert_eq!(by, StopRung::CtrlAltDel);
    engine.delete("box").await.expect("it is deleted");
    assert_eq!(stage.processes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_refused_is_told_in_firecracker_s_own_words_and_undone() {
    for call in [
        "GET /",
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/work",
        "PUT /entropy",
        "PUT /actions",
    ] {
        let stage = Stage::new(&format!("refuses {call}"));
        let engine = stage.open().await;
        stage.create(&engine).await.expect("it is created");
        let error = stage.start(&engine).await.expect_err("it is refused");
        let chain = error.chain().join(": ");
        assert!(chain.contains(&format!("told to refuse {call}")), "{chain}");
        stage.assert_undone(&engine).await;
        // And once it is not refused any more, it starts.
        stage.script("");
        stage.start(&engine).await.expect("it starts");
        engine.delete("box").await.expect("it is deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_or_is_cut_off_half_way_ends_in_time_and_is_undone() {
    for (script, told) in [
        ("hangs GET /", "did not answer"),
        ("hangs PUT /drives/root", "did not answer"),
        ("hangs PUT /actions", "did not answer"),
        ("dies PUT /vsock", "hung up"),
        ("dies PUT /actions", "hung up"),
    ] {
        let stage = Stage::new(script);
        let engine = stage.open().await;
        stage.create(&engine).await.expect("it is created");
        let asked = Instant::now();
        let error = stage.start(&engine).await.expect_err("it fails");
        let chain = error.chain().join(": ");
        assert!(chain.contains(told), "{script}: {chain}");
        assert!(asked.elapsed() < Duration::from_secs(20), "{script}");
        stage.assert_undone(&engine).await;
        engine.delete("box").await.expect("it is deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ends_at_once_is_told_with_what_it_said() {
    let stage = Stage::new("exits");
    let engine = stage.open().await;
    stage.create(&engine).await.expect("it is created");
    let error = stage.start(&engine).await.expect_err("it ends");
    let chain = error.chain().join(": ");
    assert!(chain.contains("told to end at once"), "{chain}");
    stage.assert_undone(&engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_are_too_old_or_let_guests_out_are_refused_before_a_vm_is_made() {
    for (version, told) in [
        ("1.7.0", "1.8.0 is the oldest"),
        ("1.12.1", "CVE-2026-1386"),
        ("1.14.3", "CVE-2026-5747"),
        ("1.15.0", "CVE-2026-5747"),
    ] {
        let stage = Stage::new(&format!("version {version}"));
        let engine = stage.open().await;
        let error = stage.create(&engine).await.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let chain = error.chain().join(": ");
        assert!(chain.contains(told), "{chain}");
        assert!(error.hint().expect("a next step").contains("install"));
        assert_eq!(engine.list().await.expect("a list"), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_replaced_by_a_flawed_one_is_not_started() {
    let stage = Stage::new("");
    let engine = stage.open().await;
    stage.create(&engine).await.expect("it is created");
    stage.script("version 1.15.0");
    let error = stage.start(&engine).await.expect_err("it is refused");
    assert!(error.chain().join(": ").contains("CVE-2026-5747"));
    stage.assert_undone(&engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_leaves_firecracker_alone_where_its_disk_or_network_cannot_be_had() {
    let stage = Stage::new("");
    let engine = stage.open().await;
    let doctor = engine.doctor().await.expect("it looks");
    let find = |name: &str| {
        let mut all = doctor.candidates.iter();
        all.find(|it| it.name == name)
            .expect("it is a candidate")
            .clone()
    };
    let (firecracker, tap, user) = (find("firecracker"), find("tap"), find("user"));
    assert!(
        firecracker.probe.reason.contains("1.15.1"),
        "{firecracker:?}"
    );
    let tap_works = tap.probe.usable == banger_core::Usable::Yes;
    assert_eq!((firecracker.picked, tap.picked), (tap_works, tap_works));
    let qemu_works = find("qemu").probe.usable == banger_core::Usable::Yes;
    assert_eq!(user.picked, !tap_works && qemu_works);

    // What does not fit is refused, with what does.
    let request = CreateRequest {
        vmm: Some(VmmKind::Firecracker),
        network: Some(NetworkKind::User),
        ..CreateRequest::default()
    };
    let error = engine
        .create(request, &Progress::silent())
        .await
        .expect_err("it is refused");
    assert!(error.to_string().contains("user"), "{error}");
    assert!(error.hint().is_some());
    assert!(Path::new(&stage.path("state")).exists());
}
