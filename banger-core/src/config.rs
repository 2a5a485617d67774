//! Everything that an engine needs to know, handed in by whoever embeds it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::host::{Host, LinuxHost, LinuxHostConfig};
use crate::image::SCRATCH;
use crate::names::{Mebibytes, Subnet};
use crate::network::GUEST;
use crate::transport::DialHelper;
use crate::vm::{DiskKind, Internet, NetworkKind, VmmKind};

/// What an [`Engine`](crate::Engine) is opened with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where images, disks and the database are. One engine at a time uses it.
    pub state_dir: PathBuf,
    /// Where sockets and scratch files of running VMs are; emptied by a reboot. Its path must be short:
    /// a socket below it has at most 107 bytes, an ssh control path 90.
    pub runtime_dir: PathBuf,
    /// The host to work on.
    pub host: Arc<dyn Host>,
    /// The program that passes connected sockets to ssh.
    pub dial_helper: Option<DialHelper>,
    /// Backends to use where a request names none; none means `auto`.
    pub choice: BackendChoice,
    /// What a VM gets where its request says nothing.
    pub defaults: Defaults,
    /// How long others may take.
    pub limits: Limits,
    /// How guests on the network `tap` are let out to the internet.
    pub nat: NatConfig,
    /// The Debian mirror that images are made from; none means Debian's own.
    pub mirror: Option<String>,
    /// Space that is kept free on the file systems of the state folder and of `image_scratch`: 1 GiB. With less,
    /// nothing is created, started, grown or carried in; what runs goes on, and can be stopped and deleted.
    pub reserve: Mebibytes,
    /// Where an image's tree grows while it is made: `/var/tmp`. An ordinary user's subordinate ids must
    /// reach it.
    pub image_scratch: PathBuf,
    /// The home folder of whoever uses the engine. Of git's own files in it their name for commits and
    /// the list of ignored files are read, for workspaces; none means that neither is known.
    pub user_home: Option<PathBuf>,
}

impl EngineConfig {
    /// Takes this machine, `auto` throughout, and the default sizes and limits.
    pub fn new(state_dir: impl Into<PathBuf>, runtime_dir: impl Into<PathBuf>) -> Self {
        EngineConfig {
            state_dir: state_dir.into(),
            runtime_dir: runtime_dir.into(),
            host: Arc::new(LinuxHost::new(LinuxHostConfig::default())),
            dial_helper: None,
            choice: BackendChoice::default(),
            defaults: Defaults::default(),
            limits: Limits::default(),
            nat: NatConfig::default(),
            mirror: None,
            reserve: Mebibytes(1024),
            image_scratch: PathBuf::from(SCRATCH),
            user_home: None,
        }
    }
}

/// Backends by name; none means `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendChoice {
    /// The monitor.
    pub vmm: Option<VmmKind>,
    /// The root disk.
    pub disk: Option<DiskKind>,
    /// The network.
    pub network: Option<NetworkKind>,
}

/// What a VM gets where its request says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Virtual processors: 2. The second takes 1.5 s off an emulated boot.
    pub vcpus: u32,
    /// Memory: 1 GiB, taken from the host as the guest touches it.
    pub memory: Mebibytes,
    /// The VM's own disk at `/root`: 8 GiB, sparse.
    pub work_disk: Mebibytes,
    /// The image: `debian-12`, made on the first use.
    pub image: String,
    /// Whether it reaches the internet: it does not.
    pub internet: Internet,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            vcpus: 2,
            memory: Mebibytes(1024),
            work_disk: Mebibytes(8 * 1024),
            image: "debian-12".to_owned(),
            internet: Internet::Closed,
        }
    }
}

/// How guests on the network `tap` are let out to the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// The range of which each VM that is let out has one address, on this host alone: 198.18.0.0/16, of
    /// the range for benchmarks (RFC 2544), which is nobody's network. What the host routes elsewhere is
    /// left out.
    pub pool: Subnet,
    /// Who answers the guests' questions for names; none means the host's own resolver.
    pub name_server: Option<Ipv4Addr>,
}

/// A range that cannot be given to VMs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// It would be in the guests' way.
    #[error("{pool} overlaps {guests}, which is every guest's own network")]
    GuestsOwn {
        /// The range.
        pool: Subnet,
        /// Where every guest is.
        guests: Subnet,
    },
    /// Loopback, link-local, multicast and the like.
    #[error("{pool} holds addresses that no host forwards: those of {never}")]
    Unroutable {
        /// The range.
        pool: Subnet,
        /// What it overlaps.
        never: Subnet,
    },
}

impl NatConfig {
    /// Says whether a range can be given to VMs.
    pub fn check_pool(pool: Subnet) -> Result<(), PoolError> {
        let guests = Subnet::around(GUEST.address, GUEST.prefix);
        if pool.overlaps(guests) {
            return Err(PoolError::GuestsOwn { pool, guests });
        }
        let never = [
            ([0, 0, 0, 0], 8),
            ([127, 0, 0, 0], 8),
            ([169, 254, 0, 0], 16),
            ([224, 0, 0, 0], 3),
        ];
        let mut never = never
            .map(|(first, prefix)| Subnet::around(first.into(), prefix))
            .into_iter();
        match never.find(|never| pool.overlaps(*never)) {
            Some(never) => Err(PoolError::Unroutable { pool, never }),
            None => Ok(()),
        }
    }
}

impl Default for NatConfig {
    fn default() -> Self {
        NatConfig {
            pool: Subnet::around(Ipv4Addr::new(198, 18, 0, 0), 16),
            name_server: None,
        }
    }
}

/// How long others may take. An emulated guest on a busy host is slow; these are for being sure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A guest's first answer over ssh, from power-on: 180 s.
    pub ready: Duration,
    /// A monitor's answer on its control socket: 10 s.
    pub control: Duration,
    /// The guest's own power-off, asked for over ssh: 30 s; zero means that it is not asked.
    pub power_off: Duration,
    /// The guest's answer to Ctrl-Alt-Del: 30 s; zero means that it is not pressed.
    pub ctrl_alt_del: Duration,
    /// A monitor's answer to SIGTERM, and the kernel's to SIGKILL: 5 s each.
    pub signal: Duration,
    /// How often the logs of a VM are looked at that an earlier banger started: every 30 s. One over 8 MiB begins
    /// anew.
    pub logs: Duration,
    /// A guest's answer to one script of a session: 30 s.
    pub session: Duration,
    /// A session's command, to read what it is sent, and to end after TERM: 10 s each.
    pub session_command: Duration,
    /// A guest's silence while a workspace is carried: 20 min. A large work tree is looked through in minutes.
    pub workspace: Duration,
    /// A Debian mirror's silence while an image is made: 20 s, and once more.
    pub mirror: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            ready: Duration::from_secs(180),
            control: Duration::from_secs(10),
            power_off: Duration::from_secs(30),
            ctrl_alt_del: Duration::from_secs(30),
            signal: Duration::from_secs(5),
            logs: Duration::from_secs(30),
            session: Duration::from_secs(30),
            session_command: Duration::from_secs(10),
            workspace: Duration::from_secs(20 * 60),
            mirror: Duration::from_secs(20),
        }
    }
}
