//! `bangerd`: reads what it is told, opens the engine, serves it. Its process is its own: it reads the
//! environment, handles signals and writes a log.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use banger_core::{
    DialHelper, Engine, EngineConfig, Error, FakeHost, Host, LinuxHost, LinuxHostConfig,
    hand_over_socket,
};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::folders::{Folders, make_private};
use crate::log_file::LogFile;
use crate::protocol::{STATUS_IN_USE, VERSION};
use crate::server::{Stop, bind, serve};
use crate::settings::Settings;

/// The banger daemon: runs virtual machines for the banger command. VMs outlive it.
#[derive(Debug, Parser)]
#[command(name = "bangerd", version)]
struct Arguments {
    /// Where images, disks and the database are
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Where the sockets are
    #[arg(long, value_name = "DIR")]
    runtime: Option<PathBuf>,

    /// Append the log to this file instead of writing it to stderr
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Leave the terminal's session
    #[arg(long)]
    detach: bool,

    /// Serve a simulator: real commands, no virtual machines
    #[arg(long)]
    sim: bool,

    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Pass the connection that waits at a socket on to ssh; called by ssh
    #[command(hide = true)]
    Dial {
        /// The socket
        socket: PathBuf,
    },
}

/// Why the daemon ended, outermost first.
struct Failure {
    texts: Vec<String>,
    hint: Option<String>,
    cause: Cause,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Another daemon has the state folder.
    InUse,
    /// Anything else.
    Other,
}

/// Is `bangerd`, from its arguments to its end. `over` may put another host over the machine's; tests do.
pub fn run(over: impl FnOnce(Arc<dyn Host>) -> Arc<dyn Host>) -> ExitCode {
    let arguments = Arguments::parse();
    // Before there are threads: this is called once a VM and is to be quick.
    if let Some(Verb::Dial { socket }) = &arguments.command {
        return dial(socket);
    }
    let detached = arguments.detach;
    let Err(failure) = daemon(arguments, over) else {
        return ExitCode::SUCCESS;
    };
    match failure.cause {
        // Of several that are started at once all but one end like this: no news for the log.
        Cause::InUse if detached => {}
        _ => print(&failure),
    }
    match failure.cause {
        Cause::InUse => ExitCode::from(STATUS_IN_USE),
        Cause::Other => ExitCode::FAILURE,
    }
}

fn daemon(
    arguments: Arguments,
    over: impl FnOnce(Arc<dyn Host>) -> Arc<dyn Host>,
) -> Result<(), Failure> {
    let folders = folders(&arguments)?;
    match &arguments.log {
        Some(log) => log_to(open_log(log)?),
        None => log_to_stderr(),
    }
    let settings = Settings::read(&folders.config_file()).map_err(plain)?;
    if arguments.detach {
        leave_session()?;
    }
    let host = LinuxHostConfig {
        open_files: Some(raise_file_limit()),
        ..LinuxHostConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().min(4)))
        .enable_all()
        .build()
        .map_err(plain)?;
    let real = |config| real(config, host, over);
    runtime.block_on(live(&folders, settings, arguments.sim, real))
}

/// Opens the engine, which takes the lock of its folder; only then touches the socket.
async fn live(
    folders: &Folders,
    settings: Settings,
    sim: bool,
    real: impl FnOnce(EngineConfig) -> Result<EngineConfig, Failure>,
) -> Result<(), Failure> {
    let stop = Stop::default();
    // Whoever is started in the background by a shell has these ignored, and so would everything that is
    // started from here: what is handled here is at its default in there.
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ] {
        stop_on(kind, &stop)?;
    }
    make_private(&folders.runtime).map_err(plain)?;
    let mut config = EngineConfig::new(&folders.state, &folders.runtime);
    settings.apply(&mut config);
    config.user_home = std::env::var_os("HOME").map(Into::into);
    let opening = async {
        match sim {
            true => Ok::<_, Failure>(Engine::sim_over(&Arc::new(FakeHost::new()), config).await?),
            false => Ok(Engine::open(real(config)?).await?),
        }
    };
    let (engine, report) = tokio::select! {
        opened = opening => opened?,
        // Like a death in the middle of it, which costs nothing.
        () = stop.asked() => return Ok(()),
    };
    for line in &report.lines {
        tracing::info!(
            vm = line.vm,
            action = line.action,
            error = line.error,
            "{}",
            line.detail
        );
    }
    let socket = folders.socket();
    let listening = bind(&socket).await.map_err(plain)?;
    tracing::info!(
        socket = %socket.display(),
        state = %folders.state.display(),
        engine = %engine.id(),
        pid = std::process::id(),
        version = VERSION,
        "listening"
    );
    serve(engine, listening, stop).await;
    Ok(())
}

/// Hands the engine what this process knows of its surroundings; the engine never asks by itself.
fn real(
    mut config: EngineConfig,
    mut surroundings: LinuxHostConfig,
    over: impl FnOnce(Arc<dyn Host>) -> Arc<dyn Host>,
) -> Result<EngineConfig, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_root = rustix::process::geteuid().is_root();
    surroundings.program_folders = searched(&path, surroundings.program_folders, is_root);
    for name in ["http_proxy", "https_proxy", "no_proxy", "TMPDIR", "HOME"] {
        if let Ok(value) = std::env::var(name) {
            surroundings.environment.push((name.to_owned(), value));
        }
    }
    config.host = over(Arc::new(LinuxHost::new(surroundings)));
    let program = std::env::current_exe().map_err(plain)?;
    config.dial_helper = Some(DialHelper {
        command: vec![program, "dial".into()],
    });
    Ok(config)
}

/// Returns the folders of a `PATH`, then those usual ones that it has not: an ordinary user's has no `sbin`.
fn searched(path: &OsStr, usual: Vec<PathBuf>, is_root: bool) -> Vec<PathBuf> {
    let own = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .filter(|folder| !is_root || is_roots_alone(folder));
    let mut folders = Vec::new();
    for folder in own.chain(usual) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Says whether root alone decides what programs are in a folder: it, and each one above it, is root's, and others
/// can write in none. Whoever started root's daemon may have had anything on their PATH.
fn is_roots_alone(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    /// Debian lets this group write in /usr/local.
    const STAFF: u32 = 50;
    const GROUP_WRITES: u32 = 0o020;
    const OTHERS_WRITE: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let Ok(whole) = folder.canonicalize() else {
        return false;
    };
    let is_safe = |place: &Path, is_last: bool| {
        place.metadata().is_ok_and(|facts| {
            let mode = facts.mode();
            // In a sticky folder nobody renames what is another's.
            let is_sticky = mode & STICKY != 0 && !is_last;
            let group = mode & GROUP_WRITES == 0 || [0, STAFF].contains(&facts.gid());
            facts.uid() == 0 && (is_sticky || (group && mode & OTHERS_WRITE == 0))
        })
    };
    let is_safe = whole
        .ancestors()
        .all(|place| is_safe(place, place == whole));
    if !is_safe {
        tracing::warn!(folder = %folder.display(), "others can write there: no program is looked for in it");
    }
    is_safe
}

fn folders(arguments: &Arguments) -> Result<Folders, Failure> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(plain);
    let mut folders = Folders::from_environment().map_err(plain)?;
    if let Some(state) = &arguments.state {
        folders.state = absolute(state)?;
    }
    if let Some(runtime) = &arguments.runtime {
        folders.runtime = absolute(runtime)?;
    }
    Ok(folders)
}

/// Leaves the session of whoever started us: the end of a terminal is not ours. Holds on to no folder.
fn leave_session() -> Result<(), Failure> {
    // It is refused to the leader of a process group, which a shell's job is: there is nothing to leave
    // a terminal's session with then but a fork, and `--detach` is for those who start us by themselves.
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!(%error, "could not leave the session");
    }
    std::env::set_current_dir("/").map_err(plain)
}

/// A stream takes a few descriptors, and the usual soft limit is 1024. Returns those of before, soft and hard,
/// which are those of all that is started from here.
fn raise_file_limit() -> (u64, u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let before = (number(limit.current), number(limit.maximum));
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    before
}

fn stop_on(kind: SignalKind, stop: &Stop) -> Result<(), Failure> {
    let mut signals: Signal = signal(kind).map_err(plain)?;
    let stop = stop.clone();
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            tracing::info!("told to stop");
            stop.ask();
        }
    });
    Ok(())
}

fn open_log(path: &Path) -> Result<LogFile, Failure> {
    LogFile::open(path).map_err(|error| Failure {
        texts: vec![
            format!("cannot open the log {}", path.display()),
            error.to_string(),
        ],
        hint: None,
        cause: Cause::Other,
    })
}

fn log_to(file: LogFile) {
    tracing_subscriber::fmt()
        .with_env_filter(level())
        .with_ansi(false)
        .with_writer(Arc::new(file))
        .init();
}

fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_env_filter(level())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// What `BANGER_LOG` says (`debug`, `banger_core=trace,info`, …), else `info`.
fn level() -> EnvFilter {
    EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .parse_lossy(std::env::var("BANGER_LOG").unwrap_or_default())
}

fn dial(socket: &Path) -> ExitCode {
    match hand_over_socket(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "bangerd: cannot pass on the connection at {}: {error}",
                socket.display()
            );
            ExitCode::FAILURE
        }
    }
}

fn print(failure: &Failure) {
    let mut label = "error";
    for text in &failure.texts {
        eprintln!("{label}: {text}");
        label = "caused by";
    }
    if let Some(hint) = &failure.hint {
        eprintln!("hint: {hint}");
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure {
            texts: error.chain(),
            hint: error.hint(),
            cause: match error {
                Error::StateInUse { .. } => Cause::InUse,
                _ => Cause::Other,
            },
        }
    }
}

fn plain(error: impl std::error::Error) -> Failure {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    Failure {
        texts,
        hint: None,
        cause: Cause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_sought_where_the_user_s_path_says_and_then_in_the_usual_folders() {
        let usual = ["/usr/sbin", "/usr/bin"].map(PathBuf::from).to_vec();
        let found = searched(OsStr::new("/home/u/bin:.:relative:/usr/bin"), usual, false);
        assert_eq!(
            found,
            ["/home/u/bin", "/usr/bin", "/usr/sbin"].map(PathBuf::from)
        );
    }

    #[test]
    fn as_root_no_program_is_looked_for_where_others_can_put_one() {
        use std::os::unix::fs::PermissionsExt;
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: only root's daemon is so careful");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let folder = |name: &str, mode: u32| {
            let path = scratch.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let (ours, theirs) = (folder("ours", 0o755), folder("theirs", 0o777));
        let below = theirs.join("below");
        std::fs::create_dir(&below).unwrap();
        let given = folder("given", 0o755);
        std::os::unix::fs::chown(&given, Some(65534), None).unwrap();
        let path = std::env::join_paths([&ours, &theirs, &below, &given]).unwrap();
        assert_eq!(searched(&path, Vec::new(), true), [ours]);
    }
}
