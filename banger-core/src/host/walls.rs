//! What a monitor is kept from: it runs what a guest says, and a fault in it must cost no more than that guest.
//!
//! All of it is set between fork and exec, so that it holds from the program's first instruction, and is
//! inherited: by a program that runs another first (`systemd-run`), and by all that it would start.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// How much sooner than this process the kernel ends a monitor when memory runs out.
const SOONER: i32 = 300;

/// The highest score that there is: it is ended first.
const FIRST: i32 = 1000;

const NONE: CapabilitySet = CapabilitySet::empty();

/// Lets a program start within the walls. `opens` are the files that it opens by name.
pub(super) fn confine(command: &mut std::process::Command, opens: &[PathBuf]) {
    let kept = match rustix::process::geteuid().is_root() {
        // Nobody keeps what they have not.
        true => {
            kept(opens) & rustix::thread::capabilities(None).map_or(NONE, |ours| ours.permitted)
        }
        false => NONE,
    };
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let score = (score.trim().parse().unwrap_or(0) + SOONER)
        .min(FIRST)
        .to_string();
    // SAFETY: between fork and exec only system calls are made, on memory that was made before the fork.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            // A kernel without it ends whom it likes.
            let _ = write_score(score.as_bytes());
            give_up_privileges(kept)
        });
    }
}

/// Lets a program start without core dumps, with the limits of open files (soft, hard) that this process was
/// started with, and with no file longer than `file_bytes`, if that is given.
pub(super) fn limit(
    command: &mut std::process::Command,
    open_files: (u64, u64),
    file_bytes: Option<u64>,
) {
    // SAFETY: as above.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            setrlimit(Resource::Core, limits(0, 0))?;
            setrlimit(Resource::Nofile, limits(open_files.0, open_files.1))?;
            if let Some(bytes) = file_bytes {
                setrlimit(Resource::Fsize, limits(bytes, bytes))?;
            }
            Ok(())
        });
    }
}

fn limits(soft: u64, hard: u64) -> Rlimit {
    let limited = |number| (number != libc::RLIM_INFINITY).then_some(number);
    Rlimit {
        current: limited(soft),
        maximum: limited(hard),
    }
}

fn write_score(score: &[u8]) -> rustix::io::Result<()> {
    use rustix::fs::{Mode, OFlags, open};
    let path = c"/proc/self/oom_score_adj";
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, score).map(drop)
}

fn give_up_privileges(kept: CapabilitySet) -> io::Result<()> {
    use rustix::thread::{
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    };
    // Order matters here: without new privileges a program gets none by its owner or its file, and root no more
    // than it has; and the bounding set is shortened while we may.
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !kept.contains(one) {
            // There are fewer; and who is not root, or root in a container, may not. What follows holds all the same.
            let _ = remove_capability_from_bounding_set(one);
        }
    }
    // A kernel before 4.3 has no such set.
    let _ = clear_ambient_capability_set();
    set_no_new_privs(true)?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: NONE,
    };
    Ok(set_capabilities(None, sets)?)
}

/// The capabilities that root's monitor keeps: to look into others' folders, where its files lie in some.
fn kept(opens: &[PathBuf]) -> CapabilitySet {
    match opens.iter().all(|path| is_roots(path)) {
        true => NONE,
        false => CapabilitySet::DAC_OVERRIDE,
    }
}

/// Says whether root can use a file without a capability, by its owner and mode and those of the folders above.
/// One that is missing is to be made.
fn is_roots(path: &Path) -> bool {
    let Some(folder) = path.parent() else {
        return true;
    };
    let Ok(folder) = folder.canonicalize() else {
        return false;
    };
    // Root's own bits where it is the owner, else everybody's; it is taken to be in no group.
    let allows = |facts: &fs::Metadata, bits: u32| match facts.uid() {
        0 => facts.mode() >> 6 & bits == bits,
        _ => facts.mode() & bits == bits,
    };
    let enters = |folder: &Path| fs::metadata(folder).is_ok_and(|facts| allows(&facts, 1));
    let opens = match fs::metadata(path) {
        Ok(facts) if facts.file_type().is_socket() => true,
        Ok(facts) => allows(&facts, 4),
        Err(_) => fs::metadata(&folder).is_ok_and(|facts| allows(&facts, 3)),
    };
    opens && folder.ancestors().all(enters)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn as_root_a_monitor_keeps_a_capability_only_for_files_that_lie_in_folders_of_others() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: needs root");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let (file, missing) = (folder.join("file"), folder.join("missing"));
        fs::write(&file, "").unwrap();
        let both = [file.clone(), missing];
        for mode in [0o700, 0o755] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(kept(&both), NONE, "{mode:o}");
        }
        chown(&folder, Some(4711), None).unwrap();
        assert_eq!(kept(&both[..1]), NONE, "everybody may enter");
        assert_eq!(kept(&both), CapabilitySet::DAC_OVERRIDE, "and not write");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(kept(&both[..1]), CapabilitySet::DAC_OVERRIDE);
    }
}
