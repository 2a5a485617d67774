//! What a VM uses of the host.

use std::time::Duration;

use crate::engine::Engine;
use crate::error::Error;
use crate::liveness::{Condition, Verdict};
use crate::names::{Mebibytes, VmId, VmName};

/// What a VM uses of the host now.
#[derive(Clone, Debug, PartialEq)]
pub struct VmStats {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// How it is.
    pub condition: Condition,
    /// What its monitor uses; none if it does not run.
    pub monitor: Option<MonitorStats>,
    /// What its writes over the image take, in bytes.
    pub root_disk_bytes: u64,
    /// What its own disk takes, in bytes.
    pub work_disk_bytes: u64,
    /// What its own disk may take.
    pub work_disk: Mebibytes,
}

/// What a monitor uses, its guest included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorStats {
    /// Processor time since the start.
    pub cpu: Duration,
    /// Memory, in bytes.
    pub resident_bytes: u64,
    /// The time since the start.
    pub uptime: Duration,
}

impl Engine {
    /// Says what a VM uses of the host.
    pub async fn stats(&self, vm: &str) -> Result<VmStats, Error> {
        let vm = self.lookup(vm).await?;
        let inner = &self.inner;
        let condition = self.view(vm.clone()).await.condition;
        let mut monitor = None;
        if condition.has_monitor() {
            let handles = inner.handles(&vm).await?;
            if let Verdict::Alive(alive) = inner.liveness.judge(&vm.id, handles.as_ref()).await {
                monitor = inner
                    .liveness
                    .usage(&alive)
                    .await?
                    .map(|usage| MonitorStats {
                        cpu: usage.cpu,
                        resident_bytes: usage.resident_bytes,
                        uptime: usage.age,
                    });
            }
        }
        let takes = async |path| -> Result<u64, Error> {
            let facts = inner.host().stat(path).await?;
            Ok(facts.map_or(0, |facts| facts.allocated_bytes))
        };
        Ok(VmStats {
            root_disk_bytes: takes(&vm.runtime.system_overlay).await?,
            work_disk_bytes: takes(&vm.runtime.work_disk_path).await?,
            work_disk: vm.spec.work_disk,
            id: vm.id,
            name: vm.name,
            condition,
            monitor,
        })
    }
}
