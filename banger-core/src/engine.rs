//! The engine: one per state folder, shared by cloning.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tracing::Instrument;

use crate::backends::Backends;
use crate::config::EngineConfig;
use crate::error::Error;
use crate::handles::HandleCache;
use crate::host::{FakeHost, FileLock, Host};
use crate::images::ImageFiles;
use crate::inventory::is_temporary;
use crate::liveness::{HostLiveness, Liveness};
use crate::names::{EngineId, ImageName, VmId, VmName};
use crate::places::Places;
use crate::reconcile::Report;
use crate::session::SessionDesk;
use crate::store::Store;
use crate::watch::Live;

/// Runs machines. Cheap to clone; the VMs outlive every clone.
///
/// Every verb runs to its end even if the future that asked for it is dropped: a client that goes away
/// never leaves a step half done. One verb at a time works on a VM; verbs on different VMs never wait
/// for each other. Must be used inside a tokio runtime with time and I/O.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) id: EngineId,
    pub(crate) places: Places,
    pub(crate) store: Store,
    pub(crate) cache: HandleCache,
    pub(crate) liveness: Arc<dyn Liveness>,
    pub(crate) backends: Backends,
    /// What this process keeps of VMs that run: watchers and connections.
    pub(crate) live: Mutex<HashMap<VmId, Arc<Live>>>,
    /// VMs that have stopped and are about to be started again, because their guests rebooted.
    pub(crate) restarting: Mutex<HashSet<VmId>>,
    pub(crate) desk: Arc<SessionDesk>,
    pub(crate) images: Mutex<HashMap<ImageName, Arc<tokio::sync::RwLock<()>>>>,
    /// What the VMs of test boots boot from: files that are no image's yet.
    pub(crate) candidates: Mutex<HashMap<VmId, ImageFiles>>,
    /// Held while the engine's own ssh key is read, and made if it is not there.
    pub(crate) key: tokio::sync::Mutex<()>,
    /// Whether images that are being made are to be given up.
    pub(crate) closing: tokio::sync::watch::Sender<bool>,
    /// Names that are being made and have no row yet.
    names: Mutex<HashSet<VmName>>,
    verbs: Mutex<HashMap<VmId, Weak<tokio::sync::Mutex<()>>>>,
    verbs_at_last_sweep: AtomicUsize,
    _lock: FileLock,
    /// A simulator's own folder, removed with it.
    _scratch: Option<tempfile::TempDir>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("id", &self.inner.id)
            .field("state", &self.inner.places.state())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the engine of a state folder, making the folder on the first use, and reconciles what an
    /// earlier engine left. Refuses if another engine, in this process or another, has it open.
    pub async fn open(config: EngineConfig) -> Result<(Self, Report), Error> {
        let backends = Backends::real(&config);
        Engine::open_with(config, backends, None).await
    }

    /// Opens an engine over a simulated host in a scratch folder of its own: real scripts, no VMs. Needs
    /// neither root nor KVM nor an image, and leaves nothing.
    pub async fn sim() -> Result<Self, Error> {
        let scratch = tempfile::tempdir().map_err(|source| {
            Error::Host(crate::host::HostError::File {
                act: crate::host::FileAct::CreateDir,
                path: "a scratch folder".into(),
                source,
            })
        })?;
        let mut config =
            EngineConfig::new(scratch.path().join("state"), scratch.path().join("run"));
        let host = Arc::new(FakeHost::new());
        config.host = host.clone();
        let backends = Backends::sim(&host, &config);
        let (engine, _) = Engine::open_with(config, backends, Some(scratch)).await?;
        Ok(engine)
    }

    /// Opens an engine over a simulated host that the caller keeps, to see what a new engine makes of
    /// what a dead one left.
    pub async fn sim_over(
        host: &Arc<FakeHost>,
        mut config: EngineConfig,
    ) -> Result<(Self, Report), Error> {
        config.host = host.clone();
        let backends = Backends::sim(host, &config);
        Engine::open_with(config, backends, None).await
    }

    async fn open_with(
        mut config: EngineConfig,
        backends: Backends,
        scratch: Option<tempfile::TempDir>,
    ) -> Result<(Self, Report), Error> {
        if backends.simulated() {
            // No subordinate ids have to reach it.
            config.image_scratch = config.state_dir.join("scratch");
        }
        let (host, state) = (config.host.clone(), config.state_dir.clone());
        // A folder too deep is refused before anything is made.
        let probe = EngineId::from_random([0; 4]);
        Places::new(state.clone(), config.runtime_dir.clone(), probe).check_socket_paths()?;
        host.create_dir(&state).await?;
        // Its owner can put links in the place of what is written there. What is simulated has no user.
        let owner = host.stat(&state).await?.map(|facts| facts.owner);
        if let Some(owner) = owner
            && owner != host.user_id()
            && !backends.simulated()
        {
            return Err(Error::StateOfAnother { state, owner });
        }
        // Others have no business in it: what lies below relies on that.
        host.set_mode(&state, 0o700).await?;
        let Some(lock) = lock_state(&*host, &state).await? else {
            return Err(Error::StateInUse { state });
        };
        // We hold the lock and nobody writes yet: what is half written was left by a dead engine.
        for folder in [state.clone(), state.join("ssh")] {
            remove_temporaries(&*host, &folder).await?;
        }
        let id = engine_id(&*host, &state).await?;
        let places = Places::new(state, config.runtime_dir.clone(), id.clone());
        let store = Store::open(&places.database(), host.clone()).await?;
        // Whoever was carrying a repository is dead.
        host.remove_tree(&places.staging()).await?;
        for folder in [places.vms(), places.images(), places.runs()] {
            host.create_dir(&folder).await?;
        }
        let liveness = Arc::new(HostLiveness::new(host, id.clone()));
        let engine = Engine {
            inner: Arc::new(Inner {
                config,
                id,
                places,
                store,
                cache: HandleCache::default(),
                liveness,
                backends,
                live: Mutex::default(),
                restarting: Mutex::default(),
                desk: Arc::default(),
                images: Mutex::default(),
                candidates: Mutex::default(),
                key: tokio::sync::Mutex::default(),
                closing: tokio::sync::watch::Sender::new(false),
                names: Mutex::default(),
                verbs: Mutex::default(),
                verbs_at_last_sweep: AtomicUsize::new(16),
                _lock: lock,
                _scratch: scratch,
            }),
        };
        engine.inner.sweep_images().await?;
        let report = engine.reconcile_at_start().await?;
        engine.inner.take_up_restarts().await?;
        Ok((engine, report))
    }

    /// Returns the engine's id, which every host object of its VMs carries.
    pub fn id(&self) -> &EngineId {
        &self.inner.id
    }

    /// Returns what a VM gets where its request says nothing.
    pub fn defaults(&self) -> &crate::config::Defaults {
        &self.inner.config.defaults
    }

    /// Returns where this engine keeps everything.
    pub fn places(&self) -> &Places {
        &self.inner.places
    }

    /// Gives up images that are being made, and closes the database. Running VMs run on; the next engine
    /// takes them up.
    pub async fn close(self) {
        self.give_up_images().await;
        self.inner.store.close().await;
    }

    /// Runs a verb to its end, whether or not anybody waits for it.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        &self,
        verb: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match tokio::spawn(verb.in_current_span()).await {
            Ok(done) => done,
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            Err(_) => Err(Error::Closing),
        }
    }
}

impl Inner {
    pub(crate) fn host(&self) -> &dyn Host {
        &*self.config.host
    }

    /// Waits for the VM's turn. Verbs hold it; nothing that only reads does.
    pub(crate) async fn turn(&self, id: &VmId) -> tokio::sync::OwnedMutexGuard<()> {
        self.turn_of(id).lock_owned().await
    }

    fn turn_of(&self, id: &VmId) -> Arc<tokio::sync::Mutex<()>> {
        let mut verbs = lock(&self.verbs);
        // Those that nobody holds are forgotten, now and then: at every turn it would cost the square.
        if verbs.len() > 2 * self.verbs_at_last_sweep.load(Ordering::Relaxed) {
            verbs.retain(|_, turn| turn.strong_count() > 0);
            let left = verbs.len().max(16);
            self.verbs_at_last_sweep.store(left, Ordering::Relaxed);
        }
        match verbs.get(id).and_then(Weak::upgrade) {
            Some(turn) => turn,
            None => {
                let turn = Arc::new(tokio::sync::Mutex::new(()));
                verbs.insert(id.clone(), Arc::downgrade(&turn));
                turn
            }
        }
    }

    /// Takes the VM's turn if no verb has it.
    pub(crate) fn try_turn(&self, id: &VmId) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        self.turn_of(id).try_lock_owned().ok()
    }

    /// Says whether a verb is at work on any VM.
    pub(crate) fn is_at_work(&self) -> bool {
        let verbs = lock(&self.verbs);
        verbs.values().any(|turn| turn.strong_count() > 0)
    }

    /// Reserves a name until the guard is dropped; the row's uniqueness takes over from there.
    pub(crate) fn reserve(self: &Arc<Self>, name: &VmName) -> Result<NameGuard, Error> {
        if lock(&self.names).insert(name.clone()) {
            Ok(NameGuard {
                inner: self.clone(),
                name: name.clone(),
            })
        } else {
            Err(Error::NameTaken { name: name.clone() })
        }
    }

    pub(crate) fn live(&self, id: &VmId) -> Option<Arc<Live>> {
        lock(&self.live).get(id).cloned()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The VMs stay; only our watching of them ends.
        for live in lock(&self.live).values() {
            live.stop_watching();
        }
    }
}

/// A reserved name.
pub(crate) struct NameGuard {
    inner: Arc<Inner>,
    name: VmName,
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        lock(&self.inner.names).remove(&self.name);
    }
}

/// Locks a map for one operation: a panic elsewhere cannot have left it half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::Host(crate::host::HostError::File {
            act: crate::host::FileAct::Read,
            path: "the kernel's random numbers".into(),
            source: std::io::Error::other(error),
        })
    })?;
    Ok(bytes)
}

/// Takes the state folder's lock. It is asked for more than once, because an engine that has just gone
/// may still share it with a program that its process is starting (between fork and exec).
async fn lock_state(host: &dyn Host, state: &std::path::Path) -> Result<Option<FileLock>, Error> {
    for _ in 0..20 {
        if let Some(lock) = host.lock_file(&Places::lock_of(state)).await? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(None)
}

/// Removes what interrupted writes have left in a folder.
pub(crate) async fn remove_temporaries(
    host: &dyn Host,
    folder: &std::path::Path,
) -> Result<(), crate::host::HostError> {
    for name in host.list_dir(folder).await? {
        if is_temporary(&name) {
            host.remove_file(&folder.join(name)).await?;
        }
    }
    Ok(())
}

async fn engine_id(host: &dyn Host, state: &std::path::Path) -> Result<EngineId, Error> {
    let path = Places::engine_id_of(state);
    if let Some(text) = host.read_file(&path).await? {
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        return text.parse().map_err(|error| Error::DamagedFile {
            path,
            reason: format!("{error}"),
        });
    }
    let id = EngineId::from_random(random()?);
    host.write_file(&path, format!("{id}\n").as_bytes(), 0o600)
        .await?;
    Ok(id)
}
