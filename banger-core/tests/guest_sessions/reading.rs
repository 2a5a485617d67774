use std::time::Duration;

use banger_core::{
    Engine, ErrorKind, Follow, LogEnd, LogEvent, LogRequest, LogStart, SessionStatus, Stream,
};

use crate::rig::{PATIENCE, Rig, ended, exec, log, printed, sh, start, stdout};

/// Ends every `tail` in the guest, as a connection that breaks would.
const CUT: &str = "for p in /proc/[0-9]*; do read -r c <$p/comm || continue; \
    [ \"$c\" != tail ] || kill -9 ${p#/proc/}; done 2>/dev/null; :";

fn follow(stream: Stream, start: LogStart) -> LogRequest {
    LogRequest {
        stream,
        start,
        follow: Follow::Yes,
    }
}

#[tokio::test]
async fn the_last_lines_and_any_byte_are_where_reading_may_begin() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "seq", sh("seq 1 1000; echo err >&2")).await;
    ended(&engine, "seq").await;
    let read = async |stream, start| log(&engine, "seq", stream, start, Follow::No).await;
    assert_eq!(
        read(Stream::Stdout, LogStart::LastLines(2)).await,
        b"999\n1000\n"
    );
    assert_eq!(read(Stream::Stdout, LogStart::LastLines(0)).await, b"");
    let all = read(Stream::Stdout, LogStart::Beginning).await;
    assert_eq!(all.len(), 3893);
    assert_eq!(
        read(Stream::Stdout, LogStart::Offset(3888)).await,
        b"1000\n"
    );
    assert_eq!(read(Stream::Stdout, LogStart::Offset(3893)).await, b"");
    assert_eq!(read(Stream::Stderr, LogStart::default()).await, b"err\n");

    let beyond = follow(Stream::Stdout, LogStart::Offset(3894));
    let error = engine.session_logs("box", "seq", beyond).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("3893"), "{error}");
}

#[tokio::test]
async fn ten_megabytes_are_followed_through_lost_connections_without_a_byte_lost_or_repeated() {
    let (_rig, engine) = Rig::with_box().await;
    let script = "sleep 0.3; head -c 5000000 /dev/urandom; sleep 0.5; head -c 5000000 /dev/urandom";
    start(&engine, "noise", sh(script)).await;
    let cutter = {
        let engine = engine.clone();
        tokio::spawn(async move {
            for _ in 0..8 {
                exec(&engine, CUT).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    };
    let followed = stdout(&engine, "noise", Follow::Yes).await;
    cutter.await.unwrap();
    assert_eq!(followed.len(), 10_000_000);
    assert_eq!(hash_of(&followed), hash_in_guest(&engine, "noise").await);
    assert_eq!(ended(&engine, "noise").await.state.exit_code, Some(0));
}

#[tokio::test]
async fn a_log_that_is_followed_from_its_last_lines_goes_on_with_what_comes() {
    let (_rig, engine) = Rig::with_box().await;
    let request = sh("seq 1 500; read -r line; echo \"got $line\"").reading();
    start(&engine, "talk", request).await;
    printed(&engine, "talk", b"\n500\n").await;
    let request = follow(Stream::Stdout, LogStart::LastLines(1));
    let mut logs = engine.session_logs("box", "talk", request).await.unwrap();
    let LogEvent::Bytes { bytes, offset } = logs.next().await else {
        panic!("it has begun");
    };
    assert_eq!((offset, &bytes[..]), (logs.start(), &b"500\n"[..]));
    engine
        .session_send("box", "talk", b"hello\n")
        .await
        .unwrap();
    let LogEvent::Bytes { bytes, .. } = logs.next().await else {
        panic!("it goes on");
    };
    assert_eq!(bytes, b"got hello\n");
    assert_eq!(logs.next().await, LogEvent::Ended(LogEnd::Complete));
}

#[tokio::test]
async fn a_reader_that_stops_reading_holds_nobody_but_itself() {
    let (_rig, engine) = Rig::with_box().await;
    start(
        &engine,
        "yes",
        sh("head -c 30000000 /dev/zero; exec sleep 600"),
    )
    .await;
    let request = follow(Stream::Stdout, LogStart::Beginning);
    let mut idle = engine.session_logs("box", "yes", request).await.unwrap();
    let LogEvent::Bytes { .. } = idle.next().await else {
        panic!("it has begun");
    };
    // The command, another reader and the VM's verbs all go on.
    let all = stdout(&engine, "yes", Follow::No).await;
    assert!(!all.is_empty());
    let stopped = tokio::time::timeout(PATIENCE, engine.stop("box")).await;
    stopped.expect("no stream holds a stop up").unwrap();
    // And whoever reads again later gets the rest, from the disk.
    let mut bytes = 0;
    loop {
        match idle.next().await {
            LogEvent::Bytes { bytes: piece, .. } => bytes += piece.len(),
            LogEvent::Ended(end) => {
                assert_eq!(end, LogEnd::Complete);
                break;
            }
        }
    }
    assert!(bytes > 0);
}

#[tokio::test]
async fn a_follower_that_goes_away_leaves_nothing_in_the_guest() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "idle", sh("echo up; exec sleep 600")).await;
    let request = follow(Stream::Stdout, LogStart::Beginning);
    let mut logs = engine.session_logs("box", "idle", request).await.unwrap();
    logs.next().await;
    drop(logs);
    let count = "grep -lx tail /proc/[0-9]*/comm 2>/dev/null | wc -l";
    let gone = async {
        while exec(&engine, count).await.trim() != "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("its tail ends");
}

#[tokio::test]
async fn logs_and_status_are_there_after_the_vm_has_stopped() {
    let (rig, engine) = Rig::with_box().await;
    start(&engine, "done", sh("seq 1 300; exit 4")).await;
    start(&engine, "runs", sh("echo up; exec sleep 600")).await;
    printed(&engine, "runs", b"up\n").await;
    ended(&engine, "done").await;
    engine.stop("box").await.unwrap();
    let done = engine.session_show("box", "done").await.unwrap().session;
    assert_eq!(done.state.exit_code, Some(4));
    let tail = LogStart::LastLines(2);
    let tail = log(&engine, "done", Stream::Stdout, tail, Follow::No).await;
    assert_eq!(tail, b"299\n300\n");
    let end = LogStart::Offset(3);
    let rest = log(&engine, "runs", Stream::Stdout, end, Follow::Yes).await;
    assert_eq!(rest, b"");
    let list = engine.session_list("box").await.unwrap();
    assert!(list.iter().all(|view| view.session.state.status.is_final()));

    // A later engine finds the same.
    drop(engine);
    let engine = rig.open().await;
    assert_eq!(stdout(&engine, "runs", Follow::No).await, b"up\n");
    let runs = engine.session_show("box", "runs").await.unwrap().session;
    assert_ne!(runs.state.status, SessionStatus::Running);
}

#[tokio::test]
async fn a_follower_gets_the_last_bytes_of_a_vm_that_stops_and_then_the_end() {
    let (_rig, engine) = Rig::with_box().await;
    let script = "trap 'echo going; exit 5' TERM; echo up; while :; do sleep 0.05; done";
    start(&engine, "polite", sh(script)).await;
    printed(&engine, "polite", b"up\n").await;
    let follower = {
        let engine = engine.clone();
        tokio::spawn(async move { stdout(&engine, "polite", Follow::Yes).await })
    };
    engine.stop("box").await.unwrap();
    let all = follower.await.unwrap();
    assert!(all.starts_with(b"up\n"), "{all:?}");
}

#[tokio::test]
async fn a_log_of_a_vm_or_session_that_is_deleted_ends_and_says_so() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "idle", sh("echo up; exec sleep 600")).await;
    let request = follow(Stream::Stdout, LogStart::Beginning);
    let mut logs = engine.session_logs("box", "idle", request).await.unwrap();
    logs.next().await;
    engine.delete("box").await.unwrap();
    let end = tokio::time::timeout(PATIENCE, logs.next()).await.unwrap();
    let LogEvent::Ended(LogEnd::Lost(reason)) = end else {
        panic!("{end:?}");
    };
    assert_eq!(reason, "the VM was deleted");
}

/// What `sha256sum` says here.
fn hash_of(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    first_word(&String::from_utf8(output.stdout).unwrap())
}

/// What it says of a session's log in the guest.
async fn hash_in_guest(engine: &Engine, session: &str) -> String {
    let id = engine
        .session_show("box", session)
        .await
        .unwrap()
        .session
        .id;
    let path = format!("/root/.local/state/banger/sessions/{id}/stdout.log");
    first_word(&exec(engine, &format!("sha256sum <{path}")).await)
}

fn first_word(text: &str) -> String {
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}
