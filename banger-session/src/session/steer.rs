//! Signalling, closing and removing a session.

use super::dir::SessionDir;
use super::refusal::Refusal;
use super::shell::{FIRST, LIVES, SAME_BOOT, enter};
use crate::signal::Signal;

/// Writes the script that sends `signal` to the session's whole process
/// group, the leader and all children that did not leave it.
///
/// Also after the leader has ended, as long as one of the group is left.
/// Refuses with [`Refusal::NoSession`] and [`Refusal::NotRunning`]; a session
/// of a former boot is not running, whatever has its numbers now.
pub fn signal_script(dir: &SessionDir, signal: Signal) -> Vec<u8> {
    format!(
        r#"{FIRST}{LIVES}{enter}{SAME_BOOT}[ "$here" = same ] || exit {not_running}
first start_time; t=$v
first pid; p=$v
case "$p" in ''|0|1|*[!0-9]*) exit {not_running};; esac
# A number in use as a process group is not given to a new process: without a
# leader the group is the session's. With another leader it is not.
if ! lives "$p" "$t" && [ -d "/proc/$p" ]; then
  first "/proc/$p/stat"
  case "$v" in *') Z '*) ;; *) exit {not_running};; esac
fi
kill -{signal} "-$p" 2>/dev/null || exit {not_running}
"#,
        enter = enter(dir),
        not_running = Refusal::NotRunning.status(),
    )
    .into_bytes()
}

/// Writes the script that ends the session's stdin: the command reads what
/// was sent and then the end of file.
///
/// Also for an attach that holds the pipe: what it has not passed on by now is
/// not delivered. Refuses with [`Refusal::NoSession`], [`Refusal::NotRunning`]
/// and [`Refusal::NotAPipe`]; a second call does nothing.
pub fn close_stdin_script(dir: &SessionDir) -> Vec<u8> {
    format!(
        r#"{FIRST}{enter}first status; [ "$v" = running ] || exit {not_running}
[ -p stdin.pipe ] || exit {not_a_pipe}
first stdin_keepalive.pid; k=$v
# No later sender may begin, and only what holds the pipe is ended.
rm -f stdin_keepalive.pid || exit {cannot_write}
first stdin_attach.pid
for p in "$k" "$v"; do
  # shellcheck disable=SC3013
  if [ -n "$p" ] && [ "/proc/$p/fd/1" -ef stdin.pipe ]; then kill "$p"; fi
done
"#,
        enter = enter(dir),
        not_running = Refusal::NotRunning.status(),
        not_a_pipe = Refusal::NotAPipe.status(),
        cannot_write = Refusal::CannotWrite.status(),
    )
    .into_bytes()
}

/// Writes the script that removes the session's folder, logs included.
///
/// Refuses with [`Refusal::StillRunning`] while its monitor or its command
/// lives; one that is already gone is removed.
pub fn remove_script(dir: &SessionDir) -> Vec<u8> {
    format!(
        r#"{FIRST}{LIVES}cd {path} 2>/dev/null || exit 0
{SAME_BOOT}if [ "$here" = same ]; then
  for f in monitor_ ''; do
    first "$f"start_time; t=$v
    first "$f"pid
    if lives "$v" "$t"; then exit {still_running}; fi
  done
fi
# What a killed monitor left behind.
first stdin_keepalive.pid
# shellcheck disable=SC3013
if [ -n "$v" ] && [ "/proc/$v/fd/1" -ef stdin.pipe ]; then kill "$v"; fi
cd / && rm -rf {path} || exit {cannot_write}
"#,
        path = super::shell::quoted(&dir.path()),
        still_running = Refusal::StillRunning.status(),
        cannot_write = Refusal::CannotWrite.status(),
    )
    .into_bytes()
}
