//! The banger engine: real Linux machines (microVMs) on one host, as a library.
//!
//! ```
//! use banger_core::{CreateRequest, Engine, ExecRequest, Progress};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let engine = Engine::sim().await?; // or Engine::open(EngineConfig::new(state, runtime))
//! let progress = Progress::silent();
//! let vm = engine.create(CreateRequest::default(), &progress).await?;
//! engine.start(vm.name.as_str(), &progress).await?;
//! let output = engine.exec_output(vm.name.as_str(), &ExecRequest::new(["hostname"])).await?;
//! assert_eq!(output.stdout, format!("{}\n", vm.name).as_bytes());
//! engine.delete(vm.name.as_str()).await?;
//! # Ok::<(), banger_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! What a VM *is* ([`VMRecord`]: durable, in SQLite) is kept apart from what is *currently true* of it
//! ([`VMHandles`]: in memory and a scratch file, found again from the operating system), and one trait
//! ([`Liveness`]) judges whether it is alive. Everything in here follows from that: VMs outlive the
//! engine that started them, and whatever instant it is killed at, the next engine finds every VM that
//! runs and releases everything that a dead one held.
//!
//! The library is a guest in its process: it prints nothing, reads no environment, installs no signal
//! handler and owns no global. Everything comes in through [`EngineConfig`].

mod backends;
mod boot;
mod choice;
mod clock;
mod config;
mod console;
mod dial;
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
mod inventory;
mod lifecycle;
mod liveness;
mod lookup;
mod marks;
mod names;
mod network;
mod places;
mod progress;
mod reconcile;
mod reserve;
mod session;
mod stats;
mod steps;
mod store;
mod transport;
mod vm;
mod vmm;
mod watch;
mod workspace;

pub use backends::Candidate;
pub use banger_session::exec::{ExecError, ExecRequest, ExecStdin};
pub use banger_session::mux::Stream;
pub use banger_session::session::{
    DEFAULT_LOG_TAIL_LINES, Failure, InvalidCommandName, Refusal, SessionState, SessionStatus,
    Stage as SessionStage, StdinMode,
};
pub use banger_session::workspace::patch::{Change, ChangeKind};
pub use banger_session::workspace::{GuestPath, InvalidGuestPath, Mode as WorkspaceMode};
pub use banger_session::{ProcessGroup, Signal};
pub use choice::{Probe, Usable};
pub use config::{BackendChoice, Defaults, EngineConfig, Limits, NatConfig, PoolError};
pub use console::{Console, ConsoleLog};
pub use dial::SshClient;
pub use disk::{Access, BlockFormat, BlockSource, Disk, DiskError, LayerRun};
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
    BootId, CloneMethod, CpuFacts, Crash, Delivery, Detached, DeviceList, DeviceRemoval, Devices,
    FakeHost, FakeProcess, Fault, FileAct, FileFacts, FileLock, Hops, Host, HostError, HostRoute,
    Isolation, LOG_BYTES, LinuxHost, LinuxHostConfig, LoopFacts, Moment, Neighbourhood,
    PipedProgram, ProcessEnd, ProcessFacts, ProcessIdentity, ProcessSignal, ProcessUsage, Program,
    ProgramLimits, ProgramOutput, RuleTable, RulesUnknown, ScopeSpec, Scopes, SnapshotDevice,
    SnapshotFacts, SnapshotSpec, SnapshotState, Spaces, TapSpec, UplinkFacts, UplinkSpec, Uplinks,
    Walls,
};
pub use image::{
    Booted, Capability, Clause, ImageError, ImageManifest, ImageSpec, Initrd, Kernel, KernelError,
    ManifestError, Mirror, PackageName, Registration, Rootfs, SpecError, Suite, TestBoot,
};
pub use images::ImageView;
pub use inventory::{
    Foreign, Grip, HostObject, Inventory, ObjectKind, Owner, Remedy, Removal, RemovalLine,
    RemovalOutcome,
};
pub use lifecycle::{
    CreateRequest, DeleteOutcome, PruneOutcome, SetOutcome, SetRequest, StartOutcome, StopOutcome,
    StopRung,
};
pub use liveness::{
    Census, Condition, HostLiveness, Liveness, Monitor, ProcessHandle, Promise, Sighting, VMState,
    Verdict,
};
pub use lookup::VmView;
pub use marks::Marks;
pub use names::{
    EngineId, ImageName, InvalidSubnet, MAX_NAME, Mebibytes, NameError, RunId, SessionId,
    SessionName, Subnet, VmId, VmName,
};
pub use network::{
    Endpoint, GuestAddress, Network, NetworkAttachment, NetworkError, Route, TapNetwork,
};
pub use places::{MAX_CONTROL_PATH, MAX_SOCKET_PATH, PlaceError, Places};
pub use progress::{Progress, Stage};
pub use reconcile::{Report, ReportLine};
pub use session::{
    AttachEnd, AttachEvent, AttachInput, AttachRequest, ByteText, Follow, GuestSession, LogEnd,
    LogEvent, LogRequest, LogStart, SessionAttach, SessionDeleteOutcome, SessionFolder,
    SessionLogs, SessionRequest, SessionSpec, SessionStopOutcome, SessionView,
};
pub use stats::{MonitorStats, VmStats};
pub use store::StoreError;
pub use transport::{
    DialHelper, GuestConnection, GuestEnd, GuestProcess, GuestStream, GuestTarget, GuestTransport,
    TransportError, hand_over_socket,
};
pub use vm::{
    DiskKind, Internet, Lifetime, Nesting, NetworkKind, VMRecord, VMRuntime, VMSpec, VmmKind,
};
pub use vmm::{
    Activity, EndReason, GuestDisk, Launch, PauseReason, SwitchOff, Vmm, VmmControl, VmmError,
};
pub use workspace::{
    Applied, ApplyRequest, Asked, Effect, Freshness, Inspection, Overwrite, Ownership,
    PrepareRequest, Prepared, Source, TooMuch, TouchedFile, Untracked, Workspace, WorkspaceChanges,
    WorkspaceError, WorkspaceExport,
};
