//! The methods that say what machines use, and change what they are.

use banger_core::{Error, Mebibytes, SetOutcome, SetRequest, VmStats};

use super::fault::Fault;
use super::methods::Operation;
use crate::protocol::{ChangeAnswer, SetParams, StatsAnswer, StatsParams, VmUsage};

impl Operation {
    pub(super) async fn stats(&self, params: StatsParams) -> Result<StatsAnswer, Fault> {
        let engine = self.engine();
        let mut vms = Vec::new();
        for vm in &params.vms {
            vms.push(engine.stats(vm).await?.into());
        }
        if params.vms.is_empty() {
            for view in engine.list().await? {
                if !view.condition.has_monitor() {
                    continue;
                }
                match engine.stats(view.vm.id.as_str()).await {
                    Ok(stats) => vms.push(stats.into()),
                    // It was deleted meanwhile.
                    Err(Error::NoSuchVm { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(StatsAnswer { vms })
    }

    pub(super) async fn set(&self, params: SetParams) -> Result<ChangeAnswer, Fault> {
        let request = SetRequest {
            vcpus: params.vcpus,
            memory: params.memory_mib.map(Mebibytes),
            work_disk: params.work_disk_mib.map(Mebibytes),
            labels: params.labels,
            keep: params.keep,
        };
        let outcome = self.engine().set(&params.vm, request).await?;
        let word = match &outcome {
            SetOutcome::Changed(_) => "changed",
            SetOutcome::AlreadySo(_) => "already_so",
        };
        Ok(ChangeAnswer {
            outcome: word.to_owned(),
            detail: None,
            name: outcome.vm().name.to_string(),
            vm: Some(self.engine().show(outcome.vm().id.as_str()).await?.into()),
        })
    }
}

impl From<VmStats> for VmUsage {
    fn from(stats: VmStats) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        VmUsage {
            id: stats.id.to_string(),
            name: stats.name.to_string(),
            state: stats.condition.to_string(),
            cpu_ms: stats.monitor.map(|monitor| ms(monitor.cpu)),
            memory_bytes: stats.monitor.map(|monitor| monitor.resident_bytes),
            uptime_ms: stats.monitor.map(|monitor| ms(monitor.uptime)),
            root_disk_bytes: stats.root_disk_bytes,
            work_disk_bytes: stats.work_disk_bytes,
            work_disk_mib: stats.work_disk.0,
        }
    }
}
