//! The firewall's rules of one VM, as nft(8) reads them. Pure.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::choose::Way;
use crate::host::UplinkSpec;
use crate::network::GUEST;

/// A guest holds so many connections at once and no more: the host's own are counted in the same table, and
/// none is made any more when it is full. A kernel need not have this one (nft_connlimit).
pub(crate) const TOO_MANY_CONNECTIONS: &str = "ct state new ct count over 8192";

/// The rules in the host. Who comes in by the uplink is the guest, whatever it writes on its packets; it is
/// given its address there, so that nobody else's answers reach it. The host's own addresses are met in
/// `input`, everybody else's in `forward`.
pub(super) fn outside(uplink: &str, address: Ipv4Addr, way: &Way) -> String {
    let blocked: Vec<String> = way.blocked.iter().map(ToString::to_string).collect();
    let blocked = blocked.join(", ");
    let gateway = UplinkSpec::GATEWAY;
    let (mut names, mut ask) = (String::new(), String::new());
    if let Some(resolver) = way.resolver {
        for protocol in ["udp", "tcp"] {
            let _ = writeln!(
                names,
                "    iifname \"{uplink}\" ip daddr {gateway} {protocol} dport 53 dnat ip to {resolver}"
            );
            let _ = writeln!(
                ask,
                "    iifname \"{uplink}\" ip saddr {address} ip daddr {resolver} {protocol} dport 53 accept"
            );
        }
    }
    format!(
        r#"  set blocked {{
    type ipv4_addr; flags interval;
    elements = {{ {blocked} }}
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
{ask}    iifname "{uplink}" drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{uplink}" meta nfproto != ipv4 drop
    iifname "{uplink}" ip saddr != {address} drop
    iifname "{uplink}" {TOO_MANY_CONNECTIONS} reject with icmp admin-prohibited
{ask}    iifname "{uplink}" ip daddr @blocked reject with icmp admin-prohibited
    oifname "{uplink}" ct state established,related accept
    oifname "{uplink}" drop
  }}
  chain names {{
    type nat hook prerouting priority dstnat; policy accept;
{names}  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {address} oifname != "{uplink}" masquerade
  }}
"#
    )
}

/// The rules in the namespace: the guest gets out and nobody gets in. The resolver that every guest has at
/// the same address is the host's to choose, so it is asked for there: a guest that is restored elsewhere
/// finds another one behind the same address.
pub(super) fn inside(tap: &str) -> String {
    let (guest, resolver) = (GUEST.address, GUEST.dns);
    let (uplink, gateway) = (UplinkSpec::INSIDE, UplinkSpec::GATEWAY);
    format!(
        r#"  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{uplink}" ct state established,related accept
    iifname "{uplink}" drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "{tap}" oifname "{uplink}" ip saddr {guest} accept
    iifname "{uplink}" oifname "{tap}" ct state established,related accept
  }}
  chain names {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{tap}" ip daddr {resolver} udp dport 53 dnat ip to {gateway}
    iifname "{tap}" ip daddr {resolver} tcp dport 53 dnat ip to {gateway}
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{uplink}" masquerade
  }}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_resolver_no_port_is_open_and_with_one_only_its_own() {
        let mut way = Way {
            addresses: Vec::new(),
            blocked: vec!["10.0.0.0/8".parse().unwrap()],
            resolver: None,
        };
        let address = Ipv4Addr::new(198, 18, 0, 5);
        let closed = outside("b0e0e0e0eababab", address, &way);
        assert!(closed.contains(TOO_MANY_CONNECTIONS), "{closed}");
        assert!(!closed.contains("dport"), "{closed}");
        way.resolver = Some(Ipv4Addr::new(10, 0, 0, 1));
        let open = outside("b0e0e0e0eababab", address, &way);
        let lines: Vec<&str> = open.lines().filter(|line| line.contains("dport")).collect();
        assert_eq!(lines.len(), 6, "{open}");
        assert!(
            lines
                .iter()
                .all(|line| line.contains("dport 53") && line.contains("10.0.0.1"))
        );
    }
}
