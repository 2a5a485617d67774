//! How the real host is connected, as rtnetlink and the firewall's tables tell it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use futures_core::TryStream;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::LinuxHost;
use super::spaces::{Netlink, failed, spelled};
use crate::host::uplinks::{Hops, HostRoute, Neighbourhood};
use crate::host::{HostError, files};
use crate::names::Subnet;

/// Somebody on the internet. The kernel is asked for the way there; nothing is sent.
const SOMEWHERE: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

/// The files that name resolvers. The second is systemd-resolved's list of those behind its own, which
/// listens on the loopback and is what the first then names.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

impl LinuxHost {
    pub(super) async fn look_around(&self) -> Result<Neighbourhood, HostError> {
        let refused = || failed("look at", "this host's network");
        let netlink = Netlink::here().map_err(refused())?;
        let netlink = &netlink.handle;
        let addresses = addresses(netlink)
            .await
            .map_err(|error| refused()(spelled(error)))?;
        let routes = routes(netlink)
            .await
            .map_err(|error| refused()(spelled(error)))?;
        let way_out = way_out(netlink).await;
        let switch = match &way_out {
            Some(interface) => format!("conf/{interface}/forwarding"),
            None => "ip_forward".to_owned(),
        };
        let switch = files::read(&Path::new("/proc/sys/net/ipv4").join(switch))?;
        let mut resolvers = Vec::new();
        for file in RESOLVERS {
            let text = files::read(file.as_ref())?.unwrap_or_default();
            resolvers.push(String::from_utf8_lossy(&text).into_owned());
        }
        Ok(Neighbourhood {
            addresses,
            routes,
            way_out,
            forwards: switch.is_some_and(|value| value.starts_with(b"1")),
            rules: self.all_rules().await,
            legacy_rules: self.legacy_rules().await,
            resolvers,
        })
    }
}

async fn addresses(netlink: &Handle) -> Result<Vec<(Ipv4Addr, Subnet)>, rtnetlink::Error> {
    let mut found = Vec::new();
    for message in all(netlink.address().get().execute()).await? {
        let prefix = message.header.prefix_len;
        let (mut own, mut network) = (None, None);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => own = Some(address),
                // That of the other side, on a link with two.
                AddressAttribute::Address(IpAddr::V4(address)) => network = Some(address),
                _ => {}
            }
        }
        if let Some(own) = own.or(network) {
            found.push((own, Subnet::around(network.unwrap_or(own), prefix)));
        }
    }
    Ok(found)
}

async fn routes(netlink: &Handle) -> Result<Vec<HostRoute>, rtnetlink::Error> {
    let every = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let mut found = Vec::new();
    for message in all(netlink.route().get(every).execute()).await? {
        // Of the others, some are our own addresses and the rest lead nowhere.
        if message.header.kind != RouteType::Unicast {
            continue;
        }
        let (mut to, mut hops) = (Ipv4Addr::UNSPECIFIED, Hops::Direct);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => hops = Hops::Routed,
                RouteAttribute::MultiPath(_) => hops = Hops::Routed,
                _ => {}
            }
        }
        let to = Subnet::around(to, message.header.destination_prefix_length);
        found.push(HostRoute { to, hops });
    }
    Ok(found)
}

/// Returns the name of the interface that leads out.
async fn way_out(netlink: &Handle) -> Option<String> {
    let question = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(SOMEWHERE, 32)
        .build();
    let answers: Vec<RouteMessage> = all(netlink.route().get(question).execute()).await.ok()?;
    let interface = answers
        .iter()
        .flat_map(|route| &route.attributes)
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })?;
    let link = netlink.link().get().match_index(interface).execute();
    let link = all(link).await.ok()?.into_iter().next()?;
    link.attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
}

/// Collects what netlink answers.
pub(super) async fn all<S: TryStream>(answers: S) -> Result<Vec<S::Ok>, S::Error> {
    let mut answers = std::pin::pin!(answers);
    let mut found = Vec::new();
    while let Some(answer) = std::future::poll_fn(|cx| answers.as_mut().try_poll_next(cx)).await {
        found.push(answer?);
    }
    Ok(found)
}

/// Writes a switch of the network that the thread is in.
pub(super) fn switch_on(path: &Path) -> Result<(), HostError> {
    std::fs::write(path, "1\n").map_err(|source: io::Error| HostError::File {
        act: crate::host::FileAct::Write,
        path: path.to_owned(),
        source,
    })
}
