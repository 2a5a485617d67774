//! A simulated host, and engines over it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use banger_core::{
    Condition, CreateRequest, Engine, EngineConfig, FakeHost, HostObject, Inventory, Progress,
    VMRecord,
};

pub(crate) struct Rig {
    pub(crate) host: Arc<FakeHost>,
    pub(crate) config: EngineConfig,
    pub(crate) scratch: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let scratch = scratch();
        let host = Arc::new(FakeHost::new());
        host.set_scopes(Ok(()));
        Rig {
            host,
            config: config(scratch.path(), "state"),
            scratch,
        }
    }

    pub(crate) async fn open(&self) -> Engine {
        self.open_as(self.config.clone()).await
    }

    pub(crate) async fn open_as(&self, config: EngineConfig) -> Engine {
        Engine::sim_over(&self.host, config).await.unwrap().0
    }

    /// The monitor of a VM.
    pub(crate) fn pid_of(&self, vm: &VMRecord) -> u32 {
        let token = format!(":{}:", vm.id);
        let living = self.host.living();
        let monitor = living.iter().find(|p| p.command_line.contains(&token));
        monitor.expect("its monitor lives").identity.pid
    }
}

/// A folder for an engine. In memory where there is such a place: these tests are about order, and a
/// disk's sync only makes them slow.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match tempfile::tempdir_in(memory) {
        Ok(folder) => folder,
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

pub(crate) fn config(scratch: &Path, state: &str) -> EngineConfig {
    let mut config = EngineConfig::new(scratch.join(state), scratch.join("run"));
    // Monitors are ended by signals: what guests do of their own accord is tested elsewhere.
    config.limits.power_off = Duration::ZERO;
    config.limits.ctrl_alt_del = Duration::ZERO;
    config.limits.signal = Duration::from_millis(200);
    config
}

pub(crate) async fn create(engine: &Engine, name: &str) -> VMRecord {
    let request = CreateRequest::named(name.parse().unwrap());
    engine.create(request, &Progress::silent()).await.unwrap()
}

pub(crate) async fn start(engine: &Engine, name: &str) -> VMRecord {
    let started = engine.start(name, &Progress::silent()).await.unwrap();
    started.vm().clone()
}

pub(crate) async fn running(engine: &Engine, name: &str) -> VMRecord {
    create(engine, name).await;
    start(engine, name).await
}

pub(crate) async fn condition(engine: &Engine, name: &str) -> Condition {
    engine.show(name).await.unwrap().condition
}

/// What an inventory calls strays, as "kind grip".
pub(crate) fn strays(inventory: &Inventory) -> Vec<String> {
    let name = |object: &HostObject| format!("{} {}", object.kind, object.grip);
    inventory.strays().map(name).collect()
}

/// Every file below a folder with what is in it.
pub(crate) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.insert(path.clone(), Vec::new());
                folders.push(path);
            } else {
                // Disks are sparse and huge: their length is enough.
                let length = path.metadata().unwrap().len();
                let bytes = match length {
                    0..=0xfffff => std::fs::read(&path).unwrap_or_default(),
                    length => length.to_le_bytes().into(),
                };
                found.insert(path, bytes);
            }
        }
    }
    found
}
