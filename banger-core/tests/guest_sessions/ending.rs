use std::time::Duration;

use banger_core::{
    ErrorKind, ExecRequest, Follow, ProcessEnd, SessionFolder, SessionStage, SessionStatus,
    SessionStopOutcome, Signal,
};

use crate::rig::{PATIENCE, Rig, boot, ended, exec, printed, sh, start, stdout, until};

const FOLDERS: &str = "ls /root/.local/state/banger/sessions 2>/dev/null | wc -l";

#[tokio::test]
async fn a_stop_ends_the_whole_group_by_term_and_says_so() {
    let (_rig, engine) = Rig::with_box().await;
    let session = start(&engine, "web", sh("sleep 601 & sleep 602 & echo up; wait")).await;
    printed(&engine, "web", b"up\n").await;
    let outcome = engine.session_stop("box", "web", None).await.unwrap();
    let SessionStopOutcome::Stopped { session: now, by } = outcome else {
        panic!("it ran");
    };
    assert_eq!(by, Signal::TERM);
    assert_eq!(now.state.exit_code, Some(143));
    let group = session.state.pid.unwrap();
    exec(&engine, &format!("! kill -0 -{group} 2>/dev/null")).await;

    let again = engine.session_stop("box", "web", None).await.unwrap();
    assert!(matches!(again, SessionStopOutcome::AlreadyEnded(_)));
    assert_eq!(again.session().state.exit_code, Some(143));
}

#[tokio::test]
async fn a_command_that_ignores_term_is_killed_after_its_grace() {
    let (_rig, engine) = Rig::with_box().await;
    let script = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    start(&engine, "stubborn", sh(script)).await;
    printed(&engine, "stubborn", b"up\n").await;
    let grace = Some(Duration::from_millis(300));
    let stop = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.session_stop("box", "stubborn", grace).await })
    };
    until(&engine, "stubborn", |view| {
        view.session.state.status != SessionStatus::Running
    })
    .await;
    let outcome = stop.await.unwrap().unwrap();
    let SessionStopOutcome::Stopped { session, by } = outcome else {
        panic!("it ran");
    };
    assert_eq!(by, Signal::KILL);
    assert_eq!(session.state.exit_code, Some(137));
}

#[tokio::test]
async fn a_command_that_daemonises_has_ended_and_its_group_can_still_be_stopped() {
    let (_rig, engine) = Rig::with_box().await;
    let session = start(&engine, "daemon", sh("sleep 603 & exit 0")).await;
    assert_eq!(ended(&engine, "daemon").await.state.exit_code, Some(0));
    let group = session.state.pid.unwrap();
    exec(&engine, &format!("kill -0 -{group}")).await;
    let outcome = engine.session_stop("box", "daemon", None).await.unwrap();
    assert!(matches!(outcome, SessionStopOutcome::Stopped { .. }));
    exec(&engine, &format!("! kill -0 -{group} 2>/dev/null")).await;
    assert_eq!(
        outcome.session().state.exit_code,
        Some(0),
        "its own end stays"
    );
}

#[tokio::test]
async fn any_signal_reaches_the_group_and_one_to_nobody_is_refused() {
    let (_rig, engine) = Rig::with_box().await;
    let script = "trap 'echo usr1' USR1; echo up; while :; do sleep 0.05; done";
    start(&engine, "listens", sh(script)).await;
    printed(&engine, "listens", b"up\n").await;
    let usr1 = "USR1".parse().unwrap();
    engine.session_kill("box", "listens", usr1).await.unwrap();
    // The sleep under it was ended by the same signal.
    printed(&engine, "listens", b"usr1\n").await;
    engine
        .session_kill("box", "listens", Signal::KILL)
        .await
        .unwrap();
    assert_eq!(ended(&engine, "listens").await.state.exit_code, Some(137));
    let error = engine
        .session_kill("box", "listens", Signal::TERM)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRunning);
}

#[tokio::test]
async fn a_delete_ends_the_session_and_frees_its_folder_and_its_name() {
    let (_rig, engine) = Rig::with_box().await;
    let session = start(&engine, "web", sh("exec yes").reading()).await;
    let outcome = engine.session_delete("box", "web").await.unwrap();
    assert_eq!(outcome.folder, SessionFolder::Removed);
    assert_eq!(outcome.session.state.exit_code, Some(143));
    assert_eq!(exec(&engine, FOLDERS).await.trim(), "0");
    let group = session.state.pid.unwrap();
    exec(&engine, &format!("! kill -0 -{group} 2>/dev/null")).await;
    let error = engine.session_show("box", "web").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    start(&engine, "web", sh("true")).await;
}

#[tokio::test]
async fn a_session_of_a_stopped_vm_is_deleted_too_and_what_stays_is_said() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "web", sh("exec sleep 600")).await;
    engine.stop("box").await.unwrap();
    let outcome = engine.session_delete("box", "web").await.unwrap();
    assert!(matches!(outcome.folder, SessionFolder::Left(_)));
    assert_eq!(engine.session_list("box").await.unwrap(), []);
}

#[tokio::test]
async fn a_vm_that_is_deleted_takes_its_sessions_along() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "web", sh("exec sleep 600")).await;
    engine.delete("box").await.unwrap();
    boot(&engine).await;
    assert_eq!(engine.session_list("box").await.unwrap(), []);
    start(&engine, "web", sh("exec sleep 600")).await;
}

#[tokio::test]
async fn a_guest_that_reboots_under_a_session_fails_it_with_the_reason() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "web", sh("echo up; exec sleep 600")).await;
    printed(&engine, "web", b"up\n").await;
    let before = engine.lookup("box").await.unwrap().runtime.run_id;
    let _ = engine
        .exec_output("box", &ExecRequest::new(["reboot"]))
        .await;
    let session = until(&engine, "web", |view| view.session.state.status.is_final()).await;
    let failure = session.state.failure.expect("it did not end by itself");
    assert_eq!(failure.stage, SessionStage::Guest);
    assert!(failure.message.contains("the guest rebooted"), "{failure}");
    // It runs again, and the old session's number is nobody's.
    let again = async {
        loop {
            let run = engine.lookup("box").await.unwrap().runtime.run_id;
            if run.is_some() && run != before {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("it runs again");
    let error = engine
        .session_kill("box", "web", Signal::KILL)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRunning);
    assert_eq!(stdout(&engine, "web", Follow::Yes).await, b"up\n");
}

#[tokio::test]
async fn a_vm_whose_monitor_dies_fails_its_sessions_with_the_reason() {
    let (rig, engine) = Rig::with_box().await;
    start(&engine, "web", sh("exec sleep 600")).await;
    let pid = rig.host.living()[0].identity.pid;
    rig.host.end(pid, ProcessEnd::Signaled(11));
    let session = until(&engine, "web", |view| view.session.state.status.is_final()).await;
    let failure = session.state.failure.unwrap();
    assert!(failure.message.contains("signal 11"), "{failure}");
}

#[tokio::test]
async fn a_vm_that_ended_while_no_engine_was_there_fails_its_sessions_with_the_reason() {
    let (rig, engine) = Rig::with_box().await;
    start(&engine, "web", sh("exec sleep 600")).await;
    drop(engine);
    rig.host.reboot();
    let engine = rig.open().await;
    let session = engine.session_show("box", "web").await.unwrap().session;
    let failure = session.state.failure.unwrap();
    assert_eq!(
        failure.message,
        "the VM stopped while the session ran (the host was restarted)"
    );
}

#[tokio::test]
async fn what_ended_just_before_a_stop_ended_by_itself() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "job", sh("sleep 0.1; exit 6")).await;
    let done = async {
        let id = engine.session_show("box", "job").await.unwrap().session.id;
        let wait = format!(
            "until [ -s /root/.local/state/banger/sessions/{id}/exit_code ]; do sleep 0.01; done"
        );
        exec(&engine, &wait).await;
    };
    tokio::time::timeout(PATIENCE, done).await.unwrap();
    engine.stop("box").await.unwrap();
    let session = engine.session_show("box", "job").await.unwrap().session;
    assert_eq!(session.state.exit_code, Some(6));
}

#[tokio::test]
async fn a_guest_that_does_not_answer_leaves_the_last_state_and_says_that_it_is_old() {
    let (rig, engine) = Rig::with_box().await;
    start(&engine, "web", sh("exec sleep 600")).await;
    drop(engine);
    let mut config = rig.config.clone();
    config.limits.session = Duration::from_millis(1);
    let (engine, _) = banger_core::Engine::sim_over(&rig.host, config)
        .await
        .unwrap();
    let view = engine.session_show("box", "web").await.unwrap();
    assert_eq!(view.session.state.status, SessionStatus::Running);
    assert!(view.stale.unwrap().contains("no answer"));
}
