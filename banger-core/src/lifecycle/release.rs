//! Giving everything back: a list keyed by name, which can be repeated and never stops at a failure.

use std::sync::Arc;

use jiff::Timestamp;

use crate::engine::{Inner, remove_temporaries};
use crate::error::Error;
use crate::handles::{HandlesFile, VMHandles, read_handles_file, remove_handles_file};
use crate::host::BootId;
use crate::liveness::{Promise, VMState};
use crate::marks::Marks;
use crate::names::{RunId, VmId};
use crate::vm::VMRecord;

impl Inner {
    /// Returns a VM's handles: from memory, else from the file, else none.
    pub(crate) async fn handles(&self, vm: &VMRecord) -> Result<Option<VMHandles>, Error> {
        if let Some(handles) = self.cache.get(&vm.id) {
            return Ok(Some(handles));
        }
        match read_handles_file(self.host(), &vm.runtime.vm_dir).await? {
            HandlesFile::Found(handles) => Ok(Some(*handles)),
            HandlesFile::Missing => Ok(None),
            HandlesFile::SetAside { path, reason } => {
                tracing::warn!(vm = %vm.name, path = %path.display(), %reason, "set a damaged handles file aside");
                Ok(None)
            }
        }
    }

    /// Plans the handles of a run: every name that it will hold.
    pub(crate) fn planned(&self, vm: &VMRecord, run: RunId, boot: BootId) -> VMHandles {
        let mut handles = VMHandles {
            ssh_control: Some(self.places.ssh_control(&vm.id)),
            ..VMHandles::planned(run, boot, vm.runtime.api_sock_path.clone())
        };
        let marks = self.marks(&vm.id);
        if let Ok(disk) = self.backends.disk(vm.spec.disk) {
            disk.plan(&marks, &mut handles);
        }
        if let Ok(network) = self.backends.network(vm.spec.network) {
            network.plan(&marks, vm.spec.internet, &mut handles);
        }
        handles
    }

    /// Returns the names of what a VM holds in the kernel.
    pub(crate) fn marks(&self, vm: &VmId) -> Marks {
        Marks::of(&self.id, vm)
    }

    /// Releases all that a VM's run held. Its monitor must be known to be gone.
    pub(crate) async fn release(
        &self,
        vm: &VMRecord,
        handles: Option<&VMHandles>,
    ) -> Result<(), Error> {
        let host = self.host();
        let mut failures = Vec::new();
        let mut note = |what: &str, done: Result<(), Error>| {
            if let Err(error) = done {
                failures.push(format!("{what}: {}", error.chain().join(": ")));
            }
        };
        let target = self.target(vm, handles);
        let transport = self.backends.transport();
        note(
            "ssh",
            transport
                .disconnect(host, &target)
                .await
                .map_err(Into::into),
        );
        // By its name, whatever is written: a scope that was made and not recorded is one too.
        let scope = self.marks(&vm.id).scope();
        note("scope", host.remove_scope(&scope).await.map_err(Into::into));
        // Without handles by the names that they would have: a lost file costs no truth.
        let derived;
        let handles = match handles {
            Some(handles) => handles,
            None => {
                derived = self.planned(vm, RunId::from_random([0; 8]), BootId(String::new()));
                &derived
            }
        };
        if let Ok(network) = self.backends.network(vm.spec.network) {
            note(
                "network",
                network.release(host, handles).await.map_err(Into::into),
            );
        }
        if let Ok(disk) = self.backends.disk(vm.spec.disk) {
            note("disk", disk.detach(host, handles).await.map_err(Into::into));
        }
        note(
            "runtime folder",
            host.remove_tree(&self.places.run(&vm.id))
                .await
                .map_err(Into::into),
        );
        if failures.is_empty() {
            return Ok(());
        }
        Err(Error::Teardown {
            vm: vm.name.clone(),
            failures,
        })
    }

    /// Releases, then promises `stopped`, then forgets the handles: in this order, because a crash in
    /// between must leave the file to tell the next engine what may still be held.
    pub(crate) async fn release_and_mark_stopped(
        self: &Arc<Self>,
        vm: VMRecord,
        reason: &str,
    ) -> Result<VMRecord, Error> {
        self.unwatch(&vm.id);
        let handles = self.handles(&vm).await?;
        if let Err(cause) = self.release(&vm, handles.as_ref()).await {
            self.mark(vm, VMState::Error, |runtime| {
                runtime.run_id = None;
                runtime.last_error = Some(cause.to_string());
            })
            .await?;
            return Err(cause);
        }
        let vm = self
            .mark(vm, VMState::Stopped, |runtime| {
                runtime.run_id = None;
                runtime.last_error = None;
                runtime.stop_reason = Some(reason.to_owned());
            })
            .await?;
        self.forget_handles(&vm).await?;
        // Last: it only writes down what became of the sessions, and whoever asks later can do so too.
        self.settle_sessions(&vm).await;
        Ok(vm)
    }

    /// Removes a VM's handles, the last act of a teardown, and what an interrupted write left beside them.
    pub(crate) async fn forget_handles(&self, vm: &VMRecord) -> Result<(), Error> {
        let (host, folder) = (self.host(), &vm.runtime.vm_dir);
        remove_temporaries(host, folder).await?;
        remove_handles_file(host, folder).await?;
        self.cache.clear(&vm.id);
        Ok(())
    }

    /// Writes a new promise to the row.
    pub(crate) async fn mark(
        &self,
        mut vm: VMRecord,
        state: VMState,
        change: impl FnOnce(&mut crate::vm::VMRuntime),
    ) -> Result<VMRecord, Error> {
        vm.runtime.state = Promise::of(state);
        self.note(vm, change).await
    }

    /// Writes to the row and leaves the promise as it is.
    pub(crate) async fn note(
        &self,
        mut vm: VMRecord,
        change: impl FnOnce(&mut crate::vm::VMRuntime),
    ) -> Result<VMRecord, Error> {
        change(&mut vm.runtime);
        vm.updated_at = Timestamp::now();
        self.store.update_vm(&vm).await?;
        Ok(vm)
    }
}
