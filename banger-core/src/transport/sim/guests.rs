//! The guests of one simulated host. They outlive the engine that started them, as real ones do.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{OnceCell, mpsc};

use super::{OnPower, PowerWord};
use crate::engine::lock;
use crate::host::{Scratch, ScratchError, ScratchPlan};
use crate::names::VmId;
use crate::transport::GuestTarget;

/// Every guest of a host. Dropping this ends those to which nobody is connected.
#[derive(Default)]
pub(crate) struct SimGuests {
    slots: Mutex<HashMap<VmId, Slot>>,
    on_power: Mutex<Option<OnPower>>,
    isolated: OnceCell<()>,
}

/// Whoever comes second waits in it for the guest that the first one starts.
type Slot = Arc<OnceCell<Arc<Scratch>>>;

impl fmt::Debug for SimGuests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimGuests").finish_non_exhaustive()
    }
}

impl SimGuests {
    /// Sets who is told of power switches from now on.
    pub(super) fn tell(&self, on_power: OnPower) {
        *lock(&self.on_power) = Some(on_power);
    }

    /// Returns a VM's guest, starting one if none lives.
    pub(super) async fn guest(
        self: &Arc<Self>,
        target: &GuestTarget,
    ) -> Result<Arc<Scratch>, ScratchError> {
        self.isolated.get_or_try_init(Scratch::probe).await?;
        let slot = {
            let mut slots = lock(&self.slots);
            let slot = slots.entry(target.id.clone()).or_default();
            if slot.get().is_some_and(|guest| !guest.lives()) {
                *slot = Slot::default();
            }
            Arc::clone(slot)
        };
        let start = || self.start(target);
        slot.get_or_try_init(start).await.map(Arc::clone)
    }

    /// Returns a VM's guest if it lives.
    pub(super) fn living(&self, vm: &VmId) -> Option<Arc<Scratch>> {
        let guest = Arc::clone(lock(&self.slots).get(vm)?.get()?);
        guest.lives().then_some(guest)
    }

    /// Ends a VM's guest; none is success.
    pub(super) async fn end(&self, vm: &VmId) -> Result<(), ScratchError> {
        let slot = lock(&self.slots).remove(vm);
        match slot.as_ref().and_then(|slot| slot.get()) {
            Some(guest) => guest.end().await,
            None => Ok(()),
        }
    }

    async fn start(self: &Arc<Self>, target: &GuestTarget) -> Result<Arc<Scratch>, ScratchError> {
        let plan = ScratchPlan {
            id: target.id.as_str().to_owned(),
            name: target.name.as_str().to_owned(),
            folder: target.vm_dir.join("guest"),
        };
        let (guest, words) = Scratch::start(&plan).await?;
        let guest = Arc::new(guest);
        tokio::spawn(obey_power_switch(
            target.id.clone(),
            Arc::downgrade(&guest),
            words,
            Arc::downgrade(self),
        ));
        Ok(guest)
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
    guests: Weak<SimGuests>,
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
        let on_power = guests.upgrade().and_then(|all| lock(&all.on_power).clone());
        if let Some(on_power) = on_power {
            on_power(vm, word);
        }
        return;
    }
}
