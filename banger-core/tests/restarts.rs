//! What becomes of guests that end by themselves: a panic is no reboot, and a reboot is no loop.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::Write;
use std::time::Duration;

use banger_core::{Condition, Engine, ExecRequest, StopOutcome, VmView};

#[path = "proof/rig.rs"]
#[allow(dead_code, reason = "shared with the proofs")]
mod rig;

use rig::{Rig, running, start};

const PANIC: &str = "[   12.345678] Kernel panic - not syncing: sysrq triggered crash\n";

async fn reboot(engine: &Engine, name: &str) {
    // It ends in the middle of this.
    let _ = engine
        .exec_output(name, &ExecRequest::new(["reboot"]))
        .await;
}

async fn becomes(engine: &Engine, name: &str, is_so: impl Fn(&VmView) -> bool) -> VmView {
    let reached = async {
        loop {
            let view = engine.show(name).await.unwrap();
            if is_so(&view) {
                return view;
            }
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    reached.expect("it becomes so")
}

fn runs(restarts: u32) -> impl Fn(&VmView) -> bool {
    move |view| view.condition == Condition::Running && view.vm.runtime.restarts == restarts
}

/// Says something on a guest's console.
fn print(view: &VmView, text: &str) {
    let log = &view.vm.runtime.log_path;
    let mut log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    log.write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn a_guest_that_panicked_is_told_as_such_and_not_started_again() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    print(&engine.show("box").await.unwrap(), PANIC);
    reboot(&engine, "box").await;
    let view = becomes(&engine, "box", |view| view.condition == Condition::Stopped).await;
    let reason = "the guest's kernel panicked: sysrq triggered crash";
    assert_eq!(view.vm.runtime.stop_reason.as_deref(), Some(reason));
    assert_eq!(view.vm.runtime.restart_at, None);
    // Its next run is not taken for the last one.
    start(&engine, "box").await;
    print(&view, "[    0.000000] Linux version 6.1.0\n");
    reboot(&engine, "box").await;
    becomes(&engine, "box", runs(1)).await;
}

#[tokio::test]
async fn a_guest_that_reboots_is_started_again_and_counted_and_a_start_on_demand_begins_anew() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    reboot(&engine, "box").await;
    becomes(&engine, "box", runs(1)).await;
    reboot(&engine, "box").await;
    let waits = becomes(&engine, "box", |view| {
        view.condition == Condition::Restarting
    })
    .await;
    assert!(waits.vm.runtime.restart_at.is_some());
    let listed = engine.list_running().await.unwrap();
    assert_eq!(listed.len(), 1, "it is shown with those that run");
    becomes(&engine, "box", runs(2)).await;

    // Whoever stops it while it waits has stopped it.
    reboot(&engine, "box").await;
    becomes(&engine, "box", |view| {
        view.condition == Condition::Restarting
    })
    .await;
    let stopped = engine.stop("box").await.unwrap();
    assert!(
        matches!(stopped, StopOutcome::AlreadyStopped(_)),
        "{stopped:?}"
    );
    assert_eq!(
        engine.show("box").await.unwrap().condition,
        Condition::Stopped
    );
    let started = start(&engine, "box").await;
    assert_eq!(started.runtime.restarts, 0);
    engine.delete("box").await.unwrap();
}

#[tokio::test]
async fn the_next_engine_goes_on_with_the_wait() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    for restarts in 1..=2 {
        reboot(&engine, "box").await;
        becomes(&engine, "box", runs(restarts)).await;
    }
    reboot(&engine, "box").await;
    becomes(&engine, "box", |view| {
        view.condition == Condition::Restarting
    })
    .await;
    drop(engine);
    let engine = rig.open().await;
    becomes(&engine, "box", runs(3)).await;
}
