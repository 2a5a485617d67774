//! core
mod backends;
mod choice;
mod config;
mod disk;
mod doctor;
mod engine;
mod error;
mod exec;
mod guest;
mod handles;
mod host;
mod identity;
mod image;
mod images;
mod lifecycle;
mod liveness;
mod lookup;
mod names;
mod network;
mod places;
mod progress;
mod reconcile;
mod session;
mod steps;
mod store;
mod transport;
mod vm;
mod vmm;
mod watch;

pub use backends::Candidate;
pub use banger_session::exec::{ExecRequest, ExecStdin};
pub use banger_session::mux::Stream;
pub use banger_session::session::{
    DEFAULT_LOG_TAIL_LINES, Failure, Refusal, SessionState, SessionStatus, Stage as SessionStage,
    StdinMode,
};
pub use banger_session::{ProcessGroup, Signal};
pub use choice::{Probe, Usable};
pub use config::{BackendChoice, Defaults, EngineConfig, Limits};
pub use disk::{Access, BlockFormat, BlockSource, Disk, DiskError};
pub use doctor::{Doctor, Fact};
pub use engine::Engine;
pub use error::{Error, ErrorKind};
pub use exec::{ExecEnd, ExecEvent, ExecOutput, Execution, Signaller};
pub use guest::SshAccess;
pub use handles::{
    HandleCache, HandlesError, HandlesFile, VMHandles, read_handles_file, remove_handles_file,
    write_handles_file,
};
pub use host::{
    BootId, CpuFacts, Crash, FakeHost, FakeProcess, Host, HostError, LinuxHost, LinuxHostConfig,
    ProcessEnd, ProcessFacts, ProcessIdentity,
};
pub use lifecycle::{CreateRequest, DeleteOutcome, StartOutcome, StopOutcome, StopRung};
pub use liveness::{Condition, Liveness, ProcessHandle, Promise, VMState, Verdict};
pub use lookup::VmView;
pub use names::{
    EngineId, ImageName, Mebibytes, NameError, RunId, SessionId, SessionName, VmId, VmName,
};
pub use network::{Network, NetworkError};
pub use places::Places;
pub use progress::{Progress, Stage};
pub use reconcile::{Report, ReportLine};
pub use session::{
    AttachEnd, AttachEvent, AttachInput, AttachRequest, ByteText, Follow, GuestSession, LogEnd,
    LogEvent, LogRequest, LogStart, SessionAttach, SessionDeleteOutcome, SessionFolder,
    SessionLogs, SessionRequest, SessionSpec, SessionStopOutcome, SessionView,
};
pub use transport::{DialHelper, GuestTransport, TransportError, hand_over_socket};
pub use vm::{DiskKind, Internet, Lifetime, NetworkKind, VMRecord, VMRuntime, VMSpec, VmmKind};
pub use vmm::{EndReason, Vmm, VmmControl, VmmError};
