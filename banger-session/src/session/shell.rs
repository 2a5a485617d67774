//! Pieces that several of the scripts are put together from.

use super::dir::SessionDir;
use super::refusal::Refusal;
use crate::command::{CommandError, quote_part};

/// `lives PID START_TIME`: whether that very process runs, not one that was
/// given its number later, and not its zombie. No fork.
///
/// A program may name itself `x) R 1`, over several lines even: the fields
/// are counted from the last parenthesis.
pub(super) const LIVES: &str = r#"lives() {
  [ -n "$1" ] && [ -n "$2" ] || return 1
  s='' l=''
  { while IFS= read -r l || [ -n "$l" ]; do s="$s $l"; done <"/proc/$1/stat"; } 2>/dev/null || return 1
  # shellcheck disable=SC2086
  set -- "$2" ${s##*) }
  [ "$2" != Z ] && [ "${21}" = "$1" ]
}
"#;

/// `first FILE`: sets `v` to the first line, empty if there is none. No fork.
pub(super) const FIRST: &str = r#"first() {
  v=
  { IFS= read -r v <"$1"; } 2>/dev/null || :
}
"#;

/// Sets `here` to `same` if the guest was not rebooted since the session
/// began. Needs [`FIRST`] and the session's folder as working folder.
pub(super) const SAME_BOOT: &str = r#"first /proc/sys/kernel/random/boot_id; boot_now=$v
first boot_id; boot_then=$v
[ -n "$boot_then" ] && [ "$boot_then" = "$boot_now" ] && here=same || here=other
"#;

/// Opens the FIFO for writing as 7 without waiting for a reader: for a moment
/// this shell is one itself. Refuses what is not, or no longer, a FIFO that
/// takes input. Needs [`FIRST`] and the session's folder as working folder.
pub(super) fn open_stdin() -> String {
    format!(
        r#"first status; [ "$v" = running ] || exit {not_running}
[ -p stdin.pipe ] || exit {not_a_pipe}
[ -s stdin_keepalive.pid ] || exit {stdin_closed}
exec 8<>stdin.pipe
exec 7>stdin.pipe 8>&-
# The session may have ended meanwhile, and the first line made a plain file.
[ -p /dev/fd/7 ] || {{ rm -f stdin.pipe; exit {not_running}; }}
"#,
        not_running = Refusal::NotRunning.status(),
        not_a_pipe = Refusal::NotAPipe.status(),
        stdin_closed = Refusal::StdinClosed.status(),
    )
}

/// The line that enters the session's folder or refuses.
pub(super) fn enter(dir: &SessionDir) -> String {
    format!(
        "cd {} 2>/dev/null || exit {}\n",
        quoted(&dir.path()),
        Refusal::NoSession.status()
    )
}

/// Quotes a path of a [`SessionDir`], which holds no NUL.
pub(super) fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', r"'\''"))
}

/// Appends a test that `name` is a command: a program in `PATH`, or, with a
/// slash, an executable file.
pub(super) fn push_is_command(name: &[u8], script: &mut Vec<u8>) -> Result<(), CommandError> {
    let part = || "a command's name".to_owned();
    if name.contains(&b'/') {
        script.extend_from_slice(b"[ -f ");
        quote_part(name, part, script)?;
        script.extend_from_slice(b" ] && [ -x ");
        quote_part(name, part, script)?;
        script.extend_from_slice(b" ]");
    } else {
        script.extend_from_slice(b"command -v -- ");
        quote_part(name, part, script)?;
        script.extend_from_slice(b" >/dev/null 2>&1");
    }
    Ok(())
}
