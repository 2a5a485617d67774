//! Stopping a VM: ask the guest, then press its keys, then end its monitor; and say which one worked.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::Error;
use crate::guest::Asker;
use crate::host::ProcessSignal;
use crate::lifecycle::StartOutcome;
use crate::liveness::{Monitor, Verdict};
use crate::progress::Progress;
use crate::transport::POWER_OFF;
use crate::vm::VMRecord;

/// What worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopRung {
    /// The guest powered off, asked over ssh. What it wrote is on its disks.
    PoweredOff,
    /// The guest ended after Ctrl-Alt-Del. What it wrote is on its disks.
    CtrlAltDel,
    /// The monitor was told to end; the guest was not asked, and may have lost its last writes.
    Terminated,
    /// The monitor was killed; likewise.
    Killed,
}

impl fmt::Display for StopRung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopRung::PoweredOff => "the guest powered off",
            StopRung::CtrlAltDel => "the guest ended after Ctrl-Alt-Del",
            StopRung::Terminated => {
                "its monitor was terminated: the guest may have lost its last writes"
            }
            StopRung::Killed => "its monitor was killed: the guest may have lost its last writes",
        })
    }
}

/// What a stop or kill changed.
#[derive(Clone, Debug, PartialEq)]
pub enum StopOutcome {
    /// It was stopped.
    Stopped {
        /// The VM as it is now.
        vm: VMRecord,
        /// What worked.
        by: StopRung,
    },
    /// It did not run.
    AlreadyStopped(VMRecord),
}

impl StopOutcome {
    /// Returns the VM as it is now.
    pub fn vm(&self) -> &VMRecord {
        match self {
            StopOutcome::Stopped { vm, .. } | StopOutcome::AlreadyStopped(vm) => vm,
        }
    }
}

/// How a VM is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Every rung of the ladder.
    Graceful,
    /// The last one.
    AtOnce,
}

impl Engine {
    /// Stops a VM so that what its guest wrote before is there after the next start.
    pub async fn stop(&self, vm: &str) -> Result<StopOutcome, Error> {
        self.stop_as(vm, Manner::Graceful).await
    }

    /// Kills a VM at once; its guest is not asked.
    pub async fn kill(&self, vm: &str) -> Result<StopOutcome, Error> {
        self.stop_as(vm, Manner::AtOnce).await
    }

    /// Stops a VM, if it runs, and starts it.
    pub async fn restart(&self, vm: &str, progress: &Progress) -> Result<StartOutcome, Error> {
        let (engine, vm, progress) = (self.clone(), vm.to_owned(), progress.clone());
        self.to_its_end(async move {
            let (_turn, vm) = engine.in_turn(&vm).await?;
            // Before it is stopped: one that runs goes on.
            engine.inner.check_reserve().await?;
            progress.tell("stop", "stopping the virtual machine");
            let stopped = engine.stop_in_turn(vm, Manner::Graceful).await?;
            engine.start_in_turn(stopped.vm().clone(), &progress).await
        })
        .await
    }

    async fn stop_as(&self, vm: &str, manner: Manner) -> Result<StopOutcome, Error> {
        let (engine, vm) = (self.clone(), vm.to_owned());
        self.to_its_end(async move {
            let (_turn, vm) = engine.in_turn(&vm).await?;
            engine.stop_in_turn(vm, manner).await
        })
        .await
    }

    pub(crate) async fn stop_in_turn(
        &self,
        vm: VMRecord,
        manner: Manner,
    ) -> Result<StopOutcome, Error> {
        let inner = &self.inner;
        let handles = inner.handles(&vm).await?;
        let monitor = match inner.liveness.judge(&vm.id, handles.as_ref()).await {
            Verdict::Alive(monitor) => monitor,
            Verdict::CannotTell { reason } => {
                return Err(Error::CannotTell {
                    vm: vm.name,
                    reason,
                });
            }
            Verdict::Gone | Verdict::NotOurs { .. } => {
                let vm = match vm.runtime.run_id {
                    // It has ended and nobody has cleaned up yet.
                    Some(_) => inner.release_and_mark_stopped(vm, "it had ended").await?,
                    // Its guest has rebooted: it was about to be started again.
                    None if vm.runtime.restart_at.is_some() => {
                        inner.note(vm, |runtime| runtime.restart_at = None).await?
                    }
                    None => vm,
                };
                return Ok(StopOutcome::AlreadyStopped(vm));
            }
        };
        let by = match manner {
            Manner::Graceful => {
                self.refresh_before_stop(&vm).await;
                self.step_down(&vm, &monitor).await?
            }
            Manner::AtOnce => {
                inner.kill_and_wait(&vm, &monitor).await?;
                StopRung::Killed
            }
        };
        let vm = inner.release_and_mark_stopped(vm, &by.to_string()).await?;
        tracing::info!(vm = %vm.name, %by, "stopped");
        Ok(StopOutcome::Stopped { vm, by })
    }

    /// Goes down the ladder until the monitor is gone.
    async fn step_down(&self, vm: &VMRecord, monitor: &Monitor) -> Result<StopRung, Error> {
        let (inner, limits) = (&self.inner, &self.inner.config.limits);
        let asked = Instant::now();
        if !limits.power_off.is_zero()
            && self.ask_to_power_off(vm).await
            && self
                .ends_within(monitor, limits.power_off.saturating_sub(asked.elapsed()))
                .await?
        {
            return Ok(StopRung::PoweredOff);
        }
        let control = inner.live(&vm.id).and_then(|live| live.control());
        if let Some(control) = control
            && !limits.ctrl_alt_del.is_zero()
            && control.press_ctrl_alt_del().await.is_ok()
            && self.ends_within(monitor, limits.ctrl_alt_del).await?
        {
            return Ok(StopRung::CtrlAltDel);
        }
        tracing::warn!(vm = %vm.name, "the guest does not end; terminating its monitor");
        inner.liveness.signal(monitor, ProcessSignal::Term).await?;
        if self.ends_within(monitor, limits.signal).await? {
            return Ok(StopRung::Terminated);
        }
        inner.kill_and_wait(vm, monitor).await?;
        Ok(StopRung::Killed)
    }

    /// Asks over ssh. A guest that runs answers at once; one whose ssh is dead is not waited for.
    async fn ask_to_power_off(&self, vm: &VMRecord) -> bool {
        const ANSWER: Duration = Duration::from_secs(5);
        let live = self.inner.live(&vm.id);
        if live.is_some_and(|live| live.connection.try_lock().is_err()) {
            // Somebody still waits for its first answer: it is booting, and has nothing to lose.
            return false;
        }
        let ask = async {
            let connection = self.connection_as(vm, ANSWER, Asker::HasTheTurn).await?;
            let process = connection.run(POWER_OFF).await?;
            // Its end may never be told: the guest is going down.
            let _ = tokio::time::timeout(ANSWER, process.end).await;
            Ok::<(), Error>(())
        };
        match tokio::time::timeout(2 * ANSWER, ask).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(vm = %vm.name, %error, "could not ask the guest to power off");
                false
            }
            Err(_) => false,
        }
    }

    async fn ends_within(&self, monitor: &Monitor, limit: Duration) -> Result<bool, Error> {
        match tokio::time::timeout(limit, self.inner.liveness.wait_end(monitor)).await {
            Ok(end) => end.map(|_| true).map_err(Into::into),
            Err(_) => Ok(false),
        }
    }
}
