//! Starting a guest again that has restarted itself, with waits in between.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;

use super::ending::{MOST_RESTARTS, wait_before};
use crate::engine::{Engine, Inner, lock};
use crate::error::Error;
use crate::names::VmId;
use crate::progress::Progress;
use crate::vm::{VMRecord, VMRuntime};

impl Inner {
    /// Writes down, in the VM's turn, that a guest that has restarted is to be started again, and when; or that it is
    /// not. `restarts`: how often it was already.
    pub(super) async fn plan_restart(
        self: &Arc<Self>,
        vm: VMRecord,
        restarts: u32,
    ) -> Result<Option<Timestamp>, Error> {
        let at = wait_before(restarts).map(|wait| {
            let now = Timestamp::now();
            now.checked_add(wait).unwrap_or(now)
        });
        let id = vm.id.clone();
        let note = |runtime: &mut VMRuntime| {
            runtime.restarts = restarts + u32::from(at.is_some());
            runtime.restart_at = at;
            if at.is_none() {
                runtime.last_error = Some(format!(
                    "its guest rebooted again and again: it was started again {MOST_RESTARTS} times in a row, and is not any more"
                ));
            }
        };
        self.note(vm, note).await?;
        if at.is_some() {
            lock(&self.restarting).insert(id);
        }
        Ok(at)
    }

    /// Goes on with the waits of an engine that is no more.
    pub(crate) async fn take_up_restarts(self: &Arc<Self>) -> Result<(), Error> {
        for vm in self.store.vms().await? {
            if let Some(at) = vm.runtime.restart_at {
                lock(&self.restarting).insert(vm.id.clone());
                self.restart_later(vm.id, at);
            }
        }
        Ok(())
    }

    /// Starts a VM at this time, if that is still wanted then. The engine is not held meanwhile.
    pub(super) fn restart_later(self: &Arc<Self>, id: VmId, at: Timestamp) {
        tokio::spawn(restart_at(Arc::downgrade(self), id, at));
    }

    /// Says whether a VM that has stopped is about to be started again.
    pub(crate) fn is_restarting(&self, id: &VmId) -> bool {
        lock(&self.restarting).contains(id)
    }
}

async fn restart_at(engine: Weak<Inner>, id: VmId, at: Timestamp) {
    // No wait is longer than the longest, whatever the clock did meanwhile.
    let left = Timestamp::now().duration_until(at);
    let left = Duration::try_from(left).unwrap_or_default();
    tokio::time::sleep(left.min(Duration::from_secs(60))).await;
    let Some(inner) = engine.upgrade() else {
        return;
    };
    let engine = Engine { inner };
    if let Err(error) = engine.restart_as_planned(&id, at).await {
        tracing::warn!(vm = %id, %error, "could not start a VM again whose guest rebooted");
    }
}

impl Engine {
    async fn restart_as_planned(&self, id: &VmId, at: Timestamp) -> Result<(), Error> {
        let _turn = self.inner.turn(id).await;
        let Some(vm) = self.inner.store.vm(id).await? else {
            lock(&self.inner.restarting).remove(id);
            return Ok(());
        };
        match vm.runtime.restart_at {
            Some(planned) if planned == at => {}
            // It was started and has rebooted meanwhile: whoever planned that minds it.
            Some(_) => return Ok(()),
            // Somebody has started or stopped it.
            None => {
                lock(&self.inner.restarting).remove(id);
                return Ok(());
            }
        }
        let (restarts, silent) = (vm.runtime.restarts, Progress::silent());
        let started = self.start_again_in_turn(vm, restarts, &silent).await;
        lock(&self.inner.restarting).remove(id);
        if let Err(error) = started
            && let Some(vm) = self.inner.store.vm(id).await?
        {
            // Nobody waits for the answer: it is found with the VM.
            let text = error.chain().join(": ");
            let note = |runtime: &mut VMRuntime| {
                runtime.restart_at = None;
                runtime.last_error = Some(text);
            };
            self.inner.note(vm, note).await?;
            return Err(error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use banger_session::exec::ExecRequest;

    use super::*;
    use crate::liveness::Condition;

    #[tokio::test]
    async fn one_that_was_started_again_too_often_in_a_row_stays_down_and_says_so() {
        let engine = Engine::sim().await.unwrap();
        let silent = Progress::silent();
        let vm = engine.create(Default::default(), &silent).await.unwrap();
        let id = vm.id.as_str();
        let started = engine.start(id, &silent).await.unwrap();
        let often = |runtime: &mut VMRuntime| runtime.restarts = MOST_RESTARTS;
        engine
            .inner
            .note(started.vm().clone(), often)
            .await
            .unwrap();
        // It ends in the middle of this.
        let _ = engine.exec_output(id, &ExecRequest::new(["reboot"])).await;
        let down = async {
            loop {
                let view = engine.show(id).await.unwrap();
                if let (Condition::Stopped, Some(error)) =
                    (view.condition, view.vm.runtime.last_error)
                {
                    return error;
                }
                tokio::task::yield_now().await;
            }
        };
        let down = tokio::time::timeout(Duration::from_secs(20), down).await;
        let error = down.expect("it stays down");
        assert!(error.contains("8 times in a row"), "{error}");
        // Whoever starts it begins anew.
        let started = engine.start(id, &silent).await.unwrap();
        assert_eq!(started.vm().runtime.restarts, 0);
    }
}
