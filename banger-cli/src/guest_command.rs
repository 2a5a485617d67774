//! A command in a guest, its streams on ours.
//!
//! ```text
//!   fd 0 ── thread ─▶ chunks ─┐                              ┌─▶ frames ─▶ thread ── fd 1, fd 2
//!                             ├─▶ sender ─▶ daemon ─▶ guest ─┤
//!   signals ──────▶ controls ─┘                              └─▶ exit, lost, error
//! ```
//!
//! Nothing here waits for one direction in order to go on with the other: a guest that does not read
//! its input is still heard, and a pager that does not read our output can still be left by Ctrl-C.

mod console;
mod input;
mod options;
mod output;
mod pipe;
mod sender;
mod session;
mod signals;
mod terminal;
mod unreached;

pub(crate) use console::{Risen, Seat, sit};
pub(crate) use input::read_stdin;
pub(crate) use options::{CommandOptions, Way, words};
pub(crate) use pipe::{Feed, Pipe, Piped};
pub(crate) use session::{Attach, Form, attach, follow};
pub(crate) use signals::Signals;

use std::collections::VecDeque;
use std::time::Duration;

use banger_daemon::client::{StreamConnection, StreamError, StreamReader};
use banger_daemon::protocol::{ExecParams, VmExec, VmParams, VmShow};
use banger_session::Signal;
use banger_session::mux::{Control, Frame, Stream};
use tokio::time::{Instant, sleep_until, timeout};

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;

use output::{Output, OutputEnd};
use sender::Sender;
use unreached::Unreached;

/// A second Ctrl-C within this time ends banger itself.
const TWICE: Duration = Duration::from_secs(1);

/// The time that a signal may wait behind input that the guest does not read.
const DELIVERY: Duration = Duration::from_secs(2);

/// Runs the command to its end and returns its status.
///
/// Signals that would end us go to the command instead, whose end is then awaited. Three things end us
/// sooner: a second Ctrl-C within a second, any other signal that comes a second time, and a signal that
/// cannot be passed on because the command does not read its input. The daemon then sees the connection
/// close and hangs up on the command.
pub(crate) async fn stream(
    daemon: &mut Daemon<'_>,
    signals: &mut Signals,
    params: ExecParams,
) -> Result<ExitStatus, CommandError> {
    let with_input = !params.stdin_closed;
    let vm = params.vm.clone();
    // Dropped half-way, the ticket is never shown, and the daemon ends the command by itself.
    let connect = async {
        let ticket = daemon.call::<VmExec>(params).await?;
        daemon.stream(&ticket).await
    };
    let StreamConnection { mut read, write } = signals.or(connect, || None).await?;
    let input = if with_input {
        Some(input::read_stdin().map_err(|error| {
            CommandError::io("cannot start a thread to read standard input", error)
        })?)
    } else {
        None
    };
    let sender = Sender::new(write, input);
    let mut output = Output::new().map_err(|error| {
        CommandError::io(
            "cannot start a thread to write what the command says",
            error,
        )
    })?;

    let mut unreached = Unreached::default();
    let pauses = Pauses {
        screen: daemon.screen(),
        vm: &vm,
    };
    let end = converse(
        &mut read,
        &sender,
        &mut output,
        signals,
        &mut unreached,
        pauses,
    )
    .await;
    match end {
        End::Told(control) => match output.finish(signals).await {
            OutputEnd::Written => {
                let status = status(control)?;
                if status != ExitStatus::SUCCESS && unreached.noticed() {
                    say_that_it_reaches_nothing(daemon, vm).await;
                }
                Ok(status)
            }
            OutputEnd::Failed(error) => Err(error),
            OutputEnd::Interrupted(signal) => Err(given_up(signal)),
        },
        End::Closed => Err(lost("the daemon ended the connection")),
        End::Broken(error) => Err(lost(&error.to_string())),
        End::OutputFailed(error) => {
            // Nobody hears it any more, so it is told to go, as a pipe would have.
            sender.signal(Signal::HUP);
            let _ = timeout(TWICE, sender.delivered()).await;
            Err(error)
        }
        End::Interrupted(signal) => Err(given_up(signal)),
    }
}

/// Says that a command waits because its machine does.
#[derive(Clone, Copy, Debug)]
struct Pauses<'a> {
    screen: &'a Screen,
    vm: &'a str,
}

impl Pauses<'_> {
    /// Without a reason it goes on.
    fn say(self, reason: Option<String>) {
        let vm = self.vm;
        self.screen.say(match reason {
            Some(reason) => {
                format!("banger: VM {vm} is paused: {reason}; what runs in it waits")
            }
            None => format!("banger: VM {vm} goes on"),
        });
    }
}

/// How a conversation ends.
enum End {
    Told(Control),
    Closed,
    Broken(StreamError),
    OutputFailed(CommandError),
    Interrupted(Signal),
}

async fn converse(
    read: &mut StreamReader,
    sender: &Sender,
    output: &mut Output,
    signals: &mut Signals,
    unreached: &mut Unreached,
    pauses: Pauses<'_>,
) -> End {
    let mut pending: VecDeque<(Stream, Vec<u8>)> = VecDeque::new();
    let mut last_interrupt: Option<Instant> = None;
    let mut heard: Vec<Signal> = Vec::new();
    let mut undelivered: Option<(Instant, Signal)> = None;
    loop {
        let deadline = undelivered.map_or_else(Instant::now, |(deadline, _)| deadline);
        tokio::select! {
            // Cancel-safe: a frame is taken from the reader whole or not at all.
            frame = read.next_frame(), if pending.is_empty() => match frame {
                Ok(Some(Frame::Data { stream, bytes })) => {
                    if stream == Stream::Stderr {
                        unreached.hear(&bytes);
                    }
                    pending.push_back((stream, bytes));
                }
                Ok(Some(Frame::Control(control))) if control.is_last() => {
                    return End::Told(control);
                }
                Ok(Some(Frame::Control(Control::Paused { reason }))) => pauses.say(reason),
                Ok(Some(Frame::Control(_) | Frame::End { .. })) => {}
                Ok(None) => return End::Closed,
                Err(error) => return End::Broken(error),
            },
            // Cancel-safe: a place is taken or not; the bytes move once it is.
            taken = output.put(&mut pending), if !pending.is_empty() => {
                if let Err(error) = taken {
                    return End::OutputFailed(error);
                }
            }
            // Cancel-safe: a signal that is not returned stays with the stream of signals.
            signal = signals.next() => {
                let now = Instant::now();
                // One that the command does not heed does not keep us here.
                let again = match signal {
                    Signal::INT => last_interrupt
                        .replace(now)
                        .is_some_and(|last| now - last < TWICE),
                    _ => heard.contains(&signal),
                };
                if again {
                    return End::Interrupted(signal);
                }
                heard.push(signal);
                sender.signal(signal);
                undelivered.get_or_insert((now + DELIVERY, signal));
            }
            // Cancel-safe: it only looks.
            () = sender.delivered(), if undelivered.is_some() => undelivered = None,
            // Cancel-safe: it only waits.
            () = sleep_until(deadline), if undelivered.is_some() => {
                let signal = undelivered.map_or(Signal::TERM, |(_, signal)| signal);
                return End::Interrupted(signal);
            }
        }
    }
}

/// If it does: a command that found no way out on an open VM has another reason.
async fn say_that_it_reaches_nothing(daemon: &mut Daemon<'_>, vm: String) {
    // What can be said only if it can be found out is left unsaid otherwise.
    if let Ok(vm) = daemon.call::<VmShow>(VmParams { vm }).await
        && !vm.nat
    {
        daemon.screen().say(format!(
            "banger: {} reaches nothing by itself; one made with --nat reaches the internet",
            vm.name
        ));
    }
}

fn status(control: Control) -> Result<ExitStatus, CommandError> {
    match control {
        Control::Exit { exit_code } => Ok(ExitStatus::of_guest(exit_code)),
        Control::Lost { error } => Err(lost(&error)),
        Control::Error { error, .. } | Control::Refused { error } => Err(CommandError::new(error)),
        other => Err(lost(&format!("it ended with {other:?}"))),
    }
}

fn lost(reason: &str) -> CommandError {
    CommandError::new("lost the connection to the guest; what became of the command is unknown")
        .because(reason)
        .hint("see whether the VM still runs: banger vm list")
}

/// We go before the command does.
fn given_up(signal: Signal) -> CommandError {
    CommandError::new(format!(
        "ended by SIG{signal} without waiting for the command, which is hung up on"
    ))
    .with_status(ExitStatus::of_signal(signal))
}
