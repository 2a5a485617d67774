//! Where everything lies: derived from two folders and a VM's id, so that it can be found again.

use std::path::{Path, PathBuf};

use crate::names::{EngineId, ImageName, VmId};

/// The longest path of a Unix socket, its terminating NUL not counted (`sun_path` has 108 bytes, unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

/// The longest ssh `ControlPath`: ssh binds it under a name that is 17 bytes longer first.
pub const MAX_CONTROL_PATH: usize = 90;

/// The folders of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    state: PathBuf,
    runtime: PathBuf,
    engine: EngineId,
}

impl Places {
    /// Derives every place from the state folder, the runtime folder and the engine's id.
    pub fn new(state: PathBuf, runtime: PathBuf, engine: EngineId) -> Self {
        Places {
            state,
            runtime,
            engine,
        }
    }

    /// The lock that keeps a second engine out of a state folder.
    pub fn lock_of(state: &Path) -> PathBuf {
        state.join("engine.lock")
    }

    /// The file that holds the id of a state folder's engine.
    pub fn engine_id_of(state: &Path) -> PathBuf {
        state.join("engine-id")
    }

    /// The state folder: what outlives a boot.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The runtime folder: sockets and scratch.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.state.join("banger.db")
    }

    /// The private key with which the engine logs in to its guests.
    pub fn client_key(&self) -> PathBuf {
        self.state.join("ssh").join("id_ed25519")
    }

    /// The folder of images.
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// One image's folder.
    pub fn image(&self, name: &ImageName) -> PathBuf {
        self.images().join(name.as_str())
    }

    /// Where repositories are made ready to be carried; empty while nobody carries one.
    pub fn staging(&self) -> PathBuf {
        self.state.join("staging")
    }

    /// The folder of VM folders.
    pub fn vms(&self) -> PathBuf {
        self.state.join("vms")
    }

    /// A VM's folder.
    pub fn vm(&self, id: &VmId) -> PathBuf {
        self.vms().join(id.as_str())
    }

    /// A VM's folder while it is being made.
    pub fn vm_new(&self, id: &VmId) -> PathBuf {
        self.vms().join(format!("{NEW}{id}"))
    }

    /// A VM's folder while it is being deleted.
    pub fn vm_trash(&self, id: &VmId) -> PathBuf {
        self.vms().join(format!("{TRASH}{id}"))
    }

    /// The folder of everything that belongs to runs: a subfolder a VM. It carries the engine's id,
    /// because two engines may share a runtime folder.
    pub fn runs(&self) -> PathBuf {
        self.runtime.join(self.engine.as_str())
    }

    /// A VM's runtime folder: sockets and scratch of its run.
    pub fn run(&self, id: &VmId) -> PathBuf {
        self.runs().join(id.short())
    }

    /// The monitor's control socket, which the engine holds.
    pub fn api_socket(&self, id: &VmId) -> PathBuf {
        self.run(id).join("api.sock")
    }

    /// The monitor's second control socket, for rescue by hand.
    pub fn rescue_socket(&self, id: &VmId) -> PathBuf {
        self.run(id).join("rescue.sock")
    }

    /// The host's end of the guest's vsock.
    pub fn vsock(&self, id: &VmId) -> PathBuf {
        self.run(id).join("vsock.sock")
    }

    /// The monitor's metrics of this run.
    pub fn metrics(&self, id: &VmId) -> PathBuf {
        self.run(id).join("metrics")
    }

    /// The monitor's end of the guest's serial console.
    pub fn console_socket(&self, id: &VmId) -> PathBuf {
        self.run(id).join("console.sock")
    }

    /// The control socket of the ssh master.
    pub fn ssh_control(&self, id: &VmId) -> PathBuf {
        self.run(id).join("ssh")
    }

    /// The ssh_config that reaches the VM in this run.
    pub fn ssh_config(&self, id: &VmId) -> PathBuf {
        self.run(id).join("ssh_config")
    }

    /// The one host key that is accepted.
    pub fn known_hosts(&self, id: &VmId) -> PathBuf {
        self.run(id).join("known_hosts")
    }

    /// The initramfs with the VM's identity appended.
    pub fn initrd(&self, id: &VmId) -> PathBuf {
        self.run(id).join("initrd")
    }

    /// Checks that sockets below the runtime folder get paths that the kernel and ssh accept.
    pub fn check_socket_paths(&self) -> Result<(), PlaceError> {
        let id = VmId::from_random([0; 16]);
        let longest = [
            (self.console_socket(&id), MAX_SOCKET_PATH),
            (self.ssh_control(&id), MAX_CONTROL_PATH),
        ];
        let runtime = self.runtime.as_os_str().len();
        // Where both are broken, the one that leaves less room is the one to tell.
        let broken = longest
            .iter()
            .map(|(path, limit)| (path.as_os_str().len(), *limit))
            .filter(|(bytes, limit)| bytes > limit)
            .max_by_key(|(bytes, limit)| bytes - limit);
        match broken {
            None => Ok(()),
            Some((bytes, limit)) => Err(PlaceError {
                runtime: self.runtime.clone(),
                bytes,
                limit,
                spare: runtime.saturating_sub(bytes - limit),
            }),
        }
    }
}

/// The prefix of a folder that is being made.
pub(crate) const NEW: &str = ".new-";

/// The prefix of a folder that is being deleted.
pub(crate) const TRASH: &str = ".trash-";

/// A runtime folder that lies so deep that sockets in it would be refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "the runtime folder {} is too deep: a socket in it would have a path of {bytes} bytes, and {limit} is the limit; choose one of at most {spare} bytes",
    runtime.display()
)]
pub struct PlaceError {
    /// The folder.
    pub runtime: PathBuf,
    /// The longest path below it.
    pub bytes: usize,
    /// The limit that it breaks.
    pub limit: usize,
    /// How long the folder's own path may be.
    pub spare: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_folder_that_is_too_deep_is_refused_with_the_length_that_fits() {
        let places = |bytes: usize| {
            let runtime = format!("/{}", "r".repeat(bytes - 1));
            Places::new("/s".into(), runtime.into(), EngineId::from_random([0; 4]))
        };
        let error = places(200).check_socket_paths().unwrap_err();
        assert!(places(error.spare).check_socket_paths().is_ok());
        assert!(places(error.spare + 1).check_socket_paths().is_err());
    }
}
