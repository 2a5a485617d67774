//! A stream: frames on one side, a command in a guest on the other.
//!
//! ```text
//! client ── frames ─► listen ─┬─ 8 pieces ─► feed ──────► the command's stdin
//!                             └─ 8 signals ► deliver ───► its process group
//! client ◄─ frames ── tell ◄───────────────────────────── its events (8 pieces in the engine)
//! ```
//!
//! Nothing in between is unbounded: a command that does not read holds its client up, and a client that
//! does not read holds its command up. Control frames overtake what waits for the command's stdin, as
//! long as that fits into the eight pieces.

use std::future::ready;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::time::Duration;

use banger_core::{ExecEnd, ExecEvent, Execution, Signal, Signaller};
use banger_session::mux::{Control, Frame, Stream};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Shared;
use super::console::{serve_console, serve_log};
use super::hangup::Hangup;
use super::session_stream::{serve_attach, serve_logs};
use super::stop::Stop;
use super::tickets::{Held, Started, hang_up};
use super::workspace::serve_export;
use crate::stream::{StreamError, StreamReader, StreamWriter};

/// How much is collected of what is ready before it is written, in bytes.
const COALESCE: usize = 256 << 10;

/// How long a client may take to read that the daemon is ending.
const FAREWELL: Duration = Duration::from_secs(2);

/// How the conversation ended.
enum End {
    /// The command ended, and the client was told.
    Told,
    /// The client is gone, or not understood.
    ClientGone(String),
}

/// Serves the stream that a ticket stands for.
pub(super) async fn serve_stream(
    shared: &Shared,
    ticket: &str,
    read: StreamReader,
    mut write: StreamWriter,
    hangup: Hangup,
) {
    match shared.tickets.redeem(ticket) {
        Some(Held::Exec(started)) => pump(started, read, write, &hangup, &shared.stop).await,
        Some(Held::Console(console)) => {
            serve_console(*console, read, write, &hangup, &shared.stop).await;
        }
        Some(Held::ConsoleLog(log)) => serve_log(log, write, &hangup, &shared.stop).await,
        Some(Held::Socket(socket)) => {
            if let Err(error) = write.send_descriptor(socket.as_fd()).await {
                tracing::info!(%error, "nobody took a connection to a guest");
            }
        }
        Some(Held::Logs { stream, logs }) => {
            serve_logs(stream, logs, write, &hangup, &shared.stop).await;
        }
        Some(Held::Export(export)) => {
            serve_export(*export, write, &hangup, &shared.stop).await;
        }
        Some(Held::Attach { attach, engine }) => {
            serve_attach(*attach, engine, read, write, &hangup, &shared.stop).await;
        }
        None => {
            let refusal = Control::Error {
                error: "there is no such ticket: it is good once, for ten seconds".to_owned(),
                kind: "not_found".to_owned(),
            };
            // Nobody is left to tell if this fails.
            let _ = write.send_control(&refusal).await;
        }
    }
}

async fn pump(
    started: Started,
    read: StreamReader,
    mut write: StreamWriter,
    hangup: &Hangup,
    stop: &Stop,
) {
    let Started {
        mut execution,
        folder,
    } = started;
    let (to_stdin, pieces) = mpsc::channel(8);
    let (to_group, signals) = mpsc::channel(8);
    // Both end with this conversation.
    let mut aside = JoinSet::new();
    aside.spawn(feed(execution.take_stdin(), pieces));
    aside.spawn(deliver(execution.signaller(), signals));
    let end = tokio::select! {
        told = tell(&mut execution, &mut write, &folder, stop) => match told {
            Ok(()) => End::Told,
            Err(error) => End::ClientGone(error.to_string()),
        },
        error = listen(read, to_stdin, to_group) => End::ClientGone(error.to_string()),
        () = hangup.happened() => End::ClientGone("it hung up".to_owned()),
        () = async { stop.asked().await; tokio::time::sleep(FAREWELL).await } => {
            End::ClientGone("it does not read".to_owned())
        }
    };
    if let End::ClientGone(reason) = end {
        tracing::info!(
            reason,
            "a command's client is gone; hanging up on the command"
        );
        hang_up(execution).await;
    }
}

/// Tells the client what the command tells, up to its end.
async fn tell(
    execution: &mut Execution,
    write: &mut StreamWriter,
    folder: &str,
    stop: &Stop,
) -> Result<(), StreamError> {
    loop {
        // Both are cancel-safe.
        let mut event = tokio::select! {
            event = execution.next() => event,
            () = stop.asked() => ExecEvent::Ended(ExecEnd::Lost("the daemon is stopping".to_owned())),
        };
        let last = loop {
            match event {
                ExecEvent::Started(group) => write.put_control(&Control::Started {
                    pid: Some(group.get()),
                })?,
                ExecEvent::Stdout(bytes) => write.put_data(Stream::Stdout, &bytes),
                ExecEvent::Stderr(bytes) => write.put_data(Stream::Stderr, &bytes),
                ExecEvent::Paused(reason) => write.put_control(&Control::Paused {
                    reason: Some(reason.to_string()),
                })?,
                ExecEvent::GoesOn => write.put_control(&Control::Paused { reason: None })?,
                ExecEvent::Ended(end) => break Some(end),
            }
            if write.queued() >= COALESCE {
                break None;
            }
            // What is ready goes out with it; nothing is waited for.
            event = tokio::select! {
                biased;
                event = execution.next() => event,
                () = ready(()) => break None,
            };
        };
        let Some(end) = last else {
            write.flush().await?;
            continue;
        };
        write.put_end(Stream::Stdout);
        write.put_end(Stream::Stderr);
        write.put_control(&last_word(end, folder))?;
        return write.flush().await;
    }
}

fn last_word(end: ExecEnd, folder: &str) -> Control {
    match end {
        ExecEnd::Exited(exit_code) => Control::Exit { exit_code },
        ExecEnd::NoSuchFolder => Control::Error {
            error: format!("the guest has no folder {folder:?} that can be entered"),
            kind: "no_such_folder".to_owned(),
        },
        ExecEnd::Lost(error) => Control::Lost { error },
    }
}

/// Sorts what the client sends. Returns only when the client is not understood: one that says nothing
/// more may listen on, and one that is gone is noticed elsewhere.
async fn listen(
    mut read: StreamReader,
    to_stdin: mpsc::Sender<Vec<u8>>,
    to_group: mpsc::Sender<Signal>,
) -> StreamError {
    let mut to_stdin = Some(to_stdin);
    loop {
        match read.next_frame().await {
            Ok(Some(Frame::Data {
                stream: Stream::Stdin,
                bytes,
            })) => {
                if let Some(stdin) = &to_stdin {
                    // It fails when the command reads no more; then the bytes go nowhere.
                    let _ = stdin.send(bytes).await;
                }
            }
            Ok(Some(
                Frame::End {
                    stream: Stream::Stdin,
                }
                | Frame::Control(Control::Eof),
            )) => to_stdin = None,
            Ok(Some(Frame::Control(Control::Signal { signal }))) => match signal.parse() {
                // A client that sends them faster than they are delivered need not have each counted.
                Ok(signal) => drop(to_group.try_send(signal)),
                Err(error) => tracing::info!(%error, "ignored a signal"),
            },
            // There is no terminal to resize, and what a newer client says beside is not for us.
            Ok(Some(Frame::Control(_) | Frame::Data { .. } | Frame::End { .. })) => {}
            Ok(None) => {
                to_stdin = None;
                drop(to_stdin);
                return std::future::pending().await;
            }
            Err(error) => return error,
        }
    }
}

/// Writes to the command's standard input, and ends it.
async fn feed(stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>, mut pieces: mpsc::Receiver<Vec<u8>>) {
    let Some(mut stdin) = stdin else {
        return;
    };
    while let Some(piece) = pieces.recv().await {
        let mut written = stdin.write_all(&piece).await;
        if written.is_ok() && pieces.is_empty() {
            written = stdin.flush().await;
        }
        if written.is_err() {
            // The command reads no more, as `head` does not. Its output may go on.
            return;
        }
    }
    // A pipe ends when it is dropped; what buffers has to be told.
    let _ = stdin.shutdown().await;
}

/// Sends signals one after the other while output flows.
async fn deliver(signaller: Signaller, mut signals: mpsc::Receiver<Signal>) {
    while let Some(signal) = signals.recv().await {
        if let Err(error) = signaller.send(signal).await {
            tracing::info!(%error, "could not send a signal to a command");
        }
    }
}
