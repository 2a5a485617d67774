//! The streams of sessions: a log, or an attach.
//!
//! ```text
//! client ── frames ─► listen ── 8 pieces ─► feed ─────► the session's pipe, and its end
//!                        └── 8 signals ───► steer ────► its process group
//! client ◄─ frames ── tell ◄──────────────────────────── its logs, from a byte on
//! ```
//!
//! A client that hangs up, or ends its direction, leaves the session, which runs on.

use std::future::ready;
use std::time::Duration;

use banger_core::{
    AttachEnd, AttachEvent, AttachInput, Engine, Error, LogEnd, LogEvent, Refusal, SessionAttach,
    SessionLogs, Signal,
};
use banger_session::mux::{Control, Frame, Stream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::hangup::Hangup;
use super::stop::Stop;
use crate::stream::{StreamError, StreamReader, StreamWriter};

/// How much is collected of what is ready before it is written, in bytes.
const COALESCE: usize = 256 << 10;

/// How long a client may take to read that the daemon is ending.
const FAREWELL: Duration = Duration::from_secs(2);

/// What goes into a session's stdin, in order.
enum Piece {
    Bytes(Vec<u8>),
    /// For good.
    End,
}

/// Sends a log to its end.
pub(super) async fn serve_logs(
    stream: Stream,
    mut logs: SessionLogs,
    mut write: StreamWriter,
    hangup: &Hangup,
    stop: &Stop,
) {
    let sent = tokio::select! {
        sent = tell_logs(stream, &mut logs, &mut write, stop) => sent,
        () = hangup.happened() => Ok(()),
        () = unread(stop) => Ok(()),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "the reader of a session's log is gone");
    }
}

/// Carries an attach to its end, or until its client leaves.
pub(super) async fn serve_attach(
    mut attach: SessionAttach,
    engine: Engine,
    read: StreamReader,
    mut write: StreamWriter,
    hangup: &Hangup,
    stop: &Stop,
) {
    let session = attach.session();
    let (vm, id) = (session.vm_id.to_string(), session.id.to_string());
    let (to_stdin, pieces) = mpsc::channel(8);
    let (to_group, signals) = mpsc::channel(8);
    let (to_client, refusals) = mpsc::channel(8);
    // All of them end with this conversation.
    let mut aside = JoinSet::new();
    aside.spawn(feed(attach.take_input(), pieces, to_client.clone()));
    aside.spawn(steer(engine, vm, id, signals, to_client));
    let (leave, left) = oneshot::channel();
    aside.spawn(async move {
        // Nobody listens if the session has ended first.
        let _ = leave.send(listen(read, to_stdin, to_group).await);
    });
    let mut told = Told { refusals, left };
    let end = tokio::select! {
        end = told.tell(&mut attach, &mut write, stop) => end,
        () = hangup.happened() => return,
        () = unread(stop) => return,
    };
    // Before the client hears of it: whoever it tells may attach at once.
    aside.shutdown().await;
    drop(attach);
    let end = match end {
        Ok(Over::Left) => write.send_control(&Control::Detached).await,
        Ok(Over::Ended) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = end {
        tracing::info!(%error, "the client of an attach is gone");
    }
}

/// What the client of an attach is told of beside its session's output.
struct Told {
    /// What it wrote and did not arrive.
    refusals: mpsc::Receiver<String>,
    /// That it has left, or is not understood.
    left: oneshot::Receiver<Result<(), StreamError>>,
}

/// Why the telling is over.
enum Over {
    /// The session ended, and the client was told.
    Ended,
    /// The client has left.
    Left,
}

async fn tell_logs(
    stream: Stream,
    logs: &mut SessionLogs,
    write: &mut StreamWriter,
    stop: &Stop,
) -> Result<(), StreamError> {
    let offset = logs.start();
    write.put_control(&Control::Offset { stream, offset })?;
    write.flush().await?;
    loop {
        // Both are cancel-safe.
        let mut event = tokio::select! {
            event = logs.next() => event,
            () = stop.asked() => LogEvent::Ended(LogEnd::Lost(STOPPING.to_owned())),
        };
        loop {
            match event {
                LogEvent::Bytes { bytes, .. } => write.put_data(stream, &bytes),
                LogEvent::Ended(LogEnd::Complete) => {
                    write.put_end(stream);
                    return write.flush().await;
                }
                LogEvent::Ended(LogEnd::Lost(error)) => {
                    write.put_control(&Control::Lost { error })?;
                    return write.flush().await;
                }
            }
            if write.queued() >= COALESCE {
                break;
            }
            // What is ready goes out with it; nothing is waited for.
            event = tokio::select! {
                biased;
                event = logs.next() => event,
                () = ready(()) => break,
            };
        }
        write.flush().await?;
    }
}

impl Told {
    /// Tells the client what the session tells, up to its end. Nothing that is half written is given up.
    async fn tell(
        &mut self,
        attach: &mut SessionAttach,
        write: &mut StreamWriter,
        stop: &Stop,
    ) -> Result<Over, StreamError> {
        write.put_control(&Control::Started {
            pid: attach.session().state.pid.map(|group| group.get()),
        })?;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let offset = attach.start(stream);
            write.put_control(&Control::Offset { stream, offset })?;
        }
        write.flush().await?;
        loop {
            // All are cancel-safe.
            let mut event = tokio::select! {
                left = &mut self.left => match left {
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok(())) | Err(_) => return Ok(Over::Left),
                },
                Some(error) = self.refusals.recv() => {
                    write.send_control(&Control::InputRefused { error }).await?;
                    continue;
                }
                event = attach.next() => event,
                () = stop.asked() => AttachEvent::Ended(AttachEnd::Lost(STOPPING.to_owned())),
            };
            loop {
                match event {
                    AttachEvent::Output { stream, bytes, .. } => write.put_data(stream, &bytes),
                    AttachEvent::InputRefused(refusal) => {
                        let error = refusal.to_string();
                        write.put_control(&Control::InputRefused { error })?;
                    }
                    AttachEvent::Ended(end) => {
                        write.put_end(Stream::Stdout);
                        write.put_end(Stream::Stderr);
                        write.put_control(&match end {
                            AttachEnd::Exited(exit_code) => Control::Exit { exit_code },
                            AttachEnd::Lost(error) => Control::Lost { error },
                        })?;
                        write.flush().await?;
                        return Ok(Over::Ended);
                    }
                }
                if write.queued() >= COALESCE {
                    break;
                }
                event = tokio::select! {
                    biased;
                    event = attach.next() => event,
                    () = ready(()) => break,
                };
            }
            write.flush().await?;
        }
    }
}

/// Sorts what the client sends. Returns when it leaves, or is not understood.
async fn listen(
    mut read: StreamReader,
    to_stdin: mpsc::Sender<Piece>,
    to_group: mpsc::Sender<Signal>,
) -> Result<(), StreamError> {
    loop {
        match read.next_frame().await? {
            Some(Frame::Data {
                stream: Stream::Stdin,
                bytes,
            }) => {
                // It fails when what is written has nowhere to go, which the client is told.
                let _ = to_stdin.send(Piece::Bytes(bytes)).await;
            }
            Some(Frame::Control(Control::Eof)) => drop(to_stdin.send(Piece::End).await),
            Some(Frame::Control(Control::Signal { signal })) => match signal.parse() {
                // A client that sends them faster than they are delivered need not have each counted.
                Ok(signal) => drop(to_group.try_send(signal)),
                Err(error) => tracing::info!(%error, "ignored a signal"),
            },
            // The end of the client's input is not that of the session's: the next attach goes on.
            Some(Frame::Control(_) | Frame::Data { .. } | Frame::End { .. }) => {}
            None => return Ok(()),
        }
    }
}

/// Writes to the session's stdin.
async fn feed(
    input: Option<AttachInput>,
    mut pieces: mpsc::Receiver<Piece>,
    to_client: mpsc::Sender<String>,
) {
    let Some(mut input) = input else {
        return;
    };
    while let Some(piece) = pieces.recv().await {
        let done = match piece {
            Piece::Bytes(bytes) => input.write(&bytes).await,
            Piece::End => input.end().await,
        };
        if let Err(error) = done {
            let why = match &error {
                Error::SessionRefused { source, .. } => source.to_string(),
                error => error.chain().join(": "),
            };
            let _ = to_client.send(why).await;
            if let Error::SessionRefused {
                source: Refusal::NotAPipe,
                ..
            } = error
            {
                // It never will be; what comes is dropped.
                return;
            }
        }
    }
}

/// Sends signals while output flows.
async fn steer(
    engine: Engine,
    vm: String,
    session: String,
    mut signals: mpsc::Receiver<Signal>,
    to_client: mpsc::Sender<String>,
) {
    while let Some(signal) = signals.recv().await {
        if let Err(error) = engine.session_kill(&vm, &session, signal).await {
            let _ = to_client.send(error.chain().join(": ")).await;
        }
    }
}

/// Waits until the daemon was told to stop and the client has had its time to read that.
async fn unread(stop: &Stop) {
    stop.asked().await;
    tokio::time::sleep(FAREWELL).await;
}

const STOPPING: &str = "the daemon is stopping; the session runs on";
