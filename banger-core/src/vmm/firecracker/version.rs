//! Which versions are used: new enough to show its devices by ACPI, and without a known way out of the guest.

use std::fmt;

/// A version of Firecracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

const fn version(major: u32, minor: u32, patch: u32) -> Version {
    Version {
        major,
        minor,
        patch,
    }
}

/// The first that shows virtio devices by ACPI, which is where a stock kernel looks for them.
const OLDEST: Version = version(1, 8, 0);

/// Known flaws that let a guest or its neighbour out, with the first version of each line in which they are mended.
const FLAWS: [(&str, &[Version]); 2] = [
    ("CVE-2026-1386", &[version(1, 13, 2), version(1, 14, 1)]),
    ("CVE-2026-5747", &[version(1, 14, 4), version(1, 15, 1)]),
];

impl Version {
    /// Reads what `firecracker --version` prints, or `GET /version` answers: `Firecracker v1.14.4`.
    pub(super) fn read(text: &str) -> Option<Self> {
        let first = text.lines().next()?;
        let word = first.split_whitespace().next_back()?;
        let numbers = word.trim_start_matches('v');
        // A build from source says `-dev` or more behind its numbers.
        let numbers = numbers.split(['-', '+']).next()?;
        let mut numbers = numbers.split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(version(next()?, next()?, next()?))
    }

    /// Says why this version is not used; none if it is.
    pub(super) fn flaw(self) -> Option<String> {
        if self < OLDEST {
            return Some(format!("{OLDEST} is the oldest that boots a stock kernel"));
        }
        let (flaw, mended) = FLAWS.into_iter().find(|(_, mended)| !self.has(mended))?;
        let mended: Vec<String> = mended.iter().map(Version::to_string).collect();
        Some(format!("it has {flaw}, mended in {}", mended.join(" and ")))
    }

    /// Says whether a mend that came with these versions is in this one: in its own line, or in an older one.
    fn has(self, mended: &[Version]) -> bool {
        let in_line = mended
            .iter()
            .find(|v| (v.major, v.minor) == (self.major, self.minor));
        match in_line {
            Some(first) => self >= *first,
            None => mended.iter().all(|first| self > *first),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_firecracker_says_of_itself_is_read() {
        assert_eq!(
            Version::read("Firecracker v1.14.4\n\n"),
            Some(version(1, 14, 4))
        );
        assert_eq!(
            Version::read("Firecracker v1.17.0-dev"),
            Some(version(1, 17, 0))
        );
        assert_eq!(Version::read("1.15.1"), Some(version(1, 15, 1)));
        for text in ["", "Firecracker", "Firecracker v1.14", "v1.x.0"] {
            assert_eq!(Version::read(text), None, "{text:?}");
        }
    }

    #[test]
    fn old_and_flawed_versions_are_refused_by_name_and_mended_ones_are_not() {
        for (text, expected) in [
            ("1.7.9", Some("oldest")),
            ("1.8.0", Some("CVE-2026-1386")),
            ("1.13.1", Some("CVE-2026-1386")),
            ("1.13.2", Some("CVE-2026-5747")),
            ("1.14.0", Some("CVE-2026-1386")),
            ("1.14.3", Some("CVE-2026-5747")),
            ("1.14.4", None),
            ("1.15.0", Some("CVE-2026-5747")),
            ("1.15.1", None),
            ("1.16.0", None),
            ("2.0.0", None),
        ] {
            let flaw = Version::read(text).unwrap().flaw();
            match expected {
                Some(word) => assert!(flaw.clone().unwrap().contains(word), "{text}: {flaw:?}"),
                None => assert_eq!(flaw, None, "{text}"),
            }
        }
    }
}
