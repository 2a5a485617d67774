//! Sizes as people write them: `512`, `512M`, `4g`, `4GiB`.

use std::fmt;
use std::str::FromStr;

/// A size of memory or of a disk, in MiB.
///
/// A bare number is MiB; `M`, `G` and `T` are binary, with or without `B` or `iB`, in capitals or
/// not, as `docker run --memory` reads them. Whether it is enough, or too much, is the daemon's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// In MiB.
    pub(crate) mib: u64,
}

/// Why a size was refused; clap names the flag and what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeError {
    /// It does not begin with a number.
    NoNumber,
    /// A fraction.
    NotWhole,
    /// Not M, G or T.
    UnknownUnit,
    /// More MiB than fit into 64 bits.
    TooLarge,
}

impl std::error::Error for SizeError {}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SizeError::NoNumber => "a size is a number and a unit, such as 512M or 4G",
            SizeError::NotWhole => "a size is a whole number: 1536M rather than 1.5G",
            SizeError::UnknownUnit => "the units are M (also none), G and T, such as 512M or 4G",
            SizeError::TooLarge => "no machine is that large",
        })
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(given: &str) -> Result<Self, SizeError> {
        let end = given
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(given.len());
        let (digits, unit) = given.split_at(end);
        if digits.is_empty() {
            return Err(SizeError::NoNumber);
        }
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "m" | "mb" | "mib" => 1,
            "g" | "gb" | "gib" => 1 << 10,
            "t" | "tb" | "tib" => 1 << 20,
            fraction if fraction.starts_with(['.', ',']) => return Err(SizeError::NotWhole),
            _ => return Err(SizeError::UnknownUnit),
        };
        // Only digits are left, so a number that is none is one that does not fit.
        let number: u64 = digits.parse().map_err(|_| SizeError::TooLarge)?;
        let mib = number.checked_mul(factor).ok_or(SizeError::TooLarge)?;
        Ok(Size { mib })
    }
}

/// Writes MiB as a person would: `512M`, `4G`.
pub(crate) fn shown(mib: u64) -> String {
    match mib {
        0 => "0".to_owned(),
        mib if mib % (1 << 20) == 0 => format!("{}T", mib >> 20),
        mib if mib % (1 << 10) == 0 => format!("{}G", mib >> 10),
        mib => format!("{mib}M"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (given, mib) in [
            ("512", 512),
            ("512M", 512),
            ("512mb", 512),
            ("4096", 4096),
            ("4g", 4096),
            ("4G", 4096),
            ("4GiB", 4096),
            ("4gib", 4096),
            ("10T", 10 << 20),
            ("0", 0),
        ] {
            assert_eq!(given.parse(), Ok(Size { mib }), "{given}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_would_do() {
        for (given, error) in [
            ("", SizeError::NoNumber),
            ("G", SizeError::NoNumber),
            ("-1", SizeError::NoNumber),
            ("much", SizeError::NoNumber),
            (" 4G", SizeError::NoNumber),
            ("1.5G", SizeError::NotWhole),
            ("4 G", SizeError::UnknownUnit),
            ("4K", SizeError::UnknownUnit),
            ("4Gi", SizeError::UnknownUnit),
            ("4GiBs", SizeError::UnknownUnit),
            ("99999999999999999999", SizeError::TooLarge),
            ("18446744073709551615T", SizeError::TooLarge),
        ] {
            assert_eq!(given.parse::<Size>(), Err(error), "{given:?}");
        }
    }

    #[test]
    fn a_size_is_shown_in_its_largest_whole_unit() {
        for (mib, text) in [
            (512, "512M"),
            (1536, "1536M"),
            (4096, "4G"),
            (1 << 20, "1T"),
        ] {
            assert_eq!(shown(mib), text);
            assert_eq!(text.parse(), Ok(Size { mib }));
        }
    }
}
