//! A repository in, against `git clone` and `tar` over the same ssh connection; its changes out, against a
//! bare `git diff`.

use std::path::Path;
use std::process::{Command, Stdio};

use banger_tests::Rig;

use super::{AnyError, Row, banger, succeed, timed};

/// Folders, and files in each.
const FOLDERS: usize = 60;
const FILES: usize = 50;

/// The rows, on a VM named `bench` that runs.
pub(super) fn rows(rig: &Rig, config: &Path, rounds: usize) -> Result<Vec<Row>, AnyError> {
    let repo = rig.folder().join("bench-repo");
    make(&repo)?;
    let path = repo.to_string_lossy().into_owned();
    let (mut with, mut bare) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let place = format!("/root/with-{round}");
        with.push(timed(|| {
            let words = [
                "-q",
                "vm",
                "workspace",
                "prepare",
                "bench",
                &path,
                "--guest-path",
                &place,
            ];
            banger(rig, &words)
        })?);
        let scratch = tempfile::tempdir_in(rig.folder())?;
        bare.push(timed(|| {
            clone_and_copy(&path, scratch.path(), config, round)
        })?);
        shell(
            config,
            &format!("rm -rf /root/bare-{round} /root/with-{round}"),
        )?;
    }
    let prepare = Row::new("prepare (over: clone, tar)", with, bare);

    banger(rig, &["-q", "vm", "workspace", "prepare", "bench", &path])?;
    let change = "cd /root/repo; for d in dir1*; do for f in $d/*; do echo more >> $f; done; done; \
                  head -c 4000000 /dev/urandom > binary";
    shell(config, change)?;
    let (mut with, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        with.push(timed(|| {
            banger(rig, &["vm", "workspace", "export", "bench"])
        })?);
        bare.push(timed(|| {
            shell(
                config,
                "cd /root/repo && git diff --binary --full-index HEAD",
            )
        })?);
    }
    Ok(vec![
        prepare,
        Row::new("export (over: git diff)", with, bare),
    ])
}

/// A repository of three thousand files, of words that compress as text does, and a binary.
fn make(repo: &Path) -> Result<(), AnyError> {
    let mut seed = 7_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for folder in 0..FOLDERS {
        let folder = repo.join(format!("dir{folder}"));
        std::fs::create_dir_all(&folder)?;
        for file in 0..FILES {
            let words = (0..1200).map(|_| format!("word{} ", random() % 2000));
            let mut text = words.collect::<String>();
            text.push('\n');
            std::fs::write(folder.join(format!("file{file}.txt")), text)?;
        }
    }
    let noise: Vec<u8> = (0..1_000_000).map(|_| random() as u8).collect();
    std::fs::write(repo.join("binary"), noise)?;
    let script = "git init -q -b main && git add -A && \
                  git -c user.name=B -c user.email=b@localhost commit -q -m all";
    succeed(Command::new("sh").args(["-c", script]).current_dir(repo))
}

fn clone_and_copy(repo: &str, scratch: &Path, config: &Path, round: usize) -> Result<(), AnyError> {
    let from = format!("file://{repo}");
    let clone = scratch.join("clone");
    succeed(
        Command::new("git")
            .args(["clone", "-q", "--depth=10", &from])
            .arg(&clone),
    )?;
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(&clone)
        .args(["-cf", "-", "."])
        .stdout(Stdio::piped())
        .spawn()?;
    let script = format!("mkdir /root/bare-{round} && tar -C /root/bare-{round} -xf -");
    let unpacked = Command::new("ssh")
        .arg("-F")
        .arg(config)
        .args(["bench.vm", &script])
        .stdin(tar.stdout.take().ok_or("no pipe")?)
        .status()?;
    match tar.wait()?.success() && unpacked.success() {
        true => Ok(()),
        false => Err("the bare copy failed".into()),
    }
}

fn shell(config: &Path, script: &str) -> Result<(), AnyError> {
    succeed(
        Command::new("ssh")
            .arg("-F")
            .arg(config)
            .args(["bench.vm", script]),
    )
}
