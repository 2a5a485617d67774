//! What a parser of foreign bytes may reach: made ready before the fork, entered by the keeper.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};

use super::keeper::Cell;

/// The user that root's parsers become: nobody, whom no file of ours belongs to.
const NOBODY: u32 = 65534;

/// Where programs and their libraries are read from, as far as there are such folders.
const READ: [&str; 8] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/sbin",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/mke2fs.conf",
];

/// Makes the cell of one parser.
pub(in crate::host) fn cell(program: &Path, inputs: &[Arc<std::fs::File>]) -> io::Result<Cell> {
    let ours = rustix::process::geteuid().as_raw();
    for input in inputs.iter().filter(|_| ours == 0) {
        open_to_nobody(input)?;
    }
    let become_user = (ours == 0).then_some(NOBODY);
    let user = become_user.unwrap_or(ours);
    let group = become_user.unwrap_or(rustix::process::getegid().as_raw());
    Ok(Cell {
        become_user,
        uid_map: format!("{user} {user} 1").into_bytes(),
        gid_map: format!("{group} {group} 1").into_bytes(),
        rules: rules(program, inputs).map_err(io::Error::other)?,
        inputs: inputs.to_vec(),
    })
}

/// Lets others read a file of root's: nobody opens it anew, by its name below `/proc`. It lies in a folder
/// that others cannot enter, which is what keeps them out.
fn open_to_nobody(input: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    const READABLE: u32 = 0o004;
    let facts = input.metadata()?;
    let mode = facts.mode() & 0o7777;
    match facts.uid() == 0 && mode & READABLE == 0 {
        true => input.set_permissions(std::fs::Permissions::from_mode(mode | READABLE)),
        false => Ok(()),
    }
}

/// Landlock's rules, as far as this kernel has them.
fn rules(
    program: &Path,
    inputs: &[Arc<std::fs::File>],
) -> Result<Option<OwnedFd>, landlock::RulesetError> {
    let abi = ABI::V6;
    let read = AccessFs::from_read(abi);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    for place in READ.iter().map(Path::new).chain([program]) {
        if let Ok(place) = PathFd::new(place) {
            rules = rules.add_rule(PathBeneath::new(place, read))?;
        }
    }
    for input in inputs {
        rules = rules.add_rule(PathBeneath::new(&**input, AccessFs::ReadFile))?;
    }
    Ok(rules.into())
}
