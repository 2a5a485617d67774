//! Stopping a VM: ask the guest, then press its keys; and say which one worked.
//!
//! A guest that was asked over ssh is guarded in itself (`banger_session::power_off_script`): what it cannot end in its
//! time it writes to its disks, mounts those read-only and switches itself off. One that does nothing at all runs on and
//! the stop fails, because ending its monitor would lose what it has not written; `kill` is for that.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_session::{SwitchOffWord, power_off_script};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::Error;
use crate::guest::Asker;
use crate::host::ProcessSignal;
use crate::lifecycle::StartOutcome;
use crate::liveness::{Monitor, Verdict};
use crate::progress::Progress;
use crate::transport::POWER_OFF;
use crate::vm::{VMRecord, VmmKind};
use crate::vmm::SwitchOff;
use crate::watch::Live;

/// What worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopRung {
    /// The guest powered off, asked over ssh. What it wrote is on its disks.
    PoweredOff,
    /// The guest ended after Ctrl-Alt-Del. What it wrote is on its disks.
    CtrlAltDel,
    /// The monitor was told to end: of a guest that had halted, which loses nothing by that, or of one that was not
    /// to be asked ([`Limits`](crate::Limits) of zero), which may have lost its last writes.
    Terminated,
    /// The monitor was killed; the guest was not asked, and may have lost its last writes.
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
    /// By its guest, which has this long for its own power-off; none means the engine's limit.
    Graceful(Option<Duration>),
    /// By its monitor, at once.
    AtOnce,
}

impl Engine {
    /// Stops a VM so that what its guest wrote before is there after the next start.
    ///
    /// # Errors
    ///
    /// [`Error::DoesNotEnd`]: its guest did not end in its time. The VM runs on and has lost nothing.
    /// [`Error::StopCutShort`]: somebody killed or deleted it meanwhile.
    pub async fn stop(&self, vm: &str) -> Result<StopOutcome, Error> {
        self.stop_as(vm, Manner::Graceful(None)).await
    }

    /// Stops a VM like [`Engine::stop`], but its guest has this long for its own power-off.
    pub async fn stop_within(&self, vm: &str, limit: Duration) -> Result<StopOutcome, Error> {
        self.stop_as(vm, Manner::Graceful(Some(limit))).await
    }

    /// Kills a VM at once; its guest is not asked. A stop that is in progress is cut short.
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
            let stopped = engine.stop_in_turn(vm, Manner::Graceful(None)).await?;
            engine.start_in_turn(stopped.vm().clone(), &progress).await
        })
        .await
    }

    async fn stop_as(&self, vm: &str, manner: Manner) -> Result<StopOutcome, Error> {
        let (engine, vm) = (self.clone(), vm.to_owned());
        self.to_its_end(async move {
            let cut = match manner {
                Manner::AtOnce => engine.cut_stop_short(&vm).await,
                Manner::Graceful(_) => None,
            };
            let (_turn, vm) = engine.in_turn(&vm).await?;
            match engine.stop_in_turn(vm, manner).await? {
                // The stop that had its turn has killed it on our behalf.
                StopOutcome::AlreadyStopped(vm) if cut.is_some_and(|cut| cut.was_heeded()) => {
                    let by = StopRung::Killed;
                    Ok(StopOutcome::Stopped { vm, by })
                }
                outcome => Ok(outcome),
            }
        })
        .await
    }

    /// Has a stop that is in progress kill the VM, as long as what is returned lives.
    pub(crate) async fn cut_stop_short(&self, vm: &str) -> Option<CutShort> {
        let vm = self.lookup(vm).await.ok()?;
        self.inner.live(&vm.id).map(CutShort::of)
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
            Manner::Graceful(limit) => {
                let live = inner.live(&vm.id);
                let in_peace = async {
                    self.refresh_before_stop(&vm).await;
                    self.step_down(&vm, &monitor, limit).await
                };
                tokio::select! {
                    // Both are cancel-safe: a guest that was told to end goes on ending.
                    by = in_peace => by?,
                    () = to_be_killed(live.as_deref()) => {
                        inner.kill_and_wait(&vm, &monitor).await?;
                        if let Some(live) = live {
                            live.kill_was_heeded();
                        }
                        let reason = StopRung::Killed.to_string();
                        let vm = inner.release_and_mark_stopped(vm, &reason).await?;
                        return Err(Error::StopCutShort { vm: vm.name });
                    }
                }
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

    /// Goes down the ladder until the monitor is gone. Its last rungs are for guests that lose nothing by them.
    async fn step_down(
        &self,
        vm: &VMRecord,
        monitor: &Monitor,
        limit: Option<Duration>,
    ) -> Result<StopRung, Error> {
        let (inner, limits) = (&self.inner, &self.inner.config.limits);
        let power_off = limit.unwrap_or(limits.power_off);
        let asked = Instant::now();
        if !power_off.is_zero()
            && self.ask_to_power_off(vm, power_off).await
            && self
                .ends_within(monitor, power_off.saturating_sub(asked.elapsed()))
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
        let to_be_asked = !power_off.is_zero() || !limits.ctrl_alt_del.is_zero();
        if to_be_asked && !self.has_halted(vm).await {
            return Err(Error::DoesNotEnd {
                vm: vm.name.clone(),
                waited: asked.elapsed(),
            });
        }
        tracing::warn!(vm = %vm.name, "the guest does not end; terminating its monitor");
        inner.liveness.signal(monitor, ProcessSignal::Term).await?;
        if self.ends_within(monitor, limits.signal).await? {
            return Ok(StopRung::Terminated);
        }
        inner.kill_and_wait(vm, monitor).await?;
        Ok(StopRung::Killed)
    }

    /// Says whether a guest's kernel has halted: its last word is then this one (`kernel_halt`), its disks are written
    /// and nothing runs in it any more. A guest that only says so harms itself.
    async fn has_halted(&self, vm: &VMRecord) -> bool {
        let tail = self.inner.host().read_tail(&vm.runtime.log_path, 200).await;
        let tail = tail.unwrap_or_default();
        String::from_utf8_lossy(&tail)
            .trim_end()
            .ends_with("reboot: System halted")
    }

    /// Asks over ssh. A guest that runs answers at once; one whose ssh is dead is not waited for.
    async fn ask_to_power_off(&self, vm: &VMRecord, limit: Duration) -> bool {
        const ANSWER: Duration = Duration::from_secs(5);
        let live = self.inner.live(&vm.id);
        if live.is_some_and(|live| live.connection.try_lock().is_err()) {
            // Somebody still waits for its first answer: it is booting, and nobody can be asked.
            return false;
        }
        let script = self.power_off_words(vm, limit);
        let ask = async {
            let connection = self.connection_as(vm, ANSWER, Asker::HasTheTurn).await?;
            let process = connection.run(&script).await?;
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

    fn power_off_words(&self, vm: &VMRecord, limit: Duration) -> Vec<u8> {
        // What guards a real guest's end reaches for the kernel's own switch. A simulated guest has this host's.
        let vmm = self.inner.backends.vmm(vm.spec.vmm);
        match vmm {
            Ok(vmm) if vm.spec.vmm != VmmKind::Sim => {
                let word = match vmm.switch_off() {
                    SwitchOff::ByItself => SwitchOffWord::PowerOff,
                    SwitchOff::ByRestart => SwitchOffWord::Restart,
                };
                power_off_script(guarded(limit), word)
            }
            _ => POWER_OFF.to_vec(),
        }
    }

    async fn ends_within(&self, monitor: &Monitor, limit: Duration) -> Result<bool, Error> {
        match tokio::time::timeout(limit, self.inner.liveness.wait_end(monitor)).await {
            Ok(end) => end.map(|_| true).map_err(Into::into),
            Err(_) => Ok(false),
        }
    }
}

/// Returns how long a guest may take before its guard writes its disks and switches it off: what is left of the limit
/// is for that.
fn guarded(limit: Duration) -> Duration {
    const TO_WRITE: Duration = Duration::from_secs(10);
    limit.saturating_sub(TO_WRITE).max(limit / 2)
}

async fn to_be_killed(live: Option<&Live>) {
    match live {
        Some(live) => live.to_be_killed().await,
        None => std::future::pending().await,
    }
}

/// Somebody's wish that a VM be killed: a stop in progress heeds it as long as this lives.
#[derive(Debug)]
pub(crate) struct CutShort(Arc<Live>);

impl CutShort {
    fn of(live: Arc<Live>) -> Self {
        live.kills.send_modify(|kills| *kills += 1);
        CutShort(live)
    }

    fn was_heeded(&self) -> bool {
        self.0.was_killed_by_a_stop()
    }
}

impl Drop for CutShort {
    fn drop(&mut self) {
        self.0.kills.send_modify(|kills| *kills -= 1);
    }
}
