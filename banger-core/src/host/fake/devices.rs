//! Snapshots and namespaces of a fake host: kept in memory, and they outlive the engine, as real ones do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;

use super::plan::Needs;
use super::uplinks::Ways;
use super::{FakeHost, HostError, Result};
use crate::host::devices::{
    DeviceList, DeviceRemoval, Devices, LoopFacts, SnapshotDevice, SnapshotFacts, SnapshotSpec,
    SnapshotState,
};
use crate::host::spaces::{Spaces, TapSpec};

/// What the kernel of a fake host holds.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    snapshots: BTreeMap<String, Snapshot>,
    /// Each with the taps in it.
    namespaces: BTreeMap<String, BTreeSet<String>>,
    pub(super) ways: Ways,
    /// How many more removals meet somebody who has the device open.
    busy: usize,
    lost: BTreeSet<String>,
    next: u32,
}

#[derive(Debug)]
struct Snapshot {
    uuid: String,
    /// None for one that was half made.
    table: Option<Table>,
}

#[derive(Debug)]
struct Table {
    device: String,
    /// Device and label.
    loops: [(String, String); 2],
}

impl FakeHost {
    /// Lets the next removals of a snapshot meet somebody who looks at the device, as udev does.
    pub fn snapshots_are_busy(&self, removals: usize) {
        self.inner().kernel.busy = removals;
    }

    /// Lets a snapshot lose a write, as it does when the file system of its layer is full.
    pub fn lose_snapshot(&self, name: &str) {
        self.inner().kernel.lost.insert(name.to_owned());
    }

    /// Refuses to enter a namespace that there is not.
    pub(super) fn enter(&self, namespace: &str) -> Result<()> {
        match self.look(|inner| inner.kernel.namespaces.contains_key(namespace))? {
            true => Ok(()),
            false => Err(refused("enter", namespace)),
        }
    }

    /// Returns the names of the snapshots, namespaces, uplinks, tables and scopes that there are, of
    /// whatever engine.
    pub fn held(&self) -> Vec<String> {
        let inner = self.inner();
        let snapshots = inner.kernel.snapshots.keys();
        let all = snapshots.chain(inner.kernel.namespaces.keys());
        let ways = &inner.kernel.ways;
        let all = all.chain(ways.uplinks.keys()).chain(&ways.tables);
        all.chain(inner.systemd.names()).cloned().collect()
    }
}

#[async_trait]
impl Devices for FakeHost {
    async fn snapshot_support(&self) -> std::result::Result<(), String> {
        Ok(())
    }

    async fn make_snapshot(&self, spec: &SnapshotSpec) -> Result<SnapshotDevice> {
        let half = || {
            let (uuid, table) = (spec.uuid.clone(), None);
            let snapshot = Snapshot { uuid, table };
            let snapshots = &mut self.inner().kernel.snapshots;
            snapshots.entry(spec.name.clone()).or_insert(snapshot);
        };
        let call = "make snapshot".to_owned();
        self.act_in_steps(Needs::Nothing, call, Some(half), || {
            let kernel = &mut self.inner().kernel;
            let failed = |source: io::ErrorKind| HostError::Device {
                act: "make the device-mapper target",
                device: spec.name.clone(),
                source: source.into(),
            };
            if kernel.snapshots.contains_key(&spec.name) {
                return Err(failed(io::ErrorKind::ResourceBusy));
            }
            for file in [&spec.base, &spec.layer] {
                if !file.exists() {
                    return Err(failed(io::ErrorKind::NotFound));
                }
            }
            let number = kernel.next;
            kernel.next += 2;
            let made = SnapshotDevice {
                device: format!("/dev/dm-{number}"),
                base_loop: format!("/dev/loop{number}"),
                layer_loop: format!("/dev/loop{}", number + 1),
            };
            let loops = [
                (made.base_loop.clone(), spec.base_label.clone()),
                (made.layer_loop.clone(), spec.layer_label.clone()),
            ];
            let table = Table {
                device: made.device.clone(),
                loops,
            };
            let snapshot = Snapshot {
                uuid: spec.uuid.clone(),
                table: Some(table),
            };
            kernel.snapshots.insert(spec.name.clone(), snapshot);
            Ok(made)
        })
    }

    async fn remove_snapshot(&self, name: &str) -> Result<DeviceRemoval> {
        // One that is not there is looked for, and nothing is changed.
        if !self.look(|inner| inner.kernel.snapshots.contains_key(name))? {
            return Ok(DeviceRemoval::AlreadyGone);
        }
        self.act(Needs::Nothing, "remove snapshot".to_owned(), || {
            let mut inner = self.inner();
            let inner = &mut *inner;
            let Some(snapshot) = inner.kernel.snapshots.get(name) else {
                return Ok(DeviceRemoval::AlreadyGone);
            };
            let opened = snapshot.table.as_ref().is_some_and(|table| {
                let mut living = inner.processes.values().filter(|p| p.end.is_none());
                living.any(|p| p.command_line.split(' ').any(|word| word == table.device))
            });
            if opened || inner.kernel.busy > 0 {
                inner.kernel.busy = inner.kernel.busy.saturating_sub(1);
                return Ok(DeviceRemoval::Busy);
            }
            inner.kernel.snapshots.remove(name);
            Ok(DeviceRemoval::Removed)
        })
    }

    async fn snapshot_state(&self, name: &str) -> Result<Option<SnapshotState>> {
        self.look(|inner| {
            let kernel = &inner.kernel;
            let snapshot = kernel.snapshots.get(name)?;
            let lost = kernel.lost.contains(name) || snapshot.table.is_none();
            Some(match lost {
                true => SnapshotState::Lost,
                false => SnapshotState::Healthy {
                    used: 16,
                    total: 2048,
                },
            })
        })
    }

    async fn list_devices(&self, name_prefix: &str, label_prefix: &str) -> Result<DeviceList> {
        self.look(|inner| {
            let mut found = DeviceList::default();
            for (name, snapshot) in &inner.kernel.snapshots {
                if name.starts_with(name_prefix) {
                    found.snapshots.push(SnapshotFacts {
                        name: name.clone(),
                        uuid: snapshot.uuid.clone(),
                        device: snapshot
                            .table
                            .as_ref()
                            .map_or_else(|| "/dev/dm-9".to_owned(), |table| table.device.clone()),
                    });
                }
                for (device, label) in snapshot.table.iter().flat_map(|table| &table.loops) {
                    if label.starts_with(label_prefix) {
                        found.loops.push(LoopFacts {
                            device: device.clone(),
                            label: label.clone(),
                        });
                    }
                }
            }
            found.loops.sort();
            found
        })
    }
}

#[async_trait]
impl Spaces for FakeHost {
    async fn tap_support(&self) -> std::result::Result<(), String> {
        Ok(())
    }

    async fn make_namespace(&self, name: &str) -> Result<()> {
        let call = "make namespace".to_owned();
        self.act(Needs::Nothing, call, || {
            let namespaces = &mut self.inner().kernel.namespaces;
            if namespaces.contains_key(name) {
                return Err(refused("make the network namespace", name));
            }
            namespaces.insert(name.to_owned(), BTreeSet::new());
            Ok(())
        })
    }

    async fn make_tap(&self, namespace: &str, tap: &TapSpec) -> Result<()> {
        self.act(Needs::Nothing, format!("make tap {}", tap.name), || {
            let mut inner = self.inner();
            let taps = inner.kernel.namespaces.get_mut(namespace);
            if taps.is_some_and(|taps| taps.insert(tap.name.clone())) {
                return Ok(());
            }
            Err(refused("make a tap in", namespace))
        })
    }

    async fn remove_namespace(&self, name: &str) -> Result<()> {
        if !self.look(|inner| inner.kernel.namespaces.contains_key(name))? {
            return Ok(());
        }
        let call = "remove namespace".to_owned();
        self.act(Needs::Nothing, call, || {
            let kernel = &mut self.inner().kernel;
            kernel.namespaces.remove(name);
            kernel.ways.lose_namespace(name);
            Ok(())
        })
    }

    async fn list_namespaces(&self, prefix: &str) -> Result<Vec<String>> {
        self.look(|inner| {
            let names = inner.kernel.namespaces.keys();
            names.filter(|n| n.starts_with(prefix)).cloned().collect()
        })
    }

    async fn list_pins(&self, prefix: &str) -> Result<Vec<PathBuf>> {
        let names = self.list_namespaces(prefix).await?;
        let pinned = Path::new("/run/netns");
        Ok(names.iter().map(|name| pinned.join(name)).collect())
    }

    async fn connect_in(&self, name: &str, _: SocketAddrV4, _: Duration) -> Result<TcpStream> {
        // Nobody listens in a simulated guest: it is talked to by other means.
        self.look(|_| Err(refused("dial in", name)))?
    }
}

fn refused(act: &'static str, what: &str) -> HostError {
    HostError::Device {
        act,
        device: what.to_owned(),
        source: io::ErrorKind::ConnectionRefused.into(),
    }
}
