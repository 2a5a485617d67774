//! Names and ids: parsed once, at the first byte, and refused there.

mod subnet;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use subnet::{InvalidSubnet, Subnet};

/// A name or id that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("a {what} cannot be empty")]
    Empty {
        /// What it was to name.
        what: &'static str,
    },
    /// It is too long.
    #[error("the {what} {text:?} has {length} characters; at most {limit} are allowed")]
    TooLong {
        /// What it was to name.
        what: &'static str,
        /// What was given.
        text: String,
        /// Its length.
        length: usize,
        /// The most there may be.
        limit: usize,
    },
    /// It holds a character that is not allowed there.
    #[error(
        "the {what} {text:?} is not valid: use small letters, digits{allowed}, beginning and ending with a letter or digit"
    )]
    Character {
        /// What it was to name.
        what: &'static str,
        /// What was given.
        text: String,
        /// What else may be inside.
        allowed: &'static str,
    },
    /// It is no name of a session.
    #[error(
        "the session name {text:?} is not valid: use at most {MAX_NAME} letters, digits, '-', '_' and '.', beginning with a letter or digit"
    )]
    SessionName {
        /// What was given.
        text: String,
    },
    /// It is not the hexadecimal number that it should be.
    #[error("{text:?} is no {what}: {digits} hexadecimal digits are expected")]
    NotHex {
        /// What it was to be.
        what: &'static str,
        /// What was given.
        text: String,
        /// How many digits it has.
        digits: usize,
    },
    /// There is no such thing to choose.
    #[error("there is no {what} {text:?}; there are: {known}")]
    Unknown {
        /// What was to be chosen.
        what: &'static str,
        /// What was given.
        text: String,
        /// What there is.
        known: String,
    },
    /// It is not an amount of memory or disk.
    #[error(
        "{text:?} is no size: write a number of MiB, or one with K, M, G or T (as in 512M, 4GiB)"
    )]
    Size {
        /// What was given.
        text: String,
    },
}

/// The longest name of a VM or image: it is also a DNS label and a host name (RFC 1035: 63 octets).
pub const MAX_NAME: usize = 63;

macro_rules! dns_label {
    ($(#[$doc:meta])* $type:ident, $what:literal, $also:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Returns it as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_label($what, text, $also)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

dns_label! {
    /// The name of a VM: 1 to 63 of `a-z 0-9 -`, beginning and ending with a letter or digit.
    VmName, "VM name", b""
}

dns_label! {
    /// The name of an image: as a VM's, and `.` and `_` inside.
    ImageName, "image name", b"._"
}

/// The name of a guest session, unique in its VM: 1 to 63 of `A-Z a-z 0-9 - _ .`, beginning with a letter
/// or digit, so that it can be typed and printed anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(String);

impl SessionName {
    /// Returns it as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let first = text.bytes().next();
        let fits = first.is_some_and(|byte| byte.is_ascii_alphanumeric())
            && text.len() <= MAX_NAME
            && text.bytes().all(inside);
        match fits {
            true => Ok(SessionName(text.to_owned())),
            false => Err(NameError::SessionName {
                text: text.to_owned(),
            }),
        }
    }
}

impl TryFrom<String> for SessionName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> String {
        name.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $type:ident, $what:literal, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Makes one from random bytes.
            pub fn from_random(bytes: [u8; $bytes]) -> Self {
                Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
            }

            /// Returns it as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                if text.len() == 2 * $bytes && text.bytes().all(is_hex) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError::NotHex { what: $what, text: text.to_owned(), digits: 2 * $bytes })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

hex_id! {
    /// The id of a VM: 32 hexadecimal digits, random.
    VmId, "VM id", 16
}

hex_id! {
    /// The id of one state folder's engine: 8 hexadecimal digits. Every host object carries it.
    EngineId, "engine id", 4
}

hex_id! {
    /// The id of one start of a VM: 16 hexadecimal digits.
    RunId, "run id", 8
}

hex_id! {
    /// The id of a guest session: 32 hexadecimal digits, random; also the name of its folder in the guest.
    SessionId, "session id", 16
}

impl VmId {
    /// Returns the 12 digits that names of host objects are made of.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// An amount of memory or disk, in units of 2^20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mebibytes(pub u64);

impl Mebibytes {
    /// Returns the number of bytes.
    pub fn bytes(self) -> u64 {
        self.0.saturating_mul(1 << 20)
    }
}

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            mib if mib > 0 && mib % (1 << 20) == 0 => write!(f, "{} TiB", mib >> 20),
            mib if mib > 0 && mib % 1024 == 0 => write!(f, "{} GiB", mib / 1024),
            mib => write!(f, "{mib} MiB"),
        }
    }
}

impl FromStr for Mebibytes {
    type Err = NameError;

    /// Reads `512`, `512M`, `4g`, `4GiB`, `4GB`: powers of 1024 throughout, rounded up to a whole MiB.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Size {
            text: text.to_owned(),
        };
        let trimmed = text.trim();
        let digits = trimmed.trim_start_matches(|c: char| c.is_ascii_digit());
        let (number, unit) = trimmed.split_at(trimmed.len() - digits.len());
        let number: u64 = number.parse().map_err(|_| refused())?;
        let unit = unit.trim().to_ascii_lowercase();
        let unit = unit
            .strip_suffix("ib")
            .or_else(|| unit.strip_suffix('b'))
            .unwrap_or(&unit);
        let mib = match unit {
            "" | "m" => Some(number),
            "k" => Some(number.div_ceil(1024)),
            "g" => number.checked_mul(1 << 10),
            "t" => number.checked_mul(1 << 20),
            _ => None,
        };
        mib.map(Mebibytes).ok_or_else(refused)
    }
}

fn check_label(what: &'static str, text: &str, also: &[u8]) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edges = text.bytes().next().is_some_and(plain) && text.bytes().last().is_some_and(plain);
    let inside = |byte| plain(byte) || byte == b'-' || also.contains(&byte);
    if !edges || !text.bytes().all(inside) || text.contains("..") {
        return Err(NameError::Character {
            what,
            text: text.to_owned(),
            allowed: match also.is_empty() {
                true => " and '-'",
                false => ", '-', '.' and '_'",
            },
        });
    }
    if text.len() > MAX_NAME {
        return Err(NameError::TooLong {
            what,
            text: text.to_owned(),
            length: text.len(),
            limit: MAX_NAME,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_host_names_are_refused() {
        for bad in ["", "Box", "-a", "a-", "..", "a/b", "a b", "ä", "a.b", "a\n"] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(63).parse::<VmName>().is_ok());
        let error = "x".repeat(64).parse::<VmName>().unwrap_err();
        assert!(error.to_string().contains("at most 63"), "{error}");
        for good in ["a", "0", "my-box-2"] {
            assert_eq!(good.parse::<VmName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn image_names_may_carry_a_version_but_never_a_path() {
        assert!("debian-12.5_x".parse::<ImageName>().is_ok());
        for bad in ["..", ".new-1", "a..b", "a/b", "_a"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let size = |text: &str| text.parse::<Mebibytes>().map(|size| size.0);
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("4g"), Ok(4096));
        assert_eq!(size("4GiB"), Ok(4096));
        assert_eq!(size("4 GB"), Ok(4096));
        assert_eq!(size("1T"), Ok(1 << 20));
        assert_eq!(size("1k"), Ok(1));
        assert_eq!(size("0"), Ok(0));
        for bad in [
            "",
            "g",
            "-1",
            "1.5g",
            "4x",
            "99999999999999999999",
            "99999999999999999T",
        ] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn session_names_are_what_can_be_typed_and_printed_anywhere() {
        let long = "x".repeat(64);
        for bad in [
            "", "-a", ".a", "a b", "it's", "a\n", "$a", "ä", "a/b", &long,
        ] {
            assert!(bad.parse::<SessionName>().is_err(), "{bad:?}");
        }
        for good in ["a", "Web_1.2-x", "0"] {
            assert_eq!(good.parse::<SessionName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn ids_survive_a_round_trip_and_nonsense_does_not() {
        let id = VmId::from_random([0xab; 16]);
        assert_eq!(id.as_str().parse::<VmId>().unwrap(), id);
        assert_eq!(id.short(), "abababababab");
        assert!("../../../../etc/passwd".parse::<VmId>().is_err());
        assert!("ABABABABABABABABABABABABABABABAB".parse::<VmId>().is_err());
    }
}
