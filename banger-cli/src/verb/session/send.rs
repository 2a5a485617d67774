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
}

/// Delivers it, and says so only by its status.
pub(crate) async fn send(
    arguments: &SendArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let SessionName { vm, session } = &arguments.session;
    let params = |data: Vec<u8>, eof: bool| SessionSendParams {
        vm: vm.clone(),
        session: session.clone(),
        data: data.into(),
        eof,
    };
    if let Some(message) = &arguments.message {
        let mut data = message.as_bytes().to_vec();
        if !arguments.no_newline {
            data.push(b'\n');
        }
        let params = params(data, arguments.eof);
        daemon.call::<SessionSend>(params).await?;
        return Ok(ExitStatus::SUCCESS);
    }
    let mut chunks = read_stdin()
        .map_err(|error| CommandError::io("cannot start a thread to read standard input", error))?;
    let mut waiting = Vec::new();
    let mut sent_any = false;
    while let Some(chunk) = chunks.recv().await {
        waiting.extend(chunk);
        while let Some(piece) = whole_lines(&mut waiting) {
            daemon.call::<SessionSend>(params(piece, false)).await?;
            sent_any = true;
        }
    }
    // An empty input is sent too: whether the session can be written to is to be known.
    if !waiting.is_empty() || arguments.eof || !sent_any {
        let params = params(waiting, arguments.eof);
        daemon.call::<SessionSend>(params).await?;
    }
    Ok(ExitStatus::SUCCESS)
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
