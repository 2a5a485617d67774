//! The backends that an engine has, by name, and what `auto` picks of them.

use std::sync::Arc;

use crate::choice::{Probe, Usable};
use crate::config::EngineConfig;
use crate::disk::{Disk, DmSnapshotDisk, FileDisk, OverlayDisk, SimDisk};
use crate::error::Error;
use crate::host::{FakeHost, Host};
use crate::names::EngineId;
use crate::network::{Network, NoNetwork, SimNetwork, TapNetwork, UserNetwork};
use crate::transport::{GuestTransport, OnPower, PowerWord, SimTransport, SshTransport};
use crate::vm::{DiskKind, Internet, Nesting, NetworkKind, VmmKind};
use crate::vmm::{EndReason, FirecrackerVmm, QemuVmm, SimVmm, Vmm};

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
            vmms: vec![Arc::new(FirecrackerVmm), Arc::new(QemuVmm::default())],
            disks: vec![
                Arc::new(OverlayDisk),
                Arc::new(DmSnapshotDisk),
                Arc::new(FileDisk),
            ],
            networks: vec![
                Arc::new(UserNetwork),
                Arc::new(TapNetwork::new(config.nat)),
                Arc::new(NoNetwork),
            ],
            transport: Arc::new(SshTransport::new(config.dial_helper.clone())),
        }
    }

    pub(crate) fn sim(host: &Arc<FakeHost>, config: &EngineConfig) -> Self {
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
            // The real ones too: what they hold in the kernel the fake host holds in memory.
            disks: vec![Arc::new(SimDisk), Arc::new(DmSnapshotDisk)],
            networks: vec![Arc::new(SimNetwork), Arc::new(TapNetwork::new(config.nat))],
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

    pub(crate) fn transport(&self) -> &Arc<dyn GuestTransport> {
        &self.transport
    }

    /// Says of every backend whether it works here, and which of them `auto` picks.
    pub(crate) async fn candidates(&self, host: &dyn Host, engine: &EngineId) -> Vec<Candidate> {
        let picked = self.choose(host, engine, &Wanted::default()).await.ok();
        let mut all = Vec::new();
        let mut add = |seam: &str, name: &str, probe: Probe, picked: bool| {
            all.push(Candidate {
                seam: seam.to_owned(),
                name: name.to_owned(),
                probe,
                picked,
            });
        };
        for vmm in &self.vmms {
            let is_picked = picked.is_some_and(|it| it.vmm == vmm.kind());
            add("vmm", vmm.kind().as_str(), vmm.probe(host).await, is_picked);
        }
        for disk in &self.disks {
            let is_picked = picked.is_some_and(|it| it.disk == disk.kind());
            add(
                "disk",
                disk.kind().as_str(),
                disk.probe(host).await,
                is_picked,
            );
        }
        for network in &self.networks {
            let (kind, probe) = (network.kind(), network.probe(host).await);
            let is_picked = picked.is_some_and(|it| it.network == kind);
            add("network", kind.as_str(), probe, is_picked);
        }
        all
    }

    /// Picks a monitor, and a disk and a network that it takes: what was asked for, which must work and
    /// fit, and for the rest the first that does.
    pub(crate) async fn choose(
        &self,
        host: &dyn Host,
        engine: &EngineId,
        wanted: &Wanted,
    ) -> Result<Chosen, Error> {
        // What is told in the end is what went wrong latest on the way.
        let mut refused = (0, unknown("monitor", "auto"));
        let mut refuse = |stage: u8, error: Error| {
            if stage >= refused.0 {
                refused = (stage, error);
            }
        };
        for vmm in one_or_all(&self.vmms, wanted.vmm, |vmm| vmm.kind(), "monitor")? {
            let probe = vmm.probe(host).await;
            if probe.usable == Usable::No {
                refuse(1, unusable("monitor", vmm.kind().as_str(), probe));
                continue;
            }
            if wanted.nesting == Nesting::Wanted {
                let probe = vmm.nests(host).await;
                if probe.usable == Usable::No {
                    let seam = "virtualisation (--nested) of the monitor";
                    refuse(1, unusable(seam, vmm.kind().as_str(), probe));
                    continue;
                }
            }
            let mut disk = None;
            for candidate in one_or_all(&self.disks, wanted.disk, |disk| disk.kind(), "root disk")?
            {
                let name = candidate.kind().as_str();
                if !vmm.takes(candidate.format()) {
                    refuse(2, unfit("root disk", name, vmm.kind()));
                    continue;
                }
                let probe = candidate.probe(host).await;
                if probe.usable == Usable::Yes {
                    disk = Some(candidate.kind());
                    break;
                }
                refuse(2, unusable("root disk", name, probe));
            }
            let Some(disk) = disk else { continue };
            for network in one_or_all(&self.networks, wanted.network, |net| net.kind(), "network")?
            {
                let kind = network.kind();
                // A VM that cannot be reached is nobody's default.
                if kind == NetworkKind::None && wanted.network.is_none() {
                    continue;
                }
                if !vmm.carries(kind) {
                    refuse(3, unfit("network", kind.as_str(), vmm.kind()));
                    continue;
                }
                let mut seam = "network";
                let mut probe = network.probe(host).await;
                if probe.usable == Usable::Yes && wanted.internet == Internet::Open {
                    seam = "way out (--nat) of the network";
                    probe = network.lets_out(host, engine).await;
                }
                if probe.usable == Usable::Yes {
                    return Ok(Chosen {
                        vmm: vmm.kind(),
                        disk,
                        network: kind,
                    });
                }
                refuse(3, unusable(seam, kind.as_str(), probe));
            }
        }
        Err(refused.1)
    }
}

/// What is wanted of each seam; none means `auto`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) vmm: Option<VmmKind>,
    pub(crate) disk: Option<DiskKind>,
    pub(crate) network: Option<NetworkKind>,
    pub(crate) internet: Internet,
    pub(crate) nesting: Nesting,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            vmm: None,
            disk: None,
            network: None,
            internet: Internet::Closed,
            nesting: Nesting::Unasked,
        }
    }
}

/// A monitor, a disk and a network that work here and fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) vmm: VmmKind,
    pub(crate) disk: DiskKind,
    pub(crate) network: NetworkKind,
}

fn one_or_all<'a, T: ?Sized, K: PartialEq + std::fmt::Display>(
    all: &'a [Arc<T>],
    wanted: Option<K>,
    kind: impl Fn(&T) -> K,
    seam: &str,
) -> Result<Vec<&'a Arc<T>>, Error> {
    let Some(wanted) = wanted else {
        return Ok(all.iter().collect());
    };
    match all.iter().find(|backend| kind(backend) == wanted) {
        Some(found) => Ok(vec![found]),
        None => Err(unknown(seam, &wanted.to_string())),
    }
}

fn unfit(seam: &str, name: &str, vmm: VmmKind) -> Error {
    Error::Unusable {
        what: format!("the {seam} {name}"),
        reason: format!("the monitor {vmm} does not take it"),
        hint: Some(format!("choose another {seam}, another monitor, or auto")),
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
