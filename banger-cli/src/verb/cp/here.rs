//! This host's side of a copy.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::command_error::CommandError;

/// Where what a guest sends goes.
pub(super) enum Sink {
    /// Standard output, or a file that is no plain one.
    Stream(File),
    /// Beside its place, until all of it is there.
    File {
        file: File,
        part: PathBuf,
        target: PathBuf,
    },
    /// Into tar, which unpacks it.
    Folder(Child),
}

impl Sink {
    /// Standard output.
    pub(super) fn stdout() -> Result<Self, CommandError> {
        let copied = io::stdout().as_fd().try_clone_to_owned();
        match copied {
            Ok(stdout) => Ok(Sink::Stream(stdout.into())),
            Err(error) => Err(CommandError::io("cannot write to standard output", error)),
        }
    }

    /// A file at `target`, or in it if it is a folder. `mode` is cut by the umask.
    pub(super) fn file(
        target: &Path,
        name: Option<&OsStr>,
        mode: u32,
    ) -> Result<Self, CommandError> {
        let mut target = target.to_owned();
        if target.is_dir() {
            match name {
                Some(name) => target.push(name),
                None => return Err(is_folder(&target)),
            }
        }
        if target.is_dir() {
            return Err(is_folder(&target));
        }
        if target.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(no_folder(&target));
        }
        // A link stays one, and what it names is replaced.
        let target = fs::canonicalize(&target).unwrap_or(target);
        if fs::metadata(&target).is_ok_and(|facts| !facts.is_file()) {
            let opened = OpenOptions::new().write(true).open(&target);
            return match opened {
                Ok(file) => Ok(Sink::Stream(file)),
                Err(error) => Err(cannot("write to", &target, error)),
            };
        }
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(no_folder(folder));
        }
        let part = folder.join(format!(".banger-cp-{}", std::process::id()));
        // Left by a process of our number that was killed, if it is there.
        let _ = fs::remove_file(&part);
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode & 0o777)
            .open(&part);
        match opened {
            Ok(file) => Ok(Sink::File { file, part, target }),
            Err(error) => Err(cannot("write to", folder, error)),
        }
    }

    /// A folder at `target`, or in it if that is there. One that is there already is added to.
    pub(super) fn folder(target: &Path, name: Option<&OsStr>) -> Result<Self, CommandError> {
        let mut target = target.to_owned();
        if let (true, Some(name)) = (target.is_dir(), name) {
            target.push(name);
        }
        if !target.is_dir() {
            fs::create_dir(&target).map_err(|error| cannot("make the folder", &target, error))?;
        }
        // A guest's owners are not ours, and its set-uid bits are least of all.
        let unpack = ["-x", "-f", "-", "--no-same-owner", "--no-same-permissions"];
        let mut command = Command::new("tar");
        command
            .args(unpack)
            .args(["--no-overwrite-dir", "-C"])
            .arg(&target)
            .stdin(Stdio::piped());
        Ok(Sink::Folder(start_tar(&mut command)?))
    }

    /// Writes a piece; blocks while nobody takes it.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        let written = match self {
            Sink::Stream(file) | Sink::File { file, .. } => file.write_all(bytes),
            Sink::Folder(tar) => match &mut tar.stdin {
                Some(stdin) => stdin.write_all(bytes),
                None => Ok(()),
            },
        };
        written.map_err(|error| match (error.kind(), &self) {
            (io::ErrorKind::BrokenPipe, Sink::Folder(_)) => {
                CommandError::new("tar cannot unpack what the guest sends")
            }
            (io::ErrorKind::BrokenPipe, _) => CommandError::broken_pipe(),
            _ => CommandError::io("cannot write the copy", error),
        })
    }

    /// All of it has come.
    pub(super) fn finish(mut self) -> Result<(), CommandError> {
        match &mut self {
            Sink::Stream(_) => Ok(()),
            Sink::File { part, target, .. } => {
                fs::rename(&*part, &*target).map_err(|error| cannot("write", target, error))
            }
            Sink::Folder(tar) => {
                drop(tar.stdin.take());
                tar_ended(tar)
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Sink::File { part, .. } = self {
            // It is gone if it was renamed.
            let _ = fs::remove_file(part);
        }
    }
}

/// Has tar pack what is in a folder, as root's.
pub(super) fn pack(folder: &Path) -> Result<Child, CommandError> {
    let mut command = Command::new("tar");
    command
        .args(["-c", "-f", "-", "--numeric-owner", "--owner=0", "--group=0"])
        .arg("-C")
        .arg(folder)
        .arg(".")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    start_tar(&mut command)
}

/// Waits for tar, which has said by itself what is wrong.
pub(super) fn tar_ended(tar: &mut Child) -> Result<(), CommandError> {
    match tar.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(CommandError::new("not all of it was copied")
                .because(format!("tar failed ({status})")))
        }
        Err(error) => Err(CommandError::io("cannot wait for tar", error)),
    }
}

/// Opens what is to be sent, with its mode if it is a plain file.
pub(super) fn open(path: &Path) -> Result<(File, Option<u32>), CommandError> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (facts, file) = opened.map_err(|error| cannot("read", path, error))?;
    let mode = facts.is_file().then(|| facts.permissions().mode() & 0o777);
    Ok((file, mode))
}

fn start_tar(command: &mut Command) -> Result<Child, CommandError> {
    command.spawn().map_err(|error| {
        CommandError::io("cannot run tar", error)
            .hint("folders are copied by it: install it (Debian: tar)")
    })
}

fn is_folder(path: &Path) -> CommandError {
    CommandError::new(format!("{} is a folder: name a file in it", path.display()))
}

pub(super) fn no_folder(path: &Path) -> CommandError {
    CommandError::new(format!("there is no folder {}", path.display()))
}

fn cannot(act: &str, path: &Path, error: io::Error) -> CommandError {
    CommandError::io(format!("cannot {act} {}", path.display()), error)
}
