//! The one room that touches the operating system: files, programs, processes and sockets.
//!
//! Everything else in this crate asks a [`Host`]. [`LinuxHost`] does it for real; [`FakeHost`] keeps
//! the same state in memory (its files are real, in a scratch folder), can be told to die after any
//! call, and so lets the crash tests stop the engine at every instant.

mod devices;
mod error;
mod fake;
mod files;
mod linux;
mod log_keeper;
mod piped;
mod ports;
mod process;
mod program;
mod scopes;
mod scratch;
mod spaces;
mod tsc;
mod uplinks;
mod walls;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::names::Mebibytes;

pub use devices::{
    DeviceList, DeviceRemoval, Devices, LoopFacts, SnapshotDevice, SnapshotFacts, SnapshotSpec,
    SnapshotState,
};
/// An open file, handed on by this room: whoever has one reads and writes it, and opens none.
pub(crate) use std::fs::File as OpenFile;

pub use error::{FileAct, HostError};
pub use fake::{Crash, FakeHost, FakeProcess, Fault};
pub use linux::{LinuxHost, LinuxHostConfig};
pub use log_keeper::LOG_BYTES;
pub use piped::PipedProgram;
pub use scopes::{ScopeSpec, Scopes};
pub(crate) use scratch::{Scratch, ScratchEnd, ScratchError, ScratchPlan, ScratchProcess};
pub use spaces::{Spaces, TapSpec};
pub use uplinks::{
    Hops, HostRoute, Neighbourhood, RuleTable, RulesUnknown, UplinkFacts, UplinkSpec, Uplinks,
};

/// A grip on one host. Object safe; every method is one act, so that a test can count and fail it.
#[async_trait]
pub trait Host: Devices + Spaces + Uplinks + Scopes + fmt::Debug + Send + Sync {
    /// Returns the id of the running boot. Another boot id means that no process of before is alive.
    async fn boot_id(&self) -> Result<BootId, HostError>;

    /// Returns the rate of the time stamp counter in kHz, measured over 30 ms; none where there is no such counter.
    async fn tsc_khz(&self) -> Option<u32>;

    /// Says what this host can run machines with.
    async fn cpu(&self) -> CpuFacts;

    /// Returns the user id that this process acts as.
    fn user_id(&self) -> u32;

    /// Reads a whole file; a missing one is `None`.
    async fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError>;

    /// Reads at most the first `limit` bytes of a file; a missing one is `None`.
    async fn read_head(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, HostError>;

    /// Reads at most the last `limit` bytes of a file; a missing one is empty.
    async fn read_tail(&self, path: &Path, limit: u64) -> Result<Vec<u8>, HostError>;

    /// Reads at most `limit` bytes of a file from an offset on; a missing one is empty there.
    async fn read_at(&self, path: &Path, offset: u64, limit: u64) -> Result<Vec<u8>, HostError>;

    /// Opens a file of somebody else's for reading; a missing one is `None`. Only a regular file is opened,
    /// and nothing is waited for.
    async fn open_foreign(&self, path: &Path) -> Result<Option<Arc<File>>, HostError>;

    /// Reads a file of somebody else's of at most `limit` bytes; a missing one is `None`, a larger one an error.
    async fn read_foreign(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, HostError>;

    /// Replaces a file in one step (temporary file, then rename), with the given access mode.
    async fn write_file(&self, path: &Path, contents: &[u8], mode: u32) -> Result<(), HostError>;

    /// Gives a file or a folder of ours these permissions; a missing one is success.
    async fn set_mode(&self, path: &Path, mode: u32) -> Result<(), HostError>;

    /// Makes a file that is not there yet (mode 0600), and opens it for reading and writing.
    async fn new_file(&self, path: &Path) -> Result<Arc<File>, HostError>;

    /// Makes a folder (mode 0700) and those above it; one that exists is success.
    async fn create_dir(&self, path: &Path) -> Result<(), HostError>;

    /// Lists the names in a folder, sorted; a missing folder is empty.
    async fn list_dir(&self, path: &Path) -> Result<Vec<String>, HostError>;

    /// Returns a file's kind and size; a missing one is `None`.
    async fn stat(&self, path: &Path) -> Result<Option<FileFacts>, HostError>;

    /// Renames within one file system.
    async fn rename(&self, from: &Path, to: &Path) -> Result<(), HostError>;

    /// Removes a file or socket; a missing one is success.
    async fn remove_file(&self, path: &Path) -> Result<(), HostError>;

    /// Removes a folder and all below it; a missing one is success.
    async fn remove_tree(&self, path: &Path) -> Result<(), HostError>;

    /// Makes a sparse file of `bytes` bytes, or grows an existing one; never shrinks.
    async fn grow_file(&self, path: &Path, bytes: u64) -> Result<(), HostError>;

    /// Shortens a file that another process appends to. Units: bytes kept from its start.
    async fn truncate_file(&self, path: &Path, bytes: u64) -> Result<(), HostError>;

    /// Copies a file, by reflink where the file system can, else keeping its holes.
    async fn clone_file(&self, from: &Path, to: &Path) -> Result<CloneMethod, HostError>;

    /// Brings a folder and the files directly in it to stable storage.
    async fn sync_dir(&self, path: &Path) -> Result<(), HostError>;

    /// Takes an advisory lock on a file (made if missing) for as long as the guard lives; `None` if somebody else holds it.
    async fn lock_file(&self, path: &Path) -> Result<Option<FileLock>, HostError>;

    /// Returns the bytes that are free for us on the file system of `path`.
    async fn free_bytes(&self, path: &Path) -> Result<u64, HostError>;

    /// Finds a program by name in the folders that the host was made with.
    async fn find_program(&self, name: &str) -> Option<PathBuf>;

    /// Runs a program to its end, in a clean environment. A status other than 0 is no error here.
    async fn run(&self, program: &Program) -> Result<ProgramOutput, HostError>;

    /// Starts a program whose streams the caller reads and writes while it runs, in the same clean
    /// environment and limits; its `input` is left aside. Dropping its end kills it. The fake runs it for real.
    async fn pipe(&self, program: &Program) -> Result<PipedProgram, HostError>;

    /// Starts a program that outlives us: own session, output appended to a log file, nothing inherited, no core
    /// dumps. With a scope it is returned when it is in it; its number and its arguments are its own from the first
    /// instant.
    async fn spawn(&self, detached: &Detached) -> Result<ProcessIdentity, HostError>;

    /// Looks at one process; `None` if there is none with that number, or only a zombie.
    async fn process(&self, pid: u32) -> Result<Option<ProcessFacts>, HostError>;

    /// Says what one process has used of the machine; none if it is gone.
    async fn process_usage(
        &self,
        process: &ProcessIdentity,
    ) -> Result<Option<ProcessUsage>, HostError>;

    /// Finds every process of our own user that has `token` in its command line. Zombies have none. Another user's
    /// may bear it too, and is none of ours; one that cannot be looked at is passed over.
    async fn find_processes(&self, token: &str) -> Result<Vec<ProcessFacts>, HostError>;

    /// Sends a signal, through a pidfd, to a process whose start time was compared after the pidfd was opened.
    async fn signal(
        &self,
        process: &ProcessIdentity,
        signal: ProcessSignal,
    ) -> Result<Delivery, HostError>;

    /// Waits until a process has ended. Cancel-safe. Reaps it, and knows its status, only if it is our
    /// child. What it said last is in its logs then, if it was this host that started it.
    async fn wait_end(&self, process: &ProcessIdentity) -> Result<ProcessEnd, HostError>;

    /// Returns the TCP ports on which a process listens, sorted; none if it is gone.
    async fn listening_ports(&self, process: &ProcessIdentity) -> Result<Vec<u16>, HostError>;

    /// Connects to a Unix socket, within the time given.
    async fn connect_unix(&self, path: &Path, timeout: Duration) -> Result<UnixStream, HostError>;

    /// Marks a write that reaches the disk by another way than this room (the database), so that
    /// a fake can die before or after it. Does nothing on a real host.
    fn witness(&self, act: &'static str, moment: Moment) -> Result<(), HostError>;
}

/// The id of one boot of the host (`/proc/sys/kernel/random/boot_id`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// What tells one process from every other: a number alone is used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: u32,
    /// Clock ticks between boot and its start (`/proc/<pid>/stat`, field 22).
    pub start_time: u64,
}

/// One process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Who it is.
    pub identity: ProcessIdentity,
    /// The file names of its program: of what it executes, as far as that can be seen, and of what it was
    /// called by.
    pub programs: Vec<String>,
    /// Its arguments, separated by spaces; bytes that are no UTF-8 are replaced.
    pub command_line: String,
    /// Whether it is stopped, by SIGSTOP or a debugger: it answers nothing until it is let go on.
    pub stopped: bool,
}

/// What a process has used of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessUsage {
    /// The processor time that all its threads have taken.
    pub cpu: Duration,
    /// The memory that it holds, in bytes: its own and what it shares.
    pub resident_bytes: u64,
    /// The time since it started.
    pub age: Duration,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// It ended by itself with this status.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
    /// It is gone; it was not our child, so nobody told us how.
    Unknown,
}

impl fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessEnd::Exited(status) => write!(f, "exited with status {status}"),
            ProcessEnd::Signaled(signal) => write!(f, "was ended by signal {signal}"),
            ProcessEnd::Unknown => f.write_str("is gone"),
        }
    }
}

/// The signals that this engine sends to processes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessSignal {
    /// Ask it to end.
    Term,
    /// End it.
    Kill,
}

/// Whether a signal found its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was sent.
    Sent,
    /// There is no such process any more.
    AlreadyGone,
}

/// How a file was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneMethod {
    /// The file system shares the blocks.
    Reflink,
    /// The data was copied and the holes were kept.
    SparseCopy,
}

/// A file's kind and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Whether it is a Unix socket.
    pub is_socket: bool,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it takes on the disk, in bytes.
    pub allocated_bytes: u64,
    /// The user whose it is.
    pub owner: u32,
}

/// What the machine and `/dev/kvm` offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuFacts {
    /// How many processors there are.
    pub processors: u32,
    /// All its memory.
    pub memory: Mebibytes,
    /// Whether KVM works here, and if not, why.
    pub kvm: Result<(), String>,
}

/// The side of a witnessed write on which we stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It has not happened.
    Before,
    /// It has happened.
    After,
}

/// An advisory lock, held while this lives.
#[derive(Debug)]
pub struct FileLock(#[allow(dead_code, reason = "the open file is the lock")] Option<File>);

/// A program to run to its end.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name (looked up) or an absolute path.
    pub program: String,
    /// Its arguments, each passed as it is.
    pub arguments: Vec<std::ffi::OsString>,
    /// Added to the clean environment.
    pub environment: Vec<(String, String)>,
    /// Given on standard input, which then ends.
    pub input: Vec<u8>,
    /// Its standard input instead, from where the file stands.
    pub stdin: Option<Arc<File>>,
    /// Its standard output instead of the caller; its limit is that of files.
    pub stdout: Option<Arc<File>>,
    /// What it may take. It is killed beyond that, with all that it has started.
    pub limits: ProgramLimits,
    /// What it can reach.
    pub isolation: Isolation,
}

/// What a program can reach of the host.
#[derive(Clone, Debug, Default)]
pub enum Isolation {
    /// What its user can.
    #[default]
    None,
    /// Nothing but the files that it is handed: for parsers of what somebody else made. It runs as nobody
    /// (as ourselves, if we are not root) in user, mount, process, network and IPC namespaces of its own,
    /// without capabilities, and under Landlock. What of this a host does not have is left out, and said by
    /// the doctor; nobody, no new privileges and the limits are everywhere.
    Parser {
        /// Open for reading, and named `/proc/self/fd/N` in the arguments: see [`Program::input_file`]. For
        /// root's programs they must be readable by others, in a folder that others cannot enter.
        inputs: Vec<Arc<File>>,
    },
}

/// What a program may take of the host, with all that it starts. There is no program without limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramLimits {
    /// From its start to its end.
    pub time: Duration,
    /// Processor time of each of its processes.
    pub cpu: Duration,
    /// What it may print to its standard output, in bytes.
    pub output_bytes: u64,
    /// Memory of its own of each of its processes, in bytes; files that it only maps do not count.
    pub memory_bytes: u64,
    /// The longest file that it may write, in bytes.
    pub file_bytes: u64,
    /// Processes at once, itself among them. Counted only in a user namespace of its own ([`Isolation::Parser`]):
    /// elsewhere the kernel counts all processes of the user, and root's not at all.
    pub processes: u32,
}

impl ProgramLimits {
    /// What a small helper takes at the most: a minute, 16 MiB of output, 512 MiB of memory, files of 1 GiB.
    pub const SMALL: Self = ProgramLimits {
        time: Duration::from_secs(60),
        cpu: Duration::from_secs(60),
        output_bytes: 16 << 20,
        memory_bytes: 512 << 20,
        file_bytes: 1 << 30,
        processes: 64,
    };

    /// What a program takes that writes a disk image, which may be of any length.
    pub const DISK: Self = ProgramLimits {
        file_bytes: u64::MAX,
        ..Self::SMALL
    };

    /// What the making of an image from packages takes: half an hour, as a mirror that trickles is given up
    /// then, and tools of every kind.
    pub const BUILD: Self = ProgramLimits {
        time: Duration::from_secs(30 * 60),
        cpu: Duration::from_secs(2 * 60 * 60),
        output_bytes: 64 << 20,
        memory_bytes: 8 << 30,
        file_bytes: u64::MAX,
        processes: 4096,
    };
}

impl Program {
    /// Names a program, with no arguments and [`ProgramLimits::SMALL`].
    pub fn new(program: impl Into<String>) -> Self {
        Program {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            input: Vec::new(),
            stdin: None,
            stdout: None,
            limits: ProgramLimits::SMALL,
            isolation: Isolation::None,
        }
    }

    /// Names a program that says in which user namespace it is, and `open` if it can read a file of the host's.
    pub(crate) fn look_around() -> Self {
        const LOOK: &str =
            "readlink /proc/self/ns/user; head -c 1 /etc/passwd >/dev/null 2>&1 && echo open";
        Program::new("sh").args(["-c", LOOK])
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<std::ffi::OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<A: Into<std::ffi::OsString>>(
        mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets one variable in its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Gives it something to read.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Lets it read one open file and write another: what is large is kept in no memory.
    #[must_use]
    pub fn between(mut self, stdin: Arc<File>, stdout: Arc<File>) -> Self {
        self.stdin = Some(stdin);
        self.stdout = Some(stdout);
        self
    }

    /// Shuts it in: it parses what somebody else made.
    #[must_use]
    pub fn as_parser(mut self) -> Self {
        if let Isolation::None = self.isolation {
            self.isolation = Isolation::Parser { inputs: Vec::new() };
        }
        self
    }

    /// Shuts it in with a file to read, whose path in there is added to its arguments.
    #[must_use]
    pub fn input_file(mut self, file: Arc<File>) -> Self {
        use std::os::fd::AsRawFd;
        self = self.as_parser();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.arguments.push(path.into());
        if let Isolation::Parser { inputs } = &mut self.isolation {
            inputs.push(file);
        }
        self
    }

    /// Limits it.
    #[must_use]
    pub fn limits(mut self, limits: ProgramLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Limits its time alone.
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.limits.time = time;
        self
    }
}

/// What a program left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramOutput {
    /// Its exit status; 128+n for signal n.
    pub status: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl ProgramOutput {
    /// Says whether it ended with status 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Returns the last lines of its standard error (or, if that is empty, of its output) for a message.
    pub fn last_lines(&self, lines: usize) -> String {
        let text = if self.stderr.is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let text = String::from_utf8_lossy(text);
        let kept: Vec<&str> = text.trim_end().lines().rev().take(lines).collect();
        kept.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// A program to start that outlives us.
#[derive(Clone, Debug)]
pub struct Detached {
    /// Its name (looked up) or an absolute path.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<std::ffi::OsString>,
    /// Where its standard output and error are appended. The file is never longer than [`LOG_BYTES`].
    pub log: PathBuf,
    /// What keeps it from the host, for one that runs what others say; none for a helper of ours.
    pub walls: Option<Walls>,
    /// The pinned network namespace that it runs in; none is the host's own.
    pub namespace: Option<String>,
    /// The systemd scope that is made for it; none leaves it where we are.
    pub scope: Option<ScopeSpec>,
}

/// What a program is started within that runs what others say: no new privileges, as root no capability but to
/// reach its own files where they lie in others' folders, and the first to be ended when memory runs out. All that
/// it writes without end goes through pipes to files that begin anew at [`LOG_BYTES`], whoever has died meanwhile;
/// where nobody reads them, its words are lost and it is not held up.
#[derive(Clone, Debug, Default)]
pub struct Walls {
    /// The files that it opens by name.
    pub opens: Vec<PathBuf>,
    /// Where it writes without end, besides its log. It has each of them open already; what it is to open is told
    /// by [`Walls::pipe`].
    pub logs: Vec<PathBuf>,
}

impl Walls {
    /// Returns the name by which the program opens the pipe to one of its `logs`.
    pub fn pipe(index: usize) -> PathBuf {
        format!("/proc/self/fd/{}", log_keeper::FIRST_PIPE + index).into()
    }
}

/// The user as whom this process touches files.
pub(crate) fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Names a call for whoever counts calls: by the file's last part alone, as those above it are random.
fn named(act: &str, path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{act} {name}")
}
