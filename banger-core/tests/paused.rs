//! Guests that stand still: it is told why, nobody waits for them, and they go on when they can.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use banger_core::{
    Condition, Engine, ErrorKind, ExecEnd, ExecEvent, ExecRequest, GuestDisk, PauseReason, Probe,
};

#[path = "proof/rig.rs"]
#[allow(dead_code, reason = "shared with the proofs")]
mod rig;

use rig::{Rig, condition, running};

const FULL: PauseReason = PauseReason::DiskFull {
    disk: Some(GuestDisk::Work),
};

/// What the default reserve leaves nothing of.
const ROOM: u64 = 2 << 30;

async fn becomes(engine: &Engine, name: &str, wanted: Condition) {
    let reached = async {
        while condition(engine, name).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    reached.unwrap_or_else(|_| panic!("{name} never became {wanted}"));
}

async fn why(engine: &Engine, name: &str) -> Option<String> {
    engine.show(name).await.unwrap().paused
}

async fn doctor(engine: &Engine, name: &str) -> Option<Probe> {
    let mut facts = engine.doctor().await.unwrap().facts.into_iter();
    let fact = facts.find(|fact| fact.subject == "vm" && fact.name == name);
    fact.map(|fact| fact.probe)
}

fn true_() -> ExecRequest {
    ExecRequest::new(["true"])
}

#[tokio::test]
async fn a_guest_whose_host_is_full_is_told_as_paused_and_goes_on_when_there_is_room() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    assert_eq!(why(&engine, "box").await, None);
    rig.host.set_free_bytes(0);
    rig.host.pause_guest(rig.pid_of(&vm), Some(FULL));
    becomes(&engine, "box", Condition::Paused).await;
    let reason = "the host's disk is full";
    assert_eq!(why(&engine, "box").await.as_deref(), Some(reason));
    let listed = engine.list_running().await.unwrap();
    assert_eq!(listed[0].paused.as_deref(), Some(reason));
    let told = doctor(&engine, "box")
        .await
        .expect("the doctor tells of it");
    assert_eq!(told.reason, format!("paused: {reason}"));

    // Whoever wants something of it is told at once, with the next step.
    let error = engine.exec_output("box", &true_()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Paused);
    assert_eq!(error.to_string(), format!("VM box is paused: {reason}"));
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("free some space") && hint.contains("by itself"),
        "{hint}"
    );

    rig.host.set_free_bytes(ROOM);
    becomes(&engine, "box", Condition::Running).await;
    assert_eq!(why(&engine, "box").await, None);
    assert_eq!(doctor(&engine, "box").await, None);
    let output = engine.exec_output("box", &true_()).await.unwrap();
    assert_eq!(output.end, ExecEnd::Exited(0));
    engine.delete("box").await.unwrap();
}

#[tokio::test]
async fn the_next_engine_knows_it_at_once_and_lets_it_go_on() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    drop(engine);
    rig.host.set_free_bytes(0);
    rig.host.pause_guest(rig.pid_of(&vm), Some(FULL));
    let engine = rig.open().await;
    assert_eq!(condition(&engine, "box").await, Condition::Paused);
    drop(engine);
    let engine = rig.open().await;
    let error = engine.exec_output("box", &true_()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Paused);
    rig.host.set_free_bytes(ROOM);
    becomes(&engine, "box", Condition::Running).await;
    engine.delete("box").await.unwrap();
}

#[tokio::test]
async fn one_that_somebody_has_paused_is_left_to_them() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let asked = running(&engine, "asked").await;
    let full = running(&engine, "full").await;
    rig.host
        .pause_guest(rig.pid_of(&asked), Some(PauseReason::Asked));
    becomes(&engine, "asked", Condition::Paused).await;
    let said = why(&engine, "asked").await.unwrap();
    assert!(said.contains("somebody"), "{said}");
    // Two others come and go in the time in which it could have been let go on.
    for _ in 0..2 {
        rig.host.set_free_bytes(0);
        rig.host.pause_guest(rig.pid_of(&full), Some(FULL));
        becomes(&engine, "full", Condition::Paused).await;
        rig.host.set_free_bytes(ROOM);
        becomes(&engine, "full", Condition::Running).await;
    }
    assert_eq!(condition(&engine, "asked").await, Condition::Paused);
    rig.host.pause_guest(rig.pid_of(&asked), None);
    becomes(&engine, "asked", Condition::Running).await;
}

#[tokio::test]
async fn an_error_that_is_no_lack_of_room_is_told_as_such_and_tried_again() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    let failed = PauseReason::DiskFailed {
        disk: Some(GuestDisk::Root),
        said: Some("Input/output error".to_owned()),
    };
    rig.host.pause_guest(rig.pid_of(&vm), Some(failed));
    becomes(&engine, "box", Condition::Paused).await;
    let said = why(&engine, "box").await;
    assert_eq!(
        said.as_deref(),
        Some("the host's disk failed: Input/output error")
    );
    becomes(&engine, "box", Condition::Running).await;
}

#[tokio::test]
async fn a_command_at_work_is_told_that_its_guest_stands_still_and_that_it_goes_on() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    let mut execution = engine
        .exec("box", &ExecRequest::new(["cat"]))
        .await
        .unwrap();
    let first = execution.next().await;
    assert!(matches!(first, ExecEvent::Started(_)), "{first:?}");
    rig.host.set_free_bytes(0);
    rig.host.pause_guest(rig.pid_of(&vm), Some(FULL));
    assert_eq!(execution.next().await, ExecEvent::Paused(FULL));
    rig.host.set_free_bytes(ROOM);
    assert_eq!(execution.next().await, ExecEvent::GoesOn);
    execution.close_stdin();
    assert_eq!(execution.next().await, ExecEvent::Ended(ExecEnd::Exited(0)));
}

#[tokio::test]
async fn a_paused_vm_can_be_killed_and_deleted() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    rig.host.set_free_bytes(0);
    rig.host.pause_guest(rig.pid_of(&vm), Some(FULL));
    becomes(&engine, "box", Condition::Paused).await;
    engine.kill("box").await.unwrap();
    assert_eq!(condition(&engine, "box").await, Condition::Stopped);
    engine.delete("box").await.unwrap();
    assert!(engine.prove().await.unwrap().is_clean());
}
