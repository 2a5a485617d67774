//! The daemon's configuration file, `config.toml`. All of it may be left out:
//!
//! ```toml
//! vmm = "auto"            # or qemu, firecracker
//! disk = "auto"           # or overlay, dm-snapshot, file
//! network = "auto"        # or user, tap, none
//! mirror = "http://deb.debian.org/debian"
//! reserve = "1GiB"        # space on the host that is kept free
//!
//! [defaults]
//! vcpus = 2
//! memory = "1GiB"
//! disk-size = "8GiB"
//! image = "debian-12"
//! nat = false             # or "unsafe-user": see docs/defaults.md
//!
//! [nat]
//! pool = "198.18.0.0/16"
//! name-server = "auto"    # or an address
//! ```

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_core::{
    DiskKind, EngineConfig, Internet, Mebibytes, NatConfig, NetworkKind, Subnet, VmmKind,
};
use banger_foreign::{ForeignError, open_named, read_bounded};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IntoDeserializer};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is another user's.
    #[error(
        "{} belongs to user {owner}, and was not read: make it yours (chown), or name another folder \
         (BANGER_CONFIG_DIR)",
        path.display()
    )]
    OfAnother {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// It says what it cannot say.
    #[error("{}, line {line}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    #[serde(deserialize_with = "unless_auto")]
    vmm: Option<VmmKind>,
    #[serde(deserialize_with = "unless_auto")]
    disk: Option<DiskKind>,
    #[serde(deserialize_with = "unless_auto")]
    network: Option<NetworkKind>,
    mirror: Option<String>,
    #[serde(deserialize_with = "size")]
    reserve: Option<Mebibytes>,
    defaults: DefaultSettings,
    nat: NatSettings,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct DefaultSettings {
    vcpus: Option<u32>,
    #[serde(deserialize_with = "size")]
    memory: Option<Mebibytes>,
    #[serde(deserialize_with = "size")]
    disk_size: Option<Mebibytes>,
    #[serde(deserialize_with = "image")]
    image: Option<String>,
    #[serde(deserialize_with = "nat")]
    nat: Option<Internet>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct NatSettings {
    #[serde(deserialize_with = "pool")]
    pool: Option<Subnet>,
    #[serde(deserialize_with = "unless_auto")]
    name_server: Option<Ipv4Addr>,
}

/// The most that the file may have, in bytes.
const LARGEST: u64 = 1 << 20;

impl Settings {
    /// Reads the file; a missing one says nothing.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let failed = |error: ForeignError| SettingsError::Read {
            path: path.to_owned(),
            source: io::Error::other(error),
        };
        // No pipe is waited for in its place, and nothing is read without end.
        let Some(file) = open_named(path).map_err(failed)? else {
            return Ok(Settings::default());
        };
        let owner = file.metadata().map(|facts| facts.uid());
        let owner = owner.map_err(|source| SettingsError::Read {
            path: path.to_owned(),
            source,
        })?;
        // It says what is fetched and what guests may reach.
        if ![0, rustix::process::geteuid().as_raw()].contains(&owner) {
            return Err(SettingsError::OfAnother {
                path: path.to_owned(),
                owner,
            });
        }
        let text = read_bounded(file, path, LARGEST).map_err(failed)?;
        let text = String::from_utf8(text).map_err(|error| SettingsError::Read {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })?;
        Settings::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            SettingsError::Invalid {
                path: path.to_owned(),
                line: text.as_bytes()[..at]
                    .iter()
                    .filter(|byte| **byte == b'\n')
                    .count()
                    + 1,
                message: error.message().to_owned(),
            }
        })
    }

    /// Puts what the file says over an engine's configuration.
    pub fn apply(self, config: &mut EngineConfig) {
        config.choice.vmm = self.vmm.or(config.choice.vmm);
        config.choice.disk = self.disk.or(config.choice.disk);
        config.choice.network = self.network.or(config.choice.network);
        config.mirror = self.mirror.or(config.mirror.take());
        config.reserve = self.reserve.unwrap_or(config.reserve);
        let (given, defaults) = (self.defaults, &mut config.defaults);
        defaults.vcpus = given.vcpus.unwrap_or(defaults.vcpus);
        defaults.memory = given.memory.unwrap_or(defaults.memory);
        defaults.work_disk = given.disk_size.unwrap_or(defaults.work_disk);
        defaults.internet = given.nat.unwrap_or(defaults.internet);
        config.nat.pool = self.nat.pool.unwrap_or(config.nat.pool);
        config.nat.name_server = self.nat.name_server.or(config.nat.name_server);
        if let Some(image) = given.image {
            defaults.image = image;
        }
    }
}

fn unless_auto<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let word = String::deserialize(deserializer)?;
    match word.as_str() {
        "auto" => Ok(None),
        _ => T::deserialize(word.into_deserializer()).map(Some),
    }
}

/// A number of MiB, or a text with its unit.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mebibytes>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a size is a number of MiB or a text such as \"4GiB\""
    )]
    enum Size {
        Mebibytes(u64),
        Text(String),
    }
    match Size::deserialize(deserializer)? {
        Size::Mebibytes(number) => Ok(Some(Mebibytes(number))),
        Size::Text(text) => text.parse().map(Some).map_err(D::Error::custom),
    }
}

/// A plain `true` is refused: who writes it means the internet, and would get more.
fn nat<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Internet>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "nat is false or \"unsafe-user\"")]
    enum Nat {
        Flag(bool),
        Word(String),
    }
    match Nat::deserialize(deserializer)? {
        Nat::Flag(false) => Ok(Some(Internet::Closed)),
        Nat::Flag(true) => Err(D::Error::custom(
            "nat = true is not offered: on the network user every such guest also reaches this host's \
             own loopback and networks; if that is wanted, write nat = \"unsafe-user\"",
        )),
        Nat::Word(word) if word == "unsafe-user" => Ok(Some(Internet::Open)),
        Nat::Word(word) => Err(D::Error::custom(format!(
            "nat is false or \"unsafe-user\", not {word:?}"
        ))),
    }
}

fn pool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Subnet>, D::Error> {
    let pool = Subnet::deserialize(deserializer)?;
    NatConfig::check_pool(pool).map_err(D::Error::custom)?;
    Ok(Some(pool))
}

fn image<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let checked: Result<banger_core::ImageName, _> = name.parse();
    checked.map_err(D::Error::custom)?;
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<EngineConfig, String> {
        let mut config = EngineConfig::new("/s", "/r");
        Settings::parse(Path::new("/c/config.toml"), text)
            .map_err(|error| error.to_string())?
            .apply(&mut config);
        Ok(config)
    }

    #[test]
    fn what_is_no_file_or_anothers_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let told = || {
            let error = Settings::read(&path).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", source.unwrap_or_default())
        };
        let mode = rustix::fs::Mode::RUSR;
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, mode, 0).unwrap();
        assert!(told().contains("named pipe"), "{}", told());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(told().contains("device"), "{}", told());
        std::fs::remove_file(&path).unwrap();
        let long = std::fs::File::create(&path).unwrap();
        long.set_len(LARGEST + 1).unwrap();
        assert!(told().contains("1048576 bytes"), "{}", told());
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give a file to somebody else");
            return;
        }
        std::fs::write(&path, "nat = 1").unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(told().contains("belongs to user 65534"), "{}", told());
    }

    #[test]
    fn what_is_left_out_stays_as_it_was() {
        let config = parsed("vmm = \"auto\"\n[defaults]\nmemory = \"2GiB\"\n").unwrap();
        let usual = EngineConfig::new("/s", "/r");
        assert_eq!(config.defaults.memory, Mebibytes(2048));
        assert_eq!(config.defaults.vcpus, usual.defaults.vcpus);
        assert_eq!(config.choice, usual.choice);
        assert_eq!(config.defaults.internet, Internet::Closed);
        let config = parsed("[defaults]\nnat = false\n").unwrap();
        assert_eq!(config.defaults.internet, Internet::Closed);
    }

    #[test]
    fn every_key_reaches_the_engine() {
        let text = "vmm = 'qemu'\ndisk = 'file'\nnetwork = 'none'\nmirror = 'http://m'\n\
                    reserve = '3GiB'\n\
                    [defaults]\nvcpus = 4\nmemory = 512\ndisk-size = '1G'\nimage = 'mine'\n\
                    nat = 'unsafe-user'\n\
                    [nat]\npool = '10.77.0.0/20'\nname-server = '9.9.9.9'\n";
        let config = parsed(text).unwrap();
        assert_eq!(config.choice.vmm, Some(VmmKind::Qemu));
        assert_eq!(config.choice.disk, Some(DiskKind::File));
        assert_eq!(config.choice.network, Some(NetworkKind::None));
        assert_eq!(config.mirror.as_deref(), Some("http://m"));
        assert_eq!(config.reserve, Mebibytes(3072));
        assert_eq!(config.defaults.vcpus, 4);
        assert_eq!(config.defaults.memory, Mebibytes(512));
        assert_eq!(config.defaults.work_disk, Mebibytes(1024));
        assert_eq!(config.defaults.image, "mine");
        assert_eq!(config.defaults.internet, Internet::Open);
        assert_eq!(config.nat.pool.to_string(), "10.77.0.0/20");
        assert_eq!(config.nat.name_server, Some([9, 9, 9, 9].into()));
    }

    #[test]
    fn the_documented_configuration_is_the_default_one() {
        let page = include_str!("../../docs/defaults.md");
        let (_, example) = page.split_once("```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let config = parsed(example).unwrap();
        let usual = EngineConfig::new("/s", "/r");
        assert_eq!(config.choice, usual.choice);
        assert_eq!(config.defaults, usual.defaults);
        assert_eq!(config.nat, usual.nat);
        assert_eq!(config.reserve, usual.reserve);
        let keys = [
            "reserve",
            "vcpus",
            "memory",
            "disk-size",
            "image",
            "nat",
            "pool",
            "name-server",
        ];
        for key in keys {
            assert!(example.contains(&format!("\n{key} = ")), "{key}");
        }
    }

    #[test]
    fn mistakes_are_told_with_file_line_and_key() {
        let table = [
            ("\nvmn = \"qemu\"\n", "line 2", "vmn"),
            ("vmm = \"qemo\"\n", "line 1", "qemo"),
            ("[defaults]\nmemory = \"lots\"\n", "line 2", "lots"),
            ("[defaults]\n\nram = 1\n", "line 3", "ram"),
            ("[defaults]\nimage = \"../x\"\n", "line 2", "../x"),
            ("mirror = \n", "line 1", ""),
            ("reserve = 'some'\n", "line 1", "some"),
            ("[defaults]\nnat = true\n", "line 2", "unsafe-user"),
            ("[defaults]\nnat = 'yes'\n", "line 2", "yes"),
            ("[nat]\npool = '10.77.0.1/20'\n", "line 2", "10.77.0.1/20"),
            ("[nat]\npool = '10.0.0.0/8'\n", "line 2", "10.0.2.0/24"),
            ("[nat]\npool = '127.9.0.0/16'\n", "line 2", "127.9.0.0/16"),
            ("[nat]\nname-server = 'dns'\n", "line 2", ""),
        ];
        for (text, line, word) in table {
            let error = parsed(text).unwrap_err();
            assert!(error.starts_with("/c/config.toml, "), "{error}");
            assert!(
                error.contains(line) && error.contains(word),
                "{text:?}: {error}"
            );
        }
    }
}
