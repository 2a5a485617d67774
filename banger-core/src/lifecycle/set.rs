//! Changing what was asked for when a VM was created.

use std::collections::BTreeMap;

use crate::disk::GROWN;
use crate::engine::Engine;
use crate::error::Error;
use crate::liveness::Verdict;
use crate::names::Mebibytes;
use crate::vm::{Lifetime, VMRecord, VMSpec};

use super::create::in_range;

/// What is to be changed. What is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetRequest {
    /// Virtual processors: 1 to 64.
    pub vcpus: Option<u32>,
    /// Memory: 128 MiB up to what the host has.
    pub memory: Option<Mebibytes>,
    /// The size of its own disk, which only grows; up to 16 TiB. The guest's file system grows with it
    /// at the next start.
    pub work_disk: Option<Mebibytes>,
    /// Words of its owner: one without a value is taken away.
    pub labels: BTreeMap<String, Option<String>>,
    /// Whether it is to outlive whoever asked for it, as one that was not asked for as ephemeral does.
    pub keep: bool,
}

/// What a change changed.
#[derive(Clone, Debug, PartialEq)]
pub enum SetOutcome {
    /// It is as asked now.
    Changed(VMRecord),
    /// It was so already.
    AlreadySo(VMRecord),
}

impl SetOutcome {
    /// Returns the VM as it is now.
    pub fn vm(&self) -> &VMRecord {
        match self {
            SetOutcome::Changed(vm) | SetOutcome::AlreadySo(vm) => vm,
        }
    }
}

impl Engine {
    /// Changes a VM. All but its labels, and whether it is kept, needs one that does not run. All of it is done, or none.
    pub async fn set(&self, vm: &str, request: SetRequest) -> Result<SetOutcome, Error> {
        let (engine, vm) = (self.clone(), vm.to_owned());
        self.to_its_end(async move {
            let (_turn, vm) = engine.in_turn(&vm).await?;
            engine.set_in_turn(vm, &request).await
        })
        .await
    }

    /// The file first, then the row: a row never promises a disk that is not there. A crash in between
    /// leaves a disk that is larger than it says, and the same change can be asked for again.
    async fn set_in_turn(
        &self,
        mut vm: VMRecord,
        request: &SetRequest,
    ) -> Result<SetOutcome, Error> {
        let inner = &self.inner;
        let host = inner.host();
        let spec = self.changed(&vm.spec, request).await?;
        if spec == vm.spec {
            return Ok(SetOutcome::AlreadySo(vm));
        }
        if let Some(what) = needs_stopped(&vm.spec, &spec) {
            let handles = inner.handles(&vm).await?;
            match inner.liveness.judge(&vm.id, handles.as_ref()).await {
                Verdict::Gone | Verdict::NotOurs { .. } => {}
                Verdict::Alive(_) => return Err(Error::StillRunning { vm: vm.name, what }),
                Verdict::CannotTell { reason } => {
                    return Err(Error::CannotTell {
                        vm: vm.name,
                        reason,
                    });
                }
            }
        }
        if spec.work_disk != vm.spec.work_disk {
            inner.check_reserve().await?;
            let (folder, disk) = (&vm.runtime.vm_dir, &vm.runtime.work_disk_path);
            // First of all what has the next start look: the guest finds by itself whether there is room.
            host.write_file(&folder.join(GROWN), b"", 0o600).await?;
            host.grow_file(disk, spec.work_disk.bytes()).await?;
        }
        vm.spec = spec;
        let vm = inner.note(vm, |_| {}).await?;
        tracing::info!(vm = %vm.name, "changed");
        Ok(SetOutcome::Changed(vm))
    }

    async fn changed(&self, now: &VMSpec, request: &SetRequest) -> Result<VMSpec, Error> {
        let mut spec = now.clone();
        if let Some(vcpus) = request.vcpus {
            in_range("--vcpu", vcpus, 1, 64, "")?;
            spec.vcpus = vcpus;
        }
        if let Some(memory) = request.memory {
            let most = self.inner.host().cpu().await.memory.0.max(128);
            in_range("--memory", memory.0, 128, most, " MiB (what this host has)")?;
            spec.memory = memory;
        }
        if let Some(work_disk) = request.work_disk {
            let unit = " MiB (it can only grow)";
            in_range("--disk-size", work_disk.0, now.work_disk.0, 16 << 20, unit)?;
            spec.work_disk = work_disk;
        }
        for (key, value) in &request.labels {
            match value {
                Some(value) => spec.labels.insert(key.clone(), value.clone()),
                None => spec.labels.remove(key),
            };
        }
        if request.keep {
            spec.lifetime = Lifetime::Kept;
        }
        Ok(spec)
    }
}

/// Names the first of what changes that a running monitor keeps as it is.
fn needs_stopped(now: &VMSpec, then: &VMSpec) -> Option<&'static str> {
    if now.vcpus != then.vcpus {
        Some("--vcpu")
    } else if now.memory != then.memory {
        Some("--memory")
    } else if now.work_disk != then.work_disk {
        Some("--disk-size")
    } else {
        None
    }
}
