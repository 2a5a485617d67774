//! The same behaviours over different monitors, disks and networks: what a user sees must not depend on
//! what is below. One of each disk and network with each monitor, and what a host of root's is for; all that
//! there are with `BANGER_TEST_ALL=1`. What this host cannot do is skipped, with the
//! engine's own reason. docs/parity.md is the table.

use std::time::Duration;

use banger_core::{
    Condition, CreateRequest, DiskKind, Engine, ErrorKind, ExecEnd, ExecOutput, ExecRequest,
    NetworkKind, Progress, StopOutcome, StopRung, VmmKind,
};
use banger_tests::{Rig, alone, as_an_administrator_sees_it, why_not_real};

async fn sh(engine: &Engine, script: &str) -> ExecOutput {
    let request = ExecRequest::new(["sh", "-c", script]);
    engine.exec_output("box", &request).await.expect("it runs")
}

async fn start(engine: &Engine) {
    let silent = Progress::silent();
    engine.start("box", &silent).await.expect("it starts");
    engine.wait_ready("box", &silent).await.expect("it answers");
}

async fn behaves(rig: &Rig, vmm: VmmKind, disk: DiskKind, network: NetworkKind) {
    let engine = rig.open().await;
    let silent = Progress::silent();
    let request = CreateRequest {
        vmm: Some(vmm),
        disk: Some(disk),
        network: Some(network),
        vcpus: Some(1),
        ..CreateRequest::named("box".parse().expect("a valid name"))
    };
    match engine.create(request, &silent).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            println!(
                "SKIP: {vmm}, {disk}, {network}: {}",
                error.chain().join(": ")
            );
            return;
        }
        Err(error) => panic!("{error:?}"),
    }
    start(&engine).await;
    assert_eq!(sh(&engine, "hostname").await.stdout, b"box\n");
    assert_eq!(sh(&engine, "exit 42").await.end, ExecEnd::Exited(42));
    let clock = sh(&engine, "cat /sys/class/net/eth0/address; date +%s").await;
    let text = String::from_utf8_lossy(&clock.stdout).into_owned();
    assert!(text.starts_with("52:54:00:12:34:56\n"), "{text}");

    // What was written before `stop` returned is there after `start`, on both disks.
    sh(
        &engine,
        "echo root >/etc/precious; echo own >/root/precious",
    )
    .await;
    match engine.stop("box").await.expect("it stops") {
        StopOutcome::Stopped { by, .. } => assert_eq!(by, StopRung::PoweredOff),
        StopOutcome::AlreadyStopped(_) => panic!("it ran"),
    }
    start(&engine).await;
    let kept = sh(&engine, "cat /etc/precious /root/precious").await;
    assert_eq!(kept.stdout, b"root\nown\n");

    // It outlives its engine, and the next one reaches it.
    drop(engine);
    let engine = rig.open().await;
    let view = engine.show("box").await.expect("it is shown");
    assert_eq!(view.condition, Condition::Running);
    let inventory = engine.prove().await.expect("it is proven");
    assert!(inventory.is_clean(), "{inventory}");
    assert_eq!(sh(&engine, "hostname").await.stdout, b"box\n");

    // It ends by itself, and somebody notices.
    sh(&engine, "systemctl --no-block poweroff").await;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while engine.show("box").await.expect("it is shown").condition != Condition::Stopped {
        assert!(std::time::Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    engine.delete("box").await.expect("it is deleted");
    println!("OK: {vmm}, {disk}, {network}");
}

/// When a combination is tried: always, or only when all are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    All,
}

fn over(when: When, vmm: VmmKind, disk: DiskKind, network: NetworkKind) {
    if let Some(reason) = why_not_real() {
        println!("SKIP: {reason}");
        return;
    }
    if when == When::All && std::env::var_os("BANGER_TEST_ALL").is_none() {
        println!("SKIP: {vmm}, {disk}, {network}: only with BANGER_TEST_ALL=1");
        return;
    }
    let _turn = alone();
    let before = as_an_administrator_sees_it();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut rig = Rig::new().await;
        // A machine in an emulated machine, on a busy one: what is asked here is how, not how fast.
        rig.config.limits.ready = Duration::from_secs(240);
        behaves(&rig, vmm, disk, network).await;
    });
    assert_eq!(as_an_administrator_sees_it(), before, "something is left");
}

#[test]
fn a_vm_behaves_alike_over_qemu_overlay_and_user() {
    over(
        When::Always,
        VmmKind::Qemu,
        DiskKind::Overlay,
        NetworkKind::User,
    );
}

#[test]
fn a_vm_behaves_alike_over_qemu_file_and_tap() {
    over(
        When::Always,
        VmmKind::Qemu,
        DiskKind::File,
        NetworkKind::Tap,
    );
}

#[test]
fn a_vm_behaves_alike_over_qemu_dm_snapshot_and_user() {
    over(
        When::Always,
        VmmKind::Qemu,
        DiskKind::DmSnapshot,
        NetworkKind::User,
    );
}

#[test]
fn a_vm_behaves_alike_over_qemu_dm_snapshot_and_tap() {
    over(
        When::Always,
        VmmKind::Qemu,
        DiskKind::DmSnapshot,
        NetworkKind::Tap,
    );
}

#[test]
fn a_vm_behaves_alike_over_firecracker_file_and_tap() {
    over(
        When::Always,
        VmmKind::Firecracker,
        DiskKind::File,
        NetworkKind::Tap,
    );
}

#[test]
fn a_vm_behaves_alike_over_firecracker_dm_snapshot_and_tap() {
    over(
        When::Always,
        VmmKind::Firecracker,
        DiskKind::DmSnapshot,
        NetworkKind::Tap,
    );
}

#[test]
fn a_vm_behaves_alike_over_qemu_overlay_and_tap() {
    over(
        When::All,
        VmmKind::Qemu,
        DiskKind::Overlay,
        NetworkKind::Tap,
    );
}

#[test]
fn a_vm_behaves_alike_over_qemu_file_and_user() {
    over(When::All, VmmKind::Qemu, DiskKind::File, NetworkKind::User);
}

#[test]
fn a_vm_behaves_alike_over_firecracker_overlay_and_user() {
    over(
        When::All,
        VmmKind::Firecracker,
        DiskKind::Overlay,
        NetworkKind::User,
    );
}

#[test]
fn a_vm_behaves_alike_over_firecracker_overlay_and_tap() {
    over(
        When::All,
        VmmKind::Firecracker,
        DiskKind::Overlay,
        NetworkKind::Tap,
    );
}

#[test]
fn a_vm_behaves_alike_over_firecracker_dm_snapshot_and_user() {
    over(
        When::All,
        VmmKind::Firecracker,
        DiskKind::DmSnapshot,
        NetworkKind::User,
    );
}

#[test]
fn a_vm_behaves_alike_over_firecracker_file_and_user() {
    over(
        When::All,
        VmmKind::Firecracker,
        DiskKind::File,
        NetworkKind::User,
    );
}
