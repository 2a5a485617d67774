//! Reading a session's logs and writing to its stdin for as long as a client
//! stays.

use super::dir::{SessionDir, file};
use super::refusal::Refusal;
use super::send::PIPE_BUF_BYTES;
use super::shell::{FIRST, LIVES, SAME_BOOT, enter, open_stdin};
use crate::mux::Stream;

/// Furthest back that [`log_offset_command`] looks for a line, in bytes.
const LINE_SEARCH_BYTES: u32 = 1 << 20;

/// Writes the script that passes its standard input on to the session's
/// stdin until either ends.
///
/// In pieces of at most [`PIPE_BUF_BYTES`], so that none is mixed with a
/// small `send`. The end of its input is not the end of the session's stdin;
/// that is [`close_stdin_script`](super::close_stdin_script), which ends this
/// one too, by TERM. Refuses as [`send_command`](super::send_command) does.
pub fn attach_input_command(dir: &SessionDir) -> Vec<u8> {
    // Noted before the last look: whoever closes the stdin meanwhile is seen
    // here, or sees this.
    format!(
        r#"{FIRST}{enter}{open}exec >&7 7>&-
{{ echo "$$" >{pid}; }} 2>/dev/null
[ -s {keepalive} ] || exit {stdin_closed}
exec dd bs={PIPE_BUF_BYTES} 2>/dev/null
"#,
        enter = enter(dir),
        open = open_stdin(),
        pid = file::STDIN_ATTACH_PID,
        keepalive = file::STDIN_KEEPALIVE_PID,
        stdin_closed = Refusal::StdinClosed.status(),
    )
    .into_bytes()
}

/// Writes the script that prints `stream`'s log from byte `offset` on and
/// follows it to the session's end.
///
/// What it prints are exactly the log's bytes: whoever counts them can go on
/// at the right place on another connection. After the monitor's end it
/// notices within a second that nothing more will come. For [`Stream::Stdin`],
/// which has no log, and for an unknown session it refuses with
/// [`Refusal::NoSession`].
pub fn attach_tail_command(dir: &SessionDir, stream: Stream, offset: u64) -> Vec<u8> {
    let Some(log) = log_name(stream) else {
        return no_log();
    };
    // tail counts from 1.
    let from = offset.saturating_add(1);
    format!(
        r#"{FIRST}{LIVES}{enter}[ -e {log} ] || exit {no_session}
{SAME_BOOT}first monitor_start_time; t=$v
first monitor_pid
if [ "$here" = same ] && lives "$v" "$t"; then
  exec tail -c +{from} -f -s 0.2 --pid="$v" {log}
fi
exec tail -c +{from} {log}
"#,
        enter = enter(dir),
        no_session = Refusal::NoSession.status(),
    )
    .into_bytes()
}

/// Wraps `script` so that it is also ended when its standard input ends.
///
/// For [`attach_tail_command`] on a log that is silent: nothing else would
/// tell it that nobody listens any more, because sshd gives a command sockets
/// and `tail` watches only pipes. `script` itself reads nothing. Ends with the
/// status of `script`, or with 143 when it was the input that ended.
pub fn until_input_ends(script: &[u8]) -> Vec<u8> {
    let mut wrapped = b"exec 3<&0 </dev/null\n(\n".to_vec();
    wrapped.extend_from_slice(script);
    wrapped.extend_from_slice(
        br#") 3<&- &
t=$!
# Nothing may stay behind with the input: sshd's is one socket with the output,
# which would then never end.
{ trap 'kill "$!"; exit' TERM; cat <&3 & wait "$!"; kill "$t"; } >/dev/null 2>&1 &
w=$!
exec 3<&-
wait "$t" 2>/dev/null; r=$?
kill "$w" 2>/dev/null
exit "$r"
"#,
    );
    wrapped
}

/// Writes the script that prints the last `lines` lines of `stream`'s log,
/// or all of it.
///
/// Refuses with [`Refusal::NoSession`] as [`attach_tail_command`] does.
pub fn log_tail_command(dir: &SessionDir, stream: Stream, lines: Option<u64>) -> Vec<u8> {
    let Some(log) = log_name(stream) else {
        return no_log();
    };
    let print = match lines {
        Some(lines) => format!("tail -n {lines} {log}"),
        None => format!("cat {log}"),
    };
    format!(
        "{enter}[ -e {log} ] || exit {no_session}\nexec {print}\n",
        enter = enter(dir),
        no_session = Refusal::NoSession.status(),
    )
    .into_bytes()
}

/// Writes the script that prints at which byte the last `lines` lines of
/// `stream`'s log begin, for [`attach_tail_command`] to follow from there.
///
/// It looks back 1 MiB at most; longer lines are begun in their middle.
pub fn log_offset_command(dir: &SessionDir, stream: Stream, lines: u64) -> Vec<u8> {
    let Some(log) = log_name(stream) else {
        return no_log();
    };
    // The size is taken once: the log may grow between the lines.
    format!(
        r#"{enter}size=$(stat -c %s {log} 2>/dev/null) || exit {no_session}
w=$size
[ "$w" -le {LINE_SEARCH_BYTES} ] || w={LINE_SEARCH_BYTES}
n=$(tail -c "+$((size - w + 1))" {log} | head -c "$w" | tail -n {lines} | wc -c)
echo "$((size - n))"
"#,
        enter = enter(dir),
        no_session = Refusal::NoSession.status(),
    )
    .into_bytes()
}

/// Reads what [`log_offset_command`] prints. `None` for anything else.
pub fn parse_log_offset(output: &[u8]) -> Option<u64> {
    let digits = output.strip_suffix(b"\n").unwrap_or(output);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn log_name(stream: Stream) -> Option<&'static str> {
    match stream {
        Stream::Stdin => None,
        Stream::Stdout => Some(file::STDOUT_LOG),
        Stream::Stderr => Some(file::STDERR_LOG),
    }
}

fn no_log() -> Vec<u8> {
    format!("exit {}\n", Refusal::NoSession.status()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_digits_and_nothing_else() {
        assert_eq!(parse_log_offset(b"1048576\n"), Some(1_048_576));
        for bad in [
            b"".as_slice(),
            b"\n",
            b"-1\n",
            b"+1",
            b"1\n2\n",
            b"99999999999999999999",
        ] {
            assert_eq!(parse_log_offset(bad), None, "{bad:?}");
        }
    }
}
