//! The simulator's monitor: a process of a [`FakeHost`] and nothing behind it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::{Activity, EndReason, Launch, Outputs, SwitchOff, Vmm, VmmControl, VmmError};
use crate::choice::Probe;
use crate::disk::BlockFormat;
use crate::engine::lock;
use crate::host::{FakeHost, Host, ProcessEnd, ProcessIdentity};
use crate::names::{Mebibytes, VmId};
use crate::transport::GuestStream;
use crate::vm::{NetworkKind, VmmKind};

/// The monitor `sim`.
#[derive(Debug)]
pub(crate) struct SimVmm {
    host: Arc<FakeHost>,
    power: Arc<SimPower>,
}

impl SimVmm {
    /// Makes the monitor of one simulated host.
    pub(crate) fn over(host: &Arc<FakeHost>) -> Self {
        SimVmm {
            host: host.clone(),
            power: Arc::default(),
        }
    }

    /// Returns what tells its monitors that their guests have ended.
    pub(crate) fn power(&self) -> Arc<SimPower> {
        self.power.clone()
    }
}

/// Why simulated guests ended, by the folder of their control sockets.
#[derive(Debug, Default)]
pub(crate) struct SimPower {
    reasons: Mutex<HashMap<String, watch::Sender<Option<EndReason>>>>,
}

impl SimPower {
    /// A guest ends: its monitor says why, and its process ends.
    pub(crate) fn end(&self, host: &FakeHost, vm: &VmId, reason: EndReason) {
        if let Some(tell) = lock(&self.reasons).get(vm.short()) {
            tell.send_replace(Some(reason));
        }
        let token = format!(":{vm}:");
        for process in host.living() {
            if process.command_line.contains(&token) {
                host.end(process.identity.pid, ProcessEnd::Exited(0));
            }
        }
    }

    fn listen(&self, api_socket: &Path) -> watch::Receiver<Option<EndReason>> {
        let folder = api_socket.parent().and_then(Path::file_name);
        let short = folder.unwrap_or_default().to_string_lossy().into_owned();
        // A new sender each time: the last run's reason is not this one's.
        let (tell, listen) = watch::channel(None);
        lock(&self.reasons).insert(short, tell);
        listen
    }
}

#[async_trait]
impl Vmm for SimVmm {
    fn kind(&self) -> VmmKind {
        VmmKind::Sim
    }

    async fn probe(&self, _host: &dyn Host) -> Probe {
        Probe::works("simulated")
    }

    fn takes(&self, format: BlockFormat) -> bool {
        format == BlockFormat::Raw
    }

    fn carries(&self, network: NetworkKind) -> bool {
        matches!(network, NetworkKind::Sim | NetworkKind::Tap)
    }

    async fn nests(&self, _host: &dyn Host) -> Probe {
        Probe::works("simulated")
    }

    fn switch_off(&self) -> SwitchOff {
        SwitchOff::ByItself
    }

    async fn spawn(&self, host: &dyn Host, launch: &Launch) -> Result<ProcessIdentity, VmmError> {
        let arguments = vec![
            launch.token.as_str().into(),
            launch.api_socket.as_os_str().to_owned(),
            // What it has open nobody can remove.
            launch.root.path.as_os_str().to_owned(),
        ];
        let outputs = Outputs {
            log: &launch.monitor_log,
            others: &[],
        };
        let detached = launch.detached("banger-sim-vmm", arguments, &outputs, Mebibytes(0));
        Ok(host.spawn(&detached).await?)
    }

    async fn connect(
        &self,
        host: &dyn Host,
        api_socket: &Path,
        limit: Duration,
    ) -> Result<Box<dyn VmmControl>, VmmError> {
        let token = api_socket.to_string_lossy();
        if host.find_processes(&token).await?.is_empty() {
            return Err(VmmError::EndedEarly {
                vmm: VmmKind::Sim,
                output: String::new(),
            });
        }
        let control = SimControl {
            host: self.host.clone(),
            token: token.into_owned(),
            limit,
            end: self.power.listen(api_socket),
            changes: AsyncMutex::new(self.host.changes()),
        };
        control.answer("connect").await?;
        Ok(Box::new(control))
    }

    async fn open_console(
        &self,
        _host: &dyn Host,
        _console_socket: &Path,
        _limit: Duration,
    ) -> Result<GuestStream, VmmError> {
        // Nobody sits at it: what is typed comes back, as from a terminal that echoes.
        let (ours, theirs) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(ours);
        tokio::spawn(async move {
            let (mut typed, mut shown) = tokio::io::split(theirs);
            let _ = shown.write_all(b"simulated console\r\n").await;
            let _ = tokio::io::copy(&mut typed, &mut shown).await;
            let _ = shown.shutdown().await;
        });
        Ok(GuestStream {
            read: Box::pin(read),
            write: Box::pin(write),
        })
    }
}

#[derive(Debug)]
struct SimControl {
    host: Arc<FakeHost>,
    token: String,
    limit: Duration,
    end: watch::Receiver<Option<EndReason>>,
    changes: AsyncMutex<watch::Receiver<u64>>,
}

impl SimControl {
    /// Waits for a monitor that is frozen, at most as long as a real one is waited for.
    async fn answer(&self, command: &'static str) -> Result<(), VmmError> {
        let answered = tokio::time::timeout(self.limit, self.host.answers(&self.token));
        answered.await.map_err(|_| VmmError::Unresponsive {
            vmm: VmmKind::Sim,
            command,
            limit: self.limit,
        })
    }
}

#[async_trait]
impl VmmControl for SimControl {
    async fn ssh_port(&self) -> Result<Option<u16>, VmmError> {
        self.answer("ssh port").await.map(|()| None)
    }

    async fn configure(&self, _launch: &Launch) -> Result<(), VmmError> {
        self.answer("configure").await
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.answer("resume").await?;
        self.host.resume_guest(&self.token);
        Ok(())
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.answer("pause").await
    }

    async fn activity(&self) -> Result<Activity, VmmError> {
        self.answer("activity").await?;
        Ok(match self.host.paused(&self.token) {
            Some(reason) => Activity::Paused(reason),
            None => Activity::Running,
        })
    }

    async fn changed(&self) {
        if self.changes.lock().await.changed().await.is_err() {
            // The host is gone.
            std::future::pending().await
        }
    }

    fn disk_error(&self) -> Option<String> {
        None
    }

    async fn press_ctrl_alt_del(&self) -> Result<(), VmmError> {
        self.answer("ctrl-alt-del").await
    }

    async fn lost(&self) -> String {
        std::future::pending().await
    }

    fn end_reason(&self) -> watch::Receiver<Option<EndReason>> {
        self.end.clone()
    }
}
