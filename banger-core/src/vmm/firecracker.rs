//! Firecracker: a monitor for KVM, spoken to over HTTP on a Unix socket.
//!
//! It starts with nothing: what the machine is made of is told to it call by call, and `InstanceStart`
//! is the guest's first instant. So a machine that was not told everything never ran.

mod api;
mod bodies;
mod control;
mod version;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::{Launch, Outputs, SwitchOff, Vmm, VmmControl, VmmError};
use crate::choice::{Probe, Usable};
use crate::disk::BlockFormat;
use crate::host::{Host, ProcessIdentity, Program, Walls};
use crate::names::Mebibytes;
use crate::transport::GuestStream;
use crate::vm::{NetworkKind, VmmKind};

pub(crate) use control::GUEST_CID;

use control::FirecrackerControl;
use version::Version;

const PROGRAM: &str = "firecracker";

/// What it takes beside its guest's memory, as is measured of its own, and room for the host's cache of its disks.
const OVERHEAD: Mebibytes = Mebibytes(512);

/// Which of its further logs is which.
const MONITOR_LOG: usize = 0;
const METRICS: usize = 1;

/// The monitor `firecracker`.
#[derive(Debug)]
pub(crate) struct FirecrackerVmm;

#[async_trait]
impl Vmm for FirecrackerVmm {
    fn kind(&self) -> VmmKind {
        VmmKind::Firecracker
    }

    async fn open_console(
        &self,
        _host: &dyn Host,
        _console_socket: &Path,
        _limit: Duration,
    ) -> Result<GuestStream, VmmError> {
        Err(VmmError::NoConsole { vmm: self.kind() })
    }

    async fn probe(&self, host: &dyn Host) -> Probe {
        let program = Probe::needs_program(host, PROGRAM).await;
        if program.usable == Usable::No {
            return program;
        }
        let asked = Program::new(PROGRAM).arg("--version");
        let version = match host.run(&asked.timeout(Duration::from_secs(10))).await {
            Ok(output) => Version::read(&String::from_utf8_lossy(&output.stdout)),
            Err(error) => return Probe::fails(error.to_string(), error.hint()),
        };
        let Some(version) = version else {
            let reason = format!("{} does not tell its version", program.reason);
            return Probe::fails(reason, Some(NEWER.to_owned()));
        };
        if let Some(flaw) = version.flaw() {
            let reason = format!("{} is {version}: {flaw}", program.reason);
            return Probe::fails(reason, Some(NEWER.to_owned()));
        }
        match host.cpu().await.kvm {
            Ok(()) => Probe::works(format!("{} {version}, with KVM", program.reason)),
            Err(why) => Probe::fails(format!("{version} needs KVM: {why}"), None),
        }
    }

    fn takes(&self, format: BlockFormat) -> bool {
        format == BlockFormat::Raw
    }

    fn carries(&self, network: NetworkKind) -> bool {
        matches!(network, NetworkKind::Tap | NetworkKind::None)
    }

    async fn nests(&self, _host: &dyn Host) -> Probe {
        Probe::fails(
            "it gives its guests no virtualisation of their own",
            Some("use the monitor qemu".to_owned()),
        )
    }

    fn switch_off(&self) -> SwitchOff {
        SwitchOff::ByRestart
    }

    async fn spawn(&self, host: &dyn Host, launch: &Launch) -> Result<ProcessIdentity, VmmError> {
        let outputs = Outputs {
            // Its standard output is the guest's console.
            log: &launch.console_log,
            others: &[&launch.monitor_log, &launch.metrics],
        };
        let detached = launch.detached(PROGRAM, arguments(launch), &outputs, OVERHEAD);
        Ok(host.spawn(&detached).await?)
    }

    async fn connect(
        &self,
        host: &dyn Host,
        api_socket: &Path,
        limit: Duration,
    ) -> Result<Box<dyn VmmControl>, VmmError> {
        let control = FirecrackerControl::connect(host, api_socket, limit).await?;
        Ok(Box::new(control))
    }
}

const NEWER: &str = "install a newer one from github.com/firecracker-microvm/firecracker/releases as /usr/local/bin/firecracker";

fn arguments(launch: &Launch) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--api-sock".into(), launch.api_socket.clone().into()];
    // Letters, digits and dashes, at most 64: the token without its first word.
    let id = launch.token.splitn(2, ':').last().unwrap_or_default();
    words.extend(["--id".into(), id.replace(':', "-").into()]);
    words.extend(["--log-path".into(), Walls::pipe(MONITOR_LOG).into()]);
    words.extend(["--level", "Warning"].map(Into::into));
    // What follows the dashes is not read: the token by which this process is found again.
    words.extend(["--".into(), launch.token.clone().into()]);
    words
}
