//! A monitor that answers nothing holds up its own VM's verb and nobody else.
//!
//! Nothing here is timed: what must not wait for the frozen monitor is done while a verb that does wait
//! for it is pending, and that verb is seen to be pending still afterwards.

use std::time::Duration;

use banger_core::{Condition, Engine, Fault, Progress, StartOutcome, StopOutcome, StopRung};

use crate::rig::{Rig, condition, create, running, start};

/// Longer than any test: whoever waits for a frozen monitor waits for ever.
const FOR_EVER: Duration = Duration::from_secs(1 << 20);

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.config.limits.control = FOR_EVER;
    rig
}

/// What must not take long, whatever else is frozen.
async fn soon<T>(what: &str, act: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), act).await {
        Ok(done) => done,
        Err(_) => panic!("{what} waited for the frozen monitor"),
    }
}

/// Every verb and every look at things, on and beside the other VMs.
async fn others_are_served(engine: &Engine) {
    let life = async {
        running(engine, "other").await;
        engine.restart("other", &Progress::silent()).await.unwrap();
        engine.stop("other").await.unwrap();
        start(engine, "other").await;
        engine.kill("other").await.unwrap();
        engine.delete("other").await.unwrap();
    };
    soon("another VM's life", life).await;
    soon("list", engine.list()).await.unwrap();
    soon("show", engine.show("box")).await.unwrap();
    soon("console", engine.console_tail("box", 100))
        .await
        .unwrap();
    soon("doctor", engine.doctor()).await.unwrap();
    let inventory = soon("prove", engine.prove()).await.unwrap();
    assert!(inventory.is_clean(), "{inventory}");
}

#[tokio::test]
async fn a_start_that_hangs_in_its_monitor_holds_nobody_else_up() {
    let rig = rig();
    let engine = rig.open().await;
    create(&engine, "box").await;
    rig.host.spawned_processes_freeze(true);
    let mut pending = tokio::spawn({
        let engine = engine.clone();
        async move { engine.start("box", &Progress::silent()).await }
    });
    while rig.host.living().is_empty() {
        tokio::task::yield_now().await;
    }
    rig.host.spawned_processes_freeze(false);
    let pid = rig.host.living()[0].identity.pid;

    others_are_served(&engine).await;
    let still = tokio::time::timeout(Duration::ZERO, &mut pending).await;
    assert!(still.is_err(), "the start itself does wait: {still:?}");
    let view = engine.show("box").await.unwrap();
    assert_eq!(view.condition, Condition::Created, "not acknowledged yet");

    rig.host.thaw(pid);
    let started = soon("the start", pending).await.unwrap().unwrap();
    assert!(matches!(started, StartOutcome::Started(_)));
    assert_eq!(condition(&engine, "box").await, Condition::Running);
}

#[tokio::test]
async fn a_start_whose_monitor_never_answers_is_undone_when_its_time_is_over() {
    let mut rig = Rig::new();
    rig.config.limits.control = Duration::from_millis(20);
    let engine = rig.open().await;
    create(&engine, "box").await;
    rig.host.spawned_processes_freeze(true);
    let error = engine.start("box", &Progress::silent()).await.unwrap_err();
    let text = error.chain().join(": ");
    assert!(text.contains("did not answer \"connect\""), "{text}");
    assert_eq!(
        rig.host.living().len(),
        0,
        "a stopped process heeds SIGKILL"
    );
    assert_eq!(condition(&engine, "box").await, Condition::Created);
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_vm_that_freezes_while_it_runs_is_shown_as_unresponsive_and_can_be_killed() {
    let rig = rig();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    let pid = rig.pid_of(&vm);
    rig.host.freeze(pid);
    assert_eq!(condition(&engine, "box").await, Condition::Unresponsive);
    others_are_served(&engine).await;
    rig.host.thaw(pid);
    assert_eq!(condition(&engine, "box").await, Condition::Running);

    rig.host.freeze(pid);
    let stopped = soon("stop", engine.stop("box")).await.unwrap();
    let StopOutcome::Stopped { by, .. } = stopped else {
        panic!("it ran");
    };
    assert_eq!(by, StopRung::Killed);
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test]
async fn an_engine_opens_over_a_frozen_monitor_and_closes_and_opens_again() {
    let rig = rig();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    running(&engine, "beside").await;
    let pid = rig.pid_of(&vm);
    drop(engine);
    rig.host.freeze(pid);
    for _ in 0..2 {
        // Dropped while it seeks the monitor's control: what it held must be free at once.
        let engine = soon("opening", rig.open()).await;
        assert_eq!(condition(&engine, "box").await, Condition::Unresponsive);
        assert_eq!(condition(&engine, "beside").await, Condition::Running);
        others_are_served(&engine).await;
        soon("reconcile", engine.reconcile()).await.unwrap();
        drop(engine);
    }
    let engine = rig.open().await;
    rig.host.thaw(pid);
    assert_eq!(condition(&engine, "box").await, Condition::Running);
}

#[tokio::test]
async fn the_end_of_a_frozen_monitor_is_noticed_although_it_never_answered() {
    let rig = rig();
    let engine = rig.open().await;
    let vm = running(&engine, "box").await;
    drop(engine);
    rig.host.freeze(rig.pid_of(&vm));
    let engine = rig.open().await;
    rig.host
        .end(rig.pid_of(&vm), banger_core::ProcessEnd::Signaled(9));
    let noticed = async {
        while condition(&engine, "box").await != Condition::Stopped {
            tokio::task::yield_now().await;
        }
    };
    soon("noticing", noticed).await;
    assert!(engine.prove().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_command_that_comes_while_its_vm_is_being_started_waits_for_the_start() {
    let rig = rig();
    let engine = rig.open().await;
    create(&engine, "box").await;
    rig.host.spawned_processes_freeze(true);
    let starting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.start("box", &Progress::silent()).await }
    });
    while rig.host.living().is_empty() {
        tokio::task::yield_now().await;
    }
    let pid = rig.host.living()[0].identity.pid;
    let mut command = tokio::spawn({
        let engine = engine.clone();
        let request = banger_core::ExecRequest::new(["true"]);
        async move { engine.exec_output("box", &request).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let early = tokio::time::timeout(Duration::ZERO, &mut command).await;
    assert!(early.is_err(), "{early:?}");
    rig.host.thaw(pid);
    soon("the start", starting).await.unwrap().unwrap();
    let output = soon("the command", command).await.unwrap().unwrap();
    assert_eq!(output.end, banger_core::ExecEnd::Exited(0));
}

#[tokio::test]
async fn an_undo_that_fails_is_told_keeps_the_handles_and_leaves_a_vm_that_can_be_deleted() {
    // Of a start whose monitor never answers, the undo's two calls: the kill, and the runtime folder.
    for undo in ["signal Kill", "remove folder"] {
        let mut rig = Rig::new();
        rig.config.limits.control = Duration::from_millis(20);
        let engine = rig.open().await;
        let vm = create(&engine, "box").await;
        rig.host.spawned_processes_freeze(true);
        // The first start of an engine also makes its key: the second makes the calls of the third.
        engine.start("box", &Progress::silent()).await.unwrap_err();
        rig.host.revive();
        engine.start("box", &Progress::silent()).await.unwrap_err();
        let calls = rig.host.calls();
        let at = calls
            .iter()
            .rposition(|call| call.starts_with(undo))
            .unwrap()
            + 1;

        rig.host
            .fail(Fault::Once(at, std::io::ErrorKind::PermissionDenied));
        let error = engine.start("box", &Progress::silent()).await.unwrap_err();
        assert!(error.to_string().contains("could not be undone"), "{error}");
        let view = engine.show("box").await.unwrap();
        assert_eq!(view.condition, Condition::Error);
        assert!(view.vm.runtime.last_error.is_some());
        let file = vm.runtime.vm_dir.join("handles.json");
        assert!(
            file.exists(),
            "{undo}: what may still be held is still written down"
        );
        rig.host.revive();
        soon("delete", engine.delete("box")).await.unwrap();
        assert_eq!(rig.host.living().len(), 0);
        assert!(engine.prove().await.unwrap().is_clean());
    }
}
