//! What the examples share: an engine, simulated or real.

use std::path::PathBuf;

use banger_core::{Engine, EngineConfig};

/// The programs' error: anything with a message. The library's own errors are matched on by `kind()`.
pub type AnyError = Box<dyn std::error::Error>;

/// Opens the simulator, or with `--real` this machine.
///
/// The real engine lives in a state folder of its own, so that it is in nobody's way: an engine has its
/// folder to itself. `BANGER_EXAMPLE_STATE` names another one.
pub async fn engine() -> Result<Engine, AnyError> {
    if !std::env::args().any(|argument| argument == "--real") {
        println!("(simulated; --real boots a real VM)");
        return Ok(Engine::sim().await?);
    }
    let (engine, report) = Engine::open(real_config()?).await?;
    print!("{report}");
    Ok(engine)
}

/// Where the real engine of the examples lives.
pub fn real_config() -> Result<EngineConfig, AnyError> {
    let state = match std::env::var_os("BANGER_EXAMPLE_STATE") {
        Some(folder) => PathBuf::from(folder),
        None => etcetera::home_dir()?.join(".local/state/banger-examples"),
    };
    let runtime = state.join("run");
    Ok(EngineConfig::new(state, runtime))
}
