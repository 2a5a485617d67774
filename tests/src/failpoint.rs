//! A host that lets its process die at a call: for tests of the real daemon over real monitors, where no
//! destructor runs and nothing is flushed. What is shipped does not contain it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use banger_core::{
    BootId, CloneMethod, CpuFacts, Delivery, Detached, DeviceList, DeviceRemoval, Devices,
    FileFacts, FileLock, Host, HostError, Moment, Neighbourhood, PipedProgram, ProcessEnd,
    ProcessFacts, ProcessIdentity, ProcessSignal, ProcessUsage, Program, ProgramOutput, RuleTable,
    Scopes, SnapshotDevice, SnapshotSpec, SnapshotState, Spaces, TapSpec, UplinkFacts, UplinkSpec,
    Uplinks,
};
use tokio::net::{TcpStream, UnixStream};

type Result<T> = std::result::Result<T, HostError>;

/// Where a process is to die, and what is to be written down until then.
///
/// As text, its parts are separated by commas:
///
/// ```text
/// before:7                     at the seventh changing call, its effect not done
/// after:spawn                  at the first call of this name, its effect done
/// after:write handles.json#2   at the second such call
/// armed-by=/some/file          calls count only while this file is there
/// log=/some/file               every call that counts is appended, one a line
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failpoint {
    at: Option<(Moment, Call)>,
    armed_by: Option<PathBuf>,
    log: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Number(usize),
    /// The call of this number among those whose text begins with this.
    Named(String, usize),
}

/// A failpoint that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no failpoint: write before:CALL or after:CALL, armed-by=FILE, log=FILE")]
pub struct FailpointError {
    /// What was given.
    pub text: String,
}

impl FromStr for Failpoint {
    type Err = FailpointError;

    fn from_str(text: &str) -> std::result::Result<Self, FailpointError> {
        let refused = || FailpointError {
            text: text.to_owned(),
        };
        let mut point = Failpoint::default();
        for part in text.split(',') {
            if let Some(file) = part.strip_prefix("armed-by=") {
                point.armed_by = Some(file.into());
            } else if let Some(file) = part.strip_prefix("log=") {
                point.log = Some(file.into());
            } else {
                let (moment, call) = part.split_once(':').ok_or_else(refused)?;
                let moment = match moment {
                    "before" => Moment::Before,
                    "after" => Moment::After,
                    _ => return Err(refused()),
                };
                let call = match (call.parse(), call.rsplit_once('#')) {
                    (Ok(number), _) => Call::Number(number),
                    (Err(_), Some((name, nth))) => {
                        Call::Named(name.to_owned(), nth.parse().map_err(|_| refused())?)
                    }
                    (Err(_), None) if !call.is_empty() => Call::Named(call.to_owned(), 1),
                    _ => return Err(refused()),
                };
                point.at = Some((moment, call));
            }
        }
        Ok(point)
    }
}

/// A host that aborts its process at a [`Failpoint`].
#[derive(Debug)]
pub struct FailingHost {
    host: Arc<dyn Host>,
    point: Failpoint,
    calls: AtomicUsize,
    of_that_name: AtomicUsize,
    dies_after_statement: AtomicBool,
}

impl FailingHost {
    /// Puts a failpoint over a host.
    pub fn over(host: Arc<dyn Host>, point: Failpoint) -> Self {
        FailingHost {
            host,
            point,
            calls: AtomicUsize::new(0),
            of_that_name: AtomicUsize::new(0),
            dies_after_statement: AtomicBool::new(false),
        }
    }

    /// Counts a changing call, dies before it if that is the plan, and says whether to die after it.
    fn before(&self, call: &str) -> bool {
        let armed = self.point.armed_by.as_ref();
        if armed.is_some_and(|file| !file.exists()) {
            return false;
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(log) = &self.point.log {
            let file = OpenOptions::new().append(true).create(true).open(log);
            // A log that cannot be written fails the test that reads it.
            let _ = file.and_then(|mut file| writeln!(file, "{call}"));
        }
        let Some((moment, at)) = &self.point.at else {
            return false;
        };
        let reached = match at {
            Call::Number(at) => *at == number,
            Call::Named(name, nth) if call.starts_with(name.as_str()) => {
                self.of_that_name.fetch_add(1, Ordering::SeqCst) + 1 == *nth
            }
            Call::Named(..) => false,
        };
        if reached && *moment == Moment::Before {
            std::process::abort();
        }
        reached
    }

    async fn act<T>(&self, call: String, effect: impl Future<Output = Result<T>>) -> Result<T> {
        let dies_after = self.before(&call);
        let done = effect.await;
        if dies_after {
            std::process::abort();
        }
        done
    }
}

#[async_trait]
impl Devices for FailingHost {
    async fn snapshot_support(&self) -> std::result::Result<(), String> {
        self.host.snapshot_support().await
    }

    async fn make_snapshot(&self, snapshot: &SnapshotSpec) -> Result<SnapshotDevice> {
        let effect = self.host.make_snapshot(snapshot);
        self.act("make snapshot".to_owned(), effect).await
    }

    async fn remove_snapshot(&self, name: &str) -> Result<DeviceRemoval> {
        let effect = self.host.remove_snapshot(name);
        self.act("remove snapshot".to_owned(), effect).await
    }

    async fn snapshot_state(&self, name: &str) -> Result<Option<SnapshotState>> {
        self.host.snapshot_state(name).await
    }

    async fn list_devices(&self, names: &str, labels: &str) -> Result<DeviceList> {
        self.host.list_devices(names, labels).await
    }
}

#[async_trait]
impl Spaces for FailingHost {
    async fn tap_support(&self) -> std::result::Result<(), String> {
        self.host.tap_support().await
    }

    async fn make_namespace(&self, name: &str) -> Result<()> {
        let effect = self.host.make_namespace(name);
        self.act("make namespace".to_owned(), effect).await
    }

    async fn make_tap(&self, namespace: &str, tap: &TapSpec) -> Result<()> {
        let effect = self.host.make_tap(namespace, tap);
        self.act(format!("make tap {}", tap.name), effect).await
    }

    async fn remove_namespace(&self, name: &str) -> Result<()> {
        let effect = self.host.remove_namespace(name);
        self.act("remove namespace".to_owned(), effect).await
    }

    async fn list_namespaces(&self, prefix: &str) -> Result<Vec<String>> {
        self.host.list_namespaces(prefix).await
    }

    async fn list_pins(&self, prefix: &str) -> Result<Vec<PathBuf>> {
        self.host.list_pins(prefix).await
    }

    async fn connect_in(
        &self,
        namespace: &str,
        to: SocketAddrV4,
        limit: Duration,
    ) -> Result<TcpStream> {
        self.host.connect_in(namespace, to, limit).await
    }
}

#[async_trait]
impl Scopes for FailingHost {
    async fn scope_support(&self) -> std::result::Result<(), String> {
        self.host.scope_support().await
    }

    async fn remove_scope(&self, name: &str) -> Result<()> {
        let effect = self.host.remove_scope(name);
        self.act("remove scope".to_owned(), effect).await
    }

    async fn list_scopes(&self, prefix: &str) -> Result<Vec<String>> {
        self.host.list_scopes(prefix).await
    }
}

#[async_trait]
impl Uplinks for FailingHost {
    async fn neighbourhood(&self) -> Result<Neighbourhood> {
        self.host.neighbourhood().await
    }

    async fn make_table(&self, table: &RuleTable) -> Result<()> {
        let effect = self.host.make_table(table);
        self.act("make nft table".to_owned(), effect).await
    }

    async fn remove_table(&self, name: &str) -> Result<()> {
        let effect = self.host.remove_table(name);
        self.act("remove nft table".to_owned(), effect).await
    }

    async fn list_tables(&self, prefix: &str) -> Result<Vec<String>> {
        self.host.list_tables(prefix).await
    }

    async fn make_uplink(&self, namespace: &str, uplink: &UplinkSpec) -> Result<()> {
        let effect = self.host.make_uplink(namespace, uplink);
        self.act("make veth".to_owned(), effect).await
    }

    async fn remove_uplink(&self, name: &str, owner: &str) -> Result<()> {
        let effect = self.host.remove_uplink(name, owner);
        self.act("remove veth".to_owned(), effect).await
    }

    async fn list_uplinks(&self, prefix: &str) -> Result<Vec<UplinkFacts>> {
        self.host.list_uplinks(prefix).await
    }
}

#[async_trait]
impl Host for FailingHost {
    async fn boot_id(&self) -> Result<BootId> {
        self.host.boot_id().await
    }

    async fn tsc_khz(&self) -> Option<u32> {
        self.host.tsc_khz().await
    }

    async fn cpu(&self) -> CpuFacts {
        self.host.cpu().await
    }

    fn user_id(&self) -> u32 {
        self.host.user_id()
    }

    async fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.host.read_file(path).await
    }

    async fn read_head(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.host.read_head(path, limit).await
    }

    async fn read_tail(&self, path: &Path, limit: u64) -> Result<Vec<u8>> {
        self.host.read_tail(path, limit).await
    }

    async fn read_at(&self, path: &Path, offset: u64, limit: u64) -> Result<Vec<u8>> {
        self.host.read_at(path, offset, limit).await
    }

    async fn open_foreign(&self, path: &Path) -> Result<Option<Arc<File>>> {
        self.host.open_foreign(path).await
    }

    async fn read_foreign(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.host.read_foreign(path, limit).await
    }

    async fn write_file(&self, path: &Path, contents: &[u8], mode: u32) -> Result<()> {
        let effect = self.host.write_file(path, contents, mode);
        self.act(named("write", path), effect).await
    }

    async fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        self.host.set_mode(path, mode).await
    }

    async fn new_file(&self, path: &Path) -> Result<Arc<File>> {
        let effect = self.host.new_file(path);
        self.act(named("make", path), effect).await
    }

    async fn create_dir(&self, path: &Path) -> Result<()> {
        let effect = self.host.create_dir(path);
        self.act(named("create folder", path), effect).await
    }

    async fn list_dir(&self, path: &Path) -> Result<Vec<String>> {
        self.host.list_dir(path).await
    }

    async fn stat(&self, path: &Path) -> Result<Option<FileFacts>> {
        self.host.stat(path).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let effect = self.host.rename(from, to);
        self.act(named("rename to", to), effect).await
    }

    async fn remove_file(&self, path: &Path) -> Result<()> {
        let effect = self.host.remove_file(path);
        self.act(named("remove", path), effect).await
    }

    async fn remove_tree(&self, path: &Path) -> Result<()> {
        let effect = self.host.remove_tree(path);
        self.act(named("remove folder", path), effect).await
    }

    async fn grow_file(&self, path: &Path, bytes: u64) -> Result<()> {
        let effect = self.host.grow_file(path, bytes);
        self.act(named("grow", path), effect).await
    }

    async fn truncate_file(&self, path: &Path, bytes: u64) -> Result<()> {
        let effect = self.host.truncate_file(path, bytes);
        self.act(named("truncate", path), effect).await
    }

    async fn clone_file(&self, from: &Path, to: &Path) -> Result<CloneMethod> {
        let effect = self.host.clone_file(from, to);
        self.act(named("clone to", to), effect).await
    }

    async fn sync_dir(&self, path: &Path) -> Result<()> {
        let effect = self.host.sync_dir(path);
        self.act(named("sync", path), effect).await
    }

    async fn lock_file(&self, path: &Path) -> Result<Option<FileLock>> {
        self.host.lock_file(path).await
    }

    async fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.host.free_bytes(path).await
    }

    async fn find_program(&self, name: &str) -> Option<PathBuf> {
        self.host.find_program(name).await
    }

    async fn run(&self, program: &Program) -> Result<ProgramOutput> {
        let call = format!("run {}", program.program);
        self.act(call, self.host.run(program)).await
    }

    async fn pipe(&self, program: &Program) -> Result<PipedProgram> {
        let call = format!("pipe {}", program.program);
        self.act(call, self.host.pipe(program)).await
    }

    async fn spawn(&self, detached: &Detached) -> Result<ProcessIdentity> {
        let call = format!("spawn {}", detached.program);
        self.act(call, self.host.spawn(detached)).await
    }

    async fn process(&self, pid: u32) -> Result<Option<ProcessFacts>> {
        self.host.process(pid).await
    }

    async fn process_usage(&self, process: &ProcessIdentity) -> Result<Option<ProcessUsage>> {
        self.host.process_usage(process).await
    }

    async fn find_processes(&self, token: &str) -> Result<Vec<ProcessFacts>> {
        self.host.find_processes(token).await
    }

    async fn signal(&self, process: &ProcessIdentity, signal: ProcessSignal) -> Result<Delivery> {
        let effect = self.host.signal(process, signal);
        self.act(format!("signal {signal:?}"), effect).await
    }

    async fn wait_end(&self, process: &ProcessIdentity) -> Result<ProcessEnd> {
        self.host.wait_end(process).await
    }

    async fn listening_ports(&self, process: &ProcessIdentity) -> Result<Vec<u16>> {
        self.host.listening_ports(process).await
    }

    async fn connect_unix(&self, path: &Path, timeout: Duration) -> Result<UnixStream> {
        self.host.connect_unix(path, timeout).await
    }

    fn witness(&self, act: &'static str, moment: Moment) -> Result<()> {
        // The statement runs between the two moments: each is a point by itself.
        match moment {
            Moment::Before => {
                let dies_after = self.before(&format!("database: {act}"));
                self.dies_after_statement
                    .store(dies_after, Ordering::SeqCst);
            }
            Moment::After if self.dies_after_statement.load(Ordering::SeqCst) => {
                std::process::abort();
            }
            Moment::After => {}
        }
        self.host.witness(act, moment)
    }
}

fn named(act: &str, path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{act} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failpoint_is_read_as_it_is_described() {
        let point = |text: &str| text.parse::<Failpoint>().unwrap();
        let at = |moment, call| Some((moment, call));
        assert_eq!(point("before:7").at, at(Moment::Before, Call::Number(7)));
        let second = Call::Named("write handles.json".to_owned(), 2);
        assert_eq!(
            point("after:write handles.json#2").at,
            at(Moment::After, second)
        );
        let all = point("after:spawn,armed-by=/a,log=/l");
        assert_eq!(
            all.at,
            at(Moment::After, Call::Named("spawn".to_owned(), 1))
        );
        assert_eq!(all.armed_by, Some("/a".into()));
        assert_eq!(point("log=/l").log, Some("/l".into()));
        let database = Call::Named("database: update the VM".to_owned(), 1);
        assert_eq!(
            point("after:database: update the VM").at,
            at(Moment::After, database)
        );
        for bad in ["", "spawn", "during:spawn", "before:", "after:write#two"] {
            assert!(bad.parse::<Failpoint>().is_err(), "{bad:?}");
        }
    }
}
