//! What a VM *is*: the part that outlives every process, kept in the database.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::liveness::Promise;
use crate::names::{ImageName, Mebibytes, NameError, RunId, VmId, VmName};

/// One VM: who it is, what was asked for, and what holds for it between its runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VMRecord {
    /// Its id, for life.
    pub id: VmId,
    /// Its name, unique in its engine.
    pub name: VmName,
    /// The image it was made from.
    pub image: ImageName,
    /// What was asked for.
    pub spec: VMSpec,
    /// What holds for it.
    pub runtime: VMRuntime,
    /// When it was created.
    pub created_at: Timestamp,
    /// When this record last changed.
    pub updated_at: Timestamp,
}

/// What was asked for when a VM was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VMSpec {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory.
    pub memory: Mebibytes,
    /// The size of its own disk, mounted at `/root`; sparse on the host.
    pub work_disk: Mebibytes,
    /// Which virtual machine monitor runs it.
    pub vmm: VmmKind,
    /// How its root disk lies over the image.
    pub disk: DiskKind,
    /// How it is reached.
    pub network: NetworkKind,
    /// Whether it reaches the internet.
    pub internet: Internet,
    /// Whether it is deleted with the client that asked for it, or by the next reconcile.
    pub lifetime: Lifetime,
    /// Whether it can run machines of its own.
    #[serde(default)]
    pub nesting: Nesting,
    /// Free words of its owner.
    pub labels: BTreeMap<String, String>,
}

/// What holds for a VM, durable or derived from its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VMRuntime {
    /// What was last promised of its state; only a [`Liveness`](crate::Liveness) can tell what is true now.
    pub state: Promise,
    /// The run that was acknowledged, while the promise is that it runs.
    pub run_id: Option<RunId>,
    /// Its address, as it sees itself.
    pub guest_ip: Option<Ipv4Addr>,
    /// The monitor's control socket.
    pub api_sock_path: PathBuf,
    /// The host's end of its vsock, where there is one.
    pub vsock_path: Option<PathBuf>,
    /// Its vsock context id, where there is one.
    pub vsock_cid: Option<u32>,
    /// Its serial console's log.
    pub log_path: PathBuf,
    /// The monitor's metrics, where it writes any.
    pub metrics_path: Option<PathBuf>,
    /// Its name for ssh: `<name>.vm`.
    pub dns_name: String,
    /// Its folder.
    pub vm_dir: PathBuf,
    /// The layer over the image's root disk that takes its writes.
    pub system_overlay: PathBuf,
    /// Its own disk.
    pub work_disk_path: PathBuf,
    /// Why it is in the state it is in, or what last went wrong.
    pub last_error: Option<String>,
    /// How its last run ended.
    pub stop_reason: Option<String>,
    /// How often in a row it was started again because its guest rebooted. A start on demand begins anew, and so does a
    /// run of ten minutes.
    #[serde(default)]
    pub restarts: u32,
    /// When it is started again, while that is waited for.
    #[serde(default)]
    pub restart_at: Option<Timestamp>,
}

impl VMRuntime {
    /// Returns where its monitor's own words go.
    pub fn monitor_log(&self) -> PathBuf {
        self.vm_dir.join("monitor.log")
    }

    /// Lists every file that its monitor writes without end. None is ever longer than
    /// [`LOG_BYTES`](crate::LOG_BYTES); its disks are as large as they were made.
    pub fn logs(&self) -> Vec<PathBuf> {
        let logs = [self.log_path.clone(), self.monitor_log()];
        logs.into_iter().chain(self.metrics_path.clone()).collect()
    }
}

/// Which virtual machine monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmmKind {
    /// QEMU, machine type microvm; KVM where it works, else emulation.
    Qemu,
    /// Firecracker; needs KVM.
    Firecracker,
    /// The simulator.
    Sim,
}

/// How a root disk lies over its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskKind {
    /// A qcow2 file that holds only what differs from the image.
    Overlay,
    /// A device-mapper snapshot of the image, with a sparse file that holds what differs; needs root.
    DmSnapshot,
    /// A copy of the image: a reflink where the file system can, else a sparse copy.
    File,
    /// The simulator's.
    Sim,
}

/// How a VM is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// QEMU's user-mode stack; ssh forwarded on the host's loopback.
    User,
    /// A tap in a network namespace of the VM's own; needs root.
    Tap,
    /// None at all.
    None,
    /// The simulator's.
    Sim,
}

/// Whether a guest reaches anything that did not dial it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Internet {
    /// It reaches nothing.
    Closed,
    /// It reaches the internet, and on the network `user` also the host's own loopback and networks.
    Open,
}

/// Whether a guest's processors have what its own machines need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nesting {
    /// As the monitor has it.
    #[default]
    Unasked,
    /// They have, emulated if need be. QEMU only.
    Wanted,
}

/// How long a VM is to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// Until it is deleted.
    Kept,
    /// As long as the client that asked for it.
    Ephemeral,
}

macro_rules! word {
    ($type:ident, $what:literal { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// Returns the word that is typed and stored for it.
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                match text {
                    $($word => Ok($type::$variant),)+
                    _ => Err(NameError::Unknown {
                        what: $what,
                        text: text.to_owned(),
                        // The simulator's are not offered: a real engine has none.
                        known: [$($word),+]
                            .into_iter()
                            .filter(|word| *word != "sim")
                            .collect::<Vec<_>>()
                            .join(", "),
                    }),
                }
            }
        }
    };
}

word!(VmmKind, "monitor" { Qemu => "qemu", Firecracker => "firecracker", Sim => "sim" });
word!(DiskKind, "root disk" { Overlay => "overlay", DmSnapshot => "dm-snapshot", File => "file", Sim => "sim" });
word!(NetworkKind, "network" { User => "user", Tap => "tap", None => "none", Sim => "sim" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_backend_is_named_with_those_there_are() {
        let error = "tin-can".parse::<NetworkKind>().unwrap_err();
        let expected = "there is no network \"tin-can\"; there are: user, tap, none";
        assert_eq!(error.to_string(), expected);
        assert_eq!("overlay".parse(), Ok(DiskKind::Overlay));
    }
}
