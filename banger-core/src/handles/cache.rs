//! The only in-memory holder of handles.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::VMHandles;
use crate::names::VmId;

/// Maps each VM to its live handles. Shared freely; every call is one short critical section.
#[derive(Debug, Default)]
pub struct HandleCache {
    handles: Mutex<HashMap<VmId, VMHandles>>,
}

impl HandleCache {
    /// Returns a VM's handles as they are now.
    pub fn get(&self, vm: &VmId) -> Option<VMHandles> {
        self.lock().get(vm).cloned()
    }

    /// Replaces a VM's handles. The file comes first: call this after it was written.
    pub fn set(&self, vm: &VmId, handles: VMHandles) {
        self.lock().insert(vm.clone(), handles);
    }

    /// Forgets a VM's handles and returns them.
    pub fn clear(&self, vm: &VmId) -> Option<VMHandles> {
        self.lock().remove(vm)
    }

    /// Returns the VMs that have handles.
    pub fn vms(&self) -> Vec<VmId> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VmId, VMHandles>> {
        // Every critical section is one map operation: a panic elsewhere cannot leave it half done.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::BootId;
    use crate::names::RunId;

    fn handles(port: u16) -> VMHandles {
        let run = RunId::from_random([1; 8]);
        let mut handles = VMHandles::planned(run, BootId("boot".to_owned()), "/run/api".into());
        handles.ssh_port = Some(port);
        handles
    }

    #[test]
    fn many_threads_see_whole_values_of_their_own_vms() {
        let cache = HandleCache::default();
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let cache = &cache;
                scope.spawn(move || {
                    let vm = VmId::from_random([thread; 16]);
                    for round in 0..500 {
                        let port = u16::from(thread) * 1000 + round;
                        cache.set(&vm, handles(port));
                        assert_eq!(cache.get(&vm).and_then(|h| h.ssh_port), Some(port));
                        assert!(cache.vms().contains(&vm));
                        assert_eq!(cache.clear(&vm), Some(handles(port)));
                        assert_eq!(cache.get(&vm), None);
                    }
                });
            }
        });
        assert_eq!(cache.vms(), []);
    }
}
