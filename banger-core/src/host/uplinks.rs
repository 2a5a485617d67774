//! Ways out of a network namespace: a veth pair into the host's own network, and tables of firewall rules.

use std::net::Ipv4Addr;

use async_trait::async_trait;

use super::HostError;
use crate::names::Subnet;

/// The part of a [`Host`](super::Host) that connects namespaces to the network that this process is in, and
/// that keeps others out of them.
#[async_trait]
pub trait Uplinks {
    /// Looks at how this host is connected, and at who filters what it forwards. Sends nothing.
    async fn neighbourhood(&self) -> Result<Neighbourhood, HostError>;

    /// Makes a table of firewall rules, all of it or nothing. One of that name is an error.
    async fn make_table(&self, table: &RuleTable) -> Result<(), HostError>;

    /// Removes a table of firewall rules; a missing one is success.
    async fn remove_table(&self, name: &str) -> Result<(), HostError>;

    /// Lists the tables whose names begin so, sorted.
    async fn list_tables(&self, prefix: &str) -> Result<Vec<String>, HostError>;

    /// Connects a namespace: packets for its address go in, what it sends elsewhere comes out. An
    /// address that the host has, or routes elsewhere, is an error ([`HostError::is_taken`]): it is given
    /// once, whoever asks; what is then left goes with [`Uplinks::remove_uplink`].
    async fn make_uplink(&self, namespace: &str, uplink: &UplinkSpec) -> Result<(), HostError>;

    /// Removes an uplink, at once. A missing one, and one of another owner, is success.
    async fn remove_uplink(&self, name: &str, owner: &str) -> Result<(), HostError>;

    /// Lists the uplinks whose names begin so, sorted.
    async fn list_uplinks(&self, prefix: &str) -> Result<Vec<UplinkFacts>, HostError>;
}

/// A table of firewall rules to make, of the family `inet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTable {
    /// Its name.
    pub name: String,
    /// What is between its braces, as nft(8) reads it.
    pub rules: String,
}

/// An uplink to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkSpec {
    /// The name of its end in the host: at most 15 bytes.
    pub name: String,
    /// Whose it is: written on it before it is in the host.
    pub owner: String,
    /// The address of its end in the namespace, by which the host reaches it.
    pub address: Ipv4Addr,
    /// The tap in the namespace that is to be let out.
    pub tap: String,
    /// An address that is answered for on the tap too.
    pub also: Ipv4Addr,
    /// The table of rules in the namespace.
    pub rules: RuleTable,
}

impl UplinkSpec {
    /// The name of its end in the namespace.
    pub const INSIDE: &str = "uplink";

    /// Where the namespace sends what is for elsewhere: a name for the host that is nobody's address.
    pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

    /// Returns the hardware address of its end in the namespace.
    pub fn inside_mac(&self) -> [u8; 6] {
        self.mac(0x02)
    }

    /// Returns the hardware address of its end in the host.
    pub fn outside_mac(&self) -> [u8; 6] {
        self.mac(0x06)
    }

    /// Of the range that is for local use. Given, not drawn: whoever gives devices lasting addresses of
    /// their own (udev) leaves it alone.
    fn mac(&self, first: u8) -> [u8; 6] {
        let [a, b, c, d] = self.address.octets();
        [first, 0x62, a, b, c, d]
    }
}

/// An uplink that there is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UplinkFacts {
    /// The name of its end in the host.
    pub name: String,
    /// Whose it is; empty if nobody wrote it on it.
    pub owner: String,
}

/// How a host is connected, and who filters what it forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbourhood {
    /// The networks that it has an address in, each with that address.
    pub addresses: Vec<(Ipv4Addr, Subnet)>,
    /// Its routes to networks, in all tables.
    pub routes: Vec<HostRoute>,
    /// Where it sends what is for the internet; none if it does not.
    pub way_out: Option<String>,
    /// Whether it forwards what comes in there; without a way out, whether it forwards at all.
    pub forwards: bool,
    /// The rules of all tables, as `nft --json --terse list ruleset` tells them, or why they are not known.
    pub rules: Result<String, RulesUnknown>,
    /// The rules of the older kind, as `iptables-legacy-save -t filter` tells them; none if there are none.
    pub legacy_rules: Option<String>,
    /// What is in the files that name its resolvers, in the order in which they are to be believed.
    pub resolvers: Vec<String>,
}

/// Why the firewall's rules are not known, and cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesUnknown {
    /// The program is not there.
    #[error("nft is not installed")]
    NotInstalled,
    /// The program failed.
    #[error("nft cannot list the firewall's rules: {said}")]
    Failed {
        /// What it said.
        said: String,
    },
}

/// One route of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Where to.
    pub to: Subnet,
    /// Whether whoever is there is reached without another router.
    pub hops: Hops,
}

/// Whether a route leads over another router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hops {
    /// It does not: the host is in that network.
    Direct,
    /// It does.
    Routed,
}
