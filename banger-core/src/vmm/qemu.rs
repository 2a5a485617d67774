//! QEMU, machine type microvm: KVM where it truly works, else plain emulation.

mod command_line;
mod control;
mod wire;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::{Launch, SwitchOff, Vmm, VmmControl, VmmError};
use crate::choice::Probe;
use crate::disk::BlockFormat;
use crate::host::{Detached, Host, ProcessIdentity};
use crate::transport::GuestStream;
use crate::vm::{NetworkKind, VmmKind};

use command_line::{Acceleration, arguments};
use control::QmpControl;

const PROGRAM: &str = "qemu-system-x86_64";

/// The monitor `qemu`.
#[derive(Debug)]
pub(crate) struct QemuVmm;

#[async_trait]
impl Vmm for QemuVmm {
    fn kind(&self) -> VmmKind {
        VmmKind::Qemu
    }

    async fn probe(&self, host: &dyn Host) -> Probe {
        let program = Probe::needs_program(host, PROGRAM).await;
        if program.usable == crate::choice::Usable::No {
            return program;
        }
        match host.cpu().await.kvm {
            Ok(()) => Probe::works(format!("{}, with KVM", program.reason)),
            Err(why) => Probe::works(format!("{}, emulated: {why}", program.reason)),
        }
    }

    fn takes(&self, format: BlockFormat) -> bool {
        match format {
            BlockFormat::Raw | BlockFormat::Qcow2 => true,
        }
    }

    fn carries(&self, network: NetworkKind) -> bool {
        network != NetworkKind::Sim
    }

    fn switch_off(&self) -> SwitchOff {
        SwitchOff::ByItself
    }

    async fn spawn(&self, host: &dyn Host, launch: &Launch) -> Result<ProcessIdentity, VmmError> {
        let acceleration = match host.cpu().await.kvm {
            Ok(()) => Acceleration::Kvm,
            Err(_) => Acceleration::Emulated {
                tsc_khz: host.tsc_khz().await,
            },
        };
        Ok(host
            .spawn(&Detached {
                program: PROGRAM.to_owned(),
                arguments: arguments(launch, acceleration),
                log: launch.monitor_log.clone(),
                namespace: launch.network.namespace().map(str::to_owned),
                scope: launch.scope.clone(),
            })
            .await?)
    }

    async fn connect(
        &self,
        host: &dyn Host,
        api_socket: &Path,
        limit: Duration,
    ) -> Result<Box<dyn VmmControl>, VmmError> {
        Ok(Box::new(
            QmpControl::connect(host, api_socket, limit).await?,
        ))
    }

    async fn open_console(
        &self,
        host: &dyn Host,
        console_socket: &Path,
        limit: Duration,
    ) -> Result<GuestStream, VmmError> {
        let (read, write) = host.connect_unix(console_socket, limit).await?.into_split();
        Ok(GuestStream {
            read: Box::pin(read),
            write: Box::pin(write),
        })
    }
}
