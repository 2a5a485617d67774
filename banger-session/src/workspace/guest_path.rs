//! Where a workspace lies in the guest.

use std::fmt;

use thiserror::Error;

/// The workspace's folder if none is named.
pub const DEFAULT_GUEST_PATH: &str = "/root/repo";

/// Longest path, in bytes: names made beside it must fit into `PATH_MAX`.
const MAX_BYTES: usize = 1024;

/// Folders that a guest cannot do without as they are.
const KEPT: [&[u8]; 18] = [
    b"/bin", b"/boot", b"/dev", b"/etc", b"/home", b"/lib", b"/lib32", b"/lib64", b"/media",
    b"/mnt", b"/opt", b"/proc", b"/root", b"/run", b"/sbin", b"/sys", b"/usr", b"/var",
];

/// An absolute path below some folder, without `.`, `..`, empty parts and
/// control characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GuestPath(Vec<u8>);

/// Why a path cannot be a workspace's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path:?} cannot be a workspace's folder: {reason}")]
pub struct InvalidGuestPath {
    /// As given, with bytes that are no UTF-8 replaced.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl GuestPath {
    /// Checks a path; a trailing slash is dropped.
    ///
    /// # Errors
    ///
    /// [`InvalidGuestPath`] for a relative path, for `/` and folders that the
    /// system is made of, and for names that no list of paths can carry.
    pub fn new(path: &[u8]) -> Result<Self, InvalidGuestPath> {
        let refuse = |reason| {
            Err(InvalidGuestPath {
                path: String::from_utf8_lossy(path).into_owned(),
                reason,
            })
        };
        let Some(below) = path.strip_prefix(b"/") else {
            return refuse("it must begin with a slash");
        };
        if path.len() > MAX_BYTES {
            return refuse("it is longer than 1024 bytes");
        }
        if path.iter().any(u8::is_ascii_control) {
            return refuse("it holds control characters");
        }
        let below = below.strip_suffix(b"/").unwrap_or(below);
        if below
            .split(|&byte| byte == b'/')
            .any(|part| matches!(part, b"" | b"." | b".."))
        {
            return refuse("it must name a folder, without empty parts, `.` and `..`");
        }
        let path = [b"/", below].concat();
        if KEPT.contains(&path.as_slice()) {
            return refuse("the system needs it as it is; name a folder below it");
        }
        Ok(GuestPath(path))
    }

    /// The path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The folder it lies in, without a trailing slash unless it is `/`.
    pub fn parent(&self) -> &[u8] {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(at) if at > 0 => &self.0[..at],
            _ => b"/",
        }
    }
}

impl Default for GuestPath {
    fn default() -> Self {
        GuestPath(DEFAULT_GUEST_PATH.as_bytes().to_vec())
    }
}

/// With bytes that are no UTF-8 replaced.
impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_names_one_folder() {
        for path in [
            "", "repo", "/", "//", "/root", "/etc/", "/a/../b", "/a/./b", "/a//b", "/a\nb", "/a\0",
        ] {
            assert!(GuestPath::new(path.as_bytes()).is_err(), "{path:?}");
        }
        let path = GuestPath::new(b"/srv/my \xff 'repo'/").unwrap();
        assert_eq!(path.as_bytes(), b"/srv/my \xff 'repo'");
        assert_eq!(path.parent(), b"/srv");
        assert_eq!(GuestPath::new(b"/data").unwrap().parent(), b"/");
        assert_eq!(GuestPath::default().to_string(), "/root/repo");
    }
}
