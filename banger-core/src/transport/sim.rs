//! The simulator's transport: real scripts, in a scratch guest that cannot reach the host's files and processes.
//!
//! A VM has one guest, which all its connections share. It is started by the first of them and ends
//! with its power switch, with [`disconnect`](GuestTransport::disconnect), or with us. What its `/root` holds lies in
//! the VM's folder and is there again in its next one, as a work disk would be.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OnceCell, mpsc};

use super::{GuestConnection, GuestEnd, GuestProcess, GuestTarget, GuestTransport, TransportError};
use crate::host::{Host, Scratch, ScratchEnd, ScratchError, ScratchPlan, ScratchProcess};
use crate::inventory::ObjectKind;
use crate::names::{VmId, VmName};
use crate::network::Endpoint;

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
    on_power: OnPower,
    guests: Mutex<HashMap<VmId, Slot>>,
    isolated: OnceCell<()>,
}

/// Whoever comes second waits in it for the guest that the first one starts.
type Slot = Arc<OnceCell<Arc<Scratch>>>;

impl SimTransport {
    /// Makes the transport. Dropping it, and the connections it made, ends the guests.
    pub(crate) fn new(on_power: OnPower) -> Self {
        SimTransport {
            on_power,
            guests: Mutex::default(),
            isolated: OnceCell::new(),
        }
    }

    async fn guest(&self, target: &GuestTarget) -> Result<Arc<Scratch>, ScratchError> {
        self.isolated.get_or_try_init(Scratch::probe).await?;
        let slot = {
            let mut guests = self.guests();
            let slot = guests.entry(target.id.clone()).or_default();
            if slot.get().is_some_and(|guest| !guest.lives()) {
                *slot = Slot::default();
            }
            Arc::clone(slot)
        };
        let start = || self.start(target);
        slot.get_or_try_init(start).await.map(Arc::clone)
    }

    async fn start(&self, target: &GuestTarget) -> Result<Arc<Scratch>, ScratchError> {
        let plan = ScratchPlan {
            id: target.id.as_str().to_owned(),
            name: target.name.as_str().to_owned(),
            folder: target.vm_dir.join("guest"),
        };
        let (guest, words) = Scratch::start(&plan).await?;
        let guest = Arc::new(guest);
        let obey = obey_power_switch(
            target.id.clone(),
            Arc::downgrade(&guest),
            words,
            Arc::clone(&self.on_power),
        );
        tokio::spawn(obey);
        Ok(guest)
    }

    fn guests(&self) -> MutexGuard<'_, HashMap<VmId, Slot>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTransport").finish_non_exhaustive()
    }
}

#[async_trait]
impl GuestTransport for SimTransport {
    fn holds(&self) -> &'static [ObjectKind] {
        &[]
    }

    async fn connect(
        &self,
        _host: &dyn Host,
        target: &GuestTarget,
        limit: Duration,
    ) -> Result<Box<dyn GuestConnection>, TransportError> {
        if target.endpoint != Some(Endpoint::Sim) {
            return Err(TransportError::NoWayIn {
                vm: target.name.clone(),
            });
        }
        let guest = tokio::time::timeout(limit, self.guest(target))
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
        let guest = Arc::clone(self.guests().get(&target.id)?.get()?);
        match guest.lives() {
            true => Some(Box::new(SimConnection::to(target, guest))),
            false => None,
        }
    }

    async fn disconnect(
        &self,
        _host: &dyn Host,
        target: &GuestTarget,
    ) -> Result<(), TransportError> {
        let slot = self.guests().remove(&target.id);
        match slot.as_ref().and_then(|slot| slot.get()) {
            Some(guest) => guest.end().await.map_err(|error| told(&target.name, error)),
            None => Ok(()),
        }
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
}

/// How long a guest that was switched off lets its scripts end, so that the one that pressed the switch
/// mostly gets to say so, as with a real init.
const GRACE: Duration = Duration::from_millis(200);

/// Waits for a word from the power switches, ends the guest, and then tells.
async fn obey_power_switch(
    vm: VmId,
    guest: Weak<Scratch>,
    mut words: mpsc::UnboundedReceiver<String>,
    on_power: OnPower,
) {
    while let Some(word) = words.recv().await {
        let word = match word.as_str() {
            "poweroff" => PowerWord::Off,
            "reboot" => PowerWord::Reboot,
            // A script may write what it likes to that file.
            _ => continue,
        };
        if let Some(guest) = guest.upgrade() {
            let _ = tokio::time::timeout(GRACE, guest.idle()).await;
            if let Err(error) = guest.end().await {
                tracing::warn!(%vm, %error, "a simulated guest was switched off and runs on");
            }
        }
        on_power(vm, word);
        return;
    }
}

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
