//! Scratch guests: where the simulator runs scripts for real without touching the machine it runs on.
//!
//! A guest is a set of namespaces and its first process (`scratch/init.sh`), in which one is root over
//! a scratch root: the host's `/usr` to read, a `/root` that persists, all else made at each start.
//! That holds accidents (`rm -rf /root/repo`, `kill -9 -1`), not attackers: no more may be run in it
//! than a developer would run on the same machine anyway.
//!
//! What of it could outlive us hangs on one pipe, our end of which the kernel closes whatever ends us:
//! at its end the first process ends, and with it every process and every mount of the guest. A signal
//! at the parent's death would not do: it comes at the death of the *thread* that started the child.

mod isolation;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};

use super::program::Surroundings;
use super::{HostError, LinuxHostConfig, ProcessIdentity, ProcessSignal, files, process};

/// Why there is no scratch guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    /// The system does not give us namespaces.
    #[error("{reason}")]
    NotIsolated {
        reason: String,
        next_step: &'static str,
    },
    /// It could not be furnished.
    #[error("it could not be furnished: {message}")]
    Furnish { message: String },
    /// It does not end.
    #[error("its first process, {pid}, does not end")]
    Stuck { pid: u32 },
    /// It has ended.
    #[error("it has ended")]
    Ended,
    /// A script could not be started in it.
    #[error("a script could not be started: {source}")]
    Start { source: io::Error },
    /// The system refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What a guest is made from.
#[derive(Clone, Debug)]
pub(crate) struct ScratchPlan {
    /// Whose it is; the guest's machine id, and on its outermost process's command line.
    pub(crate) id: String,
    /// Its host name.
    pub(crate) name: String,
    /// What persists of it: its `/root` lies in `root` there.
    pub(crate) folder: PathBuf,
}

/// A guest that runs. Dropping it ends it, soon.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Its first process reads the other end.
    lifeline: Mutex<Option<ChildStdin>>,
    init: ProcessIdentity,
    namespaces: Arc<Namespaces>,
    shell: String,
    nsenter: PathBuf,
    running: watch::Sender<usize>,
    life: watch::Sender<Life>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Lives,
    /// We have let go of it.
    Ending,
    /// None of its processes is left.
    Ended,
}

/// A script that runs in a guest; it is never killed from here, not even by dropping this.
#[derive(Debug)]
pub(crate) struct ScratchProcess {
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
    pub(crate) end: tokio::task::JoinHandle<ScratchEnd>,
}

/// How a script's shell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScratchEnd {
    Exited(i32),
    Signaled(i32),
    /// The guest ended, and the shell with it.
    GuestEnded,
}

impl Scratch {
    /// Says whether guests can be shut in on this machine, by shutting `true` in.
    pub(crate) async fn probe() -> Result<(), ScratchError> {
        let mut command = outermost()?;
        command.args(["--mount-proc", "true"]).stdin(Stdio::null());
        let output = command.output().await.map_err(cannot_start("unshare"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(ScratchError::NotIsolated {
                reason: format!(
                    "this host refuses namespaces of its own to a guest ({})",
                    String::from_utf8_lossy(&output.stderr).trim()
                ),
                next_step: isolation::next_step(&isolation::Settings::read()),
            }),
        }
    }

    /// Starts a guest. Returns it with what its power switches say. Cancel-safe: nothing runs on.
    pub(crate) async fn start(
        plan: &ScratchPlan,
    ) -> Result<(Self, mpsc::UnboundedReceiver<String>), ScratchError> {
        let nsenter = find("nsenter")?;
        for place in ["root", "mnt"] {
            files::create_dir(&plan.folder.join(place))?;
        }
        let mut child = outermost()?
            .args(["/bin/sh", "-c", include_str!("scratch/init.sh")])
            .args(["banger-sim-guest", &plan.id, &plan.name])
            .arg(&plan.folder)
            .arg(include_str!("scratch/power.sh"))
            .stdin(Stdio::piped())
            .spawn()
            .map_err(cannot_start("unshare"))?;
        let (Some(lifeline), Some(stdout), Some(mut stderr), Some(outermost)) = (
            child.stdin.take(),
            child.stdout.take(),
            child.stderr.take(),
            child.id(),
        ) else {
            return Err(ScratchError::Ended);
        };
        let mut said = BufReader::new(stdout).lines();
        let first = said.next_line().await.ok().flatten().unwrap_or_default();
        let Some((init, shell)) = parse_ready(&first) else {
            let mut message = Vec::new();
            let _ = stderr.read_to_end(&mut message).await;
            return Err(ScratchError::Furnish {
                message: String::from_utf8_lossy(&message).trim().to_owned(),
            });
        };
        let init = process::identity(init)?.ok_or(ScratchError::Ended)?;
        let namespaces = Namespaces::open(init.pid).map_err(|_| ScratchError::Ended)?;
        // Order matters here: if this number is still that of our child's child, then it was when the
        // namespaces were opened, and they are not those of a stranger who got the number after it.
        if parent(init.pid) != Some(outermost) {
            return Err(ScratchError::Ended);
        }
        let (words, power) = mpsc::unbounded_channel();
        let life = watch::Sender::new(Life::Lives);
        let end = life.clone();
        tokio::spawn(async move {
            while let Ok(Some(word)) = said.next_line().await {
                let _ = words.send(word);
            }
        });
        tokio::spawn(async move {
            // It ends after the first process, which ends after every other one in the guest.
            let _ = child.wait().await;
            end.send_replace(Life::Ended);
        });
        let scratch = Scratch {
            lifeline: Mutex::new(Some(lifeline)),
            init,
            namespaces: Arc::new(namespaces),
            shell: shell.to_owned(),
            nsenter,
            running: watch::Sender::new(0),
            life,
        };
        Ok((scratch, power))
    }

    /// Says whether its first process lives.
    pub(crate) fn lives(&self) -> bool {
        // Asked of the system too: who tells us may have gone with the runtime that it ran on.
        *self.life.borrow() == Life::Lives
            && process::identity(self.init.pid).is_ok_and(|now| now.as_ref() == Some(&self.init))
    }

    /// Starts a script as sshd would: login shell, home folder, leader of a session of its own.
    pub(crate) fn run(&self, script: &[u8]) -> Result<ScratchProcess, ScratchError> {
        use std::os::unix::ffi::OsStrExt;
        if !self.lives() {
            return Err(ScratchError::Ended);
        }
        let cannot_start = |source| ScratchError::Start { source };
        let mut child = Command::new(&self.nsenter)
            .args(self.namespaces.arguments())
            // Our own user is the guest's root already.
            .args(["--preserve-credentials", "--", "setsid"])
            .args([&self.shell, "-c"])
            .arg(std::ffi::OsStr::from_bytes(script))
            .current_dir("/")
            .env_clear()
            .env("PATH", GUEST_PATH)
            .env("SHELL", &self.shell)
            .envs([("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root")])
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is for the engine's program; setsid(1) forks if it is a leader.
            .process_group(0)
            .spawn()
            .map_err(cannot_start)?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(cannot_start(io::ErrorKind::BrokenPipe.into()));
        };
        self.running.send_modify(|count| *count += 1);
        let (running, mut life) = (self.running.clone(), self.life.subscribe());
        // nsenter opens them by our descriptors' numbers: they are held for as long as it may.
        let namespaces = Arc::clone(&self.namespaces);
        let end = tokio::spawn(async move {
            let status = child.wait().await;
            drop(namespaces);
            running.send_modify(|count| *count -= 1);
            let end = status.map_or(ScratchEnd::GuestEnded, into_end);
            let told = match end {
                ScratchEnd::Exited(0) | ScratchEnd::GuestEnded => return end,
                // The guest's end kills too, and may be told a moment after it.
                ScratchEnd::Signaled(KILL) => Duration::from_millis(100),
                // nsenter fails with a status of its own when there is nothing to enter any more.
                ScratchEnd::Exited(_) | ScratchEnd::Signaled(_) => Duration::ZERO,
            };
            let gone = life.wait_for(|life| *life != Life::Lives);
            match tokio::time::timeout(told, gone).await {
                Ok(_) => ScratchEnd::GuestEnded,
                Err(_) => end,
            }
        });
        Ok(ScratchProcess {
            stdin,
            stdout,
            stderr,
            end,
        })
    }

    /// Waits until no script runs, or the guest has ended.
    pub(crate) async fn idle(&self) {
        let (mut running, mut life) = (self.running.subscribe(), self.life.subscribe());
        // Both only look at a watch: nothing is lost with the one that is dropped.
        tokio::select! {
            _ = running.wait_for(|count| *count == 0) => {}
            _ = life.wait_for(|life| *life == Life::Ended) => {}
        }
    }

    /// Ends the guest and returns when none of its processes is left.
    pub(crate) async fn end(&self) -> Result<(), ScratchError> {
        self.life.send_if_modified(|life| {
            let lives = *life == Life::Lives;
            if lives {
                *life = Life::Ending;
            }
            lives
        });
        let lifeline = self.lifeline.lock();
        drop(lifeline.unwrap_or_else(PoisonError::into_inner).take());
        let mut life = self.life.subscribe();
        let mut gone = async |seconds| {
            let gone = life.wait_for(|life| *life == Life::Ended);
            let gone = tokio::time::timeout(Duration::from_secs(seconds), gone);
            gone.await.is_ok()
        };
        if gone(1).await {
            return Ok(());
        }
        process::signal(&self.init, ProcessSignal::Kill)?;
        match gone(5).await {
            true => Ok(()),
            false => Err(ScratchError::Stuck { pid: self.init.pid }),
        }
    }
}

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// What a script finds programs in: ours first, for the power switches.
const GUEST_PATH: &str =
    "/opt/banger-sim/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The grip on a guest's namespaces, which no reuse of a process number can turn into another's.
#[derive(Debug)]
struct Namespaces(Vec<(&'static str, OwnedFd)>);

impl Namespaces {
    fn open(pid: u32) -> io::Result<Self> {
        let places = [
            ("user", "ns/user"),
            ("mount", "ns/mnt"),
            ("pid", "ns/pid"),
            ("net", "ns/net"),
            ("uts", "ns/uts"),
            ("ipc", "ns/ipc"),
            ("wd", "root/root"),
        ];
        let open = |(option, place)| {
            let file = File::open(format!("/proc/{pid}/{place}"))?;
            Ok((option, OwnedFd::from(file)))
        };
        places
            .map(open)
            .into_iter()
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The options of nsenter(1) that name them.
    fn arguments(&self) -> impl Iterator<Item = String> {
        let us = std::process::id();
        self.0
            .iter()
            .map(move |(option, file)| format!("--{option}=/proc/{us}/fd/{}", file.as_raw_fd()))
    }
}

/// The process around a guest: it makes the namespaces and waits for the first process in them.
fn outermost() -> Result<Command, ScratchError> {
    let mut command = Command::new(find("unshare")?);
    command
        .args(["--user", "--map-root-user", "--mount", "--pid", "--net"])
        .args(["--uts", "--ipc", "--fork", "--kill-child"])
        .current_dir("/")
        .env_clear()
        .env("PATH", surroundings().path())
        .env("LC_ALL", "C")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    Ok(command)
}

fn find(program: &str) -> Result<PathBuf, ScratchError> {
    Ok(surroundings().resolve(program)?)
}

fn surroundings() -> Surroundings {
    Surroundings {
        search: LinuxHostConfig::default().program_folders,
        environment: Vec::new(),
        open_files: Surroundings::own_open_files(),
    }
}

fn cannot_start(program: &'static str) -> impl FnOnce(io::Error) -> ScratchError {
    move |source| {
        ScratchError::Host(HostError::StartProgram {
            program: program.to_owned(),
            source,
        })
    }
}

/// Reads `ready PID SHELL`.
fn parse_ready(line: &str) -> Option<(u32, &str)> {
    let (pid, shell) = line.strip_prefix("ready ")?.split_once(' ')?;
    Some((pid.parse().ok()?, shell))
}

fn parent(pid: u32) -> Option<u32> {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok()
}

fn into_end(status: std::process::ExitStatus) -> ScratchEnd {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => ScratchEnd::Exited(code),
        (None, Some(signal)) => ScratchEnd::Signaled(signal),
        (None, None) => ScratchEnd::GuestEnded,
    }
}
