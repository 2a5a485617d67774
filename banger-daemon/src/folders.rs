//! Where the daemon keeps things and its clients look for it.
//!
//! | folder | variable | an ordinary user's | root's |
//! | --- | --- | --- | --- |
//! | state | `BANGER_STATE_DIR` | `$XDG_STATE_HOME/banger`, else `~/.local/state/banger` | `/var/lib/banger` |
//! | runtime | `BANGER_RUNTIME_DIR` | `$XDG_RUNTIME_DIR/banger`, else `/tmp/banger-<uid>` | `/run/banger` |
//! | config | `BANGER_CONFIG_DIR` | `$XDG_CONFIG_HOME/banger`, else `~/.config/banger` | the same |

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;

use crate::protocol::SOCKET;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Nobody says where home is.
    #[error("cannot find your home folder; set HOME, or BANGER_STATE_DIR and BANGER_CONFIG_DIR")]
    NoHome,
    /// It could not be made or looked at.
    #[error("cannot make the folder {}", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not ours alone.
    #[error(
        "the folder {} is not safe to use: it {fault}; remove it, or set BANGER_RUNTIME_DIR",
        path.display()
    )]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
}

/// The folders of one user's daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// What outlives a boot: images, disks, the database, the daemon's log.
    pub state: PathBuf,
    /// Sockets.
    pub runtime: PathBuf,
    /// The daemon's `config.toml`.
    pub config: PathBuf,
}

impl Folders {
    /// Finds the folders by this process's environment and user. Makes none of them.
    pub fn from_environment() -> Result<Self, FolderError> {
        let user = rustix::process::geteuid().as_raw();
        let xdg = Xdg::new().ok();
        let set = |name: &str| std::env::var_os(name);
        Folders::resolve(user, xdg.as_ref(), &set)
    }

    fn resolve(
        user: u32,
        xdg: Option<&Xdg>,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, FolderError> {
        let given = |name: &str| {
            let path = PathBuf::from(variable(name).filter(|value| !value.is_empty())?);
            Some(std::path::absolute(&path).unwrap_or(path))
        };
        let home = || xdg.ok_or(FolderError::NoHome);
        Ok(Folders {
            state: match given("BANGER_STATE_DIR") {
                Some(state) => state,
                None if user == 0 => "/var/lib/banger".into(),
                None => {
                    let home = home()?;
                    let state = home.state_dir().unwrap_or_else(|| home.data_dir());
                    state.join("banger")
                }
            },
            runtime: match given("BANGER_RUNTIME_DIR") {
                Some(runtime) => runtime,
                None if user == 0 => "/run/banger".into(),
                None => match xdg.and_then(BaseStrategy::runtime_dir) {
                    Some(runtime) => runtime.join("banger"),
                    None => format!("/tmp/banger-{user}").into(),
                },
            },
            config: match given("BANGER_CONFIG_DIR") {
                Some(config) => config,
                None => home()?.config_dir().join("banger"),
            },
        })
    }

    /// Returns the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join(SOCKET)
    }

    /// Returns the daemon's log.
    pub fn log(&self) -> PathBuf {
        self.state.join("bangerd.log")
    }

    /// Returns the daemon's configuration; it need not be there.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }
}

/// Makes a folder that is ours alone (mode 0700). One that is there must be ours, a folder and no link
/// to one: anybody may make names in `/tmp`.
pub fn make_private(path: &Path) -> Result<(), FolderError> {
    let failed = |source| FolderError::Make {
        path: path.to_owned(),
        source,
    };
    let unsafe_because = |fault: String| FolderError::Unsafe {
        path: path.to_owned(),
        fault,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let facts = fs::symlink_metadata(path).map_err(failed)?;
    let user = rustix::process::geteuid().as_raw();
    if !facts.is_dir() {
        return Err(unsafe_because("is no folder".to_owned()));
    }
    if facts.uid() != user {
        return Err(unsafe_because(format!("belongs to user {}", facts.uid())));
    }
    if facts.mode() & 0o077 != 0 {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(user: u32, variables: &[(&str, &str)]) -> Result<Folders, FolderError> {
        let find = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Folders::resolve(user, None, &find)
    }

    #[test]
    fn each_folder_can_be_set_by_one_variable_and_an_empty_one_is_unset() {
        let folders = resolved(
            1000,
            &[
                ("BANGER_STATE_DIR", "/a"),
                ("BANGER_RUNTIME_DIR", ""),
                ("BANGER_CONFIG_DIR", "/c"),
            ],
        )
        .unwrap();
        assert_eq!(folders.state, Path::new("/a"));
        assert_eq!(folders.socket(), Path::new("/tmp/banger-1000/bangerd.sock"));
        assert_eq!(folders.config_file(), Path::new("/c/config.toml"));
    }

    #[test]
    fn the_documented_folders_are_those_of_the_program() {
        let page = include_str!("../../docs/defaults.md");
        let [root, user] = [0, 1000].map(|user| resolved(user, &[("BANGER_CONFIG_DIR", "/c")]));
        let root = root.unwrap();
        for word in [&root.state, &root.runtime] {
            assert!(page.contains(&format!("| `{}` |", word.display())));
        }
        // Without a home only the runtime folder can be told.
        assert!(user.is_err());
        let user = resolved(
            1000,
            &[("BANGER_CONFIG_DIR", "/c"), ("BANGER_STATE_DIR", "/s")],
        );
        let runtime = user.unwrap().runtime.display().to_string();
        assert!(page.contains(&format!("else `{}` |", runtime.replace("1000", "<uid>"))));
        for variable in [
            "BANGER_STATE_DIR",
            "BANGER_RUNTIME_DIR",
            "BANGER_CONFIG_DIR",
        ] {
            assert!(page.contains(&format!("| `{variable}` |")), "{variable}");
        }
    }

    #[test]
    fn roots_folders_do_not_depend_on_whose_home_sudo_left() {
        let folders = resolved(0, &[("BANGER_CONFIG_DIR", "/c")]).unwrap();
        assert_eq!(folders.state, Path::new("/var/lib/banger"));
        assert_eq!(folders.socket(), Path::new("/run/banger/bangerd.sock"));
    }

    #[test]
    fn without_a_home_the_variables_to_set_are_named() {
        let error = resolved(1000, &[]).unwrap_err();
        assert!(error.to_string().contains("BANGER_STATE_DIR"), "{error}");
    }

    #[test]
    fn a_private_folder_is_closed_to_others_and_a_link_to_one_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("run");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        make_private(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);

        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        let error = make_private(&link).unwrap_err();
        assert!(error.to_string().contains("is no folder"), "{error}");
    }
}
