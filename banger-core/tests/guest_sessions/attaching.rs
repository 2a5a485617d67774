use std::time::{Duration, Instant};

use banger_core::{
    AttachEnd, AttachEvent, AttachRequest, Engine, Error, ErrorKind, Follow, LogStart, Refusal,
    SessionAttach, SessionStatus, Stream,
};

use crate::rig::{PATIENCE, Rig, ended, printed, sh, start, stdout};

async fn attach(engine: &Engine, session: &str, who: &str) -> SessionAttach {
    let request = AttachRequest::by(who);
    engine
        .session_attach("box", session, request)
        .await
        .unwrap()
}

async fn next(attach: &mut SessionAttach) -> AttachEvent {
    tokio::time::timeout(PATIENCE, attach.next())
        .await
        .expect("it tells something")
}

/// Collects standard output until it ends with `text`.
async fn reads(attach: &mut SessionAttach, text: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !all.ends_with(text) {
        match next(attach).await {
            AttachEvent::Output {
                bytes,
                stream: Stream::Stdout,
                ..
            } => all.extend(bytes),
            AttachEvent::Output { .. } => {}
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&all)),
        }
    }
    all
}

/// Everything to the end.
async fn to_its_end(attach: &mut SessionAttach) -> (Vec<u8>, Vec<u8>, AttachEnd) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match next(attach).await {
            AttachEvent::Output {
                bytes,
                stream: Stream::Stderr,
                ..
            } => err.extend(bytes),
            AttachEvent::Output { bytes, .. } => out.extend(bytes),
            AttachEvent::InputRefused(refusal) => panic!("{refusal}"),
            AttachEvent::Ended(end) => return (out, err, end),
        }
    }
}

const TALK: &str = "echo ready; while read -r line; do echo \"got $line\"; echo \"err $line\" >&2; \
    [ \"$line\" != quit ] || exit 7; done; echo eof";

#[tokio::test]
async fn an_attach_carries_all_three_streams_and_ends_with_the_session_s_own_status() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "talk", sh(TALK).reading()).await;
    let mut attached = attach(&engine, "talk", "me").await;
    assert_eq!(attached.session().state.status, SessionStatus::Running);
    let mut input = attached.take_input().unwrap();
    reads(&mut attached, b"ready\n").await;
    input.write(b"one\n").await.unwrap();
    reads(&mut attached, b"got one\n").await;
    input.write(b"qu").await.unwrap();
    input.write(b"it\n").await.unwrap();
    let (out, err, end) = to_its_end(&mut attached).await;
    assert_eq!(out, b"got quit\n");
    assert!(err.ends_with(b"err quit\n"));
    assert_eq!(end, AttachEnd::Exited(7));
    // The verdict is in the record by then.
    let view = engine.session_show("box", "talk").await.unwrap();
    assert_eq!(view.session.state.exit_code, Some(7));
}

#[tokio::test]
async fn a_second_attacher_is_told_who_holds_the_session_until_the_first_has_left() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "talk", sh(TALK).reading()).await;
    let first = attach(&engine, "talk", "pid 4711 (alice)").await;
    let request = AttachRequest::by("bob");
    let error = engine
        .session_attach("box", "talk", request.clone())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(
        error.to_string().contains("held by pid 4711 (alice)"),
        "{error}"
    );
    // Neither send nor logs need the attach.
    engine
        .session_send("box", "talk", b"aside\n")
        .await
        .unwrap();
    printed(&engine, "talk", b"got aside\n").await;
    drop(first);
    let mut second = engine.session_attach("box", "talk", request).await.unwrap();
    reads(&mut second, b"got aside\n").await;
}

#[tokio::test]
async fn an_attach_can_be_left_and_taken_up_at_the_next_byte() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "talk", sh(TALK).reading()).await;
    let mut first = attach(&engine, "talk", "me").await;
    let AttachEvent::Output { offset, bytes, .. } = next(&mut first).await else {
        panic!("it is ready");
    };
    drop(first);
    engine
        .session_send("box", "talk", b"meanwhile\n")
        .await
        .unwrap();
    printed(&engine, "talk", b"got meanwhile\n").await;
    let request = AttachRequest {
        stdout: LogStart::Offset(offset + bytes.len() as u64),
        ..AttachRequest::by("me")
    };
    let mut again = engine.session_attach("box", "talk", request).await.unwrap();
    let read = reads(&mut again, b"got meanwhile\n").await;
    assert_eq!(
        [bytes, read].concat(),
        stdout(&engine, "talk", Follow::No).await
    );
    let mut input = again.take_input().unwrap();
    input.write(b"quit\n").await.unwrap();
    assert_eq!(to_its_end(&mut again).await.2, AttachEnd::Exited(7));
}

#[tokio::test]
async fn a_session_outlives_its_engine_and_logs_send_and_attach_go_on_with_the_next() {
    let (rig, engine) = Rig::with_box().await;
    let started = start(&engine, "talk", sh(TALK).reading()).await;
    engine
        .session_send("box", "talk", b"before\n")
        .await
        .unwrap();
    let mut attached = attach(&engine, "talk", "the first engine's client").await;
    let seen = reads(&mut attached, b"got before\n").await;
    // As far as the engine's own process goes this is its death: it writes and closes nothing.
    drop(attached);
    drop(engine);
    let engine = rig.open().await;

    let shown = engine.session_show("box", "talk").await.unwrap();
    assert_eq!(shown.stale, None);
    assert_eq!(shown.session.state, started.state);
    assert_eq!(stdout(&engine, "talk", Follow::No).await, seen);
    let request = AttachRequest {
        stdout: LogStart::Offset(seen.len() as u64),
        ..AttachRequest::by("the second engine's client")
    };
    let mut attached = engine.session_attach("box", "talk", request).await.unwrap();
    engine
        .session_send("box", "talk", b"after\n")
        .await
        .unwrap();
    assert_eq!(reads(&mut attached, b"got after\n").await, b"got after\n");
    let mut input = attached.take_input().unwrap();
    input.write(b"quit\n").await.unwrap();
    let (out, _, end) = to_its_end(&mut attached).await;
    assert_eq!((out, end), (b"got quit\n".to_vec(), AttachEnd::Exited(7)));
}

#[tokio::test]
async fn a_session_that_ended_while_no_engine_was_there_is_found_with_its_status() {
    let (rig, engine) = Rig::with_box().await;
    start(&engine, "brief", sh("sleep 0.2; echo done; exit 9")).await;
    drop(engine);
    let engine = rig.open().await;
    assert_eq!(ended(&engine, "brief").await.state.exit_code, Some(9));
    let mut attached = attach(&engine, "brief", "me").await;
    let (out, _, end) = to_its_end(&mut attached).await;
    assert_eq!((out, end), (b"done\n".to_vec(), AttachEnd::Exited(9)));
}

#[tokio::test]
async fn a_session_without_a_pipe_can_be_watched_and_refuses_what_is_written() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "watch", sh("echo up; exec sleep 600")).await;
    let mut attached = attach(&engine, "watch", "me").await;
    reads(&mut attached, b"up\n").await;
    let mut input = attached.take_input().unwrap();
    let error = input.write(b"x").await.unwrap_err();
    let Error::SessionRefused { source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(source, Refusal::NotAPipe);
}

#[tokio::test]
async fn the_end_of_stdin_reaches_a_command_whose_attach_holds_the_pipe() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "talk", sh(TALK).reading()).await;
    let mut attached = attach(&engine, "talk", "me").await;
    let mut input = attached.take_input().unwrap();
    input.write(b"one\n").await.unwrap();
    reads(&mut attached, b"got one\n").await;
    engine.session_close_stdin("box", "talk").await.unwrap();
    let (mut out, mut refused) = (Vec::new(), None);
    let end = loop {
        match next(&mut attached).await {
            AttachEvent::InputRefused(refusal) => refused = Some(refusal),
            AttachEvent::Ended(end) => break end,
            AttachEvent::Output {
                bytes,
                stream: Stream::Stdout,
                ..
            } => out.extend(bytes),
            AttachEvent::Output { .. } => {}
        }
    };
    assert_eq!((out.as_slice(), end), (&b"eof\n"[..], AttachEnd::Exited(0)));
    // It may come too late to be told.
    assert!(
        matches!(refused, None | Some(Refusal::StdinClosed)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn input_that_nobody_reads_any_more_is_told_and_the_output_goes_on() {
    let (_rig, engine) = Rig::with_box().await;
    let script = "exec <&-; echo deaf; sleep 1; echo still; exit 2";
    start(&engine, "deaf", sh(script).reading()).await;
    printed(&engine, "deaf", b"deaf\n").await;
    let mut attached = attach(&engine, "deaf", "me").await;
    let mut input = attached.take_input().unwrap();
    // The first piece is taken before it is known whether it can be delivered.
    let _ = input.write(b"x\n").await;
    let (mut refused, mut out) = (None, Vec::new());
    let end = loop {
        match next(&mut attached).await {
            AttachEvent::InputRefused(refusal) => refused = Some(refusal),
            AttachEvent::Output { bytes, .. } => out.extend(bytes),
            AttachEvent::Ended(end) => break end,
        }
    };
    assert_eq!(refused, Some(Refusal::NoReader));
    assert_eq!(out, b"deaf\nstill\n");
    assert_eq!(end, AttachEnd::Exited(2));
}

#[tokio::test]
async fn a_vm_that_is_deleted_under_an_attach_does_not_wait_for_it_and_ends_it() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "talk", sh(TALK).reading()).await;
    let mut attached = attach(&engine, "talk", "me").await;
    let mut input = attached.take_input().unwrap();
    input.write(b"one\n").await.unwrap();
    reads(&mut attached, b"got one\n").await;
    let began = Instant::now();
    engine.delete("box").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    let (_, _, end) = to_its_end(&mut attached).await;
    assert_eq!(end, AttachEnd::Lost("the VM was deleted".to_owned()));
    assert!(input.write(b"more\n").await.is_err());
}

#[tokio::test]
async fn a_vm_that_is_stopped_under_an_attach_ends_it_with_what_is_known() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "talk", sh(TALK).reading()).await;
    let mut attached = attach(&engine, "talk", "me").await;
    reads(&mut attached, b"ready\n").await;
    engine.kill("box").await.unwrap();
    let (_, _, end) = to_its_end(&mut attached).await;
    let AttachEnd::Lost(reason) = end else {
        panic!("{end:?}");
    };
    assert!(
        reason.contains("the VM stopped while the session ran"),
        "{reason}"
    );
    let view = engine.session_show("box", "talk").await.unwrap();
    assert_eq!(view.session.state.status, SessionStatus::Failed);
}
