//! Starting a session.

use super::dir::SessionDir;
use super::inspect::inspect_script;
use super::refusal::Refusal;
use super::shell::{LIVES, push_is_command, quoted};
use super::state::{Stage, StdinMode, format_step_error};
use crate::command::{CommandError, env_lines, program_name, push_exec, push_folder, quote_part};

/// A session to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Its folder in the guest.
    pub dir: SessionDir,
    /// The program and its arguments, byte for byte.
    pub argv: Vec<Vec<u8>>,
    /// Variables to set, a later one of the same name winning.
    pub env: Vec<(String, Vec<u8>)>,
    /// Folder to run in; relative to root's home.
    pub cwd: Vec<u8>,
    /// What the command reads.
    pub stdin: StdinMode,
}

/// Writes a session's `run.sh`: the monitor, and the command under it.
///
/// The file has no limit of size; it travels on the standard input of
/// [`launch_command`].
///
/// # Errors
///
/// [`CommandError`] for a command or an environment that no shell can
/// express.
pub fn script(launch: &Launch) -> Result<Vec<u8>, CommandError> {
    let program = program_name(&launch.argv)?;
    let mut script = Vec::with_capacity(4096);
    script.extend_from_slice(
        b"#!/bin/sh\n# A banger session: the monitor, and with `command` what it runs.\nd=",
    );
    script.extend_from_slice(quoted(&launch.dir.path()).as_bytes());
    script.push(b'\n');
    script.extend_from_slice(PRELUDE.as_bytes());

    script.extend_from_slice(b"environment() {\n:\n");
    script.extend_from_slice(&env_lines(&launch.env)?);
    script.extend_from_slice(b"}\nif [ \"$1\" = command ]; then\n");
    script.extend_from_slice(COMMAND_BEGIN.as_bytes());
    script.extend_from_slice(b"cd ");
    push_folder(&launch.cwd, &mut script)?;
    let text = lossy(&launch.cwd);
    let cwd_failed = format_step_error(
        Stage::PreflightCwd,
        &format!("cannot enter the working folder {text:?}"),
    );
    push_or_fail(&cwd_failed, &mut script)?;
    script.extend_from_slice(b"( environment; ");
    push_is_command(program, &mut script)?;
    script.extend_from_slice(b" )");
    let text = lossy(program);
    let command_failed =
        format_step_error(Stage::PreflightCommand, &format!("no command {text:?}"));
    push_or_fail(&command_failed, &mut script)?;
    script.extend_from_slice(COMMAND_READY.as_bytes());
    push_exec(&launch.argv, &launch.env, &mut script)?;
    script.extend_from_slice(b" 3>&-\nfi\n");

    script.extend_from_slice(MONITOR_BEGIN.as_bytes());
    let run = match launch.stdin {
        StdinMode::Closed => MONITOR_RUN_CLOSED.to_owned(),
        StdinMode::Pipe => format!("{LIVES}{MONITOR_RUN_PIPE}"),
    };
    script.extend_from_slice(run.as_bytes());
    script.extend_from_slice(MONITOR_END.as_bytes());
    Ok(script)
}

/// Writes the script that installs and starts a `run.sh` of exactly
/// `script_bytes` bytes, read from its standard input, and then answers as
/// [`inspect_script`] does.
///
/// It returns when the command is about to run, when it failed to, or when it
/// has already ended. Refuses with [`Refusal::Exists`],
/// [`Refusal::CannotWrite`] and [`Refusal::Truncated`]; nothing is left
/// behind then.
pub fn launch_command(dir: &SessionDir, script_bytes: usize) -> Vec<u8> {
    let mut command = format!(
        r#"mkdir -p {root} 2>/dev/null || exit {cannot_write}
d={path}
mkdir -m 700 "$d" 2>/dev/null || {{ [ -d "$d" ] && exit {exists}; exit {cannot_write}; }}
read -r boot </proc/sys/kernel/random/boot_id
if ! {{ head -c {script_bytes} >"$d/run.sh" && echo "$boot" >"$d/boot_id" && echo starting >"$d/status"; }} 2>/dev/null; then
  rm -rf "$d"; exit {cannot_write}
fi
if [ "$(wc -c <"$d/run.sh")" -ne {script_bytes} ]; then
  rm -rf "$d"; exit {truncated}
fi
# Not `&`: that would start everything with INT and QUIT ignored. Returns when
# the command says so, or at the monitor's end.
setsid -f /bin/sh "$d/run.sh" </dev/null 2>/dev/null | {{ read -r _ || :; }}
"#,
        root = quoted(dir.root()),
        path = quoted(&dir.path()),
        cannot_write = Refusal::CannotWrite.status(),
        exists = Refusal::Exists.status(),
        truncated = Refusal::Truncated.status(),
    )
    .into_bytes();
    command.extend_from_slice(&inspect_script(dir));
    command
}

/// `put FILE TEXT` replaces a file at once, so that nobody reads half of it.
/// `begun` sets `start` to this shell's own start time: a redirection of a
/// builtin is opened by the shell itself, so /proc/self is it.
const PRELUDE: &str = r#"put() { { printf '%s\n' "$2" >"$d/.$1" && mv -f "$d/.$1" "$d/$1"; } 2>/dev/null; }
note() { { printf '%s\n' "$2" >"$d/$1"; } 2>/dev/null; }
begun() {
  IFS= read -r s </proc/self/stat
  # shellcheck disable=SC2086
  set -- ${s##*) }
  start=${20}
}
fail() { note error "$1"; put status failed; exit 1; }
"#;

/// Identity first: from here on a signaller finds the process.
const COMMAND_BEGIN: &str = r#"begun
{ note start_time "$start" && note pid "$$"; } || fail 'launch: cannot write the session'\''s files'
"#;

/// Order matters here: `mv` must not run in the command's own environment,
/// and whoever waits on 3 must find the status written. Whoever waited may be
/// gone, which must not end the command.
const COMMAND_READY: &str = r#"put status running || fail 'launch: cannot write the session'\''s files'
environment
trap '' PIPE
{ echo >&3; } 2>/dev/null
trap - PIPE
"#;

/// 3 is what `launch_command` waits on.
const MONITOR_BEGIN: &str = r#"exec 3>&1 >/dev/null
begun
{ note monitor_start_time "$start" && note monitor_pid "$$"; } || fail 'launch: cannot write the session'\''s files'
"#;

/// In a subshell, whose redirections are its own: dash would write its
/// "Killed" to the command's log.
const MONITOR_RUN_CLOSED: &str = r#"( exec setsid /bin/sh "$d/run.sh" command </dev/null >>"$d/stdout.log" 2>>"$d/stderr.log" )
r=$?
"#;

/// Each end of the FIFO is opened by the process that keeps it, and waits for
/// the other: the monitor holds neither, so that a sender learns at once when
/// nobody reads. At the end the keepalive's number may be another's, and the
/// folder may be gone: it is known by its start time.
const MONITOR_RUN_PIPE: &str = r#"mkfifo -m 600 "$d/stdin.pipe" || fail 'launch: cannot make the stdin pipe'
sleep 2147483647 3>&- >"$d/stdin.pipe" &
keep=$!
{ IFS= read -r s <"/proc/$keep/stat"; } 2>/dev/null
# shellcheck disable=SC2086
set -- ${s##*) }
keep_start=${20}
note stdin_keepalive.pid "$keep"
( exec setsid /bin/sh "$d/run.sh" command <"$d/stdin.pipe" >>"$d/stdout.log" 2>>"$d/stderr.log" )
r=$?
if lives "$keep" "$keep_start"; then kill "$keep"; fi
rm -f "$d/stdin.pipe" "$d/stdin_keepalive.pid"
"#;

/// A full disk delays the last words instead of losing them.
const MONITOR_END: &str = r#"[ ! -e "$d/error" ] || exit 1
[ -s "$d/pid" ] || fail 'launch: the command could not be started'
until note exit_code "$r" && put status exited; do
  [ -d "$d" ] || exit 1
  sleep 1
done
"#;

fn push_or_fail(message: &str, script: &mut Vec<u8>) -> Result<(), CommandError> {
    script.extend_from_slice(b" 2>/dev/null || fail ");
    quote_part(message.as_bytes(), || "an error's text".to_owned(), script)?;
    script.push(b'\n');
    Ok(())
}

/// For messages only.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
