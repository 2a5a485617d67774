//! Proof that nothing was leaked: every object on the host that this engine owns or could own, each
//! with its owner, or named a stray.
//!
//! [`Engine::prove`](crate::Engine::prove) only looks. What it calls a stray bears *this* engine's id
//! (or lies in its folders) and has no owner at a moment at which no verb works on the VM that it is
//! named after. Objects of other engines are counted, never touched.

mod held;
mod look;
mod prove;
mod remove;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::liveness::ProcessHandle;
use crate::names::{EngineId, ImageName, VmId, VmName};

pub(crate) use look::is_temporary;
pub use remove::{Removal, RemovalLine, RemovalOutcome};

/// Every kind of object that an engine can leave on a host. Whoever adds a kind is asked by the
/// compiler how it is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// The process of a VM's monitor.
    Monitor,
    /// A systemd scope, with what runs in it.
    CgroupScope,
    /// An ssh master, or an ssh that uses one.
    SshProcess,
    /// A TCP port on which a monitor listens: the guest's ssh.
    Port,
    /// A Unix socket in a VM's runtime folder.
    Socket,
    /// A file that was to be renamed to another.
    TemporaryFile,
    /// A VM's `handles.json`.
    HandlesFile,
    /// A damaged file that was set aside to be looked at.
    SetAsideFile,
    /// A VM's runtime folder.
    RuntimeFolder,
    /// A VM's folder: being made, complete or being deleted.
    VmFolder,
    /// An image's folder, complete or being made.
    ImageFolder,
    /// The folder in which an image's tree grows.
    ImageScratch,
    /// The database, the lock, the id and the key of the engine itself.
    EngineFile,
    /// A tap device.
    Tap,
    /// The end in the host of a VM's way out.
    Veth,
    /// A network namespace.
    NetworkNamespace,
    /// A table of firewall rules.
    NftTable,
    /// A loop device.
    LoopDevice,
    /// A device-mapper target.
    DeviceMapperTarget,
    /// A mount: what pins a namespace.
    Mount,
}

impl ObjectKind {
    /// All of them, in the order in which they are shown, and removed: whoever holds goes before what is held.
    pub const ALL: [ObjectKind; 20] = [
        ObjectKind::Monitor,
        ObjectKind::CgroupScope,
        ObjectKind::SshProcess,
        ObjectKind::Port,
        ObjectKind::Socket,
        ObjectKind::TemporaryFile,
        ObjectKind::HandlesFile,
        ObjectKind::SetAsideFile,
        ObjectKind::RuntimeFolder,
        ObjectKind::VmFolder,
        ObjectKind::ImageScratch,
        ObjectKind::ImageFolder,
        ObjectKind::EngineFile,
        ObjectKind::Tap,
        ObjectKind::Veth,
        ObjectKind::NetworkNamespace,
        ObjectKind::NftTable,
        ObjectKind::LoopDevice,
        ObjectKind::DeviceMapperTarget,
        ObjectKind::Mount,
    ];
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ObjectKind::Monitor => "monitor",
            ObjectKind::CgroupScope => "scope",
            ObjectKind::SshProcess => "ssh process",
            ObjectKind::Port => "port",
            ObjectKind::Socket => "socket",
            ObjectKind::TemporaryFile => "temporary file",
            ObjectKind::HandlesFile => "handles file",
            ObjectKind::SetAsideFile => "file set aside",
            ObjectKind::RuntimeFolder => "runtime folder",
            ObjectKind::VmFolder => "VM folder",
            ObjectKind::ImageFolder => "image folder",
            ObjectKind::ImageScratch => "image scratch folder",
            ObjectKind::EngineFile => "engine file",
            ObjectKind::Tap => "tap",
            ObjectKind::Veth => "veth",
            ObjectKind::NetworkNamespace => "network namespace",
            ObjectKind::NftTable => "nft table",
            ObjectKind::LoopDevice => "loop device",
            ObjectKind::DeviceMapperTarget => "device-mapper target",
            ObjectKind::Mount => "mount",
        })
    }
}

/// What the host holds of one engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The engine.
    pub engine: EngineId,
    /// The kinds that were looked for: all that there are.
    pub kinds: Vec<ObjectKind>,
    /// What was found, by kind and then by name.
    pub objects: Vec<HostObject>,
    /// The other engines that were seen.
    pub foreign: Vec<Foreign>,
}

/// One object on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostObject {
    /// What it is.
    pub kind: ObjectKind,
    /// Which one.
    pub grip: Grip,
    /// The VM that it is named after, whether or not there is one.
    pub vm: Option<VmId>,
    /// Whose it is.
    pub owner: Owner,
}

/// What tells an object from all others of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grip {
    /// A process, by its number and start time.
    Process(ProcessHandle),
    /// A file, folder or socket.
    Path(PathBuf),
    /// A port on this host.
    Port(u16),
    /// A device or a namespace.
    Name(String),
}

impl fmt::Display for Grip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grip::Process(process) => write!(f, "process {process}"),
            Grip::Path(path) => write!(f, "{}", path.display()),
            Grip::Port(port) => write!(f, "{port}"),
            Grip::Name(name) => f.write_str(name),
        }
    }
}

/// Whose an object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A VM's.
    Vm {
        /// Its id.
        id: VmId,
        /// Its name; none while it is being made or deleted.
        name: Option<VmName>,
        /// What else there is to know: that a verb is at work, that it has ended.
        note: Option<String>,
    },
    /// An image's.
    Image(ImageName),
    /// The engine's own.
    Engine,
    /// It could not be found out. Nothing may be touched.
    Undecided {
        /// Why not.
        reason: String,
    },
    /// Nobody's.
    Stray {
        /// What it was left by.
        why: String,
        /// What may be done about it.
        remedy: Remedy,
    },
}

/// What may be done about a stray.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// [`Engine::remove_strays`](crate::Engine::remove_strays) removes it.
    Remove,
    /// A person decides: it may hold somebody's only copy of something.
    ByHand,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Vm { id, name, note } => {
                match name {
                    Some(name) => write!(f, "VM {name}")?,
                    None => write!(f, "VM {id}")?,
                }
                match note {
                    Some(note) => write!(f, " ({note})"),
                    None => Ok(()),
                }
            }
            Owner::Image(name) => write!(f, "image {name}"),
            Owner::Engine => f.write_str("the engine"),
            Owner::Undecided { reason } => write!(f, "cannot tell: {reason}"),
            Owner::Stray { why, remedy } => match remedy {
                Remedy::Remove => write!(f, "STRAY: {why}"),
                Remedy::ByHand => write!(f, "STRAY, never removed by itself: {why}"),
            },
        }
    }
}

/// Another engine of which something was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Its id.
    pub engine: EngineId,
    /// How many monitors of it run.
    pub monitors: usize,
    /// How many folders it has in our runtime folder.
    pub runtime_folders: usize,
}

impl HostObject {
    /// Returns what tells it from all others, now and later: its kind and, of a process, its start time too.
    pub fn key(&self) -> String {
        match &self.grip {
            Grip::Process(process) => format!("{} {}", self.kind, process.key()),
            grip => format!("{} {grip}", self.kind),
        }
    }

    /// Says whether it is nobody's.
    pub fn is_stray(&self) -> bool {
        matches!(self.owner, Owner::Stray { .. })
    }
}

impl Inventory {
    /// Returns what is nobody's.
    pub fn strays(&self) -> impl Iterator<Item = &HostObject> {
        self.objects.iter().filter(|object| object.is_stray())
    }

    /// Says whether everything has an owner.
    pub fn is_clean(&self) -> bool {
        self.strays().next().is_none()
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for object in &self.objects {
            writeln!(f, "{} {}: {}", object.kind, object.grip, object.owner)?;
        }
        for other in &self.foreign {
            writeln!(
                f,
                "engine {}: {}, {}, not ours",
                other.engine,
                counted(other.monitors, "monitor"),
                counted(other.runtime_folders, "runtime folder"),
            )?;
        }
        Ok(())
    }
}

/// A number and what it counts.
fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}
