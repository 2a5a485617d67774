//! A VM outlives the engine that started it: the next one finds it alive and takes it up.
//!
//! Here the engine is dropped in the middle of everything, which is all that a killed process would
//! do: no destructor stops a VM, and nothing is written on the way out.

use std::sync::Arc;

use banger_core::{CreateRequest, Engine, EngineConfig, ExecRequest, FakeHost, Progress, Report};
use banger_examples::{AnyError, real_config};

/// Opens an engine over the same folders each time it is called.
struct Place {
    config: EngineConfig,
    simulated: Option<Arc<FakeHost>>,
    _scratch: Option<tempfile::TempDir>,
}

impl Place {
    fn choose() -> Result<Self, AnyError> {
        if std::env::args().any(|argument| argument == "--real") {
            return Ok(Place {
                config: real_config()?,
                simulated: None,
                _scratch: None,
            });
        }
        println!("(simulated; --real boots a real VM)");
        let scratch = tempfile::tempdir()?;
        Ok(Place {
            config: EngineConfig::new(scratch.path().join("state"), scratch.path().join("run")),
            simulated: Some(Arc::new(FakeHost::new())),
            _scratch: Some(scratch),
        })
    }

    async fn open(&self) -> Result<(Engine, Report), AnyError> {
        let config = self.config.clone();
        Ok(match &self.simulated {
            Some(host) => Engine::sim_over(host, config).await?,
            None => Engine::open(config).await?,
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let place = Place::choose()?;
    let progress = Progress::new(|stage| println!("… {stage}"));

    let (engine, _) = place.open().await?;
    let vm = engine.create(CreateRequest::default(), &progress).await?;
    let name = vm.name.as_str();
    engine.start(name, &progress).await?;
    engine.wait_ready(name, &progress).await?;
    println!("the engine is gone");
    drop(engine);

    let (engine, report) = place.open().await?;
    print!("{report}");
    let command = ExecRequest::new(["sh", "-c", "echo still here, on $(hostname)"]);
    let output = engine.exec_output(name, &command).await?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    engine.delete(name).await?;
    Ok(())
}
