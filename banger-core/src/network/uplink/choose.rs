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

const NAME_A_POOL: &str = "name a range that is free here: pool in [nat] of config.toml";

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
    if let Err(error) = NatConfig::check_pool(config.pool) {
        return Err(no_way(error.to_string(), Some(NAME_A_POOL.to_owned())));
    }
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
        Some(NAME_A_POOL.to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostRoute;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn host() -> Neighbourhood {
        let route = |to, hops| HostRoute { to: net(to), hops };
        Neighbourhood {
            addresses: vec![
                ([127, 0, 0, 1].into(), net("127.0.0.0/8")),
                ([203, 0, 113, 7].into(), net("203.0.113.0/24")),
            ],
            routes: vec![
                route("0.0.0.0/0", Hops::Routed),
                route("203.0.113.0/24", Hops::Direct),
                route("198.51.100.0/25", Hops::Direct),
                route("192.0.2.0/24", Hops::Routed),
            ],
            way_out: Some("eth0".to_owned()),
            forwards: true,
            rules: Ok("{}".to_owned()),
            legacy_rules: None,
            resolvers: Vec::new(),
        }
    }

    fn chosen(host: &Neighbourhood) -> Result<Way, NetworkError> {
        way(&NatConfig::default(), host, "b0e0e0e0eababab", "seed")
    }

    fn refusal(host: &Neighbourhood) -> (String, String) {
        match chosen(host) {
            Err(NetworkError::NoWayOut { reason, hint }) => (reason, hint.unwrap_or_default()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_private_link_local_the_pool_s_and_the_host_s_own_is_blocked_and_nothing_else() {
        let way = chosen(&host()).unwrap();
        let is_blocked = |text: &str| {
            let address = text.parse().unwrap();
            way.blocked.iter().any(|network| network.contains(address))
        };
        for near in [
            "10.1.2.3",
            "127.0.0.53",
            "169.254.169.254",
            "172.20.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.9.9",
            "203.0.113.99",
            "198.51.100.5",
            "224.0.0.251",
            "255.255.255.255",
        ] {
            assert!(is_blocked(near), "{near}");
        }
        for far in [
            "192.0.2.1",
            "198.51.100.200",
            "8.8.8.8",
            "172.32.0.1",
            "198.19.0.1",
        ] {
            assert!(!is_blocked(far), "{far}");
        }
        // nft refuses a set in which one network lies in another.
        for one in &way.blocked {
            let others = way.blocked.iter().filter(|other| *other != one);
            assert!(others.clone().all(|other| !other.overlaps(*one)), "{one}");
        }
    }

    #[test]
    fn a_default_route_without_a_router_blocks_nothing() {
        let mut host = host();
        for to in ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"] {
            let hops = Hops::Direct;
            host.routes.push(HostRoute { to: net(to), hops });
        }
        let way = chosen(&host).unwrap();
        assert_eq!(way.blocked, chosen(&super::tests::host()).unwrap().blocked);
        assert!(!way.addresses.is_empty());
    }

    #[test]
    fn the_same_vm_is_offered_the_same_address_and_never_one_that_is_routed() {
        let mut host = host();
        let first = chosen(&host).unwrap().addresses[0];
        assert_eq!(chosen(&host).unwrap().addresses[0], first);
        assert!(net("198.18.0.0/16").contains(first));
        let route = |to: Subnet| HostRoute {
            to,
            hops: Hops::Direct,
        };
        host.routes.push(route(Subnet::around(first, 32)));
        let second = chosen(&host).unwrap().addresses[0];
        assert_ne!(second, first);
        host.routes.push(route(Subnet::around(second, 28)));
        let third = chosen(&host).unwrap().addresses[0];
        assert!(!Subnet::around(second, 28).contains(third));
        // Somebody's tunnel has all of it.
        host.routes.push(route(net("198.18.0.0/15")));
        let (reason, hint) = refusal(&host);
        assert!(
            reason.contains("198.18.0.0/16") && hint.contains("pool"),
            "{reason}; {hint}"
        );
    }

    #[test]
    fn the_resolver_is_the_first_that_is_not_on_the_host_s_loopback() {
        let mut host = host();
        assert_eq!(chosen(&host).unwrap().resolver, None);
        let stub = "# systemd\nnameserver 127.0.0.53\noptions edns0\n";
        let behind = "nameserver 2001:db8::1\nnameserver 192.168.1.1\nnameserver 9.9.9.9\n";
        host.resolvers = vec![stub.to_owned(), behind.to_owned()];
        assert_eq!(
            chosen(&host).unwrap().resolver,
            Some([192, 168, 1, 1].into())
        );
        let config = NatConfig {
            name_server: Some([9, 9, 9, 9].into()),
            ..NatConfig::default()
        };
        let named = way(&config, &host, "b", "seed").unwrap();
        assert_eq!(named.resolver, Some([9, 9, 9, 9].into()));
    }

    #[test]
    fn what_is_missing_is_told_with_the_next_step() {
        let mut without = host();
        without.rules = Err(RulesUnknown::NotInstalled);
        assert!(refusal(&without).1.contains("nftables"));
        let mut closed = host();
        closed.forwards = false;
        let (reason, hint) = refusal(&closed);
        assert!(reason.contains("eth0"), "{reason}");
        assert!(
            hint.contains("sysctl -w net/ipv4/conf/eth0/forwarding=1"),
            "{hint}"
        );
        closed.way_out = None;
        assert!(refusal(&closed).1.contains("net/ipv4/ip_forward=1"));
    }
}
