//! Programs: run to their end in a clean environment, or started to outlive us.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use super::process;
use super::{Detached, FileAct, HostError, ProcessIdentity, Program, ProgramOutput, files};

type Result<T> = std::result::Result<T, HostError>;

/// Where programs are looked up, and what each of them gets as its environment.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) search: Vec<PathBuf>,
    pub(super) environment: Vec<(String, String)>,
}

impl Surroundings {
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        if name.contains('/') {
            return is_executable(Path::new(name)).then(|| PathBuf::from(name));
        }
        self.search
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| is_executable(path))
    }

    pub(super) fn resolve(&self, name: &str) -> Result<PathBuf> {
        self.find(name).ok_or_else(|| HostError::ProgramMissing {
            program: name.to_owned(),
            searched: self.path(),
        })
    }

    pub(super) fn path(&self) -> String {
        let folders: Vec<_> = self.search.iter().map(|f| f.to_string_lossy()).collect();
        folders.join(":")
    }

    /// A program in a clean environment, which gets nothing of what whoever started this process left open
    /// for it: a lock that is held by an open file would be held for as long as a VM lives. A kernel before
    /// 5.11 cannot keep it from that.
    pub(super) fn command(&self, path: &Path) -> std::process::Command {
        const FIRST_AFTER_STDERR: libc::c_uint = 3;
        let mut command = std::process::Command::new(path);
        command
            .env_clear()
            .env("PATH", self.path())
            .env("LC_ALL", "C.UTF-8")
            .envs(self.environment.iter().map(|(k, v)| (k, v)));
        // SAFETY: between fork and exec only close_range(2) is called, which is async-signal-safe; it closes
        // nothing before the exec, so that no descriptor that is in use goes away.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(|| {
                let how = libc::CLOSE_RANGE_CLOEXEC;
                libc::syscall(
                    libc::SYS_close_range,
                    FIRST_AFTER_STDERR,
                    libc::c_uint::MAX,
                    how,
                );
                Ok(())
            });
        }
        command
    }

    pub(super) async fn run(&self, program: &Program) -> Result<ProgramOutput> {
        self.run_in(None, program).await
    }

    /// Runs a program to its end, in a network namespace if one is given.
    pub(super) async fn run_in(
        &self,
        namespace: Option<&str>,
        program: &Program,
    ) -> Result<ProgramOutput> {
        let path = self.resolve(&program.program)?;
        let cannot_start = |source| HostError::StartProgram {
            program: program.program.clone(),
            source,
        };
        let mut command = self.command(&path);
        if let Some(namespace) = namespace {
            enter(&mut command, super::linux::spaces::open(namespace)?);
        }
        let mut child = tokio::process::Command::from(command)
            .args(&program.arguments)
            .envs(program.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A program that is given up (its caller went away, its time is over) must not run on, and
            // neither must what it has started: a group of its own is killed as one.
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .map_err(cannot_start)?;
        let leader = child.id();
        let mut stdin = child.stdin.take();
        let feed = async {
            if let Some(stdin) = stdin.as_mut() {
                // A program that does not read what it is given is within its rights.
                let _ = stdin.write_all(&program.input).await;
            }
            drop(stdin);
        };
        let mut run = std::pin::pin!(async { tokio::join!(feed, child.wait_with_output()).1 });
        // Order matters here: dropped before the child is, whose number is its own until then.
        let mut group = Group { leader };
        let output = tokio::time::timeout(program.limits.time, &mut run)
            .await
            .map_err(|_| HostError::ProgramTimeout {
                program: program.program.clone(),
                limit: program.limits.time,
            })?
            .map_err(cannot_start)?;
        group.leader = None;
        let status = output.status;
        Ok(ProgramOutput {
            status: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    pub(super) fn spawn(&self, detached: &Detached) -> Result<ProcessIdentity> {
        let path = self.resolve(&detached.program)?;
        let log = files::append(&detached.log)?;
        let log_for_errors = log
            .try_clone()
            .map_err(files::failed(FileAct::Write, &detached.log))?;
        let mut command = self.command(&path);
        command
            .args(&detached.arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_for_errors);
        // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe and
        // touches no memory of ours.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(|| {
                // A session of its own: the terminal's Ctrl-C and its hang-up never reach a VM.
                rustix::process::setsid().map(drop).map_err(Into::into)
            });
        }
        if let Some(namespace) = &detached.namespace {
            enter(&mut command, super::linux::spaces::open(namespace)?);
        }
        let child = command.spawn().map_err(|source| HostError::StartProgram {
            program: detached.program.clone(),
            source,
        })?;
        // `std` neither kills nor reaps a dropped child: the watcher reaps it by its pidfd. A child that
        // has already ended is a zombie until then, and still has its start time.
        process::start_identity(child.id())
    }
}

/// Lets a program start in a network namespace.
fn enter(command: &mut std::process::Command, namespace: OwnedFd) {
    // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe; the descriptor is
    // owned by the closure.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
                .map_err(Into::into)
        });
    }
}

/// The processes of a program that runs, killed unless it has ended by itself.
struct Group {
    leader: Option<u32>,
}

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.leader.and_then(|pid| i32::try_from(pid).ok());
        if let Some(leader) = leader.and_then(rustix::process::Pid::from_raw) {
            // Whoever has gone already is past killing.
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}
