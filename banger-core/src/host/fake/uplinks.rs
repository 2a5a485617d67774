//! Ways out on a fake host, and its firewall's tables: kept in memory, like its namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use async_trait::async_trait;

use super::plan::Needs;
use super::{FakeHost, HostError, Result};
use crate::host::uplinks::{
    Hops, HostRoute, Neighbourhood, RuleTable, UplinkFacts, UplinkSpec, Uplinks,
};
use crate::names::Subnet;

/// What the kernel of a fake host holds of them.
#[derive(Debug, Default)]
pub(super) struct Ways {
    pub(super) uplinks: BTreeMap<String, FakeUplink>,
    pub(super) tables: BTreeSet<String>,
    neighbourhood: Option<Neighbourhood>,
}

#[derive(Debug)]
pub(super) struct FakeUplink {
    owner: String,
    namespace: String,
    /// None for one that was half made.
    address: Option<Ipv4Addr>,
}

impl Ways {
    /// With a namespace goes what leads out of it.
    pub(super) fn lose_namespace(&mut self, name: &str) {
        self.uplinks.retain(|_, uplink| uplink.namespace != name);
    }

    fn neighbourhood(&self) -> Neighbourhood {
        let mut seen = self.neighbourhood.clone().unwrap_or_else(usual);
        for address in self.uplinks.values().filter_map(|uplink| uplink.address) {
            let (to, hops) = (Subnet::around(address, 32), Hops::Direct);
            seen.routes.push(HostRoute { to, hops });
        }
        seen
    }
}

impl FakeHost {
    /// Says how this host is connected from now on; until then it is on a network of its own, and forwards.
    pub fn set_neighbourhood(&self, neighbourhood: Neighbourhood) {
        self.inner().kernel.ways.neighbourhood = Some(neighbourhood);
    }

    /// Returns the addresses that uplinks have, sorted.
    pub fn uplink_addresses(&self) -> Vec<Ipv4Addr> {
        let inner = self.inner();
        let uplinks = inner.kernel.ways.uplinks.values();
        let mut addresses: Vec<_> = uplinks.filter_map(|uplink| uplink.address).collect();
        addresses.sort_unstable();
        addresses
    }
}

#[async_trait]
impl Uplinks for FakeHost {
    async fn neighbourhood(&self) -> Result<Neighbourhood> {
        self.look(|inner| inner.kernel.ways.neighbourhood())
    }

    async fn make_table(&self, table: &RuleTable) -> Result<()> {
        self.act(Needs::Nothing, "make nft table".to_owned(), || {
            match self.inner().kernel.ways.tables.insert(table.name.clone()) {
                true => Ok(()),
                false => Err(taken("load the firewall's rules", &table.name)),
            }
        })
    }

    async fn remove_table(&self, name: &str) -> Result<()> {
        if !self.look(|inner| inner.kernel.ways.tables.contains(name))? {
            return Ok(());
        }
        self.act(Needs::Nothing, "remove nft table".to_owned(), || {
            self.inner().kernel.ways.tables.remove(name);
            Ok(())
        })
    }

    async fn list_tables(&self, prefix: &str) -> Result<Vec<String>> {
        self.look(|inner| {
            let tables = inner.kernel.ways.tables.iter();
            tables.filter(|n| n.starts_with(prefix)).cloned().collect()
        })
    }

    async fn make_uplink(&self, namespace: &str, spec: &UplinkSpec) -> Result<()> {
        self.enter(namespace)?;
        let uplink = |address| FakeUplink {
            owner: spec.owner.clone(),
            namespace: namespace.to_owned(),
            address,
        };
        let half = || {
            let ways = &mut self.inner().kernel.ways;
            ways.uplinks
                .entry(spec.name.clone())
                .or_insert(uplink(None));
        };
        self.act_in_steps(Needs::Nothing, "make veth".to_owned(), Some(half), || {
            let ways = &mut self.inner().kernel.ways;
            if ways.uplinks.contains_key(&spec.name) {
                return Err(taken("make the veth pair", &spec.name));
            }
            let seen = ways.neighbourhood();
            ways.uplinks.insert(spec.name.clone(), uplink(None));
            let claimed = Subnet::around(spec.address, 32);
            if seen.routes.iter().any(|route| route.to == claimed) {
                return Err(taken("claim an address for", &spec.name));
            }
            ways.uplinks
                .insert(spec.name.clone(), uplink(Some(spec.address)));
            Ok(())
        })
    }

    async fn remove_uplink(&self, name: &str, owner: &str) -> Result<()> {
        let ours = |uplink: &FakeUplink| uplink.owner == owner;
        if !self.look(|inner| inner.kernel.ways.uplinks.get(name).is_some_and(ours))? {
            return Ok(());
        }
        self.act(Needs::Nothing, "remove veth".to_owned(), || {
            self.inner().kernel.ways.uplinks.remove(name);
            Ok(())
        })
    }

    async fn list_uplinks(&self, prefix: &str) -> Result<Vec<UplinkFacts>> {
        self.look(|inner| {
            let uplinks = inner.kernel.ways.uplinks.iter();
            let ours = uplinks.filter(|(name, _)| name.starts_with(prefix));
            ours.map(|(name, uplink)| UplinkFacts {
                name: name.clone(),
                owner: uplink.owner.clone(),
            })
            .collect()
        })
    }
}

/// A host on a network of its own, with a router on it.
fn usual() -> Neighbourhood {
    let own = Ipv4Addr::new(192, 0, 2, 10);
    let route = |to, prefix, hops| HostRoute {
        to: Subnet::around(to, prefix),
        hops,
    };
    Neighbourhood {
        addresses: vec![(own, Subnet::around(own, 24))],
        routes: vec![
            route(Ipv4Addr::UNSPECIFIED, 0, Hops::Routed),
            route(own, 24, Hops::Direct),
        ],
        way_out: Some("eth0".to_owned()),
        forwards: true,
        rules: Ok(r#"{"nftables": []}"#.to_owned()),
        legacy_rules: None,
        resolvers: vec!["nameserver 192.0.2.53\n".to_owned()],
    }
}

fn taken(act: &'static str, what: &str) -> HostError {
    HostError::Device {
        act,
        device: what.to_owned(),
        source: io::ErrorKind::AlreadyExists.into(),
    }
}
