//! A thousand VMs run, their engine dies, and the next one takes them all up: how long does it take? On
//! the simulator, whatever the arguments: a thousand real guests need a thousand real memories.

use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_core::{CreateRequest, Engine, EngineConfig, FakeHost, Progress};
use banger_examples::AnyError;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const HOW_MANY: usize = 1000;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let scratch = tempfile::tempdir()?;
    let config = EngineConfig::new(scratch.path().join("state"), scratch.path().join("run"));
    let host = Arc::new(FakeHost::new());
    let (engine, _) = Engine::sim_over(&host, config.clone()).await?;
    let (mut made, abreast) = (JoinSet::new(), Arc::new(Semaphore::new(16)));
    for number in 0..HOW_MANY {
        let (engine, abreast) = (engine.clone(), abreast.clone());
        made.spawn(async move {
            let _place = abreast.acquire_owned().await;
            running(&engine, number)
                .await
                .map_err(|e| e.chain().join(": "))
        });
    }
    while let Some(made) = made.join_next().await {
        made??;
    }
    drop(engine);

    let begun = Instant::now();
    let (engine, report) = Engine::sim_over(&host, config).await?;
    let opening = begun.elapsed();
    let kept = report.lines.iter().filter(|line| line.action == "kept");
    println!("taken up: {} of {HOW_MANY} running VMs", kept.count());
    tell("opening an engine over them", opening);
    let begun = Instant::now();
    let again = engine.reconcile().await?;
    tell("reconcile once more", begun.elapsed());
    println!(
        "and it changed: {}",
        if again.changed() {
            "something"
        } else {
            "nothing"
        }
    );
    let begun = Instant::now();
    let inventory = engine.prove().await?;
    tell("proof", begun.elapsed());
    println!(
        "objects: {}, strays: {}",
        inventory.objects.len(),
        inventory.strays().count()
    );
    Ok(())
}

async fn running(engine: &Engine, number: usize) -> Result<(), banger_core::Error> {
    let silent = Progress::silent();
    let request = CreateRequest::named(format!("vm-{number}").parse()?);
    let vm = engine.create(request, &silent).await?;
    engine.start(vm.name.as_str(), &silent).await.map(drop)
}

fn tell(what: &str, took: Duration) {
    // On standard error: what it says on standard output is the same in every run.
    eprintln!("{what}: {} ms", took.as_millis());
}
