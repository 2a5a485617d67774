//! The real host.

pub(super) mod cell;
#[cfg(feature = "dm")]
mod device_mapper;
#[cfg(any(test, not(feature = "dm")))]
#[cfg_attr(feature = "dm", allow(dead_code))]
mod device_mapper_unbuilt;
mod devices;
mod firewall;
#[cfg(feature = "dm")]
mod held_loop;
pub(super) mod keeper;
mod loops;
mod neighbourhood;
mod scopes;
pub(super) mod spaces;
mod uplinks;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;

use super::log_keeper::Keepers;
use super::program::Surroundings;
use super::{
    BootId, CloneMethod, CpuFacts, Delivery, Detached, FileFacts, FileLock, Host, HostError,
    Moment, PipedProgram, ProcessEnd, ProcessFacts, ProcessIdentity, ProcessSignal, ProcessUsage,
    Program, ProgramOutput,
};
use super::{files, ports, process, tsc};

/// What a [`LinuxHost`] takes from the process that it is a guest in, which it never asks by itself.
#[derive(Clone, Debug)]
pub struct LinuxHostConfig {
    /// Folders in which programs are looked up, in this order.
    pub program_folders: Vec<PathBuf>,
    /// What every program gets as its environment, besides `PATH` and `LC_ALL`: proxies, for instance.
    pub environment: Vec<(String, String)>,
    /// The limits of open files, soft and hard, that every program gets: for a process that has raised its own.
    pub open_files: Option<(u64, u64)>,
    /// What is known of KVM, and if not, why it does not work; none: the host is looked at.
    pub kvm: Option<Result<(), String>>,
}

impl Default for LinuxHostConfig {
    /// Takes Debian's folders, the `sbin` ones included, and no variables.
    fn default() -> Self {
        let folders = [
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
        ];
        LinuxHostConfig {
            program_folders: folders.iter().map(PathBuf::from).collect(),
            environment: Vec::new(),
            open_files: None,
            kvm: None,
        }
    }
}

/// The machine we run on.
#[derive(Debug)]
pub struct LinuxHost {
    surroundings: Surroundings,
    keepers: Keepers,
    kvm: Option<Result<(), String>>,
    tsc_khz: tokio::sync::OnceCell<Option<u32>>,
}

impl LinuxHost {
    /// Makes a grip on this machine. Touches nothing yet.
    pub fn new(config: LinuxHostConfig) -> Self {
        LinuxHost {
            surroundings: Surroundings {
                search: config.program_folders,
                environment: config.environment,
                open_files: config
                    .open_files
                    .unwrap_or_else(Surroundings::own_open_files),
            },
            keepers: Keepers::default(),
            kvm: config.kvm,
            tsc_khz: tokio::sync::OnceCell::new(),
        }
    }
}

#[async_trait]
impl Host for LinuxHost {
    async fn boot_id(&self) -> Result<BootId, HostError> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let raw = files::read(path)?.unwrap_or_default();
        Ok(BootId(String::from_utf8_lossy(&raw).trim().to_owned()))
    }

    async fn tsc_khz(&self) -> Option<u32> {
        *self
            .tsc_khz
            .get_or_init(|| async { blocking(tsc::khz).await })
            .await
    }

    async fn cpu(&self) -> CpuFacts {
        let mut facts = tsc::cpu_facts();
        if let Some(known) = &self.kvm {
            facts.kvm.clone_from(known);
        }
        facts
    }

    fn user_id(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    async fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError> {
        files::read(path)
    }

    async fn read_head(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, HostError> {
        files::read_head(path, limit)
    }

    async fn read_tail(&self, path: &Path, limit: u64) -> Result<Vec<u8>, HostError> {
        files::read_tail(path, limit)
    }

    async fn read_at(&self, path: &Path, offset: u64, limit: u64) -> Result<Vec<u8>, HostError> {
        files::read_at(path, offset, limit)
    }

    async fn open_foreign(&self, path: &Path) -> Result<Option<Arc<File>>, HostError> {
        files::open_foreign(path).await
    }

    async fn read_foreign(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, HostError> {
        files::read_foreign(path, limit).await
    }

    async fn write_file(&self, path: &Path, contents: &[u8], mode: u32) -> Result<(), HostError> {
        files::write(path, contents, mode)
    }

    async fn set_mode(&self, path: &Path, mode: u32) -> Result<(), HostError> {
        files::set_mode(path, mode)
    }

    async fn new_file(&self, path: &Path) -> Result<Arc<File>, HostError> {
        files::new_file(path)
    }

    async fn create_dir(&self, path: &Path) -> Result<(), HostError> {
        files::create_dir(path)
    }

    async fn list_dir(&self, path: &Path) -> Result<Vec<String>, HostError> {
        files::list(path)
    }

    async fn stat(&self, path: &Path) -> Result<Option<FileFacts>, HostError> {
        files::stat(path)
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), HostError> {
        files::rename(from, to)
    }

    async fn remove_file(&self, path: &Path) -> Result<(), HostError> {
        files::remove_file(path)
    }

    async fn remove_tree(&self, path: &Path) -> Result<(), HostError> {
        let path = path.to_owned();
        blocking(move || files::remove_tree(&path)).await
    }

    async fn grow_file(&self, path: &Path, bytes: u64) -> Result<(), HostError> {
        files::grow(path, bytes)
    }

    async fn truncate_file(&self, path: &Path, bytes: u64) -> Result<(), HostError> {
        files::truncate(path, bytes)
    }

    async fn clone_file(&self, from: &Path, to: &Path) -> Result<CloneMethod, HostError> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || files::clone(&from, &to)).await
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), HostError> {
        let path = path.to_owned();
        blocking(move || files::sync_dir(&path)).await
    }

    async fn lock_file(&self, path: &Path) -> Result<Option<FileLock>, HostError> {
        files::lock(path)
    }

    async fn free_bytes(&self, path: &Path) -> Result<u64, HostError> {
        files::free_bytes(path)
    }

    async fn find_program(&self, name: &str) -> Option<PathBuf> {
        self.surroundings.find(name)
    }

    async fn run(&self, program: &Program) -> Result<ProgramOutput, HostError> {
        self.surroundings.run(program).await
    }

    async fn pipe(&self, program: &Program) -> Result<PipedProgram, HostError> {
        self.surroundings.pipe(program)
    }

    async fn spawn(&self, detached: &Detached) -> Result<ProcessIdentity, HostError> {
        let (process, keepers) = match &detached.scope {
            None => self.surroundings.spawn(detached).await?,
            Some(scope) => self.spawn_in_scope(detached, scope).await?,
        };
        self.keepers.note(&process, keepers);
        Ok(process)
    }

    async fn process(&self, pid: u32) -> Result<Option<ProcessFacts>, HostError> {
        process::facts(pid)
    }

    async fn process_usage(
        &self,
        process: &ProcessIdentity,
    ) -> Result<Option<ProcessUsage>, HostError> {
        process::usage(process)
    }

    async fn find_processes(&self, token: &str) -> Result<Vec<ProcessFacts>, HostError> {
        let token = token.to_owned();
        blocking(move || process::find(&token)).await
    }

    async fn signal(
        &self,
        process: &ProcessIdentity,
        signal: ProcessSignal,
    ) -> Result<Delivery, HostError> {
        process::signal(process, signal)
    }

    async fn wait_end(&self, process: &ProcessIdentity) -> Result<ProcessEnd, HostError> {
        process::wait_end_and(process, self.keepers.finish(process)).await
    }

    async fn listening_ports(&self, process: &ProcessIdentity) -> Result<Vec<u16>, HostError> {
        ports::listening(process)
    }

    async fn connect_unix(&self, path: &Path, timeout: Duration) -> Result<UnixStream, HostError> {
        files::connect(path, timeout).await
    }

    fn witness(&self, _act: &'static str, _moment: Moment) -> Result<(), HostError> {
        Ok(())
    }
}

/// Runs what may take long off the threads that others wait on.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
    }
}
