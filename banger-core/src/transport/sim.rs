//! The simulator's transport: real scripts, in a scratch guest that cannot reach the host's files and processes.
//!
//! A VM has one guest, which all its connections share. It is started by the first of them and ends
//! with its power switch, with [`disconnect`](GuestTransport::disconnect), or with its host. What its
//! `/root` holds lies in the VM's folder and is there again in its next one, as a work disk would be.

mod guests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;

use super::{
    GuestConnection, GuestEnd, GuestProcess, GuestStream, GuestTarget, GuestTransport,
    TransportError,
};
use crate::host::{Host, Scratch, ScratchEnd, ScratchError, ScratchProcess};
use crate::names::{VmId, VmName};

pub(crate) use guests::SimGuests;

/// What is called when a guest switches itself off: it is to end the process that stands for the VM's
/// monitor. It runs on the engine's runtime and must not block.
pub(crate) type OnPower = Arc<dyn Fn(VmId, PowerWord) + Send + Sync>;

/// What a guest asked of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PowerWord {
    /// To switch itself off.
    Off,
    /// To start again.
    Reboot,
}

/// The transport `sim`.
pub(crate) struct SimTransport {
    guests: Arc<SimGuests>,
}

impl SimTransport {
    /// Makes the transport with guests of its own. Dropping it, and the connections it made, ends them.
    #[cfg(test)]
    pub(crate) fn new(on_power: OnPower) -> Self {
        SimTransport::over(Arc::default(), on_power)
    }

    /// Makes the transport to guests that outlive it, whose power switches tell it from now on.
    pub(crate) fn over(guests: Arc<SimGuests>, on_power: OnPower) -> Self {
        guests.tell(on_power);
        SimTransport { guests }
    }
}

impl fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTransport").finish_non_exhaustive()
    }
}

#[async_trait]
impl GuestTransport for SimTransport {
    async fn connect(
        &self,
        _host: &dyn Host,
        target: &GuestTarget,
        limit: Duration,
    ) -> Result<Box<dyn GuestConnection>, TransportError> {
        if target.endpoint.is_none() {
            return Err(TransportError::NoWayIn {
                vm: target.name.clone(),
            });
        }
        let guest = tokio::time::timeout(limit, self.guests.guest(target))
            .await
            .map_err(|_| TransportError::NotReady { limit })?
            .map_err(|error| told(&target.name, error))?;
        Ok(Box::new(SimConnection::to(target, guest)))
    }

    async fn resume(
        &self,
        _host: &dyn Host,
        target: &GuestTarget,
    ) -> Option<Box<dyn GuestConnection>> {
        let guest = self.guests.living(&target.id)?;
        Some(Box::new(SimConnection::to(target, guest)))
    }

    async fn disconnect(
        &self,
        _host: &dyn Host,
        target: &GuestTarget,
    ) -> Result<(), TransportError> {
        let ended = self.guests.end(&target.id).await;
        ended.map_err(|error| told(&target.name, error))
    }
}

struct SimConnection {
    vm: VmName,
    guest: Arc<Scratch>,
}

impl SimConnection {
    fn to(target: &GuestTarget, guest: Arc<Scratch>) -> Self {
        SimConnection {
            vm: target.name.clone(),
            guest,
        }
    }
}

impl fmt::Debug for SimConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimConnection")
            .field("vm", &self.vm)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl GuestConnection for SimConnection {
    async fn is_up(&self) -> bool {
        self.guest.lives()
    }

    async fn run(&self, script: &[u8]) -> Result<GuestProcess, TransportError> {
        let process = self.guest.run(script);
        let ScratchProcess {
            stdin,
            stdout,
            stderr,
            end,
        } = process.map_err(|error| TransportError::Start {
            vm: self.vm.clone(),
            message: error.to_string(),
        })?;
        let end = async {
            match end.await {
                Ok(ScratchEnd::Exited(code)) => GuestEnd::Exited(code),
                Ok(ScratchEnd::Signaled(signal)) => GuestEnd::Exited(128 + signal),
                Ok(ScratchEnd::GuestEnded) | Err(_) => {
                    GuestEnd::Lost("the simulated guest has ended".to_owned())
                }
            }
        };
        Ok(GuestProcess {
            stdin: Box::pin(stdin),
            stdout: Box::pin(stdout),
            stderr: Box::pin(stderr),
            end: Box::pin(end),
        })
    }

    async fn dial(&self, port: u16) -> Result<GuestStream, TransportError> {
        let quoted = banger_session::shell_quote_str(DIAL).unwrap_or_default();
        let script = format!("exec perl -e {quoted} {port}");
        let GuestProcess {
            stdin,
            mut stdout,
            mut stderr,
            end: _,
        } = self.run(script.as_bytes()).await?;
        let mut first = [0; 1];
        if matches!(stdout.read(&mut first).await, Ok(1)) {
            return Ok(GuestStream {
                read: stdout,
                write: stdin,
            });
        }
        let mut said = String::new();
        let _ = stderr.read_to_string(&mut said).await;
        Err(TransportError::PortRefused {
            vm: self.vm.clone(),
            port,
            message: said.trim().to_owned(),
        })
    }
}

/// Connects from inside, where alone the guest's loopback is: says so with one byte, and then carries
/// both directions, each to its own end.
const DIAL: &str = r#"
use IO::Socket::INET;
my $s = IO::Socket::INET->new(PeerHost => "127.0.0.1", PeerPort => $ARGV[0]);
if (!$s) { print STDERR "$!\n"; exit 1 }
sub carry {
    my ($in, $out) = @_;
    while (sysread($in, my $b, 65536)) {
        for (my $o = 0; $o < length $b;) { $o += syswrite($out, $b, length($b) - $o, $o) // exit }
    }
}
syswrite(STDOUT, "+");
my $child = fork;
if (!$child) { carry(STDIN, $s); shutdown($s, 1); exit }
carry($s, STDOUT);
kill "KILL", $child;
"#;

fn told(vm: &VmName, error: ScratchError) -> TransportError {
    let vm = vm.clone();
    match error {
        ScratchError::NotIsolated { reason, next_step } => TransportError::NotIsolated {
            vm,
            reason,
            next_step,
        },
        ScratchError::Host(error) => TransportError::Host(error),
        error => TransportError::Simulated {
            vm,
            message: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;
