//! What client and daemon say to each other: JSON-RPC 2.0, one object a line, over a Unix socket.
//!
//! A connection carries any number of requests; answers come in the order in which they are ready.
//! While a request is at work its progress arrives as notifications (`progress`). Bulk data never goes
//! over this connection: a request answers with a ticket, the client opens a second connection, sends
//! one `stream.open` line with it, and from there both sides speak `stdio_mux_v1`
//! ([`banger_session::mux`]).
//!
//! The version of the protocol is the version of the crate: [`VERSION`].

mod image;
mod machine;
mod reach;
mod session;
mod workspace;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use image::*;
pub use machine::*;
pub use reach::*;
pub use session::*;
pub use workspace::*;

/// The version that both sides must share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The name of the daemon's socket in its runtime folder.
pub const SOCKET: &str = "bangerd.sock";

/// The longest request that the daemon accepts, in bytes.
pub const MAX_LINE_BYTES: usize = 4 << 20;

/// The longest answer that a client accepts, in bytes: the list of ten thousand VMs has ten million.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The status with which a daemon ends that finds its state folder in use by another.
pub const STATUS_IN_USE: u8 = 3;

/// The notification that tells of a stage of a request at work.
pub const PROGRESS: &str = "progress";

/// The first and only line of a stream's connection.
pub const STREAM_OPEN: &str = "stream.open";

/// One method: its name, what it takes and what it answers.
pub trait Method {
    /// `noun.verb`.
    const NAME: &'static str;
    /// What it takes.
    type Params: Serialize + DeserializeOwned + Send;
    /// What it answers.
    type Answer: Serialize + DeserializeOwned + Send;
}

macro_rules! methods {
    ($($(#[$doc:meta])* $type:ident = $name:literal: $params:ty => $answer:ty;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub enum $type {}

            impl Method for $type {
                const NAME: &'static str = $name;
                type Params = $params;
                type Answer = $answer;
            }
        )+

        /// The names of all methods, for tests and for "did you mean".
        pub const METHODS: &[&str] = &[$($name),+];
    };
}

methods! {
    /// Says who the daemon is.
    DaemonStatus = "daemon.status": Nothing => Status;
    /// Ends the daemon; VMs run on.
    DaemonStop = "daemon.stop": Nothing => Nothing;
    /// Makes the records and the host agree again.
    DaemonReconcile = "daemon.reconcile": ReconcileParams => ReconcileAnswer;
    /// Says what works on this host, and what `auto` picks.
    Doctor = "doctor.report": Nothing => DoctorAnswer;
    /// Lists every object on the host that is the engine's, with its owner; changes nothing.
    DoctorProve = "doctor.prove": Nothing => ProveAnswer;
    /// Removes strays that a proof has named, as far as they are strays still.
    DoctorFix = "doctor.fix": FixParams => FixAnswer;
    /// Creates a VM (and the default image, if it is not there).
    VmCreate = "vm.create": CreateParams => VmInfo;
    /// Starts a VM.
    VmStart = "vm.start": StartParams => ChangeAnswer;
    /// Stops a VM so that nothing is lost.
    VmStop = "vm.stop": StopParams => ChangeAnswer;
    /// Kills a VM.
    VmKill = "vm.kill": VmParams => ChangeAnswer;
    /// Stops and starts a VM.
    VmRestart = "vm.restart": StartParams => ChangeAnswer;
    /// Deletes a VM in whatever state.
    VmDelete = "vm.delete": VmParams => ChangeAnswer;
    /// Deletes VMs, as far as they are stopped still.
    VmPrune = "vm.prune": PruneParams => PruneAnswer;
    /// Lists all VMs by name.
    VmList = "vm.list": VmListParams => VmListAnswer;
    /// Shows one VM.
    VmShow = "vm.show": VmParams => VmInfo;
    /// Returns the end of a VM's serial console.
    VmLogs = "vm.logs": LogsParams => LogsAnswer;
    /// Follows a VM's serial console until it ends; answers with the ticket of its stream.
    VmFollowLogs = "vm.follow_logs": LogsParams => TicketAnswer;
    /// Attaches to a running VM's serial console; answers with the ticket of its stream.
    VmConsole = "vm.console": VmParams => TicketAnswer;
    /// Says what VMs use of the host.
    VmStats = "vm.stats": StatsParams => StatsAnswer;
    /// Changes what was asked for when a VM was created.
    VmSet = "vm.set": SetParams => ChangeAnswer;
    /// Waits for a running VM's ssh, and says how to call it.
    VmSsh = "vm.ssh": VmParams => SshAnswer;
    /// Runs a command in a running VM; answers with the ticket of its stream.
    VmExec = "vm.exec": ExecParams => TicketAnswer;
    /// Makes an image of Debian packages; given up when the connection ends.
    ImageBuild = "image.build": ImageBuildParams => ImageInfo;
    /// Makes an image of a root file system and a kernel; given up when the connection ends.
    ImageRegister = "image.register": ImageRegisterParams => ImageInfo;
    /// Lists all images by name.
    ImageList = "image.list": Nothing => ImageListAnswer;
    /// Shows one image.
    ImageShow = "image.show": ImageParams => ImageInfo;
    /// Deletes an image that no VM boots from.
    ImageDelete = "image.delete": ImageParams => Nothing;
    /// Connects to a port of a running VM; answers with the ticket of the connected socket.
    VmDial = "vm.dial": DialParams => TicketAnswer;
    /// Returns the one key with which a VM's ssh may prove itself.
    VmHostKey = "vm.host_key": VmParams => HostKeyAnswer;
    /// Returns what an ssh client is to be told of every guest alike.
    DaemonSsh = "daemon.ssh": Nothing => SshClientAnswer;
    /// Looks at a repository of the host's and decides whether it can be carried.
    WorkspaceInspect = "workspace.inspect": InspectParams => RepositoryInfo;
    /// Carries a repository of the host's into a running VM.
    WorkspacePrepare = "vm.workspace.prepare": PrepareParams => PrepareAnswer;
    /// Carries a workspace once more if the repository on the host has changed; answers with nothing if it has not.
    WorkspaceRefresh = "vm.workspace.refresh": VmParams => Option<PrepareAnswer>;
    /// Shows a VM's workspace.
    WorkspaceShow = "vm.workspace.show": VmParams => WorkspaceShowAnswer;
    /// Exports what changed in a workspace as a patch; answers with the ticket of its stream.
    WorkspaceExport = "vm.workspace.export": ExportParams => TicketAnswer;
    /// Lists what changed in a workspace.
    WorkspaceChanges = "vm.workspace.changes": ExportParams => ChangesAnswer;
    /// Applies what changed in a workspace to the repository on the host.
    WorkspaceApply = "vm.workspace.apply": ApplyParams => ApplyAnswer;
    /// Takes back what was applied last.
    WorkspaceUndo = "vm.workspace.undo": UndoParams => ApplyAnswer;
    /// Starts a session in a running VM; answers once its command runs, or has already ended.
    SessionStart = "guest.session.start": SessionStartParams => SessionInfo;
    /// Lists a VM's sessions, oldest first.
    SessionList = "guest.session.list": VmParams => SessionListAnswer;
    /// Shows one session.
    SessionShow = "guest.session.show": SessionParams => SessionInfo;
    /// Reads a session's log; answers with the ticket of its stream.
    SessionLogs = "guest.session.logs": SessionLogsParams => TicketAnswer;
    /// Delivers bytes to a session's stdin, all or nothing, and may end it.
    SessionSend = "guest.session.send": SessionSendParams => Nothing;
    /// Attaches to a session, if nobody else is; answers with the ticket of its stream.
    SessionAttach = "guest.session.attach": SessionAttachParams => TicketAnswer;
    /// Ends a session: TERM to its process group, and after a while KILL.
    SessionStop = "guest.session.stop": SessionStopParams => SessionChangeAnswer;
    /// Sends a signal to a session's process group.
    SessionKill = "guest.session.kill": SessionKillParams => SessionChangeAnswer;
    /// Deletes a session with its logs, ending it first.
    SessionDelete = "guest.session.delete": SessionParams => SessionChangeAnswer;
}

/// No parameters, no answer: `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Names one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmParams {
    /// Its name, or at least four digits of its id.
    pub vm: String,
}

/// `vm.create`. What is left out is the daemon's default. Sizes in MiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateParams {
    /// Its name; one is made up.
    pub name: Option<String>,
    /// The image.
    pub image: Option<String>,
    /// Virtual processors.
    pub vcpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// The size of its own disk in MiB.
    pub work_disk_mib: Option<u64>,
    /// The monitor.
    pub vmm: Option<String>,
    /// The root disk.
    pub disk: Option<String>,
    /// The network.
    pub network: Option<String>,
    /// Whether it reaches the internet.
    pub nat: Option<bool>,
    /// Whether it is deleted when this connection ends, whatever ends it.
    pub ephemeral: bool,
    /// Whether its processors can run machines of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub nested: bool,
    /// Words of its owner.
    pub labels: BTreeMap<String, String>,
}

/// `vm.start`, `vm.restart`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartParams {
    /// The VM.
    pub vm: String,
    /// Whether to answer only when its ssh does.
    #[serde(default)]
    pub wait: bool,
}

/// `vm.stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopParams {
    /// The VM.
    pub vm: String,
    /// How long its guest may take for its own power-off, in seconds; without it the daemon's limit. A daemon that
    /// does not know this refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
}

/// What a verb changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeAnswer {
    /// `started`, `already_running`, `stopped`, `already_stopped`, `deleted`, `changed`, `already_so`.
    pub outcome: String,
    /// What a person may want to know of it: how a stop worked.
    pub detail: Option<String>,
    /// The VM as it is now; none after a delete.
    pub vm: Option<VmInfo>,
    /// Its name.
    pub name: String,
}

/// `vm.prune`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneParams {
    /// Which, as they were shown.
    pub vms: Vec<String>,
}

/// `vm.prune`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneAnswer {
    /// The names of those that are no more.
    pub deleted: Vec<String>,
    /// The names of those that were not stopped any more.
    pub left: Vec<String>,
    /// What went wrong.
    pub failed: Vec<PruneFailure>,
}

/// A VM that could not be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneFailure {
    /// Which.
    pub vm: String,
    /// Why not.
    pub error: String,
}

/// A VM as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its id, 32 digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How it is: `created`, `running`, `paused`, `ended`, `unresponsive`, `stopped`,
    /// `restarting`, `error`.
    pub state: String,
    /// Why its guest stands still, if it is `paused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Its image.
    pub image: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The size of its own disk in MiB.
    pub work_disk_mib: u64,
    /// The monitor.
    pub vmm: String,
    /// The root disk.
    pub disk: String,
    /// The network.
    pub network: String,
    /// Whether it reaches the internet.
    pub nat: bool,
    /// Whether it is deleted with its client.
    pub ephemeral: bool,
    /// Words of its owner.
    pub labels: BTreeMap<String, String>,
    /// Its name for ssh.
    pub dns_name: String,
    /// Its address, as it sees itself.
    pub guest_ip: Option<String>,
    /// Its folder.
    pub vm_dir: PathBuf,
    /// Its serial console's log.
    pub console_log: PathBuf,
    /// Its monitor's control socket.
    pub api_socket: PathBuf,
    /// Its monitor's process, while it runs.
    pub pid: Option<u32>,
    /// The port on the loopback behind which its ssh is, while it runs.
    pub ssh_port: Option<u16>,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// How its last run ended.
    pub stop_reason: Option<String>,
    /// How often in a row it was started again because its guest rebooted.
    #[serde(default)]
    pub restarts: u32,
    /// When it is started again (RFC 3339), while it is `restarting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<String>,
    /// What was last carried into it.
    #[serde(default)]
    pub workspace: Option<WorkspaceInfo>,
    /// When it was created (RFC 3339).
    pub created_at: String,
    /// When its record last changed (RFC 3339).
    pub updated_at: String,
}

/// `vm.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmListParams {
    /// Which of them; all if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<VmFilter>,
}

/// Some of the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmFilter {
    /// Those that were promised to run: as `running`, `paused` or `unresponsive`, or ended and not yet cleaned up; and
    /// those that are `restarting`.
    Running,
}

/// `vm.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmListAnswer {
    /// By name.
    pub vms: Vec<VmInfo>,
}

/// `vm.logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsParams {
    /// The VM.
    pub vm: String,
    /// At most this many last lines; all that is kept if none is given.
    #[serde(default)]
    pub lines: Option<u32>,
}

/// `vm.logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsAnswer {
    /// The console, with bytes that are no UTF-8 replaced.
    pub text: String,
    /// The whole of it.
    pub path: PathBuf,
}

/// `vm.ssh`: call `ssh -F config host`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAnswer {
    /// The ssh_config to use.
    pub config: PathBuf,
    /// The host's name in it.
    pub host: String,
    /// The folder of the VM's workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Bytes>,
}

/// `vm.exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecParams {
    /// The VM.
    pub vm: String,
    /// The program and its arguments.
    pub argv: Vec<Bytes>,
    /// Variables to set.
    #[serde(default)]
    pub env: Vec<(String, Bytes)>,
    /// The folder to run in.
    #[serde(default)]
    pub cwd: Option<Bytes>,
    /// Whether it reads nothing: `/dev/null`.
    #[serde(default)]
    pub stdin_closed: bool,
    /// Whether it runs in the VM's workspace, if it has one and `cwd` names no folder.
    #[serde(default)]
    pub in_workspace: bool,
}

/// Bytes that are mostly text: a JSON string if they are UTF-8, else an array of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Raw(Vec<u8>),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Bytes::Raw(error.into_bytes()), Bytes::Text)
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        match bytes {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Raw(raw) => raw,
        }
    }
}

/// The ticket of a stream; good once, for ten seconds, for the same user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketAnswer {
    /// To be sent in [`STREAM_OPEN`].
    pub ticket: String,
    /// What a person may want to know: the host's repository has moved on since it was carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `daemon.status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's [`VERSION`].
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Its engine's id.
    pub engine: String,
    /// Its state folder.
    pub state_dir: PathBuf,
    /// Its runtime folder.
    pub runtime_dir: PathBuf,
    /// When it started (RFC 3339).
    pub started_at: String,
    /// How many VMs run.
    pub running: usize,
}

/// `daemon.reconcile`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcileParams {
    /// Whether only to say what would be done.
    pub dry_run: bool,
}

/// `daemon.reconcile`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileAnswer {
    /// One line for each VM with something to tell.
    pub lines: Vec<ReconcileLine>,
}

/// What was done about one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileLine {
    /// Its name, or its id where there is no record.
    pub vm: String,
    /// A stable word.
    pub action: String,
    /// The reason.
    pub detail: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// `doctor.report`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorAnswer {
    /// Each backend in one line.
    pub candidates: Vec<DoctorLine>,
    /// Other things that matter: the default image, the programs that make it, free space.
    pub facts: Vec<DoctorLine>,
}

/// One line of the doctor's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorLine {
    /// What it is of: `vmm`, `disk`, `network`, `image`, `kvm`, …
    pub subject: String,
    /// Which one.
    pub name: String,
    /// Whether it works.
    pub works: bool,
    /// Whether `auto` picks it.
    pub picked: bool,
    /// Why (not).
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// `doctor.prove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveAnswer {
    /// What there is, by kind and then by name.
    pub objects: Vec<ProvenObject>,
    /// The kinds that were looked for: all that there are.
    pub kinds: Vec<String>,
    /// Other engines of which something was seen. It is not touched.
    pub foreign: Vec<ForeignEngine>,
}

/// One object on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenObject {
    /// What tells it from all others, for `doctor.fix`.
    pub key: String,
    /// What it is: `monitor`, `socket`, `VM folder`, …
    pub kind: String,
    /// Which one.
    pub which: String,
    /// Whose it is, or why it is nobody's.
    pub owner: String,
    /// Whether it is nobody's.
    pub stray: bool,
    /// Whether `doctor.fix` removes it; some strays are a person's to decide.
    pub removable: bool,
}

/// Another engine on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignEngine {
    /// Its id.
    pub engine: String,
    /// How many monitors of it run.
    pub monitors: usize,
    /// How many folders it has in our runtime folder.
    pub runtime_folders: usize,
}

/// `doctor.fix`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixParams {
    /// The keys of the strays to remove, as they were shown.
    pub strays: Vec<String>,
}

/// `doctor.fix`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixAnswer {
    /// One line for each stray that was named.
    pub lines: Vec<FixLine>,
}

/// What was done about one stray.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixLine {
    /// Its key.
    pub key: String,
    /// `removed`, `no_stray_any_more`, `left_to_you` or `failed`.
    pub outcome: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Always `"2.0"`.
    pub jsonrpc: String,
    /// Chosen by the client, unique among its requests at work.
    pub id: u64,
    /// [`Method::NAME`].
    pub method: String,
    /// [`Method::Params`].
    #[serde(default)]
    pub params: Value,
}

/// An answer: exactly one of `result` and `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Always `"2.0"`.
    pub jsonrpc: String,
    /// The request's.
    pub id: Option<u64>,
    /// [`Method::Answer`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<RpcError>,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcError {
    /// JSON-RPC's own code, or [`CODE_FAILED`].
    pub code: i64,
    /// The error in one line.
    pub message: String,
    /// Everything else about it.
    pub data: Option<ErrorData>,
}

/// Everything else about an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorData {
    /// A stable word to match on: `not_found`, `name_taken`, `invalid`, `not_ready`, …
    pub kind: String,
    /// What caused it, outermost first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// The operation, as the daemon's log names it.
    pub op_id: String,
}

/// The line is no JSON.
pub const CODE_PARSE: i64 = -32700;
/// It is JSON and no request.
pub const CODE_INVALID_REQUEST: i64 = -32600;
/// There is no such method.
pub const CODE_NO_METHOD: i64 = -32601;
/// The parameters are not the method's.
pub const CODE_INVALID_PARAMS: i64 = -32602;
/// The method was carried out and failed.
pub const CODE_FAILED: i64 = 1;

/// A stage of a request at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressParams {
    /// The request.
    pub id: u64,
    /// A stable word: `image`, `disk`, `vmm`, `boot`, …
    pub stage: String,
    /// What a person reads.
    pub text: String,
}

/// The parameters of [`STREAM_OPEN`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOpenParams {
    /// From a [`TicketAnswer`].
    pub ticket: String,
}

/// A notification, in either direction: no id, no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Always `"2.0"`.
    pub jsonrpc: String,
    /// [`PROGRESS`] or [`STREAM_OPEN`].
    pub method: String,
    /// [`ProgressParams`] or [`StreamOpenParams`].
    pub params: Value,
}
