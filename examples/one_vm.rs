//! Boots a VM, runs a command in it, stops and deletes it: no daemon, no command line.

use banger_core::{CreateRequest, ExecRequest, Progress};
use banger_examples::{AnyError, engine};

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let engine = engine().await?;
    let progress = Progress::new(|stage| println!("… {stage}"));

    let vm = engine.create(CreateRequest::default(), &progress).await?;
    let name = vm.name.as_str();
    engine.start(name, &progress).await?;
    engine.wait_ready(name, &progress).await?;

    let command = ExecRequest::new(["sh", "-c", "echo hello from $(hostname); exit 7"]);
    let output = engine.exec_output(name, &command).await?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    println!("it ended: {:?}", output.end);

    let stopped = engine.stop(name).await?;
    println!("{:?}", stopped.vm().runtime.stop_reason);
    engine.delete(name).await?;
    Ok(())
}
