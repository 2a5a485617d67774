//! Asking the guest for the whole state of a session in one round trip.

use super::dir::SessionDir;
use super::shell::{FIRST, LIVES, SAME_BOOT, quoted};

/// First line of an answer; the number is the version of the format.
pub(super) const HEADER: &str = "banger-session 1";

/// Last line of an answer: what has none was cut off.
pub(super) const FOOTER: &str = "end";

/// Writes the script whose output [`parse_state`](super::parse_state) reads.
///
/// It changes nothing and always ends with 0; a session that is not there is
/// part of the answer. One fork, for the sizes of the logs; a second of
/// waiting for a session that has no monitor yet.
pub fn inspect_script(dir: &SessionDir) -> Vec<u8> {
    // Order matters here: the monitor is looked at before the files it
    // writes last, so that "no monitor and still running" is never the trace
    // of a session that ended in between.
    format!(
        r#"{FIRST}{LIVES}echo '{HEADER}'
# Without a boot id it is being made this moment, or was not made to the end.
if cd {path} 2>/dev/null && [ -s boot_id ]; then
# One that is being launched this moment gets a moment to show its monitor.
first status
if [ "$v" = starting ]; then first monitor_pid; [ -n "$v" ] || sleep 1; fi
{SAME_BOOT}printf 'boot %s\n' "$here"
first monitor_start_time; t=$v
first monitor_pid; printf 'monitor_pid %s\n' "$v"
if [ "$here" = same ] && lives "$v" "$t"; then echo 'monitor alive'; else echo 'monitor gone'; fi
first start_time; t=$v; printf 'start_time %s\n' "$v"
first pid; printf 'pid %s\n' "$v"
if [ "$here" = same ] && lives "$v" "$t"; then echo 'command alive'; else echo 'command gone'; fi
if [ "$here" = same ] && [ -n "$v" ] && kill -0 "-$v" 2>/dev/null; then echo 'group alive'; else echo 'group gone'; fi
for f in status exit_code error boot_id; do
  first "$f"; printf '%s %s\n' "$f" "$v"
done
if [ -p stdin.pipe ]; then
  if [ -s stdin_keepalive.pid ]; then echo 'stdin open'; else echo 'stdin closed'; fi
fi
stat -c '%n %s' stdout.log stderr.log 2>/dev/null
else
echo 'folder missing'
fi
echo '{FOOTER}'
"#,
        path = quoted(&dir.path()),
    )
    .into_bytes()
}
