//! Why there is no image, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::kernel::KernelError;
use super::manifest::ManifestError;
use super::recipe::ImageSpec;
use crate::error::Error;
use crate::host::{HostError, ProgramOutput};
use crate::names::{ImageName, Mebibytes, VmName};

/// Why an image was not made, or not read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is one of that name.
    #[error("there is an image named {name} already")]
    Exists {
        /// The name.
        name: ImageName,
    },
    /// VMs boot from it.
    #[error("the image {name} is in use by {}", listed(vms))]
    InUse {
        /// The image.
        name: ImageName,
        /// Whose it is.
        vms: Vec<VmName>,
    },
    /// Whoever wanted it made has gone, or the engine is closing.
    #[error("the making of the image {name} was given up")]
    GivenUp {
        /// The image.
        name: ImageName,
    },
    /// Programs of a build outlived SIGKILL.
    #[error("programs of an image's making do not end: {processes:?}")]
    Unkillable {
        /// Their numbers.
        processes: Vec<u32>,
    },
    /// A file that was to be registered is not there.
    #[error("there is no file {}", path.display())]
    NoFile {
        /// Where it was to be.
        path: PathBuf,
    },
    /// A file that was to be registered as a root disk holds no file system that a guest can mount.
    #[error("{} is no ext4 file system: {found}", path.display())]
    NoFilesystem {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// A root disk lacks what a guest cannot be without.
    #[error("the root disk {} has no {}", path.display(), missing.join(", no "))]
    Contract {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        missing: Vec<String>,
    },
    /// It was booted to be checked, and does not keep the contract.
    #[error(
        "the image {name} failed its test boot ({clause}): {}: {reason}{}",
        clause.broken(),
        ended(console)
    )]
    TestBoot {
        /// Its name.
        name: ImageName,
        /// What a guest has to do and this one did not.
        clause: Clause,
        /// How that was seen.
        reason: String,
        /// The end of its serial console.
        console: String,
    },
    /// It could not be booted to be checked, which may be this host's fault.
    #[error("the image {name} cannot be booted here to be checked")]
    NoTestBoot {
        /// Its name.
        name: ImageName,
        /// Why not.
        source: Box<Error>,
    },
    /// The kernel's drivers are neither built in nor to be found.
    #[error("the kernel {release} needs its modules {}, which are neither in the initramfs nor in the root disk", missing.join(", "))]
    NoModules {
        /// What `uname -r` would say.
        release: String,
        /// Which.
        missing: Vec<String>,
    },
    /// The initramfs that was to be registered cannot be read.
    #[error("{} is no initramfs: {reason}", path.display())]
    NoInitramfs {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A kernel or an initramfs is larger than any.
    #[error("{} is no kernel and no initramfs: it has more than {} MiB, unpacked or as it is", path.display(), largest >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most, in bytes.
        largest: u64,
    },
    /// A file in a root disk or an initramfs is larger than it can be.
    #[error("{name} in {} is larger than it can be ({limit})", path.display())]
    TooLargeWithin {
        /// The root disk or the initramfs.
        path: PathBuf,
        /// The file in it.
        name: String,
        /// The most, with its unit.
        limit: String,
    },
    /// A root disk or an initramfs names a file in a way that no kernel's tools do.
    #[error("{} names a file {name:?}, which is not looked for", path.display())]
    OddPath {
        /// The root disk or the initramfs.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// There is no busybox for the guest's first steps.
    #[error("no statically linked busybox is at hand, which every guest starts with")]
    NoBusybox,
    /// Its manifest is not to be believed.
    #[error("the manifest {} cannot be used", path.display())]
    Manifest {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// A file that its manifest names is gone.
    #[error("the image {name} has lost its file {}", path.display())]
    Incomplete {
        /// The image.
        name: ImageName,
        /// The file.
        path: PathBuf,
    },
    /// Its root disk would have no room for the system.
    #[error("a root disk of {size} is too small: {smallest} is the least")]
    TooSmall {
        /// What was asked.
        size: Mebibytes,
        /// The least.
        smallest: Mebibytes,
    },
    /// The programs that map a user's subordinate ids are not installed.
    #[error("newuidmap is not installed, and an image is made by an ordinary user only with it")]
    NoUidmap,
    /// The user may not act through subordinate ids.
    #[error(
        "this user has no subordinate ids, or may not make user namespaces{}",
        said(output)
    )]
    NoSubordinateIds {
        /// What was said.
        output: String,
    },
    /// There is too little room.
    #[error("{} has {} MiB free, and making an image takes {} MiB", folder.display(), free >> 20, needed >> 20)]
    NoSpace {
        /// Where.
        folder: PathBuf,
        /// What is free, in bytes.
        free: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// The room ran out in the middle.
    #[error("the disk that holds {} filled up while the image was made{}", folder.display(), said(output))]
    Full {
        /// Where.
        folder: PathBuf,
        /// What was said.
        output: String,
    },
    /// The mirror did not give what was asked.
    #[error("{mirror} does not answer, or has no Debian {suite}{}", said(output))]
    Mirror {
        /// The mirror.
        mirror: String,
        /// The suite.
        suite: String,
        /// What was said.
        output: String,
    },
    /// The mirror's signature could not be checked.
    #[error(
        "the signature of Debian {suite} cannot be checked here{}",
        said(output)
    )]
    Signature {
        /// The suite.
        suite: String,
        /// What was said.
        output: String,
    },
    /// A package that was asked for does not exist.
    #[error("Debian {suite} has no such package{}", said(output))]
    Package {
        /// The suite.
        suite: String,
        /// What was said.
        output: String,
    },
    /// mmdebstrap failed in a way that has no name here.
    #[error("mmdebstrap failed with status {status}{}", said(output))]
    Mmdebstrap {
        /// Its status.
        status: i32,
        /// What it said.
        output: String,
    },
    /// Another program failed.
    #[error("{program} failed with status {status}{}", said(output))]
    Program {
        /// Which.
        program: String,
        /// Its status.
        status: i32,
        /// What it said.
        output: String,
    },
    /// The build did not bring what it should.
    #[error("the build brought no {}", path.display())]
    PartMissing {
        /// What is missing.
        path: PathBuf,
    },
    /// The kernel cannot be booted.
    #[error("the kernel {} cannot be used", path.display())]
    Kernel {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: KernelError,
    },
    /// There are no random numbers.
    #[error("the kernel gives no random numbers")]
    Random {
        /// The system's answer.
        source: std::io::Error,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What a guest has to do, of which a test boot shows whether it does: the contract of an image, as
/// docs/images.md has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clause {
    /// Its kernel comes up under this host's monitor.
    Kernel,
    /// Its kernel's drivers find both disks.
    Drivers,
    /// Its root disk can be mounted and written to.
    RootDisk,
    /// Its init starts and runs on.
    Init,
    /// Its ssh server answers on `eth0`.
    Ssh,
    /// Its ssh server lets root in.
    Login,
    /// Commands run in it.
    Commands,
    /// The VM's own disk stays mounted.
    Home,
    /// It ends when it is told to.
    SwitchOff,
}

impl Clause {
    /// All of them, in the order in which a boot comes to them.
    pub const ALL: [Clause; 9] = [
        Clause::Kernel,
        Clause::Drivers,
        Clause::RootDisk,
        Clause::Init,
        Clause::Ssh,
        Clause::Login,
        Clause::Commands,
        Clause::Home,
        Clause::SwitchOff,
    ];
}

impl Clause {
    /// Says what it means that it is broken.
    fn broken(self) -> &'static str {
        match self {
            Clause::Kernel => "its kernel does not start our first program",
            Clause::Drivers => "its drivers do not find the root disk and the VM's own",
            Clause::RootDisk => "its root disk cannot be mounted and given the VM's identity",
            Clause::Init => "its init does not start, or does not run on",
            Clause::Ssh => "its ssh server does not answer on port 22 of eth0",
            Clause::Login => "its ssh server does not let root in with our key",
            Clause::Commands => "commands do not run in it and end with their status",
            Clause::Home => "the VM's own disk does not stay mounted at /root",
            Clause::SwitchOff => "it does not switch off when it is told to",
        }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Clause::Kernel => "kernel",
            Clause::Drivers => "drivers",
            Clause::RootDisk => "root disk",
            Clause::Init => "init",
            Clause::Ssh => "ssh",
            Clause::Login => "login",
            Clause::Commands => "commands",
            Clause::Home => "home",
            Clause::SwitchOff => "switch-off",
        })
    }
}

impl ImageError {
    /// The same of another file: whoever handed one in does not know the copy that was looked into.
    pub(super) fn speaking_of(mut self, copy: &Path, given: &Path) -> Self {
        if let ImageError::Contract { path, .. }
        | ImageError::TooLargeWithin { path, .. }
        | ImageError::OddPath { path, .. }
        | ImageError::NoFile { path } = &mut self
            && path == copy
        {
            *path = given.to_owned();
        }
        self
    }

    /// Returns the next step for whoever reads the message, where there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            ImageError::Host(host) => return host.hint(),
            ImageError::Exists { name } => {
                return Some(format!(
                    "choose another name, or delete it: banger image delete {name}"
                ));
            }
            ImageError::InUse { vms, .. } => {
                let names: Vec<_> = vms.iter().map(ToString::to_string).collect();
                return Some(format!(
                    "delete these VMs first: banger vm delete {}",
                    names.join(" ")
                ));
            }
            ImageError::Incomplete { name, .. } => {
                return Some(format!(
                    "put the file back, or give the image up: delete its VMs, then banger image delete {name}"
                ));
            }
            ImageError::TestBoot { .. } => {
                "docs/images.md says what a guest must do; --no-check registers it as it is"
            }
            ImageError::NoTestBoot { source, .. } => {
                let unchecked = "--no-check registers it without";
                return Some(match source.hint() {
                    Some(hint) => format!("{hint}; or {unchecked}"),
                    None => format!("{unchecked}; banger doctor says what works on this host"),
                });
            }
            ImageError::NoFilesystem { .. } => {
                "a file system is wanted, not a disk with partitions: mke2fs -d FOLDER makes one"
            }
            ImageError::Contract { .. }
            | ImageError::NoModules { .. }
            | ImageError::Kernel { .. } => "docs/images.md says what an image must hold",
            ImageError::NoBusybox => {
                "make the default image first, which brings one: banger image build; or install it: apt-get install --no-install-recommends busybox-static"
            }
            ImageError::Manifest {
                source: ManifestError::Newer { .. },
                ..
            } => "use the banger that made it, or a later one",
            ImageError::NoUidmap => "install it: apt-get install --no-install-recommends uidmap",
            ImageError::NoSubordinateIds { .. } => {
                "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 YOUR-NAME (with a range that no other user has in /etc/subuid), and check that sysctl user.max_user_namespaces is not 0"
            }
            ImageError::NoSpace { .. } | ImageError::Full { .. } => {
                "free some space there and try again"
            }
            ImageError::Mirror { .. } => {
                "check the network and the proxy (http_proxy), or name a mirror that is near: banger image build --mirror http://…"
            }
            ImageError::Signature { .. } => {
                "install Debian's keys: apt-get install debian-archive-keyring"
            }
            ImageError::Package { .. } => "look the name up at https://packages.debian.org",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Finds the name of what kept mmdebstrap from making a tree.
pub(super) fn refusal(spec: &ImageSpec, scratch: &Path, output: &ProgramOutput) -> ImageError {
    let text = String::from_utf8_lossy(&output.stderr);
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let suite = spec.suite.to_string();
    // Programs that fail because of another's failure talk after it: the causes are looked for first.
    let telling = telling_lines(&text).unwrap_or_else(|| output.last_lines(5));
    if says(&["No space left on device", "Disk quota exceeded"]) {
        ImageError::Full {
            folder: scratch.to_owned(),
            output: telling,
        }
    } else if says(&[
        "subuid",
        "subgid",
        "newuidmap",
        "unshare syscall failed",
        "unprivileged_userns",
    ]) {
        ImageError::NoSubordinateIds { output: telling }
    } else if says(&["NO_PUBKEY", "is not signed", "keyring"]) && !says(&["Could not", "404"]) {
        ImageError::Signature {
            suite,
            output: telling,
        }
    } else if says(&["Unable to locate package", "has no installation candidate"]) {
        ImageError::Package {
            suite,
            output: telling,
        }
    } else if says(&[
        "Failed to fetch",
        "Could not resolve",
        "Could not connect",
        "Unable to connect",
        "onnection timed out",
        "does not have a Release file",
    ]) {
        ImageError::Mirror {
            mirror: spec.mirror_name(),
            suite,
            output: telling,
        }
    } else {
        ImageError::Mmdebstrap {
            status: output.status,
            output: telling,
        }
    }
}

/// The lines in which apt, dpkg or mmdebstrap name an error, without mmdebstrap's own farewell.
fn telling_lines(text: &str) -> Option<String> {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| {
            let named = ["E: ", "Err:", "W: Failed", "newuidmap", "banger: "];
            let noise = [
                "E: mmdebstrap failed",
                "E: run_",
                "E: setup failed",
                "apt-get update --error-on",
            ];
            named.iter().any(|name| line.starts_with(name))
                && !noise.iter().any(|noise| line.contains(noise))
        })
        .collect();
    let from = lines.len().saturating_sub(5);
    (!lines.is_empty()).then(|| lines[from..].join("\n"))
}

fn listed(vms: &[VmName]) -> String {
    let names: Vec<_> = vms.iter().map(ToString::to_string).collect();
    match names.len() {
        1 => format!("VM {}", names.concat()),
        count => format!("{count} VMs: {}", names.join(", ")),
    }
}

fn said(output: &str) -> String {
    if output.trim().is_empty() {
        return String::new();
    }
    let lines: Vec<String> = output
        .trim()
        .lines()
        .map(|line| format!("\n  {line}"))
        .collect();
    format!(":{}", lines.concat())
}

fn ended(console: &str) -> String {
    match console.is_empty() {
        true => "; its console is empty".to_owned(),
        false => format!("; its console ends with{}", said(console)),
    }
}
