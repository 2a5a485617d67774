//! The backends that an engine has, by name, and what `auto` picks of them.

use std::sync::Arc;

use crate::choice::{Probe, Usable};
use crate::config::EngineConfig;
use crate::disk::{Disk, FileDisk, OverlayDisk, SimDisk};
use crate::error::Error;
use crate::host::{FakeHost, Host};
use crate::inventory::ObjectKind;
use crate::network::{Network, NoNetwork, SimNetwork, UserNetwork};
use crate::transport::{GuestTransport, OnPower, PowerWord, SimTransport, SshTransport};
use crate::vm::{DiskKind, NetworkKind, VmmKind};
use crate::vmm::{EndReason, QemuVmm, SimVmm, Vmm};

/// Each list is in the order in which `auto` prefers them.
#[derive(Debug)]
pub(crate) struct Backends {
    vmms: Vec<Arc<dyn Vmm>>,
    disks: Vec<Arc<dyn Disk>>,
    networks: Vec<Arc<dyn Network>>,
    transport: Arc<dyn GuestTransport>,
}

/// One candidate, as the doctor shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Candidate {
    /// `vmm`, `disk` or `network`.
    pub seam: String,
    /// Its name.
    pub name: String,
    /// Whether it works here, and why (not).
    pub probe: Probe,
    /// Whether `auto` picks it.
    pub picked: bool,
}

impl Backends {
    pub(crate) fn real(config: &EngineConfig) -> Self {
        Backends {
            vmms: vec![Arc::new(QemuVmm)],
            disks: vec![Arc::new(OverlayDisk), Arc::new(FileDisk)],
            networks: vec![Arc::new(UserNetwork), Arc::new(NoNetwork)],
            transport: Arc::new(SshTransport::new(config.dial_helper.clone())),
        }
    }

    pub(crate) fn sim(host: &Arc<FakeHost>) -> Self {
        let vmm = SimVmm::over(host);
        let guests = host.guests();
        // Not a full grip: the host keeps its guests, and through this they would keep the host.
        let (power, host) = (vmm.power(), Arc::downgrade(host));
        let on_power: OnPower = Arc::new(move |vm, word| {
            let reason = match word {
                PowerWord::Off => EndReason::PoweredOff,
                PowerWord::Reboot => EndReason::Rebooted,
            };
            if let Some(host) = host.upgrade() {
                power.end(&host, &vm, reason);
            }
        });
        Backends {
            vmms: vec![Arc::new(vmm)],
            disks: vec![Arc::new(SimDisk)],
            networks: vec![Arc::new(SimNetwork)],
            transport: Arc::new(SimTransport::over(guests, on_power)),
        }
    }

    /// Says whether nothing here is real: then images are not needed either.
    pub(crate) fn simulated(&self) -> bool {
        self.vmms.iter().all(|vmm| vmm.kind() == VmmKind::Sim)
    }

    pub(crate) fn vmm(&self, kind: VmmKind) -> Result<&Arc<dyn Vmm>, Error> {
        let found = self.vmms.iter().find(|vmm| vmm.kind() == kind);
        found.ok_or_else(|| unknown("monitor", kind.as_str()))
    }

    pub(crate) fn disk(&self, kind: DiskKind) -> Result<&Arc<dyn Disk>, Error> {
        let found = self.disks.iter().find(|disk| disk.kind() == kind);
        found.ok_or_else(|| unknown("disk", kind.as_str()))
    }

    pub(crate) fn network(&self, kind: NetworkKind) -> Result<&Arc<dyn Network>, Error> {
        let found = self.networks.iter().find(|network| network.kind() == kind);
        found.ok_or_else(|| unknown("network", kind.as_str()))
    }

    /// Says whether any of them can leave an object of this kind on the host.
    pub(crate) fn hold(&self, kind: ObjectKind) -> bool {
        let vmms = self.vmms.iter().map(|vmm| vmm.holds());
        let disks = self.disks.iter().map(|disk| disk.holds());
        let networks = self.networks.iter().map(|network| network.holds());
        let all = vmms.chain(disks).chain(networks);
        let mut all = all.chain([self.transport.holds()]);
        all.any(|kinds| kinds.contains(&kind))
    }

    pub(crate) fn transport(&self) -> &Arc<dyn GuestTransport> {
        &self.transport
    }

    /// Says of every backend whether it works here, and which of them `auto` picks.
    pub(crate) async fn candidates(&self, host: &dyn Host) -> Vec<Candidate> {
        let mut all = Vec::new();
        let mut add = |seam: &str, probes: Vec<(&'static str, Probe)>| {
            let mut free = true;
            for (name, probe) in probes {
                let picked = free && probe.usable == Usable::Yes;
                free &= !picked;
                all.push(Candidate {
                    seam: seam.to_owned(),
                    name: name.to_owned(),
                    probe,
                    picked,
                });
            }
        };
        let mut probes = Vec::new();
        for vmm in &self.vmms {
            probes.push((vmm.kind().as_str(), vmm.probe(host).await));
        }
        add("vmm", std::mem::take(&mut probes));
        for disk in &self.disks {
            probes.push((disk.kind().as_str(), disk.probe(host).await));
        }
        add("disk", std::mem::take(&mut probes));
        for network in &self.networks {
            probes.push((network.kind().as_str(), network.probe(host).await));
        }
        add("network", probes);
        all
    }

    /// Picks the monitor: the one asked for, which must work, or the first that does.
    pub(crate) async fn choose_vmm(
        &self,
        host: &dyn Host,
        asked: Option<VmmKind>,
    ) -> Result<VmmKind, Error> {
        let candidates = match asked {
            Some(kind) => std::slice::from_ref(self.vmm(kind)?),
            None => &self.vmms[..],
        };
        let mut refused = None;
        for vmm in candidates {
            let probe = vmm.probe(host).await;
            if probe.usable == Usable::Yes {
                return Ok(vmm.kind());
            }
            refused.get_or_insert_with(|| unusable("monitor", vmm.kind().as_str(), probe));
        }
        Err(refused.unwrap_or_else(|| unknown("monitor", "auto")))
    }

    /// Picks the root disk, likewise.
    pub(crate) async fn choose_disk(
        &self,
        host: &dyn Host,
        asked: Option<DiskKind>,
    ) -> Result<DiskKind, Error> {
        let candidates = match asked {
            Some(kind) => std::slice::from_ref(self.disk(kind)?),
            None => &self.disks[..],
        };
        let mut refused = None;
        for disk in candidates {
            let probe = disk.probe(host).await;
            if probe.usable == Usable::Yes {
                return Ok(disk.kind());
            }
            refused.get_or_insert_with(|| unusable("disk", disk.kind().as_str(), probe));
        }
        Err(refused.unwrap_or_else(|| unknown("disk", "auto")))
    }

    /// Picks the network, likewise.
    pub(crate) async fn choose_network(
        &self,
        host: &dyn Host,
        asked: Option<NetworkKind>,
    ) -> Result<NetworkKind, Error> {
        let candidates = match asked {
            Some(kind) => std::slice::from_ref(self.network(kind)?),
            None => &self.networks[..],
        };
        let mut refused = None;
        for network in candidates {
            let probe = network.probe(host).await;
            if probe.usable == Usable::Yes {
                return Ok(network.kind());
            }
            refused.get_or_insert_with(|| unusable("network", network.kind().as_str(), probe));
        }
        Err(refused.unwrap_or_else(|| unknown("network", "auto")))
    }
}

fn unusable(seam: &str, name: &str, probe: Probe) -> Error {
    Error::Unusable {
        what: format!("the {seam} {name}"),
        reason: probe.reason,
        hint: probe.hint,
    }
}

fn unknown(seam: &str, name: &str) -> Error {
    Error::Unusable {
        what: format!("the {seam} {name}"),
        reason: "this engine has none of that name".to_owned(),
        hint: Some("banger doctor shows what there is".to_owned()),
    }
}
