//! Setting a guest's clock by a short conversation.
//!
//! A guest takes whole seconds from its real-time clock when it boots, and
//! stands still while its host sleeps. [`script`] answers each line that it
//! reads with the guest's time: an empty line asks, [`set_line`] sets it
//! first. Whoever asks looks at its own clock before and after, and so knows
//! how far the guest's is off, to half the time that the answer took.

/// Longest answer, in bytes; a caller need not read on.
pub const MAX_ANSWER_BYTES: usize = 32;

/// The line that only asks for the time.
pub const ASK_LINE: &[u8] = b"\n";

/// Writes the guest's side of the conversation, for as long as its input
/// lasts. Ends with 1 if the clock cannot be set.
///
/// Needs bash, or a `date` that knows `%N`; and one that takes `-s @SECONDS`.
pub fn script() -> &'static [u8] {
    br#"while IFS= read -r t; do
  [ -z "$t" ] || date -s "@$t" >/dev/null 2>&1 || exit 1
  # shellcheck disable=SC3028
  t=$EPOCHREALTIME
  echo "${t:-$(date +%s.%6N)}"
done
"#
}

/// The line that sets the clock to this many microseconds after 1970, and
/// then asks.
pub fn set_line(micros: i64) -> Vec<u8> {
    let micros = micros.max(0);
    format!("{}.{:06}\n", micros / 1_000_000, micros % 1_000_000).into_bytes()
}

/// Reads an answer, without its newline: microseconds after 1970. `None` for
/// anything else.
pub fn parse_answer(line: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(line).ok()?;
    // Its locale may write a comma.
    let (seconds, fraction) = text.split_once(['.', ','])?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() != 6 {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let fraction: i64 = fraction.parse().ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_it_is_read() {
        for micros in [0, 1, 999_999, 1_700_000_000_000_042] {
            let line = set_line(micros);
            let line = line.strip_suffix(b"\n").unwrap();
            assert_eq!(parse_answer(line), Some(micros));
        }
        assert_eq!(parse_answer(b"3,000007"), Some(3_000_007));
        assert_eq!(set_line(-5), b"0.000000\n");
    }

    #[test]
    fn what_is_no_time_is_none() {
        for bad in [
            b"".as_slice(),
            b"3",
            b"3.%6N",
            b"3.1",
            b"-3.000000",
            b"3.+00000",
            b"3.000000\n",
            b"99999999999999999999.000000",
            b"9223372036854775807.000000",
            b"\xff.000000",
        ] {
            assert_eq!(parse_answer(bad), None, "{bad:?}");
        }
    }
}
