//! The names of what a VM holds in the kernel, which the whole host shares: each carries the engine's id
//! and the VM's, so that its owner can be read from it, and so that it can be removed by a name alone.

use crate::names::{EngineId, VmId};

/// The names of one VM of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    engine: EngineId,
    vm: VmId,
}

impl Marks {
    /// Derives the names of a VM.
    pub fn of(engine: &EngineId, vm: &VmId) -> Self {
        Marks {
            engine: engine.clone(),
            vm: vm.clone(),
        }
    }

    /// The name of its device-mapper target.
    pub fn dm_name(&self) -> String {
        format!("{}{}", dm_prefix(&self.engine), self.vm.short())
    }

    /// The uuid of its device-mapper target.
    pub fn dm_uuid(&self) -> String {
        format!("BANGER-{}-{}", self.engine, self.vm)
    }

    /// The label of its loop device on the image.
    pub fn base_label(&self) -> String {
        format!("{}{}:base", label_prefix(&self.engine), self.vm)
    }

    /// The label of its loop device on its own layer.
    pub fn layer_label(&self) -> String {
        format!("{}{}:cow", label_prefix(&self.engine), self.vm)
    }

    /// The name of its systemd scope.
    pub fn scope(&self) -> String {
        format!("{}{}{SCOPE}", scope_prefix(&self.engine), self.vm)
    }

    /// The name of its network namespace.
    pub fn namespace(&self) -> String {
        format!("{}{}", namespace_prefix(&self.engine), self.vm)
    }

    /// The name of its uplink in the host. An interface has 15 bytes for it: the engine's id is in it whole,
    /// the VM's as far as it fits; who it is in full is written on the interface.
    pub fn uplink(&self) -> String {
        let digits = &self.vm.short()[..SHORTEST];
        format!("{}{digits}", uplink_prefix(&self.engine))
    }

    /// The name of its table of firewall rules in the host.
    pub fn table(&self) -> String {
        format!("{}{}", table_prefix(&self.engine), self.vm)
    }
}

/// How the names of an engine's device-mapper targets begin.
pub(crate) fn dm_prefix(engine: &EngineId) -> String {
    format!("banger-{engine}-")
}

/// How the names of an engine's scopes begin.
pub(crate) fn scope_prefix(engine: &EngineId) -> String {
    format!("banger-{engine}-")
}

/// How the labels of an engine's loop devices begin.
pub(crate) fn label_prefix(engine: &EngineId) -> String {
    format!("banger:{engine}:")
}

/// How the names of an engine's network namespaces begin.
pub(crate) fn namespace_prefix(engine: &EngineId) -> String {
    format!("bgr-{engine}-")
}

/// How the names of an engine's uplinks begin.
pub(crate) fn uplink_prefix(engine: &EngineId) -> String {
    format!("b{engine}")
}

/// How the names of an engine's tables of firewall rules begin.
pub(crate) fn table_prefix(engine: &EngineId) -> String {
    format!("bgr-{engine}-")
}

/// The fewest digits of a VM's id that a name holds. Ids are drawn so that these differ.
pub(crate) const SHORTEST: usize = 6;

/// Reads the VM from a device-mapper uuid, a loop device's label, a namespace's name or a scope's: the first
/// word of it that is an id of a VM.
pub(crate) fn vm_in(name: &str) -> Option<VmId> {
    name.split(['-', ':', '.'])
        .find_map(|word| word.parse().ok())
}

/// How the name of a unit ends that is a scope.
const SCOPE: &str = ".scope";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_says_whose_it_is_and_is_as_short_as_the_kernel_wants_it() {
        let engine = EngineId::from_random([0xe; 4]);
        let vm = VmId::from_random([0xab; 16]);
        let marks = Marks::of(&engine, &vm);
        for (name, most) in [
            (marks.dm_uuid(), 128),
            (marks.base_label(), 63),
            (marks.layer_label(), 63),
            (marks.namespace(), 255),
            (marks.scope(), 255),
            (marks.table(), 255),
        ] {
            assert_eq!(vm_in(&name), Some(vm.clone()), "{name}");
            assert!(
                name.contains(engine.as_str()) && name.len() <= most,
                "{name}"
            );
        }
        assert_eq!(marks.dm_name(), "banger-0e0e0e0e-abababababab");
        assert_eq!(marks.uplink(), "b0e0e0e0eababab");
        assert!(marks.uplink().len() <= 15);
        assert_eq!(vm_in("banger-0e0e0e0e-nothing"), None);
    }
}
