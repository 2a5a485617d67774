use std::time::Duration;

use banger_core::{Error, ErrorKind, Follow, Refusal};

use crate::rig::{Rig, ended, exec, printed, sh, start, stdout};

fn refusal(error: &Error) -> Refusal {
    match error {
        Error::SessionRefused { source, .. } => *source,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_sent_arrives_byte_for_byte_and_its_end_too() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "cat", sh("exec cat").reading()).await;
    let binary: Vec<u8> = (0..=255).cycle().take(3000).collect();
    engine.session_send("box", "cat", &binary).await.unwrap();
    engine.session_send("box", "cat", b"").await.unwrap();
    let large: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    engine.session_send("box", "cat", &large).await.unwrap();
    engine.session_close_stdin("box", "cat").await.unwrap();
    engine.session_close_stdin("box", "cat").await.ok();
    assert_eq!(ended(&engine, "cat").await.state.exit_code, Some(0));
    assert_eq!(
        stdout(&engine, "cat", Follow::No).await,
        [binary, large].concat()
    );
}

#[tokio::test]
async fn many_senders_at_once_are_never_mixed() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "cat", sh("exec cat").reading()).await;
    let mut senders = tokio::task::JoinSet::new();
    for number in 0..20_usize {
        let engine = engine.clone();
        // Some fit into one write to a pipe, some are far beyond.
        let length = if number % 2 == 0 { 4000 } else { 40_000 };
        senders.spawn(async move {
            let mut line = vec![b'a' + number as u8; length];
            line.push(b'\n');
            engine.session_send("box", "cat", &line).await
        });
    }
    for sent in senders.join_all().await {
        sent.unwrap();
    }
    engine.session_close_stdin("box", "cat").await.unwrap();
    let all = stdout(&engine, "cat", Follow::Yes).await;
    let lines: Vec<&[u8]> = all
        .split(|&byte| byte == b'\n')
        .filter(|l| !l.is_empty())
        .collect();
    assert_eq!(lines.len(), 20);
    for line in lines {
        assert!(
            line.iter().all(|byte| byte == &line[0]),
            "two senders in one line"
        );
        assert!(matches!(line.len(), 4000 | 40_000));
    }
}

#[tokio::test]
async fn a_send_that_cannot_arrive_says_why_and_never_waits_for_ever() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "closed", sh("exec sleep 600")).await;
    start(&engine, "done", sh("exit 0").reading()).await;
    start(
        &engine,
        "deaf",
        sh("exec <&-; echo deaf; exec sleep 600").reading(),
    )
    .await;
    start(&engine, "lazy", sh("exec sleep 600").reading()).await;
    ended(&engine, "done").await;
    printed(&engine, "deaf", b"deaf\n").await;
    for (session, wanted, kind) in [
        ("closed", Refusal::NotAPipe, ErrorKind::Invalid),
        ("done", Refusal::NotRunning, ErrorKind::NotRunning),
        ("deaf", Refusal::NoReader, ErrorKind::Failed),
    ] {
        let error = engine
            .session_send("box", session, b"x\n")
            .await
            .unwrap_err();
        assert_eq!(refusal(&error), wanted);
        assert_eq!(error.kind(), kind);
    }
    // More than a pipe holds, to somebody who does not read.
    let sent = engine
        .session_send("box", "lazy", &vec![b'x'; 200_000])
        .await;
    assert_eq!(refusal(&sent.unwrap_err()), Refusal::TimedOut);

    engine.session_close_stdin("box", "lazy").await.unwrap();
    let error = engine.session_send("box", "lazy", b"x").await.unwrap_err();
    assert_eq!(refusal(&error), Refusal::StdinClosed);
    let error = engine
        .session_send("box", "nobody", b"x")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_send_in_a_vm_that_has_stopped_is_refused() {
    let (_rig, engine) = Rig::with_box().await;
    start(&engine, "cat", sh("exec cat").reading()).await;
    engine.stop("box").await.unwrap();
    let error = engine.session_send("box", "cat", b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRunning);
}

#[tokio::test]
async fn a_send_leaves_nothing_behind_in_the_guest() {
    let (_rig, engine) = Rig::with_box().await;
    let session = start(&engine, "cat", sh("exec cat").reading()).await;
    engine.session_send("box", "cat", b"one\n").await.unwrap();
    printed(&engine, "cat", b"one\n").await;
    let list = format!("ls -A /root/.local/state/banger/sessions/{}", session.id);
    let gone = async {
        while exec(&engine, &list).await.contains(".send.") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .expect("its file is removed");
}
