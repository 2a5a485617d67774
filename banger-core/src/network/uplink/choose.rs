//! Decides how a guest is let out, from how its host is connected: which address it is given, what is kept
//! from it, who answers its questions for names. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::passage::{self, Direction};
use crate::config::NatConfig;
use crate::host::{Hops, Neighbourhood, RulesUnknown};
use crate::names::Subnet;
use crate::network::NetworkError;

/// How a guest is let out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Addresses that are free, the best first.
    pub(super) addresses: Vec<Ipv4Addr>,
    /// What the guest does not reach, beside the host itself.
    pub(super) blocked: Vec<Subnet>,
    /// Who answers its questions for names.
    pub(super) resolver: Option<Ipv4Addr>,
}

/// What no guest reaches, wherever its host is: what is nobody's or everybody's, what is private (RFC 1918),
/// the providers' own (RFC 6598), link-local with the clouds' metadata (RFC 3927), and multicast.
const NEVER: [&str; 10] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// A route wider than this leads out, or to a part of all that is out; it names no network of the host's.
const WIDEST_NETWORK: u8 = 8;

/// Addresses beyond these are not looked at, in a pool that is larger.
const LOOKED_AT: u64 = 1 << 16;

/// Decides, or says why there is no way and what to do. `uplink` is the name of the host's end or how it
/// begins; the same `seed` tries the same addresses first.
pub(super) fn way(
    config: &NatConfig,
    host: &Neighbourhood,
    uplink: &str,
    seed: &str,
) -> Result<Way, NetworkError> {
    let rules = match &host.rules {
        Ok(rules) => rules,
        Err(unknown) => {
            let hint = match unknown {
                RulesUnknown::NotInstalled => {
                    Some("install it: apt-get install --no-install-recommends nftables".to_owned())
                }
                RulesUnknown::Failed { .. } => None,
            };
            return Err(no_way(unknown.to_string(), hint));
        }
    };
    if !host.forwards {
        return Err(not_forwarding(host.way_out.as_deref()));
    }
    let addresses = free_addresses(config.pool, host, seed);
    let Some(&address) = addresses.first() else {
        return Err(no_address(config.pool));
    };
    for direction in [Direction::Out, Direction::Back] {
        let packet = passage::Packet {
            uplink,
            out: host.way_out.as_deref(),
            guest: address,
            direction,
        };
        if let Some(blockade) = passage::blocked(rules, host.legacy_rules.as_deref(), &packet) {
            return Err(no_way(blockade.to_string(), Some(blockade.remedy(uplink))));
        }
    }
    Ok(Way {
        addresses,
        blocked: blocked(config.pool, host),
        resolver: config.name_server.or_else(|| resolver(&host.resolvers)),
    })
}

/// Says that the pool has no address left.
pub(super) fn no_address(pool: Subnet) -> NetworkError {
    no_way(
        format!("every address of {pool} is in use here or routed elsewhere"),
        Some("name a range that is free here: pool in [nat] of config.toml".to_owned()),
    )
}

fn no_way(reason: String, hint: Option<String>) -> NetworkError {
    NetworkError::NoWayOut { reason, hint }
}

fn not_forwarding(way_out: Option<&str>) -> NetworkError {
    let (reason, key) = match way_out {
        // The kernel asks the interface that a packet came in by. Ours is switched by us; the answers
        // come in by this one.
        Some(interface) => (
            format!("this host does not forward what comes in at {interface}"),
            // An interface's name may hold a dot, which sysctl(8) takes for a separator.
            format!("net/ipv4/conf/{interface}/forwarding"),
        ),
        None => (
            "this host does not forward packets".to_owned(),
            "net/ipv4/ip_forward".to_owned(),
        ),
    };
    no_way(
        reason,
        Some(format!(
            "switch it on: sysctl -w {key}=1 (and in /etc/sysctl.d, to keep it)"
        )),
    )
}

fn free_addresses(pool: Subnet, host: &Neighbourhood, seed: &str) -> Vec<Ipv4Addr> {
    let routes = host.routes.iter().map(|route| route.to);
    let networks = host.addresses.iter().map(|(_, network)| *network);
    let of_pool = routes
        .chain(networks)
        .filter(|to| to.prefix() >= WIDEST_NETWORK && to.overlaps(pool));
    let (single, wide): (Vec<Subnet>, Vec<Subnet>) = of_pool.partition(|to| to.prefix() == 32);
    let single: BTreeSet<Ipv4Addr> = single.into_iter().map(Subnet::first).collect();
    let own: BTreeSet<Ipv4Addr> = host.addresses.iter().map(|(own, _)| *own).collect();
    let start = hash(seed);
    (0..pool.size().min(LOOKED_AT))
        .map(|step| pool.nth(start.wrapping_add(step)))
        .filter(|address| *address != pool.first() && *address != pool.nth(pool.size() - 1))
        .filter(|address| !single.contains(address) && !own.contains(address))
        .filter(|address| !wide.iter().any(|network| network.contains(*address)))
        // Whoever is told more of them has lost as many races.
        .take(super::ATTEMPTS + 1)
        .collect()
}

/// What a guest does not reach: the host's own networks as they are now, and what is never reached.
fn blocked(pool: Subnet, host: &Neighbourhood) -> Vec<Subnet> {
    let own = host.addresses.iter().map(|(_, network)| *network);
    let direct = host
        .routes
        .iter()
        .filter(|route| route.hops == Hops::Direct);
    let known = own
        .chain(direct.map(|route| route.to))
        .filter(|network| network.prefix() >= WIDEST_NETWORK);
    let never = NEVER.iter().filter_map(|text| text.parse().ok());
    let mut all: Vec<Subnet> = never.chain([pool]).chain(known).collect();
    all.sort_unstable();
    all.dedup();
    // One inside another adds nothing, and nft refuses it.
    let inside = |network: &Subnet| {
        all.iter()
            .any(|other| other.prefix() < network.prefix() && other.contains(network.first()))
    };
    all.iter()
        .filter(|network| !inside(network))
        .copied()
        .collect()
}

/// Finds the first resolver that is not on the host's own loopback, where a guest cannot ask it.
fn resolver(files: &[String]) -> Option<Ipv4Addr> {
    let lines = files.iter().flat_map(|file| file.lines());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse::<Ipv4Addr>().ok())?
        })
        .find(|address| !address.is_loopback() && !address.is_unspecified())
}

/// FNV-1a: the same in every engine and at every start.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
