//! What an image's folder says about itself. The folder is the truth: no database knows more.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::ImageName;

/// The name of the manifest in an image's folder. It is written last.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The version that is written here, and the newest that is read.
const VERSION: u32 = 1;

/// One image: a root file system and the kernel that it boots with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// The format of this file.
    pub version: u32,
    /// The image's name, which is its folder's.
    pub name: ImageName,
    /// 16 hexadecimal digits, drawn when it was made: tells two images of one name apart.
    pub id: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Its kernel.
    pub kernel: Kernel,
    /// Its initramfs, to which a guest's identity is appended.
    pub initrd: Initrd,
    /// The program to which our init hands over.
    pub init: String,
    /// The Debian suite; none for an image that was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// How many packages are installed; none for an image that was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<u32>,
    /// Its test boot, of an image that was registered; none of one that was not booted, or was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted: Option<Booted>,
    /// The ways in which its guests can be spoken to.
    pub capabilities: Vec<Capability>,
}

/// A test boot that an image has passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booted {
    /// When.
    pub at: Timestamp,
    /// The monitor that ran it; a word, because a later banger may know others.
    pub vmm: String,
}

/// A root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Its file in the image's folder.
    pub file: String,
    /// What it is: `ext4`.
    pub fs: String,
    /// Its size as the guest sees it, in bytes; the file is sparse.
    pub size_bytes: u64,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Its file in the image's folder: an ELF vmlinux.
    pub file: String,
    /// What `uname -r` says; none where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}

/// An initramfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initrd {
    /// Its file in the image's folder: uncompressed newc archives.
    pub file: String,
}

/// A way to speak to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// It runs an ssh server that takes the key from its identity.
    Ssh,
    /// One that this version does not know.
    #[serde(untagged)]
    Other(String),
}

/// Why a manifest was not believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is of a later version of banger.
    #[error("it has version {version}, and this banger reads versions up to {VERSION}")]
    Newer {
        /// Its version.
        version: u64,
    },
    /// It is no manifest.
    #[error("it is no image manifest")]
    Damaged(#[from] serde_json::Error),
    /// It names a file outside of its folder.
    #[error("it names the file {file:?}, which is not in the image's folder")]
    Outside {
        /// The file.
        file: String,
    },
}

impl ImageManifest {
    /// Describes an image that has just been made.
    pub(super) fn new(name: ImageName, id: String, created: Timestamp, size_bytes: u64) -> Self {
        ImageManifest {
            version: VERSION,
            name,
            id,
            created,
            rootfs: Rootfs {
                file: ROOTFS.into(),
                fs: "ext4".into(),
                size_bytes,
            },
            kernel: Kernel {
                file: KERNEL.into(),
                release: None,
            },
            initrd: Initrd {
                file: INITRD.into(),
            },
            init: "/sbin/init".into(),
            suite: None,
            packages: None,
            booted: None,
            capabilities: vec![Capability::Ssh],
        }
    }

    /// Reads a manifest; a newer version's is refused whatever else it holds.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let Versioned { version } = serde_json::from_slice(json)?;
        if version > u64::from(VERSION) {
            return Err(ManifestError::Newer { version });
        }
        let manifest: ImageManifest = serde_json::from_slice(json)?;
        let files = [
            &manifest.rootfs.file,
            &manifest.kernel.file,
            &manifest.initrd.file,
        ];
        if let Some(file) = files.iter().find(|file| !is_plain(file)) {
            return Err(ManifestError::Outside {
                file: (*file).clone(),
            });
        }
        Ok(manifest)
    }

    /// Says whether it was registered without being booted: nobody knows whether it works.
    pub fn is_untried(&self) -> bool {
        self.suite.is_none() && self.booted.is_none()
    }

    /// Returns the manifest as it is written to the image's folder.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// The root file system in the image's folder.
    pub fn rootfs_path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.rootfs.file)
    }

    /// The kernel in the image's folder.
    pub fn kernel_path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.kernel.file)
    }

    /// The initramfs in the image's folder.
    pub fn initrd_path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.initrd.file)
    }
}

pub(super) const ROOTFS: &str = "rootfs.ext4";
pub(super) const KERNEL: &str = "vmlinux";
pub(super) const INITRD: &str = "initrd.cpio";

fn is_plain(file: &str) -> bool {
    !file.is_empty() && !file.contains(['/', '\0']) && file != "." && file != ".."
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> ImageManifest {
        ImageManifest {
            suite: Some("bookworm".into()),
            ..ImageManifest::new(
                "debian".parse().unwrap(),
                "0011223344556677".into(),
                "2026-01-02T03:04:05Z".parse().unwrap(),
                8 << 30,
            )
        }
    }

    fn changed(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut value = serde_json::from_slice(&manifest().to_json()).unwrap();
        change(&mut value);
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        assert_eq!(
            ImageManifest::parse(&manifest().to_json()).unwrap(),
            manifest()
        );
    }

    #[test]
    fn a_newer_version_is_refused_whatever_it_holds() {
        let error = ImageManifest::parse(br#"{"version": 2, "layers": []}"#).unwrap_err();
        assert!(matches!(error, ManifestError::Newer { version: 2 }));
    }

    #[test]
    fn half_a_manifest_is_refused() {
        let json = manifest().to_json();
        assert!(matches!(
            ImageManifest::parse(&json[..json.len() / 2]),
            Err(ManifestError::Damaged(_))
        ));
    }

    #[test]
    fn a_file_outside_of_the_folder_is_refused() {
        let json = changed(|value| value["rootfs"]["file"] = "../other/rootfs.ext4".into());
        assert!(matches!(
            ImageManifest::parse(&json),
            Err(ManifestError::Outside { .. })
        ));
    }

    #[test]
    fn a_capability_of_a_later_time_is_kept() {
        let json = changed(|value| value["capabilities"] = serde_json::json!(["ssh", "agent"]));
        assert_eq!(
            ImageManifest::parse(&json).unwrap().capabilities,
            [Capability::Ssh, Capability::Other("agent".into())]
        );
    }

    proptest! {
        #[test]
        fn fuzz_no_manifest_names_a_file_outside_of_its_folder(
            name in "[./a\\x00]{0,6}",
            spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut json = changed(|value| value["initrd"]["file"] = name.into());
            for (at, value) in spoil {
                let at = at.index(json.len());
                json[at] = value;
            }
            if let Ok(manifest) = ImageManifest::parse(&json) {
                let folder = Path::new("/images/debian");
                for path in [manifest.rootfs_path(folder), manifest.kernel_path(folder), manifest.initrd_path(folder)] {
                    prop_assert_eq!(path.parent(), Some(folder));
                    prop_assert!(path.file_name().is_some());
                }
            }
        }
    }
}
