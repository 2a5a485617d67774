//! `[[ADDRESS:]HOST:]PORT` as it is typed.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// A port here and the one in the guest that is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    /// Where to listen; on the loopback.
    pub(super) address: IpAddr,
    /// The port here; 0 for any.
    pub(super) here: u16,
    /// The port in the guest.
    pub(super) there: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let (before, there) = match given.rsplit_once(':') {
            Some((before, there)) => (Some(before), there),
            None => (None, given),
        };
        let there = match port(there)? {
            0 => return Err("a guest has no port 0".to_owned()),
            there => there,
        };
        let (address, here) = match before.map(|before| before.rsplit_once(':')) {
            None => (None, there),
            Some(None) => (None, port(before.unwrap_or_default())?),
            Some(Some((address, here))) => (Some(address), port(here)?),
        };
        Ok(Forward {
            address: address.map_or(Ok(Ipv4Addr::LOCALHOST.into()), loopback)?,
            here,
            there,
        })
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no port: a number from 0 to 65535"))
}

/// Whoever reaches a guest's port reaches what its owner took to be private.
fn loopback(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = match text {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        text => bare.unwrap_or(text).parse::<IpAddr>(),
    };
    match address {
        Ok(address) if address.is_loopback() => Ok(address),
        Ok(address) => Err(format!(
            "{address} is not on the loopback: others on the network would reach the VM; \
             to let them, put a proxy of your own before a port on 127.0.0.1"
        )),
        Err(_) => Err(format!("{text:?} is no address on the loopback")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_read_from_the_guests_port_backwards() {
        for (given, address, here, there) in [
            ("80", "127.0.0.1", 80, 80),
            ("8080:80", "127.0.0.1", 8080, 80),
            ("0:22", "127.0.0.1", 0, 22),
            ("127.0.0.2:8080:80", "127.0.0.2", 8080, 80),
            ("localhost:8080:80", "127.0.0.1", 8080, 80),
            ("[::1]:8080:80", "::1", 8080, 80),
        ] {
            let expected = Forward {
                address: address.parse().unwrap(),
                here,
                there,
            };
            assert_eq!(given.parse(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn what_others_could_reach_is_refused_with_the_reason() {
        for (given, why) in [
            ("", "no port"),
            ("0", "no port 0"),
            ("http", "no port"),
            ("70000", "no port"),
            (":80", "no port"),
            ("x:8080:80", "no address"),
            ("0.0.0.0:8080:80", "not on the loopback"),
            ("[::]:8080:80", "not on the loopback"),
        ] {
            let error = given.parse::<Forward>().unwrap_err();
            assert!(error.contains(why), "{given}: {error}");
        }
    }
}
