//! A command in a guest whose streams are ours to fill and to read: what copies files.

use std::io::{self, Read};
use std::thread;

use banger_daemon::client::{StreamConnection, StreamReader};
use banger_daemon::protocol::{ExecParams, VmExec};
use banger_session::mux::{CHUNK_BYTES, Control, Frame, Stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::sender::Sender;
use super::signals::Signals;
use super::{Pauses, lost};
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::progress::TICK;

/// The most that is kept of what the command says on standard error, in bytes.
const SAID_BYTES: usize = 16 << 10;

/// A running command.
pub(crate) struct Pipe<'a> {
    read: StreamReader,
    signals: &'a mut Signals,
    pauses: Pauses<'a>,
    said: Vec<u8>,
    input_failed: Option<oneshot::Receiver<Failure>>,
    ticks: Interval,
    /// Ends the sending with itself.
    _sender: Sender,
}

/// What comes of it.
pub(crate) enum Piped {
    /// Bytes of its standard output.
    Output(Vec<u8>),
    /// Nothing yet: a moment has passed.
    Tick,
    /// It ended with this status, and this is what it said on standard error.
    Ended { status: i32, said: String },
}

/// What goes to the command.
pub(crate) struct Feed {
    chunks: mpsc::Receiver<Vec<u8>>,
    failed: oneshot::Receiver<Failure>,
}

/// The input cannot be read on. Its channel stays open with this: closed, it would say that all was read.
struct Failure {
    error: io::Error,
    _kept_open: mpsc::Sender<Vec<u8>>,
}

impl Feed {
    /// Reads to the end, on a thread of its own. What cannot be read to its end never ends: half of it must not be
    /// taken for the whole.
    pub(crate) fn from(mut reader: impl Read + Send + 'static) -> Result<Self, CommandError> {
        let (to_sender, chunks) = mpsc::channel(1);
        let (tell, failed) = oneshot::channel();
        let work = move || {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                match reader.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(count) => chunk.truncate(count),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        let _ = tell.send(Failure {
                            error,
                            _kept_open: to_sender,
                        });
                        return;
                    }
                }
                if to_sender.blocking_send(chunk).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("feed".to_owned())
            .spawn(work)
            .map_err(|error| CommandError::io("cannot start a thread", error))?;
        Ok(Feed { chunks, failed })
    }
}

impl<'a> Pipe<'a> {
    /// Starts the command. Without a feed it reads nothing.
    pub(crate) async fn start<'screen: 'a>(
        daemon: &mut Daemon<'screen>,
        signals: &'a mut Signals,
        vm: &'a str,
        argv: Vec<Vec<u8>>,
        feed: Option<Feed>,
    ) -> Result<Self, CommandError> {
        let params = ExecParams {
            in_workspace: false,
            vm: vm.to_owned(),
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: None,
            stdin_closed: feed.is_none(),
        };
        let connect = async {
            let ticket = daemon.call::<VmExec>(params).await?;
            daemon.stream(&ticket).await
        };
        let StreamConnection { read, write } = signals.or(connect, || None).await?;
        let (chunks, input_failed) = match feed {
            Some(feed) => (Some(feed.chunks), Some(feed.failed)),
            None => (None, None),
        };
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Pipe {
            read,
            signals,
            pauses: Pauses {
                screen: daemon.screen(),
                vm,
            },
            said: Vec::new(),
            input_failed,
            ticks,
            _sender: Sender::new(write, chunks),
        })
    }

    /// Waits for what comes next. A signal, and input that cannot be read, end the command.
    pub(crate) async fn next(&mut self) -> Result<Piped, CommandError> {
        loop {
            tokio::select! {
                // Cancel-safe: a frame is taken from the reader whole or not at all.
                frame = self.read.next_frame() => match frame {
                    Ok(Some(Frame::Data { stream: Stream::Stdout, bytes })) => {
                        return Ok(Piped::Output(bytes));
                    }
                    Ok(Some(Frame::Data { bytes, .. })) => {
                        let room = SAID_BYTES.saturating_sub(self.said.len());
                        self.said.extend(&bytes[..bytes.len().min(room)]);
                    }
                    Ok(Some(Frame::Control(control))) if control.is_last() => {
                        return self.ended(control);
                    }
                    Ok(Some(Frame::Control(Control::Paused { reason }))) => self.pauses.say(reason),
                    Ok(Some(Frame::Control(_) | Frame::End { .. })) => {}
                    Ok(None) => return Err(lost("the daemon ended the connection")),
                    Err(error) => return Err(lost(&error.to_string())),
                },
                // Cancel-safe: it only waits.
                _ = self.ticks.tick() => return Ok(Piped::Tick),
                // Cancel-safe: it is there or not.
                failure = failed(&mut self.input_failed) => {
                    return Err(CommandError::io("cannot read all that is to be sent", failure.error));
                }
                // Cancel-safe: a signal that is not returned stays with the stream of signals.
                signal = self.signals.next() => return Err(CommandError::interrupted(signal)),
            }
        }
    }

    /// Waits for what is done with what came, unless a signal comes first.
    pub(crate) async fn unless_told<T>(
        &mut self,
        work: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        self.signals.unless_told(work).await
    }

    fn ended(&mut self, control: Control) -> Result<Piped, CommandError> {
        match control {
            Control::Exit { exit_code } => Ok(Piped::Ended {
                status: exit_code,
                said: String::from_utf8_lossy(&self.said).trim().to_owned(),
            }),
            Control::Lost { error } => Err(lost(&error)),
            Control::Error { error, .. } | Control::Refused { error } => {
                Err(CommandError::new(error))
            }
            other => Err(lost(&format!("it ended with {other:?}"))),
        }
    }
}

/// Waits for the input to fail; one that has been read to its end never does.
async fn failed(input: &mut Option<oneshot::Receiver<Failure>>) -> Failure {
    if let Some(receiver) = input
        && let Ok(failure) = receiver.await
    {
        return failure;
    }
    *input = None;
    std::future::pending().await
}
