//! What a command holds in this process is let go of when nobody wants it any more. On its own in its process, because
//! it counts that process's descriptors.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::{Duration, Instant};

use banger_core::{CreateRequest, Engine, ExecEvent, ExecRequest, Progress};

fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn a_command_that_heeds_nobody_holds_nothing_once_it_is_dropped() {
    let engine = Engine::sim().await.unwrap();
    let silent = Progress::silent();
    let request = CreateRequest::named("box".parse().unwrap());
    engine.create(request, &silent).await.unwrap();
    engine.start("box", &silent).await.unwrap();
    if let Err(error) = engine.wait_ready("box", &silent).await {
        println!("SKIP: {}", error.chain().join(": "));
        return;
    }
    let before = open();
    for script in [
        // Silent, and one that writes without end.
        "trap '' HUP PIPE; while :; do sleep 1; done",
        "trap '' HUP PIPE; while :; do echo line; done",
    ] {
        for _ in 0..5 {
            let request = ExecRequest::new(["sh", "-c", script]);
            let mut execution = engine.exec("box", &request).await.unwrap();
            let started = execution.next().await;
            assert!(matches!(started, ExecEvent::Started(_)), "{started:?}");
        }
    }
    // The simulator waits for the end of each: one descriptor, where a real guest's sshd would.
    let before = before + 10;
    let deadline = Instant::now() + Duration::from_secs(30);
    while open() > before {
        assert!(Instant::now() < deadline, "{} of {before} are open", open());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    engine.delete("box").await.unwrap();
}
