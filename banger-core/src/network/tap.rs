//! The network `tap`: a namespace a VM, with one tap in it. The monitor runs inside; every guest has the
//! same address, and nothing of it is seen outside. The host dials from inside. With `--nat` it has a way
//! out: `uplink.rs`.

use std::net::SocketAddrV4;

use async_trait::async_trait;

use super::uplink::Uplink;
use super::{
    Endpoint, GUEST, GUEST_MAC, GuestAddress, Network, NetworkAttachment, NetworkError, Route,
};
use crate::choice::Probe;
use crate::config::NatConfig;
use crate::dial::SSH_PORT;
use crate::handles::VMHandles;
use crate::host::{Host, TapSpec};
use crate::marks::Marks;
use crate::names::EngineId;
use crate::vm::{Internet, NetworkKind};

/// The network `tap`, for those who ask its promises of a real kernel; an engine has its own.
#[derive(Debug)]
pub struct TapNetwork {
    uplink: Uplink,
}

impl TapNetwork {
    /// Makes it, for guests that are let out in this way.
    pub fn new(nat: NatConfig) -> Self {
        TapNetwork {
            uplink: Uplink::new(nat),
        }
    }
}

/// The one tap of a namespace.
const TAP: &str = "tap0";

#[async_trait]
impl Network for TapNetwork {
    fn kind(&self) -> NetworkKind {
        NetworkKind::Tap
    }

    async fn probe(&self, host: &dyn Host) -> Probe {
        match host.tap_support().await {
            Ok(()) => Probe::works("a tap in a network namespace of each VM"),
            Err(why) => Probe::fails(why, None),
        }
    }

    async fn lets_out(&self, host: &dyn Host, engine: &EngineId) -> Probe {
        self.uplink.probe(host, engine).await
    }

    fn guest(&self) -> Option<GuestAddress> {
        Some(GUEST)
    }

    fn plan(&self, marks: &Marks, internet: Internet, handles: &mut VMHandles) {
        handles.namespace = Some(marks.namespace());
        handles.tap_device = Some(TAP.to_owned());
        if internet == Internet::Open {
            self.uplink.plan(marks, handles);
        }
    }

    async fn acquire(
        &self,
        host: &dyn Host,
        internet: Internet,
        handles: &VMHandles,
    ) -> Result<NetworkAttachment, NetworkError> {
        let Some(namespace) = &handles.namespace else {
            return Err(NetworkError::Unplanned);
        };
        host.make_namespace(namespace).await?;
        let tap = TapSpec {
            name: TAP.to_owned(),
            address: GUEST.gateway,
            prefix: GUEST.prefix,
            peer: GUEST.address,
            peer_mac: GUEST_MAC,
        };
        host.make_tap(namespace, &tap).await?;
        if internet == Internet::Open {
            self.uplink.acquire(host, handles).await?;
        }
        Ok(NetworkAttachment::Tap {
            namespace: namespace.clone(),
            tap: TAP.to_owned(),
        })
    }

    async fn release(&self, host: &dyn Host, handles: &VMHandles) -> Result<(), NetworkError> {
        // A failure keeps nothing from being tried: what can go goes.
        let link = self.uplink.release_link(host, handles).await;
        let namespace = match &handles.namespace {
            // With the namespace go its interfaces.
            Some(namespace) => host.remove_namespace(namespace).await,
            None => Ok(()),
        };
        // The rules stay as long as there may be an uplink that they keep from the host.
        link?;
        self.uplink.release_rules(host, handles).await?;
        Ok(namespace?)
    }

    fn route(&self, handles: &VMHandles, port: u16) -> Option<Route> {
        match (port, self.ssh_endpoint(handles)?) {
            (SSH_PORT, Endpoint::Namespace { namespace, address }) => {
                Some(Route::Namespace { namespace, address })
            }
            // The guest's own loopback, as on every network.
            _ => Some(Route::ThroughGuest),
        }
    }

    fn ssh_endpoint(&self, handles: &VMHandles) -> Option<Endpoint> {
        let namespace = handles.namespace.clone()?;
        Some(Endpoint::Namespace {
            namespace,
            address: SocketAddrV4::new(GUEST.address, SSH_PORT),
        })
    }
}
