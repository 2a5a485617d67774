//! The simulator's monitor: a process of a [`FakeHost`](crate::FakeHost) and nothing behind it.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{EndReason, Launch, Vmm, VmmControl, VmmError};
use crate::choice::Probe;
use crate::disk::BlockFormat;
use crate::host::{Detached, Host, ProcessIdentity};
use crate::vm::VmmKind;

/// The monitor `sim`.
#[derive(Debug)]
pub struct SimVmm;

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

    async fn spawn(&self, host: &dyn Host, launch: &Launch) -> Result<ProcessIdentity, VmmError> {
        Ok(host
            .spawn(&Detached {
                program: "banger-sim-vmm".to_owned(),
                arguments: vec![
                    launch.token.as_str().into(),
                    launch.api_socket.as_os_str().to_owned(),
                ],
                log: launch.monitor_log.clone(),
            })
            .await?)
    }

    async fn connect(
        &self,
        host: &dyn Host,
        api_socket: &Path,
        _limit: Duration,
    ) -> Result<Box<dyn VmmControl>, VmmError> {
        let token = api_socket.to_string_lossy();
        if host.find_processes(&token).await?.is_empty() {
            return Err(VmmError::EndedEarly {
                vmm: VmmKind::Sim,
                output: String::new(),
            });
        }
        Ok(Box::new(SimControl(watch::channel(None).1)))
    }
}

#[derive(Debug)]
struct SimControl(watch::Receiver<Option<EndReason>>);

#[async_trait]
impl VmmControl for SimControl {
    async fn ssh_port(&self) -> Result<Option<u16>, VmmError> {
        Ok(None)
    }

    async fn resume(&self) -> Result<(), VmmError> {
        Ok(())
    }

    async fn press_ctrl_alt_del(&self) -> Result<(), VmmError> {
        Ok(())
    }

    fn end_reason(&self) -> watch::Receiver<Option<EndReason>> {
        self.0.clone()
    }
}
