//! Starts a server in a VM as a session, waits for its first line, talks to it, and stops it. The session
//! needs nobody: between two calls this program could be killed, and another go on.

use banger_core::{
    CreateRequest, Follow, LogEvent, LogRequest, LogStart, Progress, SessionRequest, Stream,
};
use banger_examples::{AnyError, engine};

/// What stands for a server: it says that it is ready, and answers each line.
const SERVER: &str =
    "echo ready; while read -r line; do echo \"served $line to $CLIENT\"; done; echo closing";

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let engine = engine().await?;
    let progress = Progress::new(|stage| println!("… {stage}"));
    let vm = engine.create(CreateRequest::default(), &progress).await?;
    let vm = vm.name.as_str();
    engine.start(vm, &progress).await?;

    let request = SessionRequest {
        env: vec![("CLIENT".to_owned(), b"me".to_vec())],
        ..SessionRequest::new(["sh", "-c", SERVER])
    };
    let request = request.named("server".parse()?).reading();
    let session = engine.session_start(vm, request).await?;
    println!("{} is {}", session.name, session.state.status);

    // Followed from its first byte: whatever it printed before we looked is in it.
    let request = LogRequest {
        stream: Stream::Stdout,
        start: LogStart::Beginning,
        follow: Follow::Yes,
    };
    let mut logs = engine.session_logs(vm, "server", request).await?;
    let mut printed = Vec::new();
    for (awaited, answer) in [("ready\n", "a page"), ("served a page to me\n", "another")] {
        while !printed.ends_with(awaited.as_bytes()) {
            match logs.next().await {
                LogEvent::Bytes { bytes, .. } => printed.extend(bytes),
                LogEvent::Ended(end) => return Err(format!("it ended: {end:?}").into()),
            }
        }
        print!("it says: {awaited}");
        let line = format!("{answer}\n");
        engine.session_send(vm, "server", line.as_bytes()).await?;
    }

    let stopped = engine.session_stop(vm, "server", None).await?;
    println!("it ended with {:?}", stopped.session().state.exit_code);
    engine.session_delete(vm, "server").await?;
    engine.delete(vm).await?;
    println!("left: {} VMs", engine.list().await?.len());
    Ok(())
}
