//! What the tests share: the programs of this workspace, and a place for real VMs.

mod chaos;
mod deaths;
mod failpoint;
mod home;
mod kernel;
mod real;
mod stand_in;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;

pub use chaos::{Tally, Verb, Victim, chaos, chaos_seed};
pub use deaths::{Act, die_everywhere, die_everywhere_over_dm_and_tap};
pub use failpoint::{FailingHost, Failpoint, FailpointError};
pub use home::{Home, Lost, eventually, gone, is_alive, kill, signal, skipped, text};
pub use kernel::as_an_administrator_sees_it;
pub use real::{Rig, alone, shared_images, why_not_real};
pub use stand_in::folder_with_a_stand_in;

/// Returns a program of this workspace, built with the profile of the running test.
///
/// Cargo builds a package's own programs for its tests, and no other package's: so this asks cargo once,
/// which takes no time when `make test` has built them already.
pub fn binary(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    BUILD.call_once(|| {
        // In the lab there is nothing to build with.
        if std::env::var_os("BANGER_TESTS_ARE_BUILT").is_some() {
            return;
        }
        let profile = match profile_dir().ends_with("release") {
            true => "release",
            false => "dev",
        };
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--offline",
                "--quiet",
                "--workspace",
                "--bins",
                "--profile",
                profile,
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(
            built.is_ok_and(|status| status.success()),
            "cargo build failed"
        );
    });
    profile_dir().join(name)
}

/// `target`, where what takes long to make is kept from one run to the next.
pub fn target() -> PathBuf {
    profile_dir().join("..")
}

/// `target/<profile>`: the running test is in `deps` below it.
fn profile_dir() -> PathBuf {
    let mut path = std::env::current_exe().unwrap_or_default();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path
}
