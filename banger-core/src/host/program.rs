//! Programs: run to their end in a clean environment, or started to outlive us.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::linux::cell::cell;
use super::linux::keeper;
use super::log_keeper::{LOG_BYTES, Logs};
use super::{
    Detached, HostError, Isolation, ProcessIdentity, Program, ProgramOutput, files, process, walls,
};

type Result<T> = std::result::Result<T, HostError>;

/// Where programs are looked up, and what each of them gets as its environment.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) search: Vec<PathBuf>,
    pub(super) environment: Vec<(String, String)>,
    /// The limits of open files, soft and hard, that programs get.
    pub(super) open_files: (u64, u64),
}

impl Surroundings {
    /// The limits of open files of this process, soft and hard.
    pub(super) fn own_open_files() -> (u64, u64) {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let number = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
        (number(limit.current), number(limit.maximum))
    }

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

    /// A program under a keeper, and our end of its leash.
    pub(super) fn kept_command(
        &self,
        namespace: Option<&str>,
        program: &Program,
    ) -> Result<(std::process::Command, OwnedFd)> {
        let path = self.resolve(&program.program)?;
        let cannot_start = |errno: rustix::io::Errno| HostError::StartProgram {
            program: program.program.clone(),
            source: errno.into(),
        };
        let mut command = self.command(&path);
        if let Some(namespace) = namespace {
            enter(&mut command, super::linux::spaces::open(namespace)?);
        }
        let (watched, held) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(cannot_start)?;
        let cell = match &program.isolation {
            Isolation::None => None,
            Isolation::Parser { inputs } => {
                Some(
                    cell(&path, inputs).map_err(|source| HostError::StartProgram {
                        program: program.program.clone(),
                        source,
                    })?,
                )
            }
        };
        let plan = keeper::Plan {
            leash: watched,
            limits: keeper::kernel_limits(&program.limits, self.open_files),
            processes: program.limits.processes,
            cell,
        };
        // SAFETY: between fork and exec only system calls are made, on values that were made before.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || keeper::split(&plan));
        }
        Ok((command, held))
    }

    /// Starts a program that outlives us, and returns it and those who keep its logs.
    pub(super) async fn spawn(
        &self,
        detached: &Detached,
    ) -> Result<(ProcessIdentity, Vec<ProcessIdentity>)> {
        let (process, mut logs) = self.start(detached)?;
        match logs.keep(self, None) {
            Ok(keepers) => Ok((process, keepers)),
            Err(error) => {
                // It would be heard by nobody.
                process::signal(&process, super::ProcessSignal::Kill)?;
                process::wait_end(&process).await?;
                Err(error)
            }
        }
    }

    /// Starts a program, with the pipes to its logs that nobody reads yet.
    pub(super) fn start(&self, detached: &Detached) -> Result<(ProcessIdentity, Logs)> {
        let path = self.resolve(&detached.program)?;
        let cannot_start = |source| HostError::StartProgram {
            program: detached.program.clone(),
            source,
        };
        let mut command = self.command(&path);
        command
            .args(&detached.arguments)
            .current_dir("/")
            .stdin(Stdio::null());
        leave_session(&mut command);
        if let Some(namespace) = &detached.namespace {
            enter(&mut command, super::linux::spaces::open(namespace)?);
        }
        let logs = match &detached.walls {
            None => {
                let log = files::append(&detached.log)?;
                let errors = log.try_clone().map_err(cannot_start)?;
                command.stdout(log).stderr(errors);
                // It writes no other file.
                walls::limit(&mut command, self.open_files, Some(LOG_BYTES));
                Logs::none()
            }
            Some(walls) => {
                let logs = Logs::open(self, &mut command, &detached.log, &walls.logs)?;
                walls::limit(&mut command, self.open_files, None);
                walls::confine(&mut command, &walls.opens);
                logs
            }
        };
        let child = command.spawn().map_err(cannot_start)?;
        // `std` neither kills nor reaps a dropped child: the watcher reaps it by its pidfd. A child that
        // has already ended is a zombie until then, and still has its start time.
        Ok((process::start_identity(child.id())?, logs))
    }
}

/// Lets a program start in a session of its own: the terminal's Ctrl-C and its hang-up never reach a VM.
pub(super) fn leave_session(command: &mut std::process::Command) {
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe and touches no
    // memory of ours.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
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

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}
