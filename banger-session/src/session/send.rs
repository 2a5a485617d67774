//! Writing to a session's stdin without holding the attach.

use std::time::Duration;

use super::dir::SessionDir;
use super::refusal::Refusal;
use super::shell::{FIRST, enter, open_stdin};

/// Longest write to a pipe that is never mixed with another's or cut, in
/// bytes (`PIPE_BUF`, pipe(7)).
pub const PIPE_BUF_BYTES: usize = 4096;

/// Writes the script that delivers `payload_bytes` bytes, read from its
/// standard input, to the session's stdin.
///
/// All of it is taken into a temporary file first: a connection that ends
/// half way delivers nothing ([`Refusal::Truncated`]). Senders take turns, so
/// that payloads of any size arrive whole and one after the other; up to
/// [`PIPE_BUF_BYTES`] that also holds against an attach. Waiting for another
/// sender and for the command to read takes at most `patience` each, in whole
/// seconds, at least one.
///
/// Refuses with [`Refusal::NoSession`], [`Refusal::NotRunning`],
/// [`Refusal::NotAPipe`], [`Refusal::StdinClosed`], [`Refusal::NoReader`],
/// [`Refusal::TimedOut`], [`Refusal::Truncated`] and
/// [`Refusal::CannotWrite`].
pub fn send_command(dir: &SessionDir, payload_bytes: u64, patience: Duration) -> Vec<u8> {
    let seconds = patience.as_secs().max(1);
    format!(
        r#"{FIRST}{enter}t=$(mktemp ./.send.XXXXXX 2>/dev/null) || exit {cannot_write}
trap 'trap "" HUP INT TERM; rm -f "$t"' EXIT
head -c {payload_bytes} >"$t" 2>/dev/null || exit {cannot_write}
[ "$(wc -c <"$t")" -eq {payload_bytes} ] || exit {truncated}
exec 9>send.lock
flock -w {seconds} 9 || exit {timed_out}
{open}timeout {seconds} cat "$t" >&7 2>/dev/null
case $? in
0) exit 0;;
124) exit {timed_out};;
*) exit {no_reader};;
esac
"#,
        enter = enter(dir),
        open = open_stdin(),
        cannot_write = Refusal::CannotWrite.status(),
        truncated = Refusal::Truncated.status(),
        timed_out = Refusal::TimedOut.status(),
        no_reader = Refusal::NoReader.status(),
    )
    .into_bytes()
}
