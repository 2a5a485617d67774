//! Where a session lives in the guest.

use thiserror::Error;

/// Folder in the guest that holds one folder a session.
pub const DEFAULT_STATE_ROOT: &str = "/root/.local/state/banger/sessions";

/// Longest session id, in bytes: with any file name it stays far below 255.
const MAX_ID_BYTES: usize = 64;

/// The folder of one session, and the paths of its files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionDir {
    root: String,
    id: String,
}

/// Why a path cannot be a session's folder.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidSessionDir {
    /// The state root is relative or holds a NUL.
    #[error("the state root {root:?} is not an absolute path")]
    Root {
        /// As given.
        root: String,
    },
    /// The id could leave the state root or be taken for an option.
    #[error("{id:?} is not a session id: letters, digits, `-`, `_`, at most {MAX_ID_BYTES}")]
    Id {
        /// As given.
        id: String,
    },
}

impl SessionDir {
    /// The folder of session `id` below `root`, usually
    /// [`DEFAULT_STATE_ROOT`].
    ///
    /// # Errors
    ///
    /// [`InvalidSessionDir`] for a root that is not absolute, and for an id
    /// that is not made of up to 64 letters, digits, `-` and `_`, the first
    /// one no dash.
    pub fn new(root: &str, id: &str) -> Result<Self, InvalidSessionDir> {
        if !root.starts_with('/') || root.contains('\0') {
            return Err(InvalidSessionDir::Root {
                root: root.to_owned(),
            });
        }
        let fits = (1..=MAX_ID_BYTES).contains(&id.len()) && !id.starts_with('-');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !fits || !id.bytes().all(plain) {
            return Err(InvalidSessionDir::Id { id: id.to_owned() });
        }
        let trimmed = root.trim_end_matches('/');
        Ok(Self {
            root: if trimmed.is_empty() { "/" } else { trimmed }.to_owned(),
            id: id.to_owned(),
        })
    }

    /// The state root.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The session's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder itself.
    pub fn path(&self) -> String {
        format!("{}/{}", self.root.trim_end_matches('/'), self.id)
    }

    /// The monitor's script.
    pub fn script(&self) -> String {
        self.file(file::SCRIPT)
    }

    /// Pid and process group of the command.
    pub fn pid(&self) -> String {
        self.file(file::PID)
    }

    /// When the command began, in clock ticks after boot (proc(5), field 22
    /// of `stat`).
    pub fn start_time(&self) -> String {
        self.file(file::START_TIME)
    }

    /// Pid of the monitor.
    pub fn monitor_pid(&self) -> String {
        self.file(file::MONITOR_PID)
    }

    /// When the monitor began, in clock ticks after boot.
    pub fn monitor_start_time(&self) -> String {
        self.file(file::MONITOR_START_TIME)
    }

    /// Boot id of the guest the session was started in (random(4)).
    pub fn boot_id(&self) -> String {
        self.file(file::BOOT_ID)
    }

    /// Status of the command once it ended.
    pub fn exit_code(&self) -> String {
        self.file(file::EXIT_CODE)
    }

    /// Status of the session.
    pub fn status(&self) -> String {
        self.file(file::STATUS)
    }

    /// The FIFO the command reads, in pipe mode.
    pub fn stdin_pipe(&self) -> String {
        self.file(file::STDIN_PIPE)
    }

    /// Pid of the process that holds the FIFO's write end open.
    pub fn stdin_keepalive_pid(&self) -> String {
        self.file(file::STDIN_KEEPALIVE_PID)
    }

    /// Pid of the process that last passed an attach's input on.
    pub fn stdin_attach_pid(&self) -> String {
        self.file(file::STDIN_ATTACH_PID)
    }

    /// What the command wrote to its standard output.
    pub fn stdout_log(&self) -> String {
        self.file(file::STDOUT_LOG)
    }

    /// What the command wrote to its standard error.
    pub fn stderr_log(&self) -> String {
        self.file(file::STDERR_LOG)
    }

    /// Why the command was not run: stage, colon, message.
    pub fn error(&self) -> String {
        self.file(file::ERROR)
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path())
    }
}

/// Names of the files, which the scripts and [`super::state_from_dir`] share.
pub(super) mod file {
    pub(crate) const SCRIPT: &str = "run.sh";
    pub(crate) const PID: &str = "pid";
    pub(crate) const START_TIME: &str = "start_time";
    pub(crate) const MONITOR_PID: &str = "monitor_pid";
    pub(crate) const MONITOR_START_TIME: &str = "monitor_start_time";
    pub(crate) const BOOT_ID: &str = "boot_id";
    pub(crate) const EXIT_CODE: &str = "exit_code";
    pub(crate) const STATUS: &str = "status";
    pub(crate) const STDIN_PIPE: &str = "stdin.pipe";
    pub(crate) const STDIN_KEEPALIVE_PID: &str = "stdin_keepalive.pid";
    pub(crate) const STDIN_ATTACH_PID: &str = "stdin_attach.pid";
    pub(crate) const STDOUT_LOG: &str = "stdout.log";
    pub(crate) const STDERR_LOG: &str = "stderr.log";
    pub(crate) const ERROR: &str = "error";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_where_the_design_says() {
        let dir = SessionDir::new(DEFAULT_STATE_ROOT, "5f1e").unwrap();
        let base = "/root/.local/state/banger/sessions/5f1e";
        assert_eq!(dir.path(), base);
        for (path, name) in [
            (dir.script(), "run.sh"),
            (dir.pid(), "pid"),
            (dir.start_time(), "start_time"),
            (dir.monitor_pid(), "monitor_pid"),
            (dir.monitor_start_time(), "monitor_start_time"),
            (dir.boot_id(), "boot_id"),
            (dir.exit_code(), "exit_code"),
            (dir.status(), "status"),
            (dir.stdin_pipe(), "stdin.pipe"),
            (dir.stdin_keepalive_pid(), "stdin_keepalive.pid"),
            (dir.stdin_attach_pid(), "stdin_attach.pid"),
            (dir.stdout_log(), "stdout.log"),
            (dir.stderr_log(), "stderr.log"),
            (dir.error(), "error"),
        ] {
            assert_eq!(path, format!("{base}/{name}"));
        }
    }

    #[test]
    fn an_id_cannot_leave_the_root() {
        let long = "a".repeat(65);
        for id in ["", ".", "..", "a/b", "-rf", "a b", "a\n", "ä", "a\0", &long] {
            assert!(SessionDir::new("/s", id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_root_is_absolute() {
        for root in ["", "state", "./s", "/s\0"] {
            assert!(SessionDir::new(root, "id").is_err(), "{root:?}");
        }
        assert_eq!(SessionDir::new("/", "id").unwrap().path(), "/id");
        assert_eq!(SessionDir::new("/s//", "id").unwrap().path(), "/s/id");
    }
}
