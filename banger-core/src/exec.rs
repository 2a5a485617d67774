//! Running one command in a guest: its three streams, its exit status, signals to its process group.
//!
//! The status travels inside the streams (see [`banger_session::exec`]), so that a background child
//! that keeps them open neither delays nor truncates anything, and a lost connection is never taken
//! for an exit status.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use banger_session::exec::{
    Event, ExecRequest, ExecStage, MarkerDecoder, Nonce, StreamEnd, exec_script, signal_script,
};
use banger_session::{ProcessGroup, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::engine::{Engine, random};
use crate::error::Error;
use crate::transport::{GuestConnection, GuestEnd, GuestProcess};
use crate::vmm::PauseReason;
use crate::watch::Pauses;

/// What a running command tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// It runs, in this process group of the guest.
    Started(ProcessGroup),
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// Its guest stands still, for this reason: nothing comes of the command before it goes on.
    Paused(PauseReason),
    /// Its guest, which stood still, goes on.
    GoesOn,
    /// It ended; nothing follows.
    Ended(ExecEnd),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEnd {
    /// With this status: its own, 127 if it was not found, 126 if it could not be run, 128+n after signal n.
    Exited(i32),
    /// It was not run: the working folder cannot be entered.
    NoSuchFolder,
    /// The connection was lost; nobody knows what became of it.
    Lost(String),
}

/// What a command printed, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// How it ended.
    pub end: ExecEnd,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// A command that runs in a guest. Dropping it lets go of the streams; the command runs on until it
/// reads or writes: send it a signal first if it must not.
pub struct Execution {
    stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    events: mpsc::Receiver<ExecEvent>,
    /// None where nobody watches the guest.
    pauses: Option<Pauses>,
    signaller: Signaller,
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution").finish_non_exhaustive()
    }
}

/// Sends signals to a running command. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Signaller {
    connection: Arc<dyn GuestConnection>,
    group: watch::Receiver<Option<ProcessGroup>>,
    killed: Arc<watch::Sender<Option<Signal>>>,
}

impl Engine {
    /// Starts a command in a running VM's guest, waiting for the guest to answer first.
    pub async fn exec(&self, vm: &str, request: &ExecRequest) -> Result<Execution, Error> {
        let vm = self.lookup(vm).await?;
        let nonce = Nonce(random()?);
        // Refused before the guest is bothered.
        let script = exec_script(request, &nonce)?;
        let connection = self.connection(&vm, self.inner.config.limits.ready).await?;
        let process = connection.run(&script).await?;
        let pauses = self.inner.live(&vm.id).map(|live| live.pauses());
        Ok(Execution::over(connection, process, &nonce, pauses))
    }

    /// Runs a command with nothing to read and collects what it prints. Bounded only by memory.
    pub async fn exec_output(&self, vm: &str, request: &ExecRequest) -> Result<ExecOutput, Error> {
        let mut execution = self.exec(vm, request).await?;
        execution.close_stdin();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            if stdout.len() + stderr.len() > LARGEST_OUTPUT {
                // Dropped, it is ended in the guest.
                return Err(Error::OutputTooLong {
                    vm: vm.to_owned(),
                    limit: LARGEST_OUTPUT as u64,
                });
            }
            match execution.next().await {
                ExecEvent::Started(_) | ExecEvent::Paused(_) | ExecEvent::GoesOn => {}
                ExecEvent::Stdout(bytes) => stdout.extend(bytes),
                ExecEvent::Stderr(bytes) => stderr.extend(bytes),
                ExecEvent::Ended(end) => {
                    return Ok(ExecOutput {
                        end,
                        stdout,
                        stderr,
                    });
                }
            }
        }
    }
}

/// The most that [`Engine::exec_output`] keeps, in bytes.
const LARGEST_OUTPUT: usize = 64 << 20;

impl Execution {
    fn over(
        connection: Arc<dyn GuestConnection>,
        process: GuestProcess,
        nonce: &Nonce,
        pauses: Option<Pauses>,
    ) -> Self {
        // A slow reader holds the command up, not our memory: at most this many pieces wait.
        let (tell, events) = mpsc::channel(8);
        let (tell_group, group) = watch::channel(None);
        let killed = Arc::new(watch::Sender::new(None::<Signal>));
        let GuestProcess {
            stdin,
            stdout,
            stderr,
            end,
        } = process;
        let out = follow(
            stdout,
            MarkerDecoder::new(nonce),
            tell.clone(),
            ExecEvent::Stdout,
            None,
        );
        let err = follow(
            stderr,
            MarkerDecoder::new(nonce),
            tell.clone(),
            ExecEvent::Stderr,
            Some(tell_group),
        );
        let fatal = killed.subscribe();
        tokio::spawn(async move {
            let (out, err) = tokio::join!(out, err);
            if tell.is_closed() {
                return;
            }
            let killed_by = *fatal.borrow();
            let ended = match (out, err) {
                (Some(ended), Some(_)) => ended,
                // A stream without its marker: the whole group was killed, or the connection is gone.
                _ => match killed_by {
                    Some(signal) => ExecEnd::Exited(signal.exit_status()),
                    None => ExecEnd::Lost(match waited(end).await {
                        GuestEnd::Exited(status) => format!(
                            "the guest's shell ended with status {status} before the command's own was told"
                        ),
                        GuestEnd::Lost(reason) => reason,
                    }),
                },
            };
            // Nobody listens any more: then nobody wants to know.
            let _ = tell.send(ExecEvent::Ended(ended)).await;
        });
        Execution {
            stdin: Some(stdin),
            events,
            pauses,
            signaller: Signaller {
                connection,
                group,
                killed,
            },
        }
    }

    /// Returns what it tells next. After [`ExecEvent::Ended`] it repeats that it is over. Cancel-safe.
    pub async fn next(&mut self) -> ExecEvent {
        let over = || ExecEvent::Ended(ExecEnd::Lost("it is over already".to_owned()));
        let Some(pauses) = &mut self.pauses else {
            return self.events.recv().await.unwrap_or_else(over);
        };
        tokio::select! {
            // Both are cancel-safe. What the command tells goes first.
            biased;
            event = self.events.recv() => event.unwrap_or_else(over),
            pause = pauses.next() => pause.map_or(ExecEvent::GoesOn, ExecEvent::Paused),
        }
    }

    /// Takes its standard input; dropping that ends it.
    pub fn take_stdin(&mut self) -> Option<Pin<Box<dyn AsyncWrite + Send>>> {
        self.stdin.take()
    }

    /// Writes to its standard input. A command that does not read holds the caller up.
    pub async fn write_stdin(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stdin {
            Some(stdin) => {
                stdin.write_all(bytes).await?;
                stdin.flush().await
            }
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Returns what sends it signals, to be used while somebody waits in [`Execution::next`].
    pub fn signaller(&self) -> Signaller {
        self.signaller.clone()
    }
}

impl Signaller {
    /// Sends a signal to every process of the command's group, as soon as that is known.
    pub async fn send(&self, signal: Signal) -> Result<(), Error> {
        let mut group = self.group.clone();
        let group = match group.wait_for(Option::is_some).await {
            Ok(group) => *group,
            // It ended before it was started: there is nobody to signal.
            Err(_) => None,
        };
        let Some(group) = group else {
            return Ok(());
        };
        if signal.ends_wrapper() {
            self.killed.send_replace(Some(signal));
        }
        let process = self.connection.run(&signal_script(group, signal)).await?;
        drop(process.stdin);
        // Its status says only whether somebody was still there.
        let _ = tokio::time::timeout(Duration::from_secs(10), process.end).await;
        Ok(())
    }
}

/// Reads one stream up to its marker. Returns how the command ended, if the marker came.
async fn follow(
    mut stream: Pin<Box<dyn AsyncRead + Send>>,
    mut decoder: MarkerDecoder,
    tell: mpsc::Sender<ExecEvent>,
    wrap: fn(Vec<u8>) -> ExecEvent,
    group: Option<watch::Sender<Option<ProcessGroup>>>,
) -> Option<ExecEnd> {
    let mut buffer = vec![0; 64 << 10];
    let mut events = Vec::new();
    let mut ended = None;
    while !decoder.is_over() {
        let read = tokio::select! {
            // Cancel-safe: what has been read is in the buffer, and then it has won. An error here is the connection's
            // end, as the end of the stream is.
            read = stream.read(&mut buffer) => read.unwrap_or(0),
            // Nobody listens: then nothing is read, and the stream is let go of.
            () = tell.closed() => return ended,
        };
        if read == 0 {
            break;
        }
        decoder.push(&buffer[..read], &mut events);
        for event in events.drain(..) {
            let event = match event {
                Event::Data(bytes) => wrap(bytes),
                Event::Started { group: started } => {
                    if let Some(group) = &group {
                        group.send_replace(Some(started));
                    }
                    ExecEvent::Started(started)
                }
                Event::Failed {
                    stage: ExecStage::Cwd,
                } => {
                    ended = Some(ExecEnd::NoSuchFolder);
                    continue;
                }
                Event::Ended { status } => {
                    ended = Some(ExecEnd::Exited(status));
                    continue;
                }
            };
            if tell.send(event).await.is_err() {
                return ended;
            }
        }
    }
    if let StreamEnd::Lost { held } = decoder.finish()
        && !held.is_empty()
    {
        let _ = tell.send(wrap(held)).await;
    }
    ended
}

async fn waited(end: Pin<Box<dyn Future<Output = GuestEnd> + Send>>) -> GuestEnd {
    let limit = Duration::from_secs(5);
    tokio::time::timeout(limit, end)
        .await
        .unwrap_or_else(|_| GuestEnd::Lost("the connection to the guest was lost".to_owned()))
}
