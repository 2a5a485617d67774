//! Deleting a VM, in whatever state it is.

use crate::engine::Engine;
use crate::error::Error;
use crate::lifecycle::stop::Manner;
use crate::liveness::{Condition, Verdict};
use crate::names::VmName;
use crate::vm::VMRecord;

/// What a delete changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// The VM that is no more.
    pub name: VmName,
}

/// What a delete on a condition changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PruneOutcome {
    /// The VM is no more.
    Deleted(VmName),
    /// It was not stopped, and is as it was.
    Left(VmName),
}

impl Engine {
    /// Deletes a VM if it is stopped when its turn comes: one that somebody starts meanwhile is left.
    pub async fn delete_stopped(&self, vm: &str) -> Result<PruneOutcome, Error> {
        let (engine, vm) = (self.clone(), vm.to_owned());
        self.to_its_end(async move {
            let (_turn, vm) = engine.in_turn(&vm).await?;
            match engine.view(vm.clone()).await.condition {
                Condition::Stopped => {
                    let deleted = engine.delete_in_turn(vm).await?;
                    Ok(PruneOutcome::Deleted(deleted.name))
                }
                _ => Ok(PruneOutcome::Left(vm.name)),
            }
        })
        .await
    }

    /// Deletes a VM and its disks. One that runs is killed: nothing of it is kept anyway. A stop that is in progress
    /// is cut short.
    pub async fn delete(&self, vm: &str) -> Result<DeleteOutcome, Error> {
        let (engine, vm) = (self.clone(), vm.to_owned());
        self.to_its_end(async move {
            let _cut = engine.cut_stop_short(&vm).await;
            let (_turn, vm) = engine.in_turn(&vm).await?;
            engine.delete_in_turn(vm).await
        })
        .await
    }

    pub(crate) async fn delete_in_turn(&self, vm: VMRecord) -> Result<DeleteOutcome, Error> {
        let inner = &self.inner;
        let handles = inner.handles(&vm).await.unwrap_or_default();
        match inner.liveness.judge(&vm.id, handles.as_ref()).await {
            Verdict::Alive(_) => {
                self.stop_in_turn(vm.clone(), Manner::AtOnce).await?;
            }
            Verdict::CannotTell { reason } => {
                return Err(Error::CannotTell {
                    vm: vm.name,
                    reason,
                });
            }
            Verdict::Gone | Verdict::NotOurs { .. } => {
                inner.unwatch(&vm.id);
                inner.release(&vm, handles.as_ref()).await?;
            }
        }
        self.bury(&vm.id).await?;
        inner.cache.clear(&vm.id);
        tracing::info!(vm = %vm.name, "deleted");
        Ok(DeleteOutcome { name: vm.name })
    }

    /// Folder aside, row gone, folder gone: whatever a crash leaves, the next reconcile goes on with.
    pub(crate) async fn bury(&self, id: &crate::names::VmId) -> Result<(), Error> {
        let inner = &self.inner;
        let (host, places) = (inner.host(), &inner.places);
        let (folder, trash) = (places.vm(id), places.vm_trash(id));
        if host.stat(&folder).await?.is_some() {
            host.rename(&folder, &trash).await?;
        }
        inner.store.delete_vm(id).await?;
        host.remove_tree(&trash).await?;
        // A creation that was interrupted just before its end, and is not to be finished.
        let aside = places.vm_new(id);
        if host.stat(&aside).await?.is_some() {
            host.remove_tree(&aside).await?;
        }
        Ok(())
    }
}
