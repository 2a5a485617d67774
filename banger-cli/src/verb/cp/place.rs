//! The sides of a copy as they are typed.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// One side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Standard input or output.
    Stream,
    /// On this host.
    Here(PathBuf),
    /// In a VM.
    Guest(GuestPlace),
}

/// A path in a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestPlace {
    pub(super) vm: String,
    /// Empty for the home folder.
    pub(super) path: OsString,
}

impl Place {
    /// `NAME:PATH` is in a VM if NAME can be a VM's name; so `./a:b` is a file here. `~` is the home folder there.
    pub(super) fn of(given: &OsStr) -> Self {
        let bytes = given.as_bytes();
        if bytes == b"-" {
            return Place::Stream;
        }
        let colon = bytes.iter().position(|&byte| byte == b':');
        let vm = colon.and_then(|colon| std::str::from_utf8(&bytes[..colon]).ok());
        match (colon, vm) {
            (Some(colon), Some(vm)) if can_be_a_name(vm) => Place::Guest(GuestPlace {
                vm: vm.to_owned(),
                path: OsString::from_vec(in_home(&bytes[colon + 1..]).to_vec()),
            }),
            _ => Place::Here(given.into()),
        }
    }
}

impl fmt::Display for GuestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vm, self.path.to_string_lossy())
    }
}

/// Where a path begins with the home folder, the rest of it: a path that is not absolute begins there anyway.
fn in_home(path: &[u8]) -> &[u8] {
    match path {
        b"~" => b"",
        [b'~', b'/', rest @ ..] => {
            let name = rest.iter().position(|&byte| byte != b'/');
            name.map_or(b"", |name| &rest[name..])
        }
        path => path,
    }
}

/// Whether it is one is the daemon's to say.
fn can_be_a_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(allowed)
}

/// What a copy of this is called in a folder; none where what is in it is meant: `x/.`, `.`, `/`.
pub(super) fn base_name(path: &OsStr) -> Option<&OsStr> {
    let bytes = path.as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/')? + 1;
    let begin = bytes[..end].iter().rposition(|&byte| byte == b'/');
    let name = &bytes[begin.map_or(0, |slash| slash + 1)..end];
    match name {
        b"." | b".." => None,
        name => Some(OsStr::from_bytes(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_vms_name_is_one() {
        let guest = |vm: &str, path: &str| {
            Place::Guest(GuestPlace {
                vm: vm.to_owned(),
                path: path.into(),
            })
        };
        for (given, place) in [
            ("-", Place::Stream),
            ("box:/etc/motd", guest("box", "/etc/motd")),
            ("box:", guest("box", "")),
            ("box:a:b", guest("box", "a:b")),
            ("box:~", guest("box", "")),
            ("box:~/", guest("box", "")),
            ("box:~//x/", guest("box", "x/")),
            ("box:~x", guest("box", "~x")),
            ("box:./~", guest("box", "./~")),
            ("./box:a", Place::Here("./box:a".into())),
            ("Box:a", Place::Here("Box:a".into())),
            (":a", Place::Here(":a".into())),
            ("a b:c", Place::Here("a b:c".into())),
            ("plain", Place::Here("plain".into())),
        ] {
            assert_eq!(Place::of(given.as_ref()), place, "{given}");
        }
    }

    #[test]
    fn a_folders_contents_have_no_name() {
        for (path, name) in [
            ("a", Some("a")),
            ("a/b", Some("b")),
            ("a/b//", Some("b")),
            ("/a", Some("a")),
            ("a/.", None),
            (".", None),
            ("..", None),
            ("/", None),
            ("", None),
            (".hidden", Some(".hidden")),
        ] {
            assert_eq!(base_name(path.as_ref()), name.map(OsStr::new), "{path}");
        }
    }
}
