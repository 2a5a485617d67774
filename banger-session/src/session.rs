//! Sessions: long-lived commands in a guest that survive everything but
//! their own end.
//!
//! Each session is one folder in the guest ([`SessionDir`]), which is its
//! whole truth: the daemon may die, the connection may go, and a later
//! [`inspect_script`] finds everything again.
//!
//! ```text
//!   <state root>/<id>/
//!     run.sh                      script(): the monitor and, called by it, the command
//!     monitor_pid, monitor_start_time, boot_id
//!     pid, start_time             the command; its pid is its process group and session
//!     status                      starting | running | exited | failed, replaced by rename
//!     exit_code, error            how it ended, or why it never ran
//!     stdin.pipe, stdin_keepalive.pid    in pipe mode, while it runs
//!     stdout.log, stderr.log      appended by the command itself, bounded by the VM's disk
//!     stdin_attach.pid            what passes an attach's input on, if it still does
//!     send.lock                   one sender at a time
//! ```
//!
//! What the record on the host may become, [`apply_state_snapshot`] being the
//! only way:
//!
//! ```text
//!   starting ──▶ running ──▶ exited        the command ended, with its status
//!      │           │  ▲
//!      │           ▼  │ (stays)
//!      │        stopping ──▶ exited
//!      ▼           ▼
//!    failed ◀──────┘         never ran, or: rebooted, monitor killed, folder gone
//! ```
//!
//! # In the guest
//!
//! [`launch_command`] takes [`script`] on its standard input, installs and
//! starts it in a session of its own (setsid(2)) with no descriptor of the
//! ssh channel, and answers with the first [`StateSnapshot`] once the command
//! is about to run or has failed to. The monitor then waits in the
//! foreground: a shell starts what runs in its background with INT and QUIT
//! ignored, and the command must be killable by both. The command is the
//! leader of a second session, so that a signal to its process group spares
//! the monitor, which writes down how it ended.
//!
//! A pid alone is no identity: it is reused after a reboot, and in time
//! before. Every check here compares boot id, pid and start time.
//!
//! # Statuses of the scripts
//!
//! Every script ends with 0, or with the status of a [`Refusal`].

mod attach;
mod defaults;
mod dir;
mod inspect;
mod launch;
mod preflight;
mod refusal;
mod send;
mod shell;
mod snapshot;
mod state;
mod steer;

pub use attach::{
    attach_input_command, attach_tail_command, log_offset_command, log_tail_command,
    parse_log_offset, until_input_ends,
};
pub use defaults::{
    DEFAULT_CWD, DEFAULT_LOG_TAIL_LINES, InvalidCommandName, default_cwd, default_name, last_lines,
    normalize_required_commands,
};
pub use dir::{DEFAULT_STATE_ROOT, InvalidSessionDir, SessionDir};
pub use inspect::inspect_script;
pub use launch::{Launch, launch_command, script};
pub use preflight::{
    MissingCommands, ParsePreflightError, command_preflight_script, cwd_preflight_script,
    parse_command_preflight,
};
pub use refusal::Refusal;
pub use send::{PIPE_BUF_BYTES, send_command};
pub use snapshot::{
    Folder, Liveness, MAX_STATE_BYTES, ParseStateError, Process, StateSnapshot, StdinPipe,
    parse_state, state_from_dir,
};
pub use state::{
    Failure, SessionState, SessionStatus, Stage, StdinMode, apply_state_snapshot, describe_exit,
    fail_launch, format_step_error, state_changed,
};
pub use steer::{close_stdin_script, remove_script, signal_script};

/// How the engine reaches sessions: over ssh, by the scripts of this module.
pub const BACKEND_SSH: &str = "ssh";

/// Attach backend of a session that cannot be attached to.
pub const ATTACH_BACKEND_NONE: &str = "none";

/// Attach backend that is rebuilt over ssh from the guest's own state.
pub const ATTACH_BACKEND_SSH_REHYDRATABLE: &str = "ssh_rehydratable";

/// Attach mode in which one client at a time holds the session.
pub const ATTACH_MODE_EXCLUSIVE: &str = "exclusive";

/// Attach transport: a Unix socket of the daemon.
pub const ATTACH_TRANSPORT_UNIX_SOCKET: &str = "unix_socket";

/// Name of the framing that [`crate::mux`] implements.
pub const STREAM_FORMAT_STDIO_MUX_V1: &str = "stdio_mux_v1";
