//! The systemd scope of a VM, over the fake host: it is a handle like the others, and none is no obstacle.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;

use banger_core::{
    Condition, CreateRequest, Engine, EngineConfig, FakeHost, Marks, Probe, Progress, Usable,
    VMRecord,
};
use serde_json::Value;

#[path = "proof/rig.rs"]
#[allow(dead_code, reason = "shared with the other proofs")]
mod rig;

use rig::{Rig, condition, create, running, start};

fn scope(engine: &Engine, vm: &VMRecord) -> String {
    Marks::of(engine.id(), &vm.id).scope()
}

fn handles(vm: &VMRecord) -> Value {
    let text = std::fs::read(vm.runtime.vm_dir.join("handles.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// What the doctor says of scopes.
async fn told(engine: &Engine) -> Probe {
    let facts = engine.doctor().await.unwrap().facts;
    let mut facts = facts.into_iter();
    facts.find(|fact| fact.subject == "scope").unwrap().probe
}

#[tokio::test]
async fn a_monitor_is_in_a_scope_of_its_own_which_its_handles_name_and_which_goes_with_the_run() {
    let rig = Rig::new();
    let engine = rig.open().await;
    assert_eq!(told(&engine).await.usable, Usable::Yes);
    let (one, two) = (running(&engine, "one").await, running(&engine, "two").await);
    let mut expected = [scope(&engine, &one), scope(&engine, &two)];
    expected.sort();
    assert_eq!(rig.host.held(), expected);
    assert_eq!(handles(&one)["scope"], scope(&engine, &one).as_str());
    engine.stop("one").await.unwrap();
    assert_eq!(rig.host.held(), [scope(&engine, &two)]);
    engine.delete("two").await.unwrap();
    assert_eq!(rig.host.held(), [""; 0]);
}

#[tokio::test]
async fn where_systemd_does_not_run_a_vm_runs_without_a_scope_and_the_doctor_says_so() {
    let rig = Rig::new();
    rig.host
        .set_scopes(Err("systemd does not run here".to_owned()));
    let engine = rig.open().await;
    let probe = told(&engine).await;
    assert_eq!(
        (probe.usable, &*probe.reason),
        (Usable::No, "systemd does not run here")
    );
    let vm = running(&engine, "box").await;
    assert_eq!(handles(&vm)["scope"], Value::Null);
    assert_eq!(rig.host.held(), [""; 0]);
    engine.stop("box").await.unwrap();
}

#[tokio::test]
async fn where_systemd_makes_none_after_all_a_vm_runs_without_and_its_next_run_has_one() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = create(&engine, "box").await;
    rig.host.scopes_are_refused(true);
    start(&engine, "box").await;
    assert_eq!(condition(&engine, "box").await, Condition::Running);
    assert_eq!(handles(&vm)["scope"], Value::Null);
    assert_eq!(rig.host.living().len(), 1);
    rig.host.scopes_are_refused(false);
    engine.restart("box", &Progress::silent()).await.unwrap();
    assert_eq!(handles(&vm)["scope"], scope(&engine, &vm).as_str());
    engine.delete("box").await.unwrap();
    assert_eq!(rig.host.held(), [""; 0]);
}

#[tokio::test]
async fn a_scope_of_that_name_is_ended_before_the_start_and_never_entered() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = create(&engine, "box").await;
    rig.host.add_stranger(7000, "sleep 1000");
    rig.host.add_scope(&scope(&engine, &vm), 7000);
    start(&engine, "box").await;
    assert_eq!(handles(&vm)["scope"], scope(&engine, &vm).as_str());
    let living = rig.host.living();
    assert_eq!(living.len(), 1, "{living:?}");
    assert_ne!(living[0].identity.pid, 7000);
}

#[tokio::test]
async fn handles_of_an_older_banger_name_no_scope_and_are_read_and_a_scope_is_removed_all_the_same()
{
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    drop(engine);
    let file = vm.runtime.vm_dir.join("handles.json");
    let mut written = handles(&vm);
    written.as_object_mut().unwrap().remove("scope").unwrap();
    std::fs::write(&file, written.to_string()).unwrap();
    let engine = rig.open().await;
    assert_eq!(condition(&engine, "box").await, Condition::Running);
    assert!(!vm.runtime.vm_dir.join("handles.json.damaged").exists());
    engine.stop("box").await.unwrap();
    assert_eq!(rig.host.held(), [""; 0]);
}

#[tokio::test]
async fn a_start_that_fails_gives_its_scope_back() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let vm = create(&engine, "box").await;
    rig.host.spawned_processes_end_at_once(true);
    engine.start("box", &Progress::silent()).await.unwrap_err();
    assert_eq!(rig.host.held(), [""; 0]);
    assert!(!vm.runtime.vm_dir.join("handles.json").exists());
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_host_that_reboots_has_no_scope_and_its_vms_have_stopped() {
    let rig = Rig::new();
    let engine = rig.open().await;
    running(&engine, "box").await;
    drop(engine);
    rig.host.reboot();
    let engine = rig.open().await;
    assert_eq!(condition(&engine, "box").await, Condition::Stopped);
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_new_fake_host_has_no_systemd() {
    let scratch = rig::scratch();
    let config: EngineConfig = rig::config(scratch.path(), "state");
    let host = Arc::new(FakeHost::new());
    let (engine, _) = Engine::sim_over(&host, config).await.unwrap();
    let request = CreateRequest::named("box".parse().unwrap());
    engine.create(request, &Progress::silent()).await.unwrap();
    start(&engine, "box").await;
    assert_eq!(host.held(), [""; 0]);
}
