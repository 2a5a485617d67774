//! Looking: which VMs there are, and how they are. Takes nobody's turn.

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::engine::{Engine, lock};
use crate::error::Error;
use crate::handles::VMHandles;
use crate::liveness::Condition;
use crate::names::VmId;
use crate::vm::VMRecord;
use crate::watch::STEADY;
use crate::workspace::Workspace;

/// A VM as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    /// What it is.
    #[serde(flatten)]
    pub vm: VMRecord,
    /// How it is.
    pub condition: Condition,
    /// Why its guest stands still, if it is paused.
    pub paused: Option<String>,
    /// What is held for it now.
    pub handles: Option<VMHandles>,
    /// What was last carried into it.
    pub workspace: Option<Workspace>,
}

impl Engine {
    /// Finds a VM by its name, or by at least four first digits of its id.
    pub async fn lookup(&self, vm: &str) -> Result<VMRecord, Error> {
        let store = &self.inner.store;
        if let Some(found) = store.vm_named(vm).await? {
            return Ok(found);
        }
        let is_prefix = vm.len() >= 4 && vm.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found = match is_prefix {
            true => store.vms_with_prefix(&vm.to_ascii_lowercase()).await?,
            false => Vec::new(),
        };
        match (found.pop(), found.is_empty()) {
            (Some(found), true) => Ok(found),
            (Some(_), false) => Err(Error::AmbiguousId {
                prefix: vm.to_owned(),
            }),
            (None, _) => Err(Error::NoSuchVm {
                name: vm.to_owned(),
            }),
        }
    }

    /// Waits for the turn of the VM that bears this name, and returns it as it then is. While we waited it
    /// may have been deleted and another made under its name: then that one's turn is waited for.
    pub(crate) async fn in_turn(&self, vm: &str) -> Result<(OwnedMutexGuard<()>, VMRecord), Error> {
        loop {
            let meant = self.lookup(vm).await?;
            let turn = self.inner.turn(&meant.id).await;
            let now = self.lookup(vm).await?;
            if now.id == meant.id {
                return Ok((turn, now));
            }
        }
    }

    /// Lists every VM by name. Liveness is asked only of those that were promised to run.
    pub async fn list(&self) -> Result<Vec<VmView>, Error> {
        self.views(self.inner.store.vms().await?).await
    }

    /// Lists by name those that were promised to run, whether they do or have just ended, and those that are about to be
    /// started again: what it takes does not grow with those that rest.
    pub async fn list_running(&self) -> Result<Vec<VmView>, Error> {
        let mut vms = self.inner.store.promised_to_run().await?;
        let restarting: Vec<VmId> = lock(&self.inner.restarting).iter().cloned().collect();
        for id in restarting {
            // One that runs already is in the list.
            if let Some(vm) = self.inner.store.vm(&id).await?
                && vm.runtime.restart_at.is_some()
                && vms.iter().all(|listed| listed.id != id)
            {
                vms.push(vm);
            }
        }
        vms.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        self.views(vms).await
    }

    async fn views(&self, vms: Vec<VMRecord>) -> Result<Vec<VmView>, Error> {
        let mut views = Vec::new();
        let mut workspaces = self.inner.store.workspaces().await?;
        for vm in vms {
            let workspace = workspaces.remove(vm.id.as_str());
            let view = self.view(vm).await;
            views.push(VmView { workspace, ..view });
        }
        Ok(views)
    }

    /// Shows one VM.
    pub async fn show(&self, vm: &str) -> Result<VmView, Error> {
        let vm = self.lookup(vm).await?;
        let workspace = self.inner.store.workspace(&vm.id).await?;
        let view = self.view(vm).await;
        Ok(VmView { workspace, ..view })
    }

    /// Returns at most the last `limit` bytes of a VM's serial console.
    pub async fn console_tail(&self, vm: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let vm = self.lookup(vm).await?;
        Ok(self
            .inner
            .host()
            .read_tail(&vm.runtime.log_path, limit)
            .await?)
    }

    /// How a VM is, without its workspace.
    pub(crate) async fn view(&self, mut vm: VMRecord) -> VmView {
        let inner = &self.inner;
        let handles = inner.cache.get(&vm.id);
        let mut condition = inner
            .liveness
            .condition(&vm.id, &vm.runtime.state, handles.as_ref())
            .await;
        let mut paused = None;
        if condition == Condition::Stopped
            && vm.runtime.restart_at.is_some()
            && inner.is_restarting(&vm.id)
        {
            condition = Condition::Restarting;
        }
        if condition == Condition::Running
            && let Some(live) = inner.live(&vm.id)
        {
            if live.has_run_for(STEADY) {
                // Its next restart is the first again.
                vm.runtime.restarts = 0;
            }
            live.known_soon().await;
            if !live.answers() {
                condition = Condition::Unresponsive;
            } else if let Some(reason) = live.paused() {
                condition = Condition::Paused;
                paused = Some(reason.to_string());
            }
        }
        if condition.has_monitor()
            && let Some(trouble) = self.disk_trouble(&vm, handles.as_ref()).await
        {
            // Seen now, not stored: the guest has only begun to notice.
            vm.runtime.last_error = Some(trouble);
        }
        VmView {
            vm,
            condition,
            paused,
            handles,
            workspace: None,
        }
    }

    /// Says what is wrong with the disks of a VM that runs: as the host shows it, or as its monitor has told.
    async fn disk_trouble(&self, vm: &VMRecord, handles: Option<&VMHandles>) -> Option<String> {
        let inner = &self.inner;
        if let Some(handles) = handles
            && let Ok(disk) = inner.backends.disk(vm.spec.disk)
            && let Some(trouble) = disk.trouble(inner.host(), handles).await
        {
            return Some(trouble);
        }
        inner.live(&vm.id)?.disk_error()
    }
}
