//! `banger vm session send`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use banger_daemon::protocol::{MAX_SEND_BYTES, SessionSend, SessionSendParams};
use clap::Args;

use super::SessionName;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::read_stdin;
use crate::screen::Screen;

#[derive(Args, Debug)]
#[command(after_help = "\
Without --message standard input is sent, line by line as lines come, to its end. What is sent
in one go arrives whole, beside other senders: a message, or as many whole lines as there are,
up to 640 KiB. (Beside somebody who is attached and types, up to 4096 bytes do.) It has arrived
when send ends with 0; what the command does not read within 10 s is told.")]
pub(crate) struct SendArguments {
    #[command(flatten)]
    session: SessionName,

    /// Send this text, and a newline after it
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    message: Option<OsString>,

    /// Send no newline after the message
    #[arg(long, requires = "message")]
    no_newline: bool,

    /// End the session's standard input afterwards, for good
    #[arg(long)]
    eof: bool,

    /// Print what was delivered as an object
    #[arg(long)]
    json: bool,
}

/// Delivers it, and says so only by its status.
pub(crate) async fn send(
    arguments: &SendArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut delivery = Delivery {
        daemon: Daemon::open(screen).await?,
        session: &arguments.session,
        bytes: 0,
    };
    match &arguments.message {
        Some(message) => {
            let mut data = message.as_bytes().to_vec();
            if !arguments.no_newline {
                data.push(b'\n');
            }
            delivery.send(data, arguments.eof).await?;
        }
        None => delivery.send_stdin(arguments.eof).await?,
    }
    if arguments.json {
        let (bytes, eof) = (delivery.bytes, arguments.eof);
        screen.json(&serde_json::json!({ "bytes": bytes, "eof": eof }))?;
    }
    Ok(ExitStatus::SUCCESS)
}

struct Delivery<'a> {
    daemon: Daemon<'a>,
    session: &'a SessionName,
    /// How many have arrived.
    bytes: usize,
}

impl Delivery<'_> {
    async fn send(&mut self, data: Vec<u8>, eof: bool) -> Result<(), CommandError> {
        let SessionName { vm, session } = self.session;
        let (vm, session, length) = (vm.clone(), session.clone(), data.len());
        let data = data.into();
        let params = SessionSendParams {
            vm,
            session,
            data,
            eof,
        };
        let sent = self.daemon.call::<SessionSend>(params).await;
        let before = self.bytes;
        sent.map_err(|error| match before {
            0 => error,
            before => error.hint(format!("the first {before} bytes of the input had arrived")),
        })?;
        self.bytes += length;
        Ok(())
    }

    async fn send_stdin(&mut self, eof: bool) -> Result<(), CommandError> {
        let mut chunks = read_stdin().map_err(|error| {
            CommandError::io("cannot start a thread to read standard input", error)
        })?;
        let mut waiting = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            waiting.extend(chunk);
            while let Some(piece) = whole_lines(&mut waiting) {
                self.send(piece, false).await?;
            }
        }
        // An empty input is sent too: whether the session can be written to is to be known.
        if !waiting.is_empty() || eof || self.bytes == 0 {
            self.send(waiting, eof).await?;
        }
        Ok(())
    }
}

/// Takes as many whole lines as may be sent at once; of a line that is longer, as much as may be.
fn whole_lines(waiting: &mut Vec<u8>) -> Option<Vec<u8>> {
    let most = &waiting[..waiting.len().min(MAX_SEND_BYTES)];
    let end = match most.iter().rposition(|&byte| byte == b'\n') {
        Some(newline) => newline + 1,
        None if waiting.len() > MAX_SEND_BYTES => MAX_SEND_BYTES,
        None => return None,
    };
    let rest = waiting.split_off(end);
    Some(std::mem::replace(waiting, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &[u8]) -> (Option<Vec<u8>>, Vec<u8>) {
        let mut waiting = text.to_vec();
        let taken = whole_lines(&mut waiting);
        (taken, waiting)
    }

    #[test]
    fn what_is_sent_at_once_ends_with_a_line() {
        assert_eq!(taken(b"a\nb\nc"), (Some(b"a\nb\n".to_vec()), b"c".to_vec()));
        assert_eq!(taken(b"c"), (None, b"c".to_vec()));
        assert_eq!(taken(b""), (None, Vec::new()));
    }

    #[test]
    fn a_line_that_is_too_long_is_sent_in_parts() {
        let long = vec![b'x'; MAX_SEND_BYTES + 5];
        let (first, rest) = taken(&long);
        assert_eq!((first.unwrap().len(), rest.len()), (MAX_SEND_BYTES, 5));
    }
}
