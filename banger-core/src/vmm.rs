//! The seam for virtual machine monitors: the programs that run the guests.

mod activity;
mod firecracker;
mod loss;
mod qemu;
mod sim;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::choice::Probe;
use crate::disk::{BlockFormat, BlockSource};
use crate::host::{Detached, Host, HostError, ProcessIdentity, ScopeSpec, Walls};
use crate::names::Mebibytes;
use crate::network::NetworkAttachment;
use crate::transport::GuestStream;
use crate::vm::{Nesting, NetworkKind, VmmKind};

pub use activity::{Activity, GuestDisk, PauseReason};
pub(crate) use firecracker::{FirecrackerVmm, GUEST_CID};
pub(crate) use qemu::QemuVmm;
pub(crate) use sim::SimVmm;

/// Why a monitor did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// It does not take a disk of this format.
    #[error("{vmm} takes no {format:?} disks")]
    DiskFormat {
        /// The monitor.
        vmm: VmmKind,
        /// The format.
        format: BlockFormat,
    },
    /// It ended before it could be spoken to.
    #[error("{vmm} ended while it was starting{}", said(output))]
    EndedEarly {
        /// The monitor.
        vmm: VmmKind,
        /// What it said last.
        output: String,
    },
    /// It did not answer in time.
    #[error("{vmm} did not answer {command:?} within {} s", limit.as_secs_f32())]
    Unresponsive {
        /// The monitor.
        vmm: VmmKind,
        /// What it was asked.
        command: &'static str,
        /// The time it had.
        limit: Duration,
    },
    /// It refused a command.
    #[error("{vmm} refused {command:?}: {message}")]
    Refused {
        /// The monitor.
        vmm: VmmKind,
        /// What it was asked.
        command: &'static str,
        /// What it said.
        message: String,
    },
    /// It said something that is no answer.
    #[error("{vmm} answered {command:?} with nonsense: {said}")]
    Nonsense {
        /// The monitor.
        vmm: VmmKind,
        /// What it was asked.
        command: &'static str,
        /// What it said, or what is wrong with it.
        said: String,
    },
    /// Its guests' serial console cannot be typed into.
    #[error("a guest of {vmm} has a serial console that can only be read")]
    NoConsole {
        /// The monitor.
        vmm: VmmKind,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl VmmError {
    /// Returns the next step for whoever reads the message, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            VmmError::Host(host) => host.hint(),
            VmmError::DiskFormat { .. } => Some("choose another disk or another monitor".into()),
            VmmError::NoConsole { .. } => Some("read it: banger vm logs -f NAME".into()),
            _ => None,
        }
    }
}

/// Everything that a monitor is started with.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The token of engine, VM and run that it carries on its command line.
    pub token: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Whether the guest runs machines of its own.
    pub nesting: Nesting,
    /// Memory.
    pub memory: Mebibytes,
    /// The kernel, an ELF vmlinux.
    pub kernel: PathBuf,
    /// The initramfs, with the VM's identity appended.
    pub initrd: PathBuf,
    /// The root disk.
    pub root: BlockSource,
    /// The VM's own disk.
    pub work: BlockSource,
    /// The systemd scope that it is started in; none leaves it where we are.
    pub scope: Option<String>,
    /// What it is connected to.
    pub network: NetworkAttachment,
    /// The control socket, to be made by the monitor.
    pub api_socket: PathBuf,
    /// The second control socket.
    pub rescue_socket: PathBuf,
    /// The socket at which the serial console can be attached to, to be made by the monitor.
    pub console_socket: PathBuf,
    /// Where the serial console is appended.
    pub console_log: PathBuf,
    /// Where the monitor's own words are appended.
    pub monitor_log: PathBuf,
    /// Where the monitor writes its metrics, if it has any.
    pub metrics: PathBuf,
    /// The host's end of the guest's vsock, to be made by the monitor, if it has one.
    pub vsock: PathBuf,
}

/// What a monitor writes without end besides its standard output and error, and where that comes from.
struct Outputs<'a> {
    /// Where its standard output and error go.
    log: &'a Path,
    /// The files of its further logs, in the order of their [`Walls::pipe`]s.
    others: &'a [&'a Path],
}

impl Launch {
    /// Returns how a monitor is started: within its walls. `overhead` is the memory that it takes beside the guest's.
    fn detached(
        &self,
        program: &str,
        arguments: Vec<std::ffi::OsString>,
        outputs: &Outputs<'_>,
        overhead: Mebibytes,
    ) -> Detached {
        let opens = [
            &self.kernel,
            &self.initrd,
            &self.root.path,
            &self.work.path,
            &self.api_socket,
        ];
        Detached {
            program: program.to_owned(),
            arguments,
            log: outputs.log.to_owned(),
            walls: Some(Walls {
                opens: opens.map(Clone::clone).into(),
                logs: outputs.others.iter().map(|log| log.to_path_buf()).collect(),
            }),
            namespace: self.network.namespace().map(str::to_owned),
            scope: self
                .scope
                .clone()
                .map(|name| self.scope_spec(name, overhead)),
        }
    }

    fn scope_spec(&self, name: String, overhead: Mebibytes) -> ScopeSpec {
        // A sixteenth for what maps the guest's memory: page tables of the host and of the guest's memory come to
        // a 256th, the emulator's own tables to a hundredth.
        let memory = self.memory.0 + self.memory.0 / 16 + overhead.0;
        ScopeSpec {
            name,
            memory_bytes: memory << 20,
            // A thread a virtual processor, 64 that wait for disks at the most, and some of the monitor's own.
            tasks: self.vcpus + 128,
            cpu_weight: 50,
        }
    }
}

/// How a guest ends its machine when it is told to switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchOff {
    /// By switching it off.
    ByItself,
    /// By restarting it: the monitor ends at that, and knows no other way.
    ByRestart,
}

/// Why a guest's run came to its end, as the monitor tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest asked for a reboot.
    Rebooted,
    /// The guest's kernel panicked.
    Panicked,
    /// The guest ended its machine, and the monitor does not tell how.
    Ended,
    /// The monitor was told to end, by us or by a signal.
    Told,
}

/// One kind of monitor.
#[async_trait]
pub trait Vmm: fmt::Debug + Send + Sync {
    /// Which one this is.
    fn kind(&self) -> VmmKind;

    /// Says whether it works on this host.
    async fn probe(&self, host: &dyn Host) -> Probe;

    /// Says whether it takes disks of a format.
    fn takes(&self, format: BlockFormat) -> bool;

    /// Says whether it can be connected to a network.
    fn carries(&self, network: NetworkKind) -> bool;

    /// Says whether its guests can have virtualisation of their own here ([`Nesting::Wanted`]).
    async fn nests(&self, host: &dyn Host) -> Probe;

    /// Says how its guests end their machines.
    fn switch_off(&self) -> SwitchOff;

    /// Starts the monitor with its guest paused. It outlives us.
    async fn spawn(&self, host: &dyn Host, launch: &Launch) -> Result<ProcessIdentity, VmmError>;

    /// Connects to a running monitor's control socket, waiting for it at most this long.
    async fn connect(
        &self,
        host: &dyn Host,
        api_socket: &Path,
        limit: Duration,
    ) -> Result<Box<dyn VmmControl>, VmmError>;

    /// Attaches to the serial console of a running guest. One at a time: the engine sees to it.
    async fn open_console(
        &self,
        host: &dyn Host,
        console_socket: &Path,
        limit: Duration,
    ) -> Result<GuestStream, VmmError>;
}

/// A connection to one running monitor. Every call has a time limit; after a failure the connection
/// is of no more use.
#[async_trait]
pub trait VmmControl: fmt::Debug + Send + Sync {
    /// Returns the port on the host's loopback behind which the guest's ssh is, where there is one.
    async fn ssh_port(&self) -> Result<Option<u16>, VmmError>;

    /// Tells a monitor that was just started what its machine is made of, if it was not told by its arguments.
    async fn configure(&self, launch: &Launch) -> Result<(), VmmError>;

    /// Lets a guest run: for the first time, or after a pause.
    async fn resume(&self) -> Result<(), VmmError>;

    /// Stops a guest where it is, until it is resumed.
    async fn pause(&self) -> Result<(), VmmError>;

    /// Says whether the guest's processors run, and if not, why.
    async fn activity(&self) -> Result<Activity, VmmError>;

    /// Returns when [`activity`](VmmControl::activity) or [`disk_error`](VmmControl::disk_error) may have something
    /// new to tell. For one listener. Cancel-safe.
    async fn changed(&self);

    /// Returns the last error of the host's disks that the guest was told of, since this connection was made.
    fn disk_error(&self) -> Option<String>;

    /// Presses Ctrl-Alt-Del in the guest, which its init takes as "reboot": a clean end for us.
    async fn press_ctrl_alt_del(&self) -> Result<(), VmmError>;

    /// Returns when the connection has become of no use, and says why. One to a monitor that is only slow, or
    /// frozen, never does. Cancel-safe.
    async fn lost(&self) -> String;

    /// Tells why the guest ended, once it has.
    fn end_reason(&self) -> watch::Receiver<Option<EndReason>>;
}

/// Connects to the control socket of a monitor, which makes it some milliseconds after it was started.
async fn connect_once_made(
    host: &dyn Host,
    socket: &Path,
    limit: Duration,
) -> Result<UnixStream, HostError> {
    let deadline = Instant::now() + limit;
    loop {
        match host.connect_unix(socket, limit).await {
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            outcome => return outcome,
        }
    }
}

fn said(output: &str) -> String {
    if output.trim().is_empty() {
        String::new()
    } else {
        format!(": {}", output.trim())
    }
}
