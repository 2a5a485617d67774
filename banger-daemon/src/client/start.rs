//! Starting a daemon where none answers.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Client, ClientError};
use crate::log_file;
use crate::protocol::STATUS_IN_USE;

/// Where a daemon is found, and how one is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Its socket.
    pub socket: PathBuf,
    /// Its program, `bangerd`.
    pub daemon_program: PathBuf,
    /// The program's arguments: its folders. `--detach` is added.
    pub args: Vec<OsString>,
    /// The file that everything it says is appended to.
    pub log: PathBuf,
}

/// What it took to reach the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// One was there.
    Running,
    /// It was started, by us or by another client at the same time.
    Started,
}

/// The time that a daemon has to answer after it was started.
const LIMIT: Duration = Duration::from_secs(10);

/// Connects to the daemon, starting it first if none answers.
///
/// Any number of clients may do so at once. The lock of the state folder lets one of their daemons live;
/// the others end with [`STATUS_IN_USE`], and every client gets its connection from the one that lives.
pub async fn connect_or_start(places: &Places) -> Result<(Client, Reached), ClientError> {
    match Client::connect(&places.socket).await {
        Err(ClientError::NotRunning { .. }) => {}
        reached => return reached.map(|client| (client, Reached::Running)),
    }
    let deadline = Instant::now() + LIMIT;
    let mut log = Log::open(&places.log)?;
    let mut child = Some(spawn(places, &log)?);
    let mut pause = Duration::from_millis(2);
    // When to try again after ours found the folder in use: by a daemon that is starting, and will
    // answer; or by one that was just ending, and never will.
    let mut patience = Duration::from_millis(300);
    let mut again = Instant::now();
    loop {
        match Client::connect(&places.socket).await {
            Err(ClientError::NotRunning { .. }) => {}
            Err(error) => return Err(error),
            Ok(client) => {
                if let Some(ours) = child {
                    end_unless(ours, client.daemon);
                }
                return Ok((client, Reached::Started));
            }
        }
        if let Some(running) = &mut child
            && let Some(status) = running.try_wait().map_err(starting(places))?
        {
            child = None;
            if status.code() != Some(STATUS_IN_USE.into()) {
                return Err(ClientError::EndedStarting {
                    status,
                    tail: log.last_lines(20),
                    log: places.log.clone(),
                });
            }
            again = Instant::now() + patience;
            patience *= 2;
        }
        if Instant::now() > deadline {
            return Err(ClientError::StartTimeout {
                limit: LIMIT,
                log: places.log.clone(),
            });
        }
        if child.is_none() && Instant::now() > again {
            child = Some(spawn(places, &log)?);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(25));
    }
}

/// The daemon makes itself the leader of a session of its own (`--detach`), so that what ends the
/// terminal that it was started from does not end it.
fn spawn(places: &Places, log: &Log) -> Result<Child, ClientError> {
    let output = log.file.try_clone().map_err(starting(places))?;
    Command::new(&places.daemon_program)
        .args(&places.args)
        .arg("--detach")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .map_err(starting(places))
}

/// Ends a daemon of ours that is not the one that answers. By itself it would end when it found the
/// folder in use; but if it is slow, and that one is told to stop meanwhile, it would live on unasked.
fn end_unless(mut ours: Child, answers: Option<i32>) {
    if answers.is_some_and(|pid| i64::from(pid) != i64::from(ours.id())) {
        // An error means that it has ended.
        let _ = ours.kill();
        let _ = ours.wait();
    }
}

fn starting(places: &Places) -> impl Fn(io::Error) -> ClientError {
    let program = places.daemon_program.clone();
    move |source| ClientError::Start {
        program: program.clone(),
        source,
    }
}

/// The daemon's log, and how much of it is of earlier daemons.
struct Log {
    file: File,
    old: u64,
}

impl Log {
    fn open(path: &Path) -> Result<Self, ClientError> {
        let opened = || -> io::Result<Self> {
            let file = log_file::open(path)?;
            let old = file.metadata()?.len();
            Ok(Log { file, old })
        };
        opened().map_err(|source| ClientError::Log {
            log: path.to_owned(),
            source,
        })
    }

    fn last_lines(&mut self, count: usize) -> String {
        let mut fresh = Vec::new();
        // What cannot be read is not said; the path of the log is in the error.
        let _ = self.file.seek(SeekFrom::Start(self.old));
        let _ = (&self.file).take(64 << 10).read_to_end(&mut fresh);
        let fresh = String::from_utf8_lossy(&fresh);
        let lines: Vec<&str> = fresh.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}
