//! A serial console on our terminal.

use std::collections::VecDeque;
use std::io;

use banger_daemon::client::StreamConnection;
use banger_session::mux::{Control, Frame, Stream};
use rustix::termios::Termios;
use tokio::sync::mpsc;

use super::input::{next_chunk, read_stdin};
use super::output::{Output, OutputEnd};
use super::sender::Sender;
use super::signals::Signals;
use super::terminal::TerminalSettings;
use crate::command_error::CommandError;

/// Ctrl-], as telnet has it.
const LEAVE: u8 = 0x1d;

/// Who sits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// Somebody who types.
    Keyboard,
    /// Somebody who only looks.
    Spectator,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Risen {
    /// The VM has ended.
    Ended,
    /// The key was typed.
    Left,
}

/// Carries a console until its VM ends, the key is typed or a signal comes.
pub(crate) async fn sit(
    stream: StreamConnection,
    seat: Seat,
    signals: &mut Signals,
) -> Result<Risen, CommandError> {
    let StreamConnection { mut read, write } = stream;
    let (to_console, typed) = mpsc::channel(1);
    let sender = Sender::new(write, Some(typed));
    let mut to_console = Some(to_console);
    let mut input = match seat {
        Seat::Spectator => None,
        Seat::Keyboard => Some(read_stdin().map_err(no_thread)?),
    };
    // What is typed is the guest's to show, and its lines end as it ends them.
    let raw = match seat {
        // Every key is passed on, and what is shown is what the guest says.
        Seat::Keyboard => TerminalSettings::set(Termios::make_raw),
        Seat::Spectator => None,
    };
    let mut output = Output::new().map_err(no_thread)?;
    let mut pending: VecDeque<(Stream, Vec<u8>)> = VecDeque::new();
    let risen = loop {
        tokio::select! {
            // Cancel-safe: a frame is taken from the reader whole or not at all.
            frame = read.next_frame(), if pending.is_empty() => match frame {
                Ok(Some(Frame::Data { stream, bytes })) => pending.push_back((stream, bytes)),
                Ok(Some(Frame::Control(Control::Exit { .. }))) => break Ok(Risen::Ended),
                Ok(Some(Frame::Control(Control::Lost { error } | Control::Error { error, .. }))) => {
                    break Err(gone(&error));
                }
                Ok(Some(Frame::Control(_) | Frame::End { .. })) => {}
                Ok(None) => break Err(gone("the daemon ended the connection")),
                Err(error) => break Err(gone(&error.to_string())),
            },
            // Cancel-safe: a place is taken or not; the bytes move once it is.
            taken = output.put(&mut pending), if !pending.is_empty() => {
                if let Err(error) = taken {
                    break Err(error);
                }
            }
            // Cancel-safe: a chunk stays in its channel until it is returned.
            chunk = next_chunk(&mut input) => match chunk {
                Some(chunk) => {
                    let leaves = raw.as_ref().and_then(|_| chunk.iter().position(|&byte| byte == LEAVE));
                    let typed = chunk[..leaves.unwrap_or(chunk.len())].to_vec();
                    if let Some(console) = &to_console
                        && !typed.is_empty()
                    {
                        // The daemon takes what is typed at once; if it does not, it is gone.
                        let _ = console.send(typed).await;
                    }
                    if leaves.is_some() {
                        break Ok(Risen::Left);
                    }
                }
                // A file or pipe that was typed from has ended; what comes is shown on.
                None => to_console = None,
            },
            // Cancel-safe: a signal that is not returned stays with the stream of signals.
            signal = signals.next() => break Err(CommandError::interrupted(signal)),
        }
    };
    drop(sender);
    let written = output.finish(signals).await;
    drop(raw);
    match (risen, written) {
        (Ok(risen), OutputEnd::Written) => Ok(risen),
        (Ok(_), OutputEnd::Failed(error)) | (Err(error), _) => Err(error),
        (Ok(_), OutputEnd::Interrupted(signal)) => Err(CommandError::interrupted(signal)),
    }
}

fn gone(reason: &str) -> CommandError {
    CommandError::new("lost the console").because(reason)
}

fn no_thread(error: io::Error) -> CommandError {
    CommandError::io("cannot start a thread for the terminal", error)
}
