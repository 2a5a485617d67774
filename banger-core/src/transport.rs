//! The seam for talking to a guest: run a script in it, with three streams.
//!
//! A transport knows nothing of exit codes and process groups: what a script reports, it reports
//! through its streams (see `banger_session::exec`), so that an agent on a channel can take ssh's place.

mod sim;
mod ssh;

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::host::{Host, HostError};
use crate::names::{VmId, VmName};
use crate::network::Endpoint;

pub(crate) use sim::{OnPower, PowerWord, SimGuests, SimTransport};
pub(crate) use ssh::{Ciphers, SshFiles, SshTransport, is_ssh, write_files};
pub use ssh::{DialHelper, hand_over_socket};

/// What makes a guest end itself with everything on its disks. Returns at once. The target is started by
/// its name, because `systemctl poweroff` would first start logind and ask it: a second and a half.
pub(crate) const POWER_OFF: &[u8] =
    b"systemctl --no-block start poweroff.target 2>/dev/null || poweroff";

/// Why a guest could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// It did not answer in time.
    #[error("the guest's ssh did not answer within {} s", limit.as_secs())]
    NotReady {
        /// The time it had.
        limit: Duration,
    },
    /// Its network offers no way in.
    #[error("VM {vm} has no network: nothing can be dialled in it")]
    NoWayIn {
        /// The VM.
        vm: VmName,
    },
    /// ssh refused, or was refused.
    #[error("ssh to VM {vm} failed: {message}")]
    Refused {
        /// The VM.
        vm: VmName,
        /// What ssh said.
        message: String,
    },
    /// A script could not be started over an established connection.
    #[error("cannot start a command in VM {vm}: {message}")]
    Start {
        /// The VM.
        vm: VmName,
        /// What the connection said.
        message: String,
    },
    /// The connection is there, and nobody in the guest opens a channel on it.
    #[error("the guest of VM {vm} does not answer: its ssh server opened no channel within {} s", limit.as_secs())]
    NoChannel {
        /// The VM.
        vm: VmName,
        /// The time it had.
        limit: Duration,
    },
    /// A port of the guest takes no connection.
    #[error("VM {vm} takes no connection on port {port}: {message}")]
    PortRefused {
        /// The VM.
        vm: VmName,
        /// The port.
        port: u16,
        /// What was said about it.
        message: String,
    },
    /// This host does not let the simulator shut a guest in, and without that no script is run.
    #[error("VM {vm} cannot be simulated here: {reason}; {next_step}")]
    NotIsolated {
        /// The VM.
        vm: VmName,
        /// What was refused.
        reason: String,
        /// What to do about it.
        next_step: &'static str,
    },
    /// The simulator's guest could not be furnished, or did not end.
    #[error("the simulated guest of VM {vm} failed: {message}")]
    Simulated {
        /// The VM.
        vm: VmName,
        /// What its first process said.
        message: String,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Whom to talk to, and with which files.
#[derive(Clone, Debug)]
pub struct GuestTarget {
    /// The VM's id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// Where its ssh is dialled; none without a network.
    pub endpoint: Option<Endpoint>,
    /// Its folder.
    pub vm_dir: PathBuf,
    /// Its runtime folder.
    pub run_dir: PathBuf,
    /// The ssh_config of this run.
    pub ssh_config: PathBuf,
    /// The control socket of the ssh master.
    pub ssh_control: PathBuf,
}

/// A way to talk to guests.
#[async_trait]
pub trait GuestTransport: fmt::Debug + Send + Sync {
    /// Connects, waiting at most this long for the guest to answer. Cancel-safe.
    async fn connect(
        &self,
        host: &dyn Host,
        target: &GuestTarget,
        limit: Duration,
    ) -> Result<Box<dyn GuestConnection>, TransportError>;

    /// Takes up the connection that an earlier engine left, if it still works.
    async fn resume(
        &self,
        host: &dyn Host,
        target: &GuestTarget,
    ) -> Option<Box<dyn GuestConnection>>;

    /// Ends whatever connection is left. By name, so that it can be repeated; "already gone" is success.
    async fn disconnect(&self, host: &dyn Host, target: &GuestTarget)
    -> Result<(), TransportError>;
}

/// An established connection; scripts run side by side on it.
#[async_trait]
pub trait GuestConnection: fmt::Debug + Send + Sync {
    /// Says whether it still works.
    async fn is_up(&self) -> bool;

    /// Starts a script under the guest's login shell, as leader of its own process group.
    async fn run(&self, script: &[u8]) -> Result<GuestProcess, TransportError>;

    /// Connects to a port of the guest's own loopback. Cancel-safe.
    async fn dial(&self, port: u16) -> Result<GuestStream, TransportError>;
}

/// A connection to a port of a guest. Each direction ends by itself: drop `write` to end ours.
pub struct GuestStream {
    /// What the guest sends.
    pub read: Pin<Box<dyn AsyncRead + Send>>,
    /// What is sent to it.
    pub write: Pin<Box<dyn AsyncWrite + Send>>,
}

impl fmt::Debug for GuestStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestStream").finish_non_exhaustive()
    }
}

/// A script that runs in a guest. Dropping it lets go of its streams; the script runs on.
pub struct GuestProcess {
    /// Its standard input; drop it to end it.
    pub stdin: Pin<Box<dyn AsyncWrite + Send>>,
    /// Its standard output.
    pub stdout: Pin<Box<dyn AsyncRead + Send>>,
    /// Its standard error.
    pub stderr: Pin<Box<dyn AsyncRead + Send>>,
    /// Resolves when the transport says that it ended.
    pub end: Pin<Box<dyn Future<Output = GuestEnd> + Send>>,
}

impl fmt::Debug for GuestProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestProcess").finish_non_exhaustive()
    }
}

/// What the transport knows of a script's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEnd {
    /// The login shell ended with this status.
    Exited(i32),
    /// The connection was lost, or a signal ended the login shell.
    Lost(String),
}
