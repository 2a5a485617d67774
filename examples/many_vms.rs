//! Several VMs at once: verbs on different VMs never wait for each other.

use banger_core::{CreateRequest, Engine, ExecRequest, Progress};
use banger_examples::{AnyError, engine};

const HOW_MANY: usize = 3;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let engine = engine().await?;
    let mut machines = tokio::task::JoinSet::new();
    for number in 1..=HOW_MANY {
        let engine = engine.clone();
        machines.spawn(async move { one(&engine, number).await.map_err(|e| e.to_string()) });
    }
    while let Some(said) = machines.join_next().await {
        print!("{}", said??);
    }
    println!("left: {} VMs", engine.list().await?.len());
    Ok(())
}

async fn one(engine: &Engine, number: usize) -> Result<String, banger_core::Error> {
    let silent = Progress::silent();
    let request = CreateRequest::named(format!("many-{number}").parse()?);
    let vm = engine.create(request, &silent).await?;
    let name = vm.name.as_str();
    engine.start(name, &silent).await?;
    engine.wait_ready(name, &silent).await?;
    let command = ExecRequest::new(["sh", "-c", "echo $(hostname) has $(nproc) processors"]);
    let output = engine.exec_output(name, &command).await?;
    engine.delete(name).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
