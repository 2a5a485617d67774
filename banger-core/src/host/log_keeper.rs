//! What a monitor writes for as long as it runs goes through pipes to somebody who keeps its last part in a file.
//!
//! ```text
//! monitor ── pipe ─► log keeper ── at most LOG_BYTES, then from the beginning ─► console.log
//! ```
//!
//! A guest decides how much its monitor writes, so the bound must hold when whoever started the monitor is dead. The
//! kernel has none for one file alone: a limit on all files (RLIMIT_FSIZE) would be the disks' too. So there is a
//! keeper for each log: a shell and `cat`, which live as long as the pipe has a writer. `cat` has the limit, and the
//! shell begins the file anew when it was ended by it. A keeper that is killed costs the rest of that run's words: its
//! monitor is told that the pipe is broken, and goes on.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::engine::lock;

use super::program::{Surroundings, leave_session};
use super::{HostError, ProcessIdentity, files, process, walls};

type Result<T> = std::result::Result<T, HostError>;

/// The longest that a log of a monitor becomes, in bytes. Beyond that it begins anew.
pub const LOG_BYTES: u64 = 8 << 20;

/// The number under which a monitor has the pipe to the first of its further logs.
pub(super) const FIRST_PIPE: usize = 3;

/// Above the numbers that monitors have pipes under, so that none is overwritten while they are put there.
const OUT_OF_THE_WAY: i32 = 64;

/// How much a pipe holds while its keeper does not read, in bytes.
const PIPE_BYTES: usize = 256 << 10;

/// How long a keeper may take to write what is left, once its program has ended. It needs a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);

/// `$1` is `cat`. In the background, so that a keeper is nobody's child: whoever started it may be gone by its end.
/// Its number is told. A `cat` that cannot be run is given up; one that cannot write for want of space begins anew as
/// well.
const KEEP: &str = r#"exec 3<&0
{
    until "$1" <&3; do
        case $? in 126 | 127) exit ;; esac
        : >/proc/self/fd/1
    done
} 2>/dev/null &
echo $! >&2
"#;

/// The pipes to a program's logs, until somebody keeps them.
pub(super) struct Logs {
    pipes: Vec<(OwnedFd, PathBuf, File)>,
}

impl Logs {
    pub(super) fn none() -> Self {
        Logs { pipes: Vec::new() }
    }

    /// Opens the files, and lets a program start with a pipe to each: to the first as its standard output and error.
    pub(super) fn open(
        surroundings: &Surroundings,
        command: &mut Command,
        log: &Path,
        others: &[PathBuf],
    ) -> Result<Self> {
        // Known before anything runs.
        for program in ["sh", "cat"] {
            surroundings.resolve(program)?;
        }
        let mut logs = Logs::none();
        let words = logs.pipe(log)?;
        // Whoever complains without end must not wait for a keeper that does not come after.
        let failed = || files::failed(super::FileAct::Write, log);
        let flags = rustix::fs::fcntl_getfl(&words).map_err(|error| failed()(error.into()))?;
        rustix::fs::fcntl_setfl(&words, flags | rustix::fs::OFlags::NONBLOCK)
            .map_err(|error| failed()(error.into()))?;
        let errors = words.try_clone().map_err(failed())?;
        command.stdout(words).stderr(errors);
        let mut pipes = Vec::new();
        for other in others {
            pipes.push(logs.pipe(other)?);
        }
        // SAFETY: between fork and exec only dup2(2) is called, which is async-signal-safe; the descriptors are
        // owned by the closure, and lie above those that they are put at.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                for (number, pipe) in (FIRST_PIPE as libc::c_int..).zip(&pipes) {
                    if libc::dup2(pipe.as_raw_fd(), number) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        Ok(logs)
    }

    /// Returns the writing end of a new pipe to a log.
    fn pipe(&mut self, log: &Path) -> Result<OwnedFd> {
        let failed =
            |error: rustix::io::Errno| files::failed(super::FileAct::Write, log)(error.into());
        let file = files::append(log)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let write = rustix::io::fcntl_dupfd_cloexec(write, OUT_OF_THE_WAY).map_err(failed)?;
        // A user who has many gets smaller ones.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
        self.pipes.push((read, log.to_owned(), file));
        Ok(write)
    }

    /// Starts who keeps the logs, in a control group if one is given, and returns them.
    pub(super) fn keep(
        &mut self,
        surroundings: &Surroundings,
        group: Option<&Path>,
    ) -> Result<Vec<ProcessIdentity>> {
        let mut keepers = Vec::new();
        for (read, log, file) in self.pipes.drain(..) {
            let shell = surroundings.resolve("sh")?;
            let cannot_start = |source| HostError::StartProgram {
                program: "sh".to_owned(),
                source,
            };
            // Its path is for whoever looks at the processes.
            let words: [OsString; 4] = [
                "-c".into(),
                KEEP.into(),
                log.clone().into(),
                surroundings.resolve("cat")?.into(),
            ];
            let mut command = surroundings.command(&shell);
            command
                .args(words)
                .current_dir("/")
                .stdin(read)
                .stdout(file)
                .stderr(Stdio::piped());
            leave_session(&mut command);
            // One that cannot be moved (an ordinary user's, out of a login) is kept where we are.
            let group = group.and_then(|group| {
                File::options()
                    .write(true)
                    .open(group.join("cgroup.procs"))
                    .ok()
            });
            begin_at_the_limit(&mut command, group);
            walls::limit(&mut command, surroundings.open_files, Some(LOG_BYTES));
            walls::confine(&mut command, &[log]);
            let told = command.output().map_err(cannot_start)?;
            let said = String::from_utf8_lossy(&told.stderr).trim().to_owned();
            let Ok(keeper) = said.parse() else {
                let said = format!("it cannot keep a log ({}): {said}", told.status);
                return Err(cannot_start(std::io::Error::other(said)));
            };
            // One that has ended already has nothing to keep.
            keepers.extend(process::identity(keeper)?);
        }
        Ok(keepers)
    }

    /// What a program that has ended said first, and is in no file yet.
    pub(super) fn said(&mut self, limit: u64) -> Vec<u8> {
        let mut said = Vec::new();
        if let Some((read, ..)) = self.pipes.drain(..).next() {
            // What is in the pipe is all there is; who may have it open still is not waited for.
            let _ = rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK);
            let _ = File::from(read).take(limit).read_to_end(&mut said);
        }
        said
    }
}

/// Who keeps the logs of what this process has started, by whose logs they are.
#[derive(Debug, Default)]
pub(super) struct Keepers(Mutex<HashMap<u32, (ProcessIdentity, Vec<ProcessIdentity>)>>);

impl Keepers {
    pub(super) fn note(&self, program: &ProcessIdentity, keepers: Vec<ProcessIdentity>) {
        lock(&self.0).insert(program.pid, (program.clone(), keepers));
    }

    /// Waits until a program's last words are in its logs, once it has ended. One that stands still is left behind.
    pub(super) async fn finish(&self, program: &ProcessIdentity) {
        let noted = lock(&self.0).get(&program.pid).cloned();
        let Some((_, keepers)) = noted.filter(|(whose, _)| whose == program) else {
            return;
        };
        let all = async {
            for keeper in &keepers {
                // What cannot be looked at is not waited for.
                let _ = process::wait_end(keeper).await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
        let mut noted = lock(&self.0);
        if noted
            .get(&program.pid)
            .is_some_and(|(whose, _)| whose == program)
        {
            noted.remove(&program.pid);
        }
    }
}

/// Lets a program start in a control group, and be ended where a file has reached the limit: whoever started us may
/// have that signal ignored, which is inherited.
fn begin_at_the_limit(command: &mut Command, group: Option<File>) {
    // SAFETY: between fork and exec only signal(2) and write(2) are called, which are async-signal-safe; the file is
    // owned by the closure.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
            if let Some(group) = &group {
                // "0" is whoever writes it. Refused, it stays where it is.
                let _ = rustix::io::write(group, b"0");
            }
            Ok(())
        });
    }
}
