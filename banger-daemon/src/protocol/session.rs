//! `guest.session.…`: long-lived commands in a VM.
//!
//! The streams of `logs` and `attach` are opened by ticket, like that of `vm.exec`:
//!
//! | who | says | in |
//! | --- | --- | --- |
//! | server | where each log begins: the bytes before its next data frame | control `offset` |
//! | server | the log's bytes | stdout, stderr |
//! | client (attach) | bytes for the session's stdin | stdin |
//! | client (attach) | that the session's stdin is to end | control `eof` |
//! | client (attach) | a signal for the session's process group | control `signal` |
//! | client (attach) | that it leaves: it ends its direction of the connection | |
//! | server (attach) | that what was written last did not arrive | control `input_refused` |
//!
//! The last word of an attach is one of `exit` (the session's own status), `lost`, `detached` (it was
//! left; the session runs on) and `error`. A log that was read to its end ends with the end of its stream,
//! one that cannot be read on with `lost`.

use std::collections::BTreeMap;

use banger_session::mux::Stream;
use serde::{Deserialize, Serialize};

use super::Bytes;

/// The most that one `guest.session.send` takes, in bytes: in JSON a byte may take six.
pub const MAX_SEND_BYTES: usize = 640 << 10;

/// `guest.session.start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionStartParams {
    /// The VM.
    pub vm: String,
    /// The session's name, unique in its VM; one is made of the command's.
    #[serde(default)]
    pub name: Option<String>,
    /// The program and its arguments.
    pub argv: Vec<Bytes>,
    /// Variables to set.
    #[serde(default)]
    pub env: Vec<(String, Bytes)>,
    /// The folder to run in; `/root` if none is given.
    #[serde(default)]
    pub cwd: Option<Bytes>,
    /// `closed` (reads nothing) or `pipe` (reads what `send` and attach write).
    #[serde(default)]
    pub stdin: StdinWord,
    /// Commands that the guest must have for it.
    #[serde(default)]
    pub required: Vec<String>,
    /// Words of its owner.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// What a session's command reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdinWord {
    /// Nothing.
    #[default]
    Closed,
    /// What `send` and attach write.
    Pipe,
}

/// Names one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionParams {
    /// The VM.
    pub vm: String,
    /// The session's name, or at least four digits of its id.
    pub session: String,
}

/// Where in a log to begin; the last 200 lines if nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogPlace {
    /// At this byte.
    Offset(u64),
    /// At the beginning of this many last lines.
    LastLines(u64),
}

/// `guest.session.logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionLogsParams {
    /// The VM.
    pub vm: String,
    /// The session.
    pub session: String,
    /// Which log: `stdout` or `stderr`.
    pub stream: Stream,
    /// Where to begin.
    #[serde(default)]
    pub from: Option<LogPlace>,
    /// Whether to wait for more until the session ends.
    #[serde(default)]
    pub follow: bool,
}

/// `guest.session.send`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSendParams {
    /// The VM.
    pub vm: String,
    /// The session.
    pub session: String,
    /// What to deliver; at most [`MAX_SEND_BYTES`].
    pub data: Bytes,
    /// Whether the session's stdin is to end after it.
    #[serde(default)]
    pub eof: bool,
}

/// `guest.session.attach`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionAttachParams {
    /// The VM.
    pub vm: String,
    /// The session.
    pub session: String,
    /// What a second attacher is told of this one.
    pub holder: String,
    /// Where in the log of its standard output to begin.
    #[serde(default)]
    pub stdout: Option<LogPlace>,
    /// Where in the log of its standard error to begin.
    #[serde(default)]
    pub stderr: Option<LogPlace>,
}

/// `guest.session.stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionStopParams {
    /// The VM.
    pub vm: String,
    /// The session.
    pub session: String,
    /// How long it has after TERM, in seconds; 10 if none is given.
    #[serde(default)]
    pub grace_s: Option<u32>,
}

/// `guest.session.kill`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionKillParams {
    /// The VM.
    pub vm: String,
    /// The session.
    pub session: String,
    /// By name or number: `INT`, `SIGINT`, `2`.
    pub signal: String,
}

/// What a verb changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionChangeAnswer {
    /// `stopped`, `already_ended`, `signalled`, `deleted`.
    pub outcome: String,
    /// What a person may want to know of it: what ended it, or what a delete had to leave.
    pub detail: Option<String>,
    /// The session as it is now; as it was last, after a delete.
    pub session: SessionInfo,
}

/// `guest.session.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionListAnswer {
    /// Oldest first.
    pub sessions: Vec<SessionInfo>,
}

/// A session as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its id, 32 digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The id of its VM.
    pub vm_id: String,
    /// `starting`, `running`, `exited`, `failed`, `stopping`.
    pub status: String,
    /// Its status, if it exited; 128 + n after signal n.
    pub exit_code: Option<i32>,
    /// The step at which it failed: `preflight_cwd`, `preflight_command`, `launch`, `monitor`, `guest`.
    pub failed_at: Option<String>,
    /// Why it failed, naming what is missing.
    pub error: Option<String>,
    /// Why its guest could not be asked just now: all of this is what was seen last.
    pub stale: Option<String>,
    /// The program and its arguments.
    pub argv: Vec<Bytes>,
    /// Variables set for it.
    pub env: Vec<(String, Bytes)>,
    /// The folder it was started in.
    pub cwd: Bytes,
    /// What it reads.
    pub stdin: StdinWord,
    /// Commands that the guest had to have.
    pub required: Vec<String>,
    /// Words of its owner.
    pub tags: BTreeMap<String, String>,
    /// Its process group in the guest, once it was started.
    pub pid: Option<u32>,
    /// The guest's boot it belongs to.
    pub boot_id: Option<String>,
    /// How the daemon reaches it: `ssh`.
    pub backend: String,
    /// How an attach is made: `ssh_rehydratable`.
    pub attach_backend: String,
    /// How many may be attached: `exclusive`.
    pub attach_mode: String,
    /// Over what an attach goes: `unix_socket`.
    pub attach_transport: String,
    /// What is spoken over it: `stdio_mux_v1`.
    pub stream_format: String,
    /// When it was asked for (RFC 3339).
    pub created_at: String,
    /// When something new was last seen (RFC 3339).
    pub updated_at: String,
}
