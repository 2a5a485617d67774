//! QEMU, machine type microvm: KVM where it truly works, else plain emulation.

mod command_line;
mod control;
mod wire;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::{Launch, Outputs, SwitchOff, Vmm, VmmControl, VmmError};
use crate::choice::Probe;
use crate::disk::BlockFormat;
use crate::host::{Host, HostError, ProcessIdentity, Program};
use crate::names::Mebibytes;
use crate::transport::GuestStream;
use crate::vm::{NetworkKind, VmmKind};

use command_line::{Acceleration, PANIC_DEVICE, PanicDevice, SANDBOX, Sandbox, arguments};
use control::QmpControl;

const PROGRAM: &str = "qemu-system-x86_64";

/// The monitor `qemu`.
#[derive(Debug, Default)]
pub(crate) struct QemuVmm {
    /// Whether it has a sandbox here, once it was asked.
    sandbox: tokio::sync::OnceCell<Result<(), String>>,
    /// Whether it can be told of panics, once it was asked.
    panic_device: tokio::sync::OnceCell<PanicDevice>,
}

impl QemuVmm {
    /// Says whether this QEMU can give up system calls on this kernel, and if not, why.
    async fn sandbox(&self, host: &dyn Host) -> Result<(), String> {
        let asked = self.sandbox.get_or_try_init(|| async {
            // It goes into its sandbox before it answers, and answers before it takes memory for a machine.
            let asked = Program::new(PROGRAM).args(["-sandbox", SANDBOX, "-cpu", "help"]);
            let output = host.run(&asked.timeout(Duration::from_secs(10))).await?;
            Ok::<_, HostError>(match output.success() {
                true => Ok(()),
                false => Err(output.last_lines(1)),
            })
        });
        match asked.await {
            Ok(known) => known.clone(),
            // Asked again the next time.
            Err(error) => Err(error.to_string()),
        }
    }
}

impl QemuVmm {
    /// Says whether this QEMU has the device that tells of a guest's panic: one that was built small may not. Its guests'
    /// panics are then read from their consoles.
    async fn panic_device(&self, host: &dyn Host) -> PanicDevice {
        let asked = self.panic_device.get_or_try_init(|| async {
            let asked = Program::new(PROGRAM).args(["-device", &format!("{PANIC_DEVICE},help")]);
            let output = host.run(&asked.timeout(Duration::from_secs(10))).await?;
            Ok::<_, HostError>(match output.success() {
                true => PanicDevice::Known,
                false => PanicDevice::Unknown,
            })
        });
        // Asked again the next time.
        asked.await.copied().unwrap_or(PanicDevice::Unknown)
    }
}

/// What it takes beside its guest's memory, and room for the host's cache of its disks: its heap, at most 64 MiB of
/// caches for a layer, buffers of disks and of a guest's thousand connections. Emulated, also the translations (the
/// 256 MiB of the command line, and as much of what is noted of them) and each processor's tables of addresses.
fn overhead(acceleration: Acceleration, vcpus: u32) -> Mebibytes {
    Mebibytes(match acceleration {
        Acceleration::Kvm => 512,
        Acceleration::Emulated { .. } => 1024 + 64 * u64::from(vcpus),
    })
}

/// What a module of KVM says of virtualisation for guests, by its parameter.
pub(super) fn nested(module: &str, parameter: &Path, value: &[u8]) -> Probe {
    match value {
        b"Y" | b"1" => Probe::works(format!("{module} lets guests have it")),
        _ => Probe::fails(
            format!("{module} keeps it from guests ({})", parameter.display()),
            Some(format!(
                "as root, while no VM runs: modprobe -r {module} && modprobe {module} nested=1"
            )),
        ),
    }
}

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
        let unconfined = match self.sandbox(host).await {
            Ok(()) => String::new(),
            Err(why) => format!(", without its sandbox ({why})"),
        };
        let it = format!("{}{unconfined}", program.reason);
        match host.cpu().await.kvm {
            Ok(()) => Probe::works(format!("{it}, with KVM")),
            Err(why) => Probe::works(format!("{it}, emulated: {why}")),
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

    async fn nests(&self, host: &dyn Host) -> Probe {
        if let Err(why) = host.cpu().await.kvm {
            return Probe::works(format!("emulated: {why}"));
        }
        for module in ["kvm_intel", "kvm_amd"] {
            let parameter = Path::new("/sys/module")
                .join(module)
                .join("parameters/nested");
            // Whatever cannot be read says nothing; if both do, that is told.
            if let Ok(Some(value)) = host.read_head(&parameter, 1).await {
                return nested(module, &parameter, &value);
            }
        }
        Probe::fails(
            "this host's KVM does not say that guests may have it (/sys/module/kvm_*/parameters/nested)",
            None,
        )
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
        let sandbox = match self.sandbox(host).await {
            Ok(()) => Sandbox::On,
            Err(_) => Sandbox::Off,
        };
        let outputs = Outputs {
            log: &launch.monitor_log,
            others: &[&launch.console_log],
        };
        let panic_device = self.panic_device(host).await;
        let words = arguments(launch, acceleration, sandbox, panic_device);
        let overhead = overhead(acceleration, launch.vcpus);
        let detached = launch.detached(PROGRAM, words, &outputs, overhead);
        Ok(host.spawn(&detached).await?)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::choice::Usable;
    use crate::host::{LinuxHost, LinuxHostConfig};

    /// What is said of a QEMU that ends with this status, asked for its sandbox.
    async fn told(status: u8) -> (Probe, Result<(), String>) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(PROGRAM);
        let script = format!(
            "#!/bin/sh\n[ \"$1 $2\" = '-sandbox {SANDBOX}' ] || exit 9\n\
             echo 'no such luck' >&2\nexit {status}\n"
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut config = LinuxHostConfig::default();
        config.program_folders.insert(0, folder.path().to_owned());
        let (host, qemu) = (LinuxHost::new(config), QemuVmm::default());
        (qemu.probe(&host).await, qemu.sandbox(&host).await)
    }

    #[tokio::test]
    async fn one_that_has_no_sandbox_runs_without_and_says_why() {
        let (probe, sandbox) = told(1).await;
        assert_eq!(probe.usable, Usable::Yes);
        let reason = &probe.reason;
        assert!(
            reason.contains("without its sandbox (no such luck)"),
            "{reason}"
        );
        assert_eq!(sandbox, Err("no such luck".to_owned()));
        let (probe, sandbox) = told(0).await;
        assert!(!probe.reason.contains("sandbox"), "{}", probe.reason);
        assert_eq!(sandbox, Ok(()));
    }
}
