//! IPv4 networks, written `198.18.0.0/16`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A range of IPv4 addresses with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: u32,
    prefix: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no network: write it as 198.18.0.0/16, its first address and a prefix of at most 32"
)]
pub struct InvalidSubnet {
    /// What was given.
    pub text: String,
}

impl Subnet {
    /// Returns the network of this prefix (at most 32) that an address is in.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Subnet {
            first: address.to_bits() & mask(prefix),
            prefix,
        }
    }

    /// Returns its first address.
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first)
    }

    /// Returns the length of its prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Returns how many addresses it has.
    pub fn size(self) -> u64 {
        1 << (32 - u64::from(self.prefix))
    }

    /// Returns the address of a number, counted from its first; the numbers begin anew behind the last.
    pub fn nth(self, number: u64) -> Ipv4Addr {
        let offset = u32::try_from(number % self.size()).unwrap_or(0);
        Ipv4Addr::from_bits(self.first + offset)
    }

    /// Says whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.first
    }

    /// Says whether any address is in both.
    pub fn overlaps(self, other: Subnet) -> bool {
        let shorter = self.prefix.min(other.prefix);
        self.first & mask(shorter) == other.first & mask(shorter)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let (address, prefix) = (address.parse::<Ipv4Addr>().ok()?, prefix.parse().ok()?);
            let subnet = (prefix <= 32).then(|| Subnet::around(address, prefix))?;
            (subnet.first() == address).then_some(subnet)
        });
        parsed.ok_or_else(|| InvalidSubnet {
            text: text.to_owned(),
        })
    }
}

impl TryFrom<String> for Subnet {
    type Error = InvalidSubnet;

    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_is_written_as_it_is_read_and_what_is_none_is_refused() {
        for text in ["0.0.0.0/0", "198.18.0.0/16", "10.0.2.3/32"] {
            assert_eq!(net(text).to_string(), text);
        }
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "fd00::/8",
            "10.0.0.0/x",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_in_it_overlaps_it_and_its_addresses_are_counted_in_a_circle() {
        let pool = net("198.18.0.0/30");
        assert_eq!(pool.size(), 4);
        assert_eq!(pool.nth(3), Ipv4Addr::new(198, 18, 0, 3));
        assert_eq!(pool.nth(4), pool.first());
        assert!(pool.contains(pool.nth(2)) && !pool.contains(Ipv4Addr::new(198, 18, 0, 4)));
        assert!(pool.overlaps(net("0.0.0.0/0")) && pool.overlaps(net("198.18.0.2/32")));
        assert!(!pool.overlaps(net("198.18.0.4/30")));
        assert_eq!(net("0.0.0.0/0").size(), 1 << 32);
    }
}
