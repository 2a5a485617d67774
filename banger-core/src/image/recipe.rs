//! How a Debian image is made, as data: the words for mmdebstrap, the scripts it runs, the words for
//! mke2fs. Nothing here touches the host.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::names::{ImageName, Mebibytes};

/// What a Debian image is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// Its name.
    pub name: ImageName,
    /// The Debian release.
    pub suite: Suite,
    /// Packages besides those that every image has.
    pub include: Vec<PackageName>,
    /// The size of its root disk. The file is sparse: it takes what is in it.
    pub size: Mebibytes,
    /// Where packages come from; without it, Debian's own mirrors, with the updates and the security
    /// updates of the suite. A mirror that is named is the only one asked.
    pub mirror: Option<Mirror>,
}

impl ImageSpec {
    /// Describes the default image of that name: Debian 12, a root disk of 8 GiB.
    pub fn new(name: ImageName) -> Self {
        ImageSpec {
            name,
            suite: Suite("bookworm".into()),
            include: Vec::new(),
            size: DEFAULT_SIZE,
            mirror: None,
        }
    }

    /// What to call the mirror in a message.
    pub(super) fn mirror_name(&self) -> String {
        let named = self.mirror.as_ref().map(ToString::to_string);
        named.unwrap_or_else(|| "Debian's mirror (deb.debian.org)".into())
    }
}

/// The size of a root disk of which nobody said how large.
pub(super) const DEFAULT_SIZE: Mebibytes = Mebibytes(8 * 1024);

/// The smallest root disk on which the packages that every image has leave room to work.
pub(crate) const SMALLEST_SIZE: Mebibytes = Mebibytes(1024);

/// A word of an image's description that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {expected}")]
pub struct SpecError {
    /// What it was to be.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// What is expected.
    pub expected: &'static str,
}

macro_rules! word {
    ($(#[$doc:meta])* $type:ident, $what:literal, $expected:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $type(String);

        impl $type {
            /// Returns the word.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = SpecError;

            fn from_str(text: &str) -> Result<Self, SpecError> {
                let allowed: fn(&str) -> bool = $allowed;
                // A leading dash would be an option to the program that gets the word.
                if allowed(text) && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                    Ok($type(text.to_owned()))
                } else {
                    Err(SpecError {
                        what: $what,
                        text: text.to_owned(),
                        expected: $expected,
                    })
                }
            }
        }
    };
}

word! {
    /// A Debian release: `bookworm`, `trixie`, `sid`.
    Suite, "Debian suite", "a code name such as bookworm is expected",
    |text| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

word! {
    /// A Debian package (Debian Policy 5.6.7).
    PackageName, "package name",
    "small letters, digits and + - . are expected, at least two of them",
    |text| text.len() >= 2
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

word! {
    /// The address of a Debian mirror.
    Mirror, "mirror", "an address that begins with http://, https:// or file:/ is expected",
    |text| ["http://", "https://", "file:/"].iter().any(|scheme| text.starts_with(scheme))
        && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Whether the build acts as root or through the user's subordinate ids (subuid(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privilege {
    Root,
    Subordinate,
}

/// What every image has. A real machine, small: what people type on the first day works.
const PACKAGES: [&str; 14] = [
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "openssh-server",
    "ca-certificates",
    "git",
    "curl",
    "rsync",
    "iproute2",
    "iputils-ping",
    "procps",
    "less",
    "nano",
];

/// The kernel's package; it depends on the one of the current release.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// ext4 spelled out, so that the host's mke2fs.conf has no say: every feature is one that the guest's
/// kernel (6.1 and later) and an e2fsprogs of 2018 know. On a sparse file mke2fs sees that unwritten
/// inode tables read as zeros and marks them so: the guest does not write them later.
const MKE2FS: &str = "-q -F -t ext4 -m 1 -L banger -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// Left out while unpacking: a fifth of the system's bytes. Packages that are installed later bring
/// theirs, because the rule itself does not stay in the image.
const UNPACKED_NOT: [&str; 6] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// The scripts that mmdebstrap runs on the finished tree, in this order. It gets each as a variable's
/// name, because it repeats every hook in its messages.
const HOOKS: [(&str, &str); 3] = [
    ("BANGER_HOOK_KERNEL", include_str!("kernel.sh")),
    ("BANGER_HOOK_TRIM", include_str!("trim.sh")),
    ("BANGER_HOOK_PACK", include_str!("pack.sh")),
];

/// The words for mmdebstrap. `token` is what its processes can be found by.
pub(super) fn mmdebstrap_arguments(
    spec: &ImageSpec,
    privilege: Privilege,
    patience: Duration,
    token: &str,
) -> Vec<OsString> {
    let mode = match privilege {
        Privilege::Root => "root",
        Privilege::Subordinate => "unshare",
    };
    let include: Vec<&str> = PACKAGES
        .into_iter()
        .chain(spec.include.iter().map(PackageName::as_str))
        .collect();
    let seconds = patience.as_secs().max(1);
    let mut words = vec![
        format!("--mode={mode}"),
        "--variant=minbase".into(),
        "--architectures=amd64".into(),
        format!("--include={}", include.join(",")),
        "--aptopt=Apt::Install-Recommends \"0\"".into(),
        format!("--aptopt=Acquire::http::Timeout \"{seconds}\""),
        format!("--aptopt=Acquire::https::Timeout \"{seconds}\""),
        "--aptopt=Acquire::Retries \"1\"".into(),
        "--dpkgopt=force-unsafe-io".into(),
    ];
    words.extend(UNPACKED_NOT.iter().map(|rule| format!("--dpkgopt={rule}")));
    words.extend(
        HOOKS
            .iter()
            .map(|(variable, _)| format!("--customize-hook=eval \"${variable}\" # {token}")),
    );
    // The last hook has made the file system out of the tree: no archive of it is wanted.
    words.extend(["--skip=cleanup", "--format=null"].map(String::from));
    words.extend([spec.suite.to_string(), "-".into()]);
    words.extend(spec.mirror.as_ref().map(Mirror::to_string));
    words.into_iter().map(OsString::from).collect()
}

/// The variables that the scripts read. `scratch` is where the tree grows, `out` takes the results.
pub(super) fn environment(
    spec: &ImageSpec,
    scratch: &Path,
    out: &Path,
) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("TMPDIR", scratch.to_string_lossy().into_owned()),
        ("BANGER_OUT", out.to_string_lossy().into_owned()),
        ("BANGER_KERNEL", KERNEL_PACKAGE.to_owned()),
        ("BANGER_MKE2FS", MKE2FS.to_owned()),
        ("BANGER_SIZE", format!("{}M", spec.size.0)),
    ];
    variables.extend(HOOKS.map(|(variable, script)| (variable, script.to_owned())));
    variables
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::image::initramfs::{IDENTITY, INIT};

    fn check(program: &str, arguments: &[&str], script: &str) {
        let mut child = match Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            Err(error) => return println!("skipped: {program}: {error}"),
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{program} says: {}{}\nof: {script}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }

    #[test]
    fn every_script_passes_the_shell_and_shellcheck() {
        let hooks = HOOKS.into_iter().map(|(_, script)| script);
        for script in hooks.chain([INIT, IDENTITY]) {
            check("sh", &["-n"], script);
            // Files that exist only in the guest cannot be followed.
            check(
                "shellcheck",
                &["--shell=sh", "--exclude=SC1091", "-"],
                script,
            );
        }
    }

    fn words(spec: &ImageSpec, privilege: Privilege) -> Vec<OsString> {
        mmdebstrap_arguments(spec, privilege, Duration::from_secs(20), "banger-build:0")
    }

    #[test]
    fn what_an_image_holds_and_what_was_trimmed_is_documented() {
        const PAGE: &str = include_str!("../../../docs/images.md");
        let says = |word: &str| {
            let quoted = format!("`{word}`");
            assert!(
                PAGE.contains(&quoted),
                "docs/images.md does not say {quoted}"
            );
        };
        PACKAGES.into_iter().chain([KERNEL_PACKAGE]).for_each(says);
        let (_, trim) = HOOKS[1];
        let units = trim.split_once("for unit in").unwrap().1;
        let units = units.split_once("; do").unwrap().0;
        let units: Vec<&str> = units
            .split_whitespace()
            .filter(|word| *word != "\\")
            .collect();
        assert!(units.len() > 20, "{units:?}");
        units.into_iter().for_each(says);
        let needed = format!("{} MiB", super::super::build::NEEDED_BYTES >> 20);
        assert!(
            PAGE.contains(&needed),
            "docs/images.md does not say {needed}"
        );
    }

    #[test]
    fn a_user_builds_through_subordinate_ids_and_root_does_not() {
        let spec = ImageSpec::new("debian".parse().unwrap());
        let mode = |privilege| words(&spec, privilege)[0].clone();
        assert_eq!(mode(Privilege::Root), "--mode=root");
        assert_eq!(mode(Privilege::Subordinate), "--mode=unshare");
    }

    #[test]
    fn asked_packages_and_mirror_reach_mmdebstrap() {
        let mut spec = ImageSpec::new("debian".parse().unwrap());
        spec.include = vec!["g++".parse().unwrap(), "make".parse().unwrap()];
        spec.mirror = Some("http://mirror.example/debian".parse().unwrap());
        let words = words(&spec, Privilege::Root);
        let include = words
            .iter()
            .find(|word| word.to_string_lossy().starts_with("--include="));
        assert!(
            include
                .unwrap()
                .to_string_lossy()
                .ends_with(",nano,g++,make")
        );
        assert_eq!(
            words[words.len() - 3..],
            ["bookworm", "-", "http://mirror.example/debian"]
        );
    }

    #[test]
    fn words_that_would_be_options_or_other_commands_are_refused() {
        for bad in ["", "-o", "a b", "x,y", "--hook", "a;b"] {
            assert!(bad.parse::<PackageName>().is_err(), "{bad:?}");
            assert!(bad.parse::<Suite>().is_err(), "{bad:?}");
            assert!(bad.parse::<Mirror>().is_err(), "{bad:?}");
        }
        assert!("libstdc++-12-dev".parse::<PackageName>().is_ok());
        assert!("ftp://x".parse::<Mirror>().is_err());
        assert!("http://x/debian trusted".parse::<Mirror>().is_err());
    }
}
