//! Ways out of namespaces on the real host: a veth pair that is made inside and of which one end is then
//! moved out, with its owner's name on it. So what is seen in the host is never without one, and a death in
//! between leaves a pair that goes with its namespace.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::LinuxHost;
use super::neighbourhood::{all, switch_on};
use super::spaces::{Netlink, failed, index, inside, spelled};
use crate::host::uplinks::{Neighbourhood, RuleTable, UplinkFacts, UplinkSpec, Uplinks};
use crate::host::{FileAct, HostError, files};

type Answer = Result<(), rtnetlink::Error>;

#[async_trait]
impl Uplinks for LinuxHost {
    async fn neighbourhood(&self) -> Result<Neighbourhood, HostError> {
        self.look_around().await
    }

    async fn make_table(&self, table: &RuleTable) -> Result<(), HostError> {
        self.make_table_in(None, table).await
    }

    async fn remove_table(&self, name: &str) -> Result<(), HostError> {
        self.remove_table_here(name).await
    }

    async fn list_tables(&self, prefix: &str) -> Result<Vec<String>, HostError> {
        self.tables(prefix).await
    }

    async fn make_uplink(&self, namespace: &str, uplink: &UplinkSpec) -> Result<(), HostError> {
        let refused = |act| move |error| failed(act, &uplink.name)(spelled(error));
        let host = Path::new("/proc/self/ns/net");
        let host = File::open(host).map_err(files::failed(FileAct::Read, host))?;
        let there = inside(namespace, || Ok(())).await?;
        make_pair(&there.handle, uplink)
            .await
            .map_err(refused("make the veth pair"))?;
        let end = LinkUnspec::new_with_name(&uplink.name).setns_by_fd(host.as_raw_fd());
        let moved = there.handle.link().set(end.build()).execute().await;
        moved.map_err(refused("move out of its namespace"))?;

        // Order matters here: whoever gets the route has the address; of who does not, nothing is there yet
        // that does not go with the pair.
        let here = Netlink::here().map_err(failed("speak netlink for", &uplink.name))?;
        let end = set_up_outside(&here.handle, uplink)
            .await
            .map_err(refused("set up"))?;
        claim(&here.handle, end, uplink.address)
            .await
            .map_err(refused("claim an address for"))?;
        set_up_inside(&there.handle, uplink)
            .await
            .map_err(refused("set up the other end of"))?;
        // And nothing is forwarded, on either side, before the rules are there.
        self.make_table_in(Some(namespace), &uplink.rules).await?;
        let forwarding_inside = Path::new("/proc/sys/net/ipv4/ip_forward");
        inside(namespace, || switch_on(forwarding_inside)).await?;
        switch_on(&forwarding(&uplink.name))
    }

    async fn remove_uplink(&self, name: &str, owner: &str) -> Result<(), HostError> {
        let refused = |error| failed("remove", name)(spelled(error));
        let here = Netlink::here().map_err(failed("speak netlink for", name))?;
        let Some(link) = named(&here.handle, name).await.map_err(refused)? else {
            return Ok(());
        };
        if alias(&link) != owner {
            tracing::warn!(
                name,
                owner = alias(&link),
                "left alone: it is somebody else's"
            );
            return Ok(());
        }
        match here.handle.link().del(link.header.index).execute().await {
            Err(error) if !is_missing(&error) => Err(refused(error)),
            _ => Ok(()),
        }
    }

    async fn list_uplinks(&self, prefix: &str) -> Result<Vec<UplinkFacts>, HostError> {
        let refused = || failed("list", "this host's interfaces");
        let here = Netlink::here().map_err(refused())?;
        let links = all(here.handle.link().get().execute()).await;
        let links = links.map_err(|error| refused()(spelled(error)))?;
        let mut found: Vec<UplinkFacts> = links
            .iter()
            .filter_map(|link| {
                let name = attribute(link, |it| match it {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                })?;
                name.starts_with(prefix).then(|| UplinkFacts {
                    name: name.to_owned(),
                    owner: alias(link).to_owned(),
                })
            })
            .collect();
        found.sort();
        Ok(found)
    }
}

/// Makes the pair in the namespace, and writes its owner's name on the end that is to be moved out.
async fn make_pair(netlink: &Handle, uplink: &UplinkSpec) -> Answer {
    let pair = LinkVeth::new(&uplink.name, UplinkSpec::INSIDE)
        .address(uplink.outside_mac().to_vec())
        .build();
    netlink.link().add(pair).execute().await?;
    let named = LinkUnspec::new_with_name(&uplink.name).alias(&uplink.owner);
    netlink.link().set(named.build()).execute().await
}

/// Sets up the end that stays in the namespace, and the tap.
async fn set_up_inside(netlink: &Handle, uplink: &UplinkSpec) -> Answer {
    let end = index(netlink, UplinkSpec::INSIDE).await?;
    let up = LinkUnspec::new_with_index(end).address(uplink.inside_mac().to_vec());
    netlink.link().set(up.up().build()).execute().await?;
    let address = netlink.address();
    address
        .add(end, uplink.address.into(), 32)
        .execute()
        .await?;
    let tap = index(netlink, &uplink.tap).await?;
    address.add(tap, uplink.also.into(), 32).execute().await?;
    let gateway = UplinkSpec::GATEWAY;
    know(netlink, end, gateway, uplink.outside_mac()).await?;
    let way = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(gateway)
        .output_interface(end)
        .onlink()
        .build();
    netlink.route().add(way).execute().await
}

/// Sets up the end that is in the host, and returns its number.
async fn set_up_outside(netlink: &Handle, uplink: &UplinkSpec) -> Result<u32, rtnetlink::Error> {
    let end = index(netlink, &uplink.name).await?;
    let up = LinkUnspec::new_with_index(end).up().build();
    netlink.link().set(up).execute().await?;
    know(netlink, end, uplink.address, uplink.inside_mac()).await?;
    Ok(end)
}

/// Nobody is asked who has an address: the other end is the only one there is.
async fn know(netlink: &Handle, link: u32, who: Ipv4Addr, mac: [u8; 6]) -> Answer {
    netlink
        .neighbours()
        .add(link, who.into())
        .link_layer_address(&mac)
        .state(NeighbourState::Permanent)
        .execute()
        .await
}

/// The kernel keeps one route to an address: of two who ask for it, one is told that it is there.
async fn claim(netlink: &Handle, link: u32, address: Ipv4Addr) -> Answer {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .output_interface(link)
        .scope(RouteScope::Link)
        .build();
    netlink.route().add(route).execute().await
}

fn forwarding(interface: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4/conf")
        .join(interface)
        .join("forwarding")
}

async fn named(netlink: &Handle, name: &str) -> Result<Option<LinkMessage>, rtnetlink::Error> {
    match all(netlink.link().get().match_name(name).execute()).await {
        Ok(links) => Ok(links.into_iter().next()),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &rtnetlink::Error) -> bool {
    match error {
        rtnetlink::Error::NetlinkError(answer) => answer.raw_code() == -libc::ENODEV,
        _ => false,
    }
}

fn alias(link: &LinkMessage) -> &str {
    let alias = attribute(link, |it| match it {
        LinkAttribute::IfAlias(alias) => Some(alias),
        _ => None,
    });
    alias.unwrap_or_default()
}

fn attribute<'a>(
    link: &'a LinkMessage,
    which: impl Fn(&'a LinkAttribute) -> Option<&'a String>,
) -> Option<&'a str> {
    link.attributes.iter().find_map(which).map(String::as_str)
}
