//! The seam for networks: how a VM is reached, and what it reaches.

mod tap;
mod uplink;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use async_trait::async_trait;

use crate::choice::Probe;
use crate::dial::SSH_PORT;
use crate::handles::VMHandles;
use crate::host::{Host, HostError};
use crate::marks::Marks;
use crate::names::EngineId;
use crate::vm::{Internet, NetworkKind};

pub use tap::TapNetwork;
pub(crate) use uplink::TOO_MANY_CONNECTIONS;

/// Why a network could not be had or given back.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The run's handles name no namespace: they were planned for another network.
    #[error("no network namespace was planned for this run")]
    Unplanned,
    /// The guest cannot be let out to the internet here.
    #[error("a guest cannot be let out to the internet here: {reason}")]
    NoWayOut {
        /// Why not.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What the monitor is to connect the guest to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkAttachment {
    /// The monitor's own user-mode stack.
    User(Internet),
    /// A tap that exists in a network namespace, in which the monitor is to run.
    Tap {
        /// The namespace.
        namespace: String,
        /// The tap.
        tap: String,
    },
    /// Nothing.
    None,
    /// The simulator's.
    Sim,
}

impl NetworkAttachment {
    /// Returns the namespace in which the monitor is to run; none is the host's own.
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            NetworkAttachment::Tap { namespace, .. } => Some(namespace),
            _ => None,
        }
    }
}

/// How a guest sees itself. The same for every guest: each has a network of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestAddress {
    /// Its address.
    pub address: Ipv4Addr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// Its gateway.
    pub gateway: Ipv4Addr,
    /// Its name server.
    pub dns: Ipv4Addr,
}

/// Where a guest's port can be dialled from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A port on the host's loopback that the monitor forwards.
    Loopback(u16),
    /// An address that is reached from inside a network namespace.
    Namespace {
        /// The namespace.
        namespace: String,
        /// The address.
        address: SocketAddrV4,
    },
    /// Inside the simulator.
    Sim,
}

impl Endpoint {
    /// Returns the address to connect to, from wherever that is possible.
    pub fn address(&self) -> Option<SocketAddrV4> {
        match self {
            Endpoint::Loopback(port) => Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port)),
            Endpoint::Namespace { address, .. } => Some(*address),
            Endpoint::Sim => None,
        }
    }

    /// Returns the namespace from which it is reached; none is the host's own.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Endpoint::Namespace { namespace, .. } => Some(namespace),
            _ => None,
        }
    }
}

/// How the host reaches one port of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// By a port on the host's own loopback, which the monitor forwards.
    Loopback(u16),
    /// By an address that is reached from inside a network namespace.
    Namespace {
        /// The namespace.
        namespace: String,
        /// The address.
        address: SocketAddrV4,
    },
    /// By the guest itself, over the connection that the transport has to it.
    ThroughGuest,
}

/// How a VM is connected.
#[async_trait]
pub trait Network: fmt::Debug + Send + Sync {
    /// Which one this is.
    fn kind(&self) -> NetworkKind;

    /// Says whether it works on this host.
    async fn probe(&self, host: &dyn Host) -> Probe;

    /// Says whether it can let a guest of this engine out to the internet, here.
    async fn lets_out(&self, host: &dyn Host, engine: &EngineId) -> Probe;

    /// Returns how the guest sees itself; none without a network.
    fn guest(&self) -> Option<GuestAddress>;

    /// Names, in a run's handles, what it will hold: they are written down before anything is acquired.
    fn plan(&self, marks: &Marks, internet: Internet, handles: &mut VMHandles);

    /// Acquires what a run needs; what the kernel then holds is named in `handles`.
    async fn acquire(
        &self,
        host: &dyn Host,
        internet: Internet,
        handles: &VMHandles,
    ) -> Result<NetworkAttachment, NetworkError>;

    /// Lets go of what a run held. By name, so that it can be repeated; "already gone" is success.
    async fn release(&self, host: &dyn Host, handles: &VMHandles) -> Result<(), NetworkError>;

    /// Returns where ssh is dialled in a run; none without a network, or before the port is known.
    fn ssh_endpoint(&self, handles: &VMHandles) -> Option<Endpoint>;

    /// Returns how a port is dialled in a run; none without a network, or before the way is known.
    fn route(&self, handles: &VMHandles, port: u16) -> Option<Route>;
}

/// The network `user`: QEMU's user-mode stack. Needs no privilege; ssh is forwarded on a port of the
/// loopback that QEMU chooses (so that none can be taken) and that is read back through its socket.
#[derive(Debug)]
pub(crate) struct UserNetwork;

#[async_trait]
impl Network for UserNetwork {
    fn kind(&self) -> NetworkKind {
        NetworkKind::User
    }

    async fn probe(&self, _host: &dyn Host) -> Probe {
        Probe::works(
            "QEMU's user-mode stack; ssh forwarded on the loopback; with --nat a guest also reaches \
             this host's loopback and networks",
        )
    }

    async fn lets_out(&self, _host: &dyn Host, _engine: &EngineId) -> Probe {
        Probe::works("to the internet, and to this host's loopback and networks")
    }

    fn plan(&self, _marks: &Marks, _internet: Internet, _handles: &mut VMHandles) {}

    fn guest(&self) -> Option<GuestAddress> {
        Some(GUEST)
    }

    async fn acquire(
        &self,
        _host: &dyn Host,
        internet: Internet,
        _handles: &VMHandles,
    ) -> Result<NetworkAttachment, NetworkError> {
        Ok(NetworkAttachment::User(internet))
    }

    async fn release(&self, _host: &dyn Host, _handles: &VMHandles) -> Result<(), NetworkError> {
        // The port goes with the monitor's process.
        Ok(())
    }

    fn ssh_endpoint(&self, handles: &VMHandles) -> Option<Endpoint> {
        handles.ssh_port.map(Endpoint::Loopback)
    }

    fn route(&self, handles: &VMHandles, port: u16) -> Option<Route> {
        match port {
            SSH_PORT => handles.ssh_port.map(Route::Loopback),
            _ => Some(Route::ThroughGuest),
        }
    }
}

/// The network `none`: the guest has a loopback and a console.
#[derive(Debug)]
pub(crate) struct NoNetwork;

#[async_trait]
impl Network for NoNetwork {
    fn kind(&self) -> NetworkKind {
        NetworkKind::None
    }

    async fn probe(&self, _host: &dyn Host) -> Probe {
        Probe::works("no network at all: such a VM cannot be reached by ssh")
    }

    async fn lets_out(&self, _host: &dyn Host, _engine: &EngineId) -> Probe {
        Probe::fails(
            "it is no network",
            Some("leave --nat out, or choose another network".to_owned()),
        )
    }

    fn plan(&self, _marks: &Marks, _internet: Internet, _handles: &mut VMHandles) {}

    fn guest(&self) -> Option<GuestAddress> {
        None
    }

    async fn acquire(
        &self,
        _host: &dyn Host,
        _internet: Internet,
        _handles: &VMHandles,
    ) -> Result<NetworkAttachment, NetworkError> {
        Ok(NetworkAttachment::None)
    }

    async fn release(&self, _host: &dyn Host, _handles: &VMHandles) -> Result<(), NetworkError> {
        Ok(())
    }

    fn ssh_endpoint(&self, _handles: &VMHandles) -> Option<Endpoint> {
        None
    }

    fn route(&self, _handles: &VMHandles, _port: u16) -> Option<Route> {
        None
    }
}

/// The simulator's network.
#[derive(Debug)]
pub(crate) struct SimNetwork;

#[async_trait]
impl Network for SimNetwork {
    fn kind(&self) -> NetworkKind {
        NetworkKind::Sim
    }

    async fn probe(&self, _host: &dyn Host) -> Probe {
        Probe::works("simulated")
    }

    async fn lets_out(&self, _host: &dyn Host, _engine: &EngineId) -> Probe {
        Probe::works("simulated")
    }

    fn plan(&self, _marks: &Marks, _internet: Internet, _handles: &mut VMHandles) {}

    fn guest(&self) -> Option<GuestAddress> {
        Some(GUEST)
    }

    async fn acquire(
        &self,
        _host: &dyn Host,
        _internet: Internet,
        _handles: &VMHandles,
    ) -> Result<NetworkAttachment, NetworkError> {
        Ok(NetworkAttachment::Sim)
    }

    async fn release(&self, _host: &dyn Host, _handles: &VMHandles) -> Result<(), NetworkError> {
        Ok(())
    }

    fn ssh_endpoint(&self, _handles: &VMHandles) -> Option<Endpoint> {
        Some(Endpoint::Sim)
    }

    fn route(&self, _handles: &VMHandles, _port: u16) -> Option<Route> {
        Some(Route::ThroughGuest)
    }
}

/// slirp's own defaults, which every other network keeps to.
pub(crate) const GUEST: GuestAddress = GuestAddress {
    address: Ipv4Addr::new(10, 0, 2, 15),
    prefix: 24,
    gateway: Ipv4Addr::new(10, 0, 2, 2),
    dns: Ipv4Addr::new(10, 0, 2, 3),
};

/// Every guest's hardware address, on whatever network: each has one of its own.
pub(crate) const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// Spells a hardware address as monitors take it.
pub(crate) fn spelled(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
