//! What the VMs of this engine hold beside processes and files: scopes, snapshots, loop devices, namespaces,
//! ways out of them and the firewall's rules for these.
//! Found by their names alone, so that nothing that was written down has to be there.

use super::look::{Act, Found};
use super::{Grip, ObjectKind, Owner};
use crate::engine::Inner;
use crate::error::Error;
use crate::marks::{
    Marks, dm_prefix, label_prefix, namespace_prefix, scope_prefix, table_prefix, uplink_prefix,
    vm_in,
};
use crate::names::{EngineId, VmId};

/// Everything of this engine that was found, each with the VM that it is named after.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    engine: EngineId,
    objects: Vec<(VmId, ObjectKind, String)>,
}

impl Held {
    fn marks(&self, vm: &VmId) -> Marks {
        Marks::of(&self.engine, vm)
    }

    /// Returns the VMs that hold something.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &VmId> {
        self.objects.iter().map(|(vm, ..)| vm)
    }

    /// Returns what one VM holds.
    pub(super) fn found(&self, vm: &VmId, owner: &Owner) -> Vec<Found> {
        let of_vm = self.objects.iter().filter(|(holder, ..)| holder == vm);
        let found = of_vm.map(|(_, kind, name)| {
            let act = match kind {
                ObjectKind::DeviceMapperTarget => Act::RemoveSnapshot(name.clone()),
                ObjectKind::NetworkNamespace => Act::RemoveNamespace(name.clone()),
                ObjectKind::CgroupScope => Act::RemoveScope(name.clone()),
                // With the pin goes the name, if that is not gone already.
                ObjectKind::Mount => Act::RemoveNamespace(last_of(name)),
                ObjectKind::Veth => Act::RemoveUplink {
                    name: name.clone(),
                    owner: self.marks(vm).namespace(),
                },
                ObjectKind::NftTable => Act::RemoveTable(name.clone()),
                // A loop device goes with the target over it, a tap with its namespace.
                _ => Act::Nothing,
            };
            Found::new(
                *kind,
                Grip::Name(name.clone()),
                Some(vm),
                owner.clone(),
                act,
            )
        });
        found.collect()
    }
}

impl Inner {
    /// Looks for what any VM of this engine holds.
    pub(crate) async fn held(&self) -> Result<Held, Error> {
        let host = self.host();
        let mut objects = Vec::new();
        // Order matters here: what runs in a scope may hold the others.
        for name in host.list_scopes(&scope_prefix(&self.id)).await? {
            if let Some(vm) = vm_in(&name) {
                objects.push((vm, ObjectKind::CgroupScope, name));
            }
        }
        let devices = host
            .list_devices(&dm_prefix(&self.id), &label_prefix(&self.id))
            .await?;
        for snapshot in devices.snapshots {
            if let Some(vm) = vm_in(&snapshot.uuid) {
                objects.push((vm, ObjectKind::DeviceMapperTarget, snapshot.name));
            }
        }
        for device in devices.loops {
            if let Some(vm) = vm_in(&device.label) {
                objects.push((vm, ObjectKind::LoopDevice, device.device));
            }
        }
        // Order matters here, as it does where they are removed: an uplink goes before what holds it, and
        // the rules that keep it from the host go after it.
        for uplink in host.list_uplinks(&uplink_prefix(&self.id)).await? {
            if let Some(vm) = vm_in(&uplink.owner) {
                objects.push((vm, ObjectKind::Veth, uplink.name));
            }
        }
        for name in host.list_namespaces(&namespace_prefix(&self.id)).await? {
            if let Some(vm) = vm_in(&name) {
                objects.push((vm, ObjectKind::NetworkNamespace, name));
            }
        }
        for pin in host.list_pins(&namespace_prefix(&self.id)).await? {
            let path = pin.to_string_lossy().into_owned();
            if let Some(vm) = vm_in(&last_of(&path)) {
                objects.push((vm, ObjectKind::Mount, path));
            }
        }
        for name in host.list_tables(&table_prefix(&self.id)).await? {
            if let Some(vm) = vm_in(&name) {
                objects.push((vm, ObjectKind::NftTable, name));
            }
        }
        Ok(Held {
            engine: self.id.clone(),
            objects,
        })
    }

    /// Removes what a VM without a record holds. Its monitor must be known to be gone.
    pub(crate) async fn remove_held(&self, vm: &VmId) -> Result<(), Error> {
        let host = self.host();
        for (holder, kind, name) in self.held().await?.objects {
            if holder != *vm {
                continue;
            }
            match kind {
                ObjectKind::DeviceMapperTarget => crate::disk::remove_snapshot(host, &name).await?,
                ObjectKind::NetworkNamespace => host.remove_namespace(&name).await?,
                ObjectKind::CgroupScope => host.remove_scope(&name).await?,
                ObjectKind::Mount => host.remove_namespace(&last_of(&name)).await?,
                ObjectKind::Veth => {
                    let owner = self.marks(vm).namespace();
                    host.remove_uplink(&name, &owner).await?;
                }
                ObjectKind::NftTable => host.remove_table(&name).await?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The name of a namespace, from the path of its pin.
fn last_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}
