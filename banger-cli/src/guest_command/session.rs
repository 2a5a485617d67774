//! A session's streams on ours: its log, or an attach.
//!
//! A daemon that dies is no reason to stop: another one is started, and reading goes on at the next byte.
//! One that is told to stop is not started again by who only reads.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use banger_daemon::client::{StreamConnection, StreamReader};
use banger_daemon::protocol::{
    Bytes, LogPlace, SessionAttach, SessionAttachParams, SessionLogs, SessionLogsParams,
};
use banger_session::Signal;
use banger_session::mux::{Control, Frame, Stream};
use rustix::termios::SpecialCodeIndex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::TWICE;
use super::input::{next_chunk, read_stdin};
use super::output::{Output, OutputEnd};
use super::sender::Sender;
use super::signals::Signals;
use super::terminal::TerminalSettings;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;

/// Ctrl-], which leaves an attach, as it leaves telnet.
const LEAVE: u8 = 0x1d;

/// How long the daemon may take to say that an attach was left.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often a daemon that dies is followed by another one without a byte in between.
const LIVES: usize = 3;

/// Why nothing more comes, when all lives are used up.
const DAEMON_GONE: &str = "the daemon ended the connection";

/// A daemon that was killed still accepts connections until the kernel has taken it apart.
const BETWEEN_LIVES: Duration = Duration::from_millis(200);

/// How what a session wrote is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Bytes,
    /// As an object a piece, on a line of its own.
    Objects,
}

/// What to attach to, and how.
#[derive(Debug)]
pub(crate) struct Attach {
    /// The request.
    pub(crate) params: SessionAttachParams,
    /// Whether our input goes to the session.
    pub(crate) with_input: bool,
    /// How its output is printed.
    pub(crate) form: Form,
}

/// Prints a log to its end.
pub(crate) async fn follow(
    screen: &Screen,
    mut params: SessionLogsParams,
    form: Form,
) -> Result<ExitStatus, CommandError> {
    let mut signals = Signals::catch()?;
    let mut output = Output::new().map_err(cannot_write)?;
    let mut lives = LIVES;
    let mut began = false;
    let end = loop {
        let connect = async {
            let mut daemon = Daemon::open(screen).await?;
            let ticket = daemon.call::<SessionLogs>(params.clone()).await?;
            daemon.stream(&ticket).await
        };
        let StreamConnection { mut read, write } = match signals.or(connect, || None).await {
            Err(error) if began && lives > 0 && error.is_without_answer() => {
                lives -= 1;
                sleep(BETWEEN_LIVES).await;
                continue;
            }
            connected => connected?,
        };
        began = true;
        let before = params.from;
        let end = print(&mut read, &mut output, &mut signals, &mut params, form).await;
        drop(write);
        if params.from != before {
            lives = LIVES;
        }
        if let LogEnd::Cut = end
            && lives > 0
        {
            lives -= 1;
            screen.whisper("the daemon is gone; going on with another one");
            sleep(BETWEEN_LIVES).await;
            continue;
        }
        break end;
    };
    let last = match end {
        LogEnd::Complete => Ok(ExitStatus::SUCCESS),
        LogEnd::Cut => Err(DAEMON_GONE.to_owned()),
        LogEnd::Lost(reason) => Err(reason),
        LogEnd::Failed(error) => return Err(error),
        LogEnd::Interrupted(signal) => return Err(CommandError::interrupted(signal)),
    };
    match output.finish(&mut signals).await {
        OutputEnd::Written => {}
        OutputEnd::Failed(error) => return Err(error),
        OutputEnd::Interrupted(signal) => return Err(CommandError::interrupted(signal)),
    }
    last.map_err(|reason| {
        let error = CommandError::new("the log cannot be read on").because(reason);
        match params.from {
            Some(LogPlace::Offset(offset)) => {
                error.hint(format!("go on where this ends: --offset {offset}"))
            }
            _ => error,
        }
    })
}

/// How the reading of a log ends.
enum LogEnd {
    Complete,
    /// The connection was closed within it: the daemon has died.
    Cut,
    Lost(String),
    Failed(CommandError),
    Interrupted(Signal),
}

/// Prints what comes, and keeps in `params` where to go on.
async fn print(
    read: &mut StreamReader,
    output: &mut Output,
    signals: &mut Signals,
    params: &mut SessionLogsParams,
    form: Form,
) -> LogEnd {
    let mut pending: VecDeque<(Stream, Vec<u8>)> = VecDeque::new();
    let mut place = 0;
    loop {
        tokio::select! {
            // Cancel-safe: a frame is taken from the reader whole or not at all.
            frame = read.next_frame(), if pending.is_empty() => match frame {
                Ok(Some(Frame::Control(Control::Offset { offset, .. }))) => {
                    place = offset;
                    // From here on nothing may be lost, though nothing was printed yet.
                    params.from = Some(LogPlace::Offset(place));
                }
                Ok(Some(Frame::Data { stream, bytes })) => {
                    let offset = place;
                    place += bytes.len() as u64;
                    // A log is data, whichever it is.
                    let printed = match form {
                        Form::Bytes => bytes,
                        Form::Objects => object(stream, offset, bytes),
                    };
                    pending.push_back((Stream::Stdout, printed));
                    params.from = Some(LogPlace::Offset(place));
                }
                Ok(Some(Frame::End { .. })) => return LogEnd::Complete,
                Ok(Some(Frame::Control(Control::Lost { error } | Control::Error { error, .. }))) => {
                    return LogEnd::Lost(error);
                }
                Ok(Some(Frame::Control(_))) => {}
                Ok(None) | Err(_) => return LogEnd::Cut,
            },
            // Cancel-safe: a place is taken or not; the bytes move once it is.
            taken = output.put(&mut pending), if !pending.is_empty() => {
                if let Err(error) = taken {
                    return LogEnd::Failed(error);
                }
            }
            // Cancel-safe: a signal that is not returned stays with the stream of signals.
            signal = signals.next() => return LogEnd::Interrupted(signal),
        }
    }
}

/// A piece of a log as an object that says where it belongs.
fn object(stream: Stream, offset: u64, bytes: Vec<u8>) -> Vec<u8> {
    let data = Bytes::from(bytes);
    let object = serde_json::json!({ "stream": stream, "offset": offset, "data": data });
    format!("{object}\n").into_bytes()
}

/// Attaches until the session ends or is left.
pub(crate) async fn attach(screen: &Screen, attach: Attach) -> Result<ExitStatus, CommandError> {
    let Attach {
        mut params,
        with_input,
        form,
    } = attach;
    let mut signals = Signals::catch()?;
    let mut lives = LIVES;
    let mut client = None;
    let end = loop {
        let request = params.clone();
        let connect = async {
            let mut daemon = Daemon::open(screen).await?;
            let ticket = daemon.call::<SessionAttach>(request).await;
            let ticket =
                ticket.map_err(|error| error.with_status_if_answered(ExitStatus::REFUSED))?;
            daemon.stream(&ticket).await
        };
        let stream = match signals.or(connect, || None).await {
            Err(error) if client.is_some() && lives > 0 && error.is_without_answer() => {
                lives -= 1;
                sleep(BETWEEN_LIVES).await;
                continue;
            }
            connected => connected?,
        };
        let client = match &mut client {
            Some(client) => client,
            // Only now: input is for a session that there is.
            none => none.insert(Client::new(screen, with_input, form)?),
        };
        let before = (params.stdout, params.stderr);
        let end = client.converse(stream, &mut signals, &mut params).await;
        if (params.stdout, params.stderr) != before {
            lives = LIVES;
        }
        if let AttachEnd::Cut = end
            && lives > 0
        {
            lives -= 1;
            screen.say(
                "the daemon is gone; attaching by another one (what was just typed may be lost)",
            );
            sleep(BETWEEN_LIVES).await;
            continue;
        }
        break end;
    };
    let Some(client) = client else {
        return Err(CommandError::new("nothing was attached to"));
    };
    if let AttachEnd::Interrupted(signal) = end {
        return Err(CommandError::interrupted(signal));
    }
    client.finish(&mut signals, &end, &params).await?;
    match end {
        AttachEnd::Exited(code) => Ok(ExitStatus::of_guest(code)),
        AttachEnd::Left => {
            screen.say(format_args!("left; the session runs on{}", again(&params)));
            Ok(ExitStatus::SUCCESS)
        }
        AttachEnd::Lost(reason) => Err(lost(&params, &reason)),
        AttachEnd::Cut => Err(lost(&params, DAEMON_GONE)),
        AttachEnd::Failed(error) => Err(error),
        AttachEnd::Interrupted(signal) => Err(CommandError::interrupted(signal)),
    }
}

/// How an attach ends.
enum AttachEnd {
    Exited(i32),
    Left,
    Lost(String),
    /// The connection was closed without a last word: the daemon has died.
    Cut,
    Failed(CommandError),
    Interrupted(Signal),
}

impl AttachEnd {
    /// The last object: how it ended, and where to take it up.
    fn object(&self, params: &SessionAttachParams) -> Option<Vec<u8>> {
        let at = |place: Option<LogPlace>| match place {
            Some(LogPlace::Offset(offset)) => Some(offset),
            Some(LogPlace::LastLines(_)) | None => None,
        };
        let offsets =
            serde_json::json!({ "stdout": at(params.stdout), "stderr": at(params.stderr) });
        let (ended, exit_code, error) = match self {
            AttachEnd::Exited(code) => ("exited", Some(code), None),
            AttachEnd::Left => ("left", None, None),
            AttachEnd::Lost(reason) => ("lost", None, Some(reason.as_str())),
            AttachEnd::Cut => ("lost", None, Some(DAEMON_GONE)),
            AttachEnd::Failed(_) | AttachEnd::Interrupted(_) => return None,
        };
        let object = serde_json::json!({
            "ended": ended, "exit_code": exit_code, "error": error, "offsets": offsets,
        });
        Some(format!("{object}\n").into_bytes())
    }
}

/// Our side of an attach, which outlives a daemon.
struct Client<'a> {
    screen: &'a Screen,
    input: Option<mpsc::Receiver<Vec<u8>>>,
    output: Output,
    /// Whether the key that leaves can be typed.
    key: Option<TerminalSettings>,
    form: Form,
}

impl<'a> Client<'a> {
    fn new(screen: &'a Screen, with_input: bool, form: Form) -> Result<Self, CommandError> {
        let input = match with_input {
            true => Some(read_stdin().map_err(|error| {
                CommandError::io("cannot start a thread to read standard input", error)
            })?),
            false => None,
        };
        let key = input.as_ref().and_then(|_| leave_key());
        if key.is_some() {
            screen.say("attached; Ctrl-] leaves");
        }
        Ok(Client {
            screen,
            input,
            output: Output::new().map_err(cannot_write)?,
            key,
            form,
        })
    }

    /// Carries everything over one connection, and keeps in `params` where to go on.
    async fn converse(
        &mut self,
        stream: StreamConnection,
        signals: &mut Signals,
        params: &mut SessionAttachParams,
    ) -> AttachEnd {
        let StreamConnection { mut read, write } = stream;
        let (to_session, typed_on) = mpsc::channel(1);
        let mut to_session = Some(to_session);
        let mut sender = Some(Sender::new(write, Some(typed_on)));
        let mut typed: Option<Vec<u8>> = None;
        let mut pending: VecDeque<(Stream, Vec<u8>)> = VecDeque::new();
        let mut last_interrupt: Option<Instant> = None;
        let mut leaving: Option<Instant> = None;
        let mut told = false;
        loop {
            let deadline = leaving.unwrap_or_else(Instant::now);
            let room = to_session.clone();
            let room = async move {
                match room {
                    Some(to_session) => to_session.reserve_owned().await.ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Cancel-safe: a frame is taken from the reader whole or not at all.
                frame = read.next_frame(), if pending.is_empty() => match frame {
                    Ok(Some(Frame::Data { stream, bytes })) => {
                        let before = advance(params, stream, bytes.len() as u64);
                        pending.push_back(match self.form {
                            Form::Bytes => (stream, bytes),
                            Form::Objects => (Stream::Stdout, object(stream, before, bytes)),
                        });
                    }
                    Ok(Some(Frame::Control(Control::Offset { stream, offset }))) => {
                        *place(params, stream) = Some(LogPlace::Offset(offset));
                    }
                    Ok(Some(Frame::Control(Control::InputRefused { error }))) => {
                        if !std::mem::replace(&mut told, true) {
                            let text = format!("what is typed does not reach the session: {error}");
                            self.screen.say(text);
                        }
                    }
                    Ok(Some(Frame::Control(control))) if control.is_last() => {
                        return last_word(control);
                    }
                    Ok(Some(Frame::Control(_) | Frame::End { .. })) => {}
                    Ok(None) | Err(_) if leaving.is_some() => return AttachEnd::Left,
                    Ok(None) | Err(_) => return AttachEnd::Cut,
                },
                // Cancel-safe: a place is taken or not; the bytes move once it is.
                taken = self.output.put(&mut pending), if !pending.is_empty() => {
                    if let Err(error) = taken {
                        return AttachEnd::Failed(error);
                    }
                }
                // Cancel-safe: a chunk stays in its channel until it is returned.
                chunk = next_chunk(&mut self.input), if typed.is_none() && leaving.is_none() => {
                    match chunk {
                        Some(chunk) if self.key.is_some() && chunk.contains(&LEAVE) => {
                            // What stands before it on its line was never finished.
                            leaving = Some(Instant::now() + FAREWELL);
                        }
                        Some(chunk) => typed = Some(chunk),
                        None => to_session = None,
                    }
                }
                // Cancel-safe: it reserves a place or does not.
                place = room, if typed.is_some() => {
                    let chunk = typed.take();
                    if let Some((place, chunk)) = place.zip(chunk) {
                        drop(place.send(chunk));
                    }
                }
                // Cancel-safe: a signal that is not returned stays with the stream of signals.
                signal = signals.next() => {
                    let now = Instant::now();
                    let again = last_interrupt.is_some_and(|last| now - last < TWICE);
                    match (signal, &sender) {
                        (Signal::INT | Signal::QUIT, Some(sender)) if !again => {
                            last_interrupt = Some(now);
                            sender.signal(signal);
                        }
                        // Its window was closed, or it was told to go: the session is left.
                        _ => return AttachEnd::Interrupted(signal),
                    }
                }
                // Cancel-safe: it only waits.
                () = sleep_until(deadline), if leaving.is_some() && sender.is_none() => {
                    return AttachEnd::Left;
                }
            }
            if leaving.is_some() {
                // That is how the daemon hears of it.
                sender = None;
            }
        }
    }

    /// Has the last of the output written, and with objects how it all ended.
    async fn finish(
        mut self,
        signals: &mut Signals,
        end: &AttachEnd,
        params: &SessionAttachParams,
    ) -> Result<(), CommandError> {
        if self.form == Form::Objects
            && let Some(last) = end.object(params)
        {
            self.output
                .put(&mut VecDeque::from([(Stream::Stdout, last)]))
                .await?;
        }
        match self.output.finish(signals).await {
            OutputEnd::Written => Ok(()),
            OutputEnd::Failed(error) => Err(error),
            OutputEnd::Interrupted(signal) => Err(CommandError::interrupted(signal)),
        }
    }
}

/// The terminal hands out a line that ends with [`LEAVE`] at once. It stays a terminal that edits lines: the
/// session has none.
fn leave_key() -> Option<TerminalSettings> {
    TerminalSettings::set(|settings| settings.special_codes[SpecialCodeIndex::VEOL2] = LEAVE)
}

fn last_word(control: Control) -> AttachEnd {
    match control {
        Control::Exit { exit_code } => AttachEnd::Exited(exit_code),
        Control::Detached => AttachEnd::Left,
        Control::Lost { error } | Control::Refused { error } | Control::Error { error, .. } => {
            AttachEnd::Lost(error)
        }
        other => AttachEnd::Lost(format!("it ended with {other:?}")),
    }
}

fn place(params: &mut SessionAttachParams, stream: Stream) -> &mut Option<LogPlace> {
    match stream {
        Stream::Stderr => &mut params.stderr,
        Stream::Stdout | Stream::Stdin => &mut params.stdout,
    }
}

/// Counts what came, and returns how many bytes of the log are before it.
fn advance(params: &mut SessionAttachParams, stream: Stream, bytes: u64) -> u64 {
    let place = place(params, stream);
    let Some(LogPlace::Offset(before)) = *place else {
        return 0;
    };
    *place = Some(LogPlace::Offset(before + bytes));
    before
}

/// How to take it up where this ended.
fn again(params: &SessionAttachParams) -> String {
    match (params.stdout, params.stderr) {
        (Some(LogPlace::Offset(out)), Some(LogPlace::Offset(err))) => format!(
            "; take it up: banger vm session attach {} {} --stdout-offset {out} --stderr-offset {err}",
            params.vm, params.session
        ),
        _ => String::new(),
    }
}

fn lost(params: &SessionAttachParams, reason: &str) -> CommandError {
    CommandError::new("lost the session; what became of it is unknown here")
        .because(reason)
        .hint(format!(
            "see how it is: banger vm session show {} {}",
            params.vm, params.session
        ))
}

fn cannot_write(error: io::Error) -> CommandError {
    CommandError::io(
        "cannot start a thread to write what the session says",
        error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_log_is_an_object_that_says_where_it_belongs() {
        let text = object(Stream::Stderr, 7, b"a\n".to_vec());
        let object: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let expected = serde_json::json!({ "stream": "stderr", "offset": 7, "data": "a\n" });
        assert_eq!(object, expected);
        assert!(text.ends_with(b"}\n"));
    }

    #[test]
    fn a_place_moves_on_only_from_where_it_is_known() {
        let mut params = SessionAttachParams {
            vm: "box".to_owned(),
            session: "web".to_owned(),
            holder: "me".to_owned(),
            stdout: Some(LogPlace::Offset(5)),
            stderr: Some(LogPlace::LastLines(3)),
        };
        advance(&mut params, Stream::Stdout, 4);
        advance(&mut params, Stream::Stderr, 4);
        assert_eq!(params.stdout, Some(LogPlace::Offset(9)));
        assert_eq!(params.stderr, Some(LogPlace::LastLines(3)));
    }
}
