//! What VMs hold in the kernel (snapshots, loop devices, namespaces, ways out of them and the firewall's
//! rules for these), over the fake host: found by their names when everything that was written down is lost, and given back even when others look at them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;

use banger_core::{
    Condition, CreateRequest, DiskKind, Engine, EngineConfig, ErrorKind, FakeHost, Internet,
    LOG_BYTES, Marks, NetworkKind, ObjectKind, Progress, RemovalOutcome, RuleTable, RulesUnknown,
    Spaces, UplinkSpec, Uplinks, Usable, VMRecord, VmId,
};

#[path = "proof/rig.rs"]
#[allow(dead_code, reason = "shared with the other proofs")]
mod rig;

struct Lab {
    host: Arc<FakeHost>,
    config: EngineConfig,
    _scratch: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let scratch = rig::scratch();
        let config = rig::config(scratch.path(), "state");
        image_for(&config);
        let host = Arc::new(FakeHost::new());
        host.set_scopes(Ok(()));
        Lab {
            host,
            config,
            _scratch: scratch,
        }
    }

    async fn open(&self) -> Engine {
        let opened = Engine::sim_over(&self.host, self.config.clone()).await;
        opened.unwrap().0
    }

    fn kill(&self, vm: &VMRecord) {
        let token = format!(":{}:", vm.id);
        for monitor in self.host.living() {
            if monitor.command_line.contains(&token) {
                self.host.end_unnoticed(monitor.identity.pid);
            }
        }
    }
}

fn image_for(config: &EngineConfig) {
    let image = config.state_dir.join("images/debian-12");
    std::fs::create_dir_all(&image).unwrap();
    std::fs::write(image.join("rootfs"), [0; 4096]).unwrap();
}

fn request(name: &str) -> CreateRequest {
    CreateRequest {
        disk: Some(DiskKind::DmSnapshot),
        network: Some(NetworkKind::Tap),
        internet: Some(Internet::Open),
        ..CreateRequest::named(name.parse().unwrap())
    }
}

async fn running(engine: &Engine, name: &str) -> VMRecord {
    let silent = Progress::silent();
    engine.create(request(name), &silent).await.unwrap();
    engine.start(name, &silent).await.unwrap().vm().clone()
}

fn handles(vm: &VMRecord) -> serde_json::Value {
    let text = std::fs::read(vm.runtime.vm_dir.join("handles.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[tokio::test]
async fn a_running_vm_s_handles_name_its_process_its_tap_its_loops_and_its_target() {
    let lab = Lab::new();
    let engine = lab.open().await;
    let vm = running(&engine, "box").await;
    let written = handles(&vm);
    assert!(written["pid"].is_u64());
    assert_eq!(written["tap_device"], "tap0");
    for (field, begins) in [
        ("base_loop", "/dev/loop"),
        ("cow_loop", "/dev/loop"),
        ("dm_dev", "/dev/dm-"),
        ("dm_name", "banger-"),
        ("namespace", "bgr-"),
        ("nft_table", "bgr-"),
        ("uplink", "b"),
    ] {
        let value = written[field].as_str().unwrap();
        assert!(value.starts_with(begins), "{field}: {value}");
    }
    let inventory = engine.prove().await.unwrap();
    assert!(inventory.is_clean(), "{inventory}");
    for kind in [
        ObjectKind::DeviceMapperTarget,
        ObjectKind::LoopDevice,
        ObjectKind::NetworkNamespace,
        ObjectKind::Mount,
        ObjectKind::CgroupScope,
        ObjectKind::Veth,
        ObjectKind::NftTable,
    ] {
        let of_kind = inventory.objects.iter().filter(|it| it.kind == kind);
        let expected = if kind == ObjectKind::LoopDevice { 2 } else { 1 };
        assert_eq!(of_kind.count(), expected, "{inventory}");
    }
    engine.delete("box").await.unwrap();
    assert!(lab.host.held().is_empty());
}

#[tokio::test]
async fn handles_that_were_lost_are_found_again_from_the_kernel() {
    let lab = Lab::new();
    let engine = lab.open().await;
    let vm = running(&engine, "box").await;
    let before = handles(&vm);
    drop(engine);
    std::fs::remove_file(vm.runtime.vm_dir.join("handles.json")).unwrap();
    let engine = lab.open().await;
    assert_eq!(rig::condition(&engine, "box").await, Condition::Running);
    let after = handles(&vm);
    for field in [
        "pid",
        "tap_device",
        "base_loop",
        "cow_loop",
        "dm_name",
        "dm_dev",
        "namespace",
        "scope",
        "uplink",
        "nft_table",
    ] {
        assert_eq!(after[field], before[field], "{field}");
    }
}

#[tokio::test]
async fn a_vm_that_died_with_its_handles_lost_is_released_by_its_names() {
    let lab = Lab::new();
    let engine = lab.open().await;
    let vm = running(&engine, "box").await;
    drop(engine);
    lab.kill(&vm);
    std::fs::remove_file(vm.runtime.vm_dir.join("handles.json")).unwrap();
    let engine = lab.open().await;
    assert_eq!(rig::condition(&engine, "box").await, Condition::Stopped);
    assert_eq!(lab.host.held(), [""; 0]);
}

#[tokio::test]
async fn what_a_vm_without_a_record_holds_is_a_stray_that_reconcile_removes() {
    let lab = Lab::new();
    let engine = lab.open().await;
    let vm = running(&engine, "box").await;
    lab.kill(&vm);
    drop(engine);
    // Its folder and its row are both lost.
    for name in ["vms", "banger.db", "banger.db-wal", "banger.db-shm"] {
        let path = lab.config.state_dir.join(name);
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_dir_all(&path);
    }
    assert_eq!(lab.host.held().len(), 5);
    let engine = lab.open().await;
    assert_eq!(lab.host.held(), [""; 0]);
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test]
async fn what_another_engine_s_vms_hold_is_not_touched() {
    let lab = Lab::new();
    let engine = lab.open().await;
    let vm = running(&engine, "box").await;
    lab.kill(&vm);
    let held = lab.host.held();
    let mut other = lab.config.clone();
    other.state_dir = lab.config.state_dir.with_file_name("other");
    let (second, _) = Engine::sim_over(&lab.host, other).await.unwrap();
    let inventory = second.prove().await.unwrap();
    second.remove_strays(&inventory).await.unwrap();
    second.reconcile().await.unwrap();
    assert_eq!(lab.host.held(), held);
}

#[tokio::test]
async fn teardown_retries_a_busy_dm_device() {
    let lab = Lab::new();
    let engine = lab.open().await;
    running(&engine, "box").await;
    lab.host.snapshots_are_busy(5);
    engine.kill("box").await.unwrap();
    assert_eq!(lab.host.held(), [""; 0]);
}

#[tokio::test]
async fn a_layer_that_lost_a_write_is_told_while_it_runs_and_not_started_again() {
    let lab = Lab::new();
    let engine = lab.open().await;
    let vm = running(&engine, "box").await;
    let before = engine.show("box").await.unwrap();
    assert_eq!(before.vm.runtime.last_error, None);
    lab.host
        .lose_snapshot(handles(&vm)["dm_name"].as_str().unwrap());
    let now = engine.show("box").await.unwrap();
    let trouble = now.vm.runtime.last_error.unwrap();
    assert!(trouble.contains("full"), "{trouble}");
    engine.kill("box").await.unwrap();
    let error = engine.start("box", &Progress::silent()).await.unwrap_err();
    let chain = error.chain().join(": ");
    assert!(chain.contains("is lost"), "{chain}");
    assert!(error.hint().is_some());
    assert_eq!(lab.host.held(), [""; 0], "the failed start was undone");
    engine.delete("box").await.unwrap();
}

#[tokio::test]
async fn a_namespace_of_that_name_is_removed_before_the_start_and_never_adopted() {
    let lab = Lab::new();
    let engine = lab.open().await;
    let silent = Progress::silent();
    let vm = engine.create(request("box"), &silent).await.unwrap();
    let left = banger_core::Marks::of(engine.id(), &vm.id).namespace();
    lab.host.make_namespace(&left).await.unwrap();
    engine.start("box", &silent).await.unwrap();
    engine.delete("box").await.unwrap();
    assert_eq!(lab.host.held(), [""; 0]);
}

#[tokio::test]
async fn backends_that_do_not_fit_together_are_refused_with_the_reason() {
    let lab = Lab::new();
    let engine = lab.open().await;
    let silent = Progress::silent();
    let unknown = CreateRequest {
        vmm: Some(banger_core::VmmKind::Firecracker),
        ..request("box")
    };
    let error = engine.create(unknown, &silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("firecracker"), "{error}");
    let doctor = engine.doctor().await.unwrap();
    let usable = |it: &&banger_core::Candidate| it.probe.usable == Usable::Yes;
    assert_eq!(doctor.candidates.iter().filter(usable).count(), 5);
}

#[tokio::test]
async fn a_host_that_lets_no_guest_out_is_told_of_when_one_is_made_when_it_starts_and_by_the_doctor()
 {
    let lab = Lab::new();
    let engine = lab.open().await;
    let silent = Progress::silent();
    let nat = async || {
        let facts = engine.doctor().await.unwrap().facts;
        let fact = facts.into_iter().find(|fact| fact.subject == "nat");
        fact.unwrap().probe.usable
    };
    assert_eq!(nat().await, Usable::Yes);
    engine.create(request("box"), &silent).await.unwrap();

    let mut without = lab.host.neighbourhood().await.unwrap();
    without.rules = Err(RulesUnknown::NotInstalled);
    lab.host.set_neighbourhood(without);
    assert_eq!(nat().await, Usable::No);
    let starts = engine.start("box", &silent).await.unwrap_err();
    let makes = engine.create(request("other"), &silent).await.unwrap_err();
    for error in [starts, makes] {
        assert!(error.chain().join(": ").contains("nft"), "{error:?}");
        assert!(error.hint().unwrap().contains("nftables"), "{error:?}");
    }
    assert_eq!(lab.host.held(), [""; 0]);
    assert_eq!(rig::condition(&engine, "box").await, Condition::Created);

    // Whoever is not let out does not need it.
    let closed = CreateRequest {
        internet: Some(Internet::Closed),
        ..request("closed")
    };
    engine.create(closed, &silent).await.unwrap();
    let vm = engine.start("closed", &silent).await.unwrap();
    assert!(handles(vm.vm())["uplink"].is_null());
}

#[tokio::test]
async fn two_engines_give_their_guests_different_addresses_and_restarts_are_told_who_has_which() {
    let lab = Lab::new();
    let engine = lab.open().await;
    let mut config = lab.config.clone();
    config.state_dir = lab.config.state_dir.with_file_name("other");
    image_for(&config);
    let (second, _) = Engine::sim_over(&lab.host, config).await.unwrap();
    for name in ["one", "two", "three"] {
        running(&engine, name).await;
        running(&second, name).await;
    }
    drop(engine);
    let engine = lab.open().await;
    running(&engine, "four").await;
    let mut addresses = lab.host.uplink_addresses();
    addresses.dedup();
    assert_eq!(addresses.len(), 7, "{addresses:?}");
    // A pool that has no more, for those two engines together.
    let mut narrow = lab.config.clone();
    narrow.state_dir = lab.config.state_dir.with_file_name("narrow");
    narrow.nat.pool = format!("{}/32", addresses[0]).parse().unwrap();
    image_for(&narrow);
    let (third, _) = Engine::sim_over(&lab.host, narrow).await.unwrap();
    let error = third
        .create(request("box"), &Progress::silent())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
}

#[tokio::test]
async fn a_way_out_and_a_table_that_nobody_wants_are_strays_that_are_removed() {
    let lab = Lab::new();
    let engine = lab.open().await;
    running(&engine, "box").await;
    let marks = Marks::of(engine.id(), &VmId::from_random([0xee; 16]));
    let other = Marks::of(
        &banger_core::EngineId::from_random([1; 4]),
        &VmId::from_random([2; 16]),
    );
    for marks in [&marks, &other] {
        let rules = RuleTable {
            name: marks.table(),
            rules: String::new(),
        };
        lab.host.make_table(&rules).await.unwrap();
        lab.host.make_namespace(&marks.namespace()).await.unwrap();
        let last = if std::ptr::eq(marks, &other) { 1 } else { 2 };
        let uplink = UplinkSpec {
            name: marks.uplink(),
            owner: marks.namespace(),
            address: [198, 18, 255, last].into(),
            tap: "tap0".to_owned(),
            also: [10, 0, 2, 3].into(),
            rules,
        };
        lab.host
            .make_uplink(&marks.namespace(), &uplink)
            .await
            .unwrap();
    }
    let inventory = engine.prove().await.unwrap();
    let strays: Vec<ObjectKind> = inventory.strays().map(|stray| stray.kind).collect();
    let kinds = [
        ObjectKind::Veth,
        ObjectKind::NetworkNamespace,
        ObjectKind::NftTable,
        ObjectKind::Mount,
    ];
    assert_eq!(strays, kinds, "{inventory}");
    let removal = engine.remove_strays(&inventory).await.unwrap();
    assert!(
        removal
            .lines
            .iter()
            .all(|line| line.outcome == RemovalOutcome::Removed)
    );
    let held = lab.host.held();
    assert_eq!(
        held.len(),
        5 + 3,
        "the running VM's and another engine's: {held:?}"
    );
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test]
async fn logs_of_an_earlier_banger_s_monitor_begin_anew_while_its_guest_runs() {
    let mut lab = Lab::new();
    lab.config.limits.logs = std::time::Duration::from_millis(5);
    let engine = lab.open().await;
    let vm = running(&engine, "box").await;
    let logs = vm.runtime.logs();
    assert_eq!(logs.len(), 2, "{logs:?}");
    for log in logs {
        std::fs::write(&log, "few words").unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(std::fs::read(&log).unwrap(), b"few words");
        let file = std::fs::File::create(&log).unwrap();
        file.set_len(LOG_BYTES + 1).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while log.metadata().unwrap().len() > 0 {
            assert!(std::time::Instant::now() < deadline, "it stays long");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
