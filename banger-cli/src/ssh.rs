//! A guest's terminal: ssh(1) itself, with the configuration that the daemon keeps for it.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus as ProcessStatus, Stdio};

use banger_daemon::protocol::SshAnswer;
use banger_session::{Signal, env_lines, folder_from_home, shell_quote};

use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::guest_command::Signals;

/// Whether the guest gets a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// `ssh -tt`.
    Yes,
    /// The same, and every byte that is typed goes to the command: ssh takes none for a word to itself.
    ForCommand,
    /// `ssh -T`.
    No,
}

impl Terminal {
    /// One if both our input and our output are.
    pub(crate) fn as_ours() -> Self {
        match io::stdin().is_terminal() && io::stdout().is_terminal() {
            true => Terminal::Yes,
            false => Terminal::No,
        }
    }
}

/// Becomes ssh. Returns only if it cannot.
pub(crate) fn become_ssh(
    access: &SshAnswer,
    terminal: Terminal,
    line: Option<&OsStr>,
) -> CommandError {
    not_run(ssh(access, terminal, line).exec())
}

/// Runs ssh on our terminal and waits for it.
///
/// What is typed, Ctrl-C too, goes through the terminal to the guest; signals that were sent to us alone
/// go on to ssh.
pub(crate) async fn run_ssh(
    access: &SshAnswer,
    line: Option<&OsStr>,
    signals: &mut Signals,
) -> Result<ExitStatus, CommandError> {
    let terminal = match line {
        Some(_) => Terminal::ForCommand,
        None => Terminal::Yes,
    };
    let mut child = tokio::process::Command::from(ssh(access, terminal, line))
        .stdin(Stdio::inherit())
        .spawn()
        .map_err(not_run)?;
    loop {
        tokio::select! {
            // Cancel-safe: the child stays with its handle.
            ended = child.wait() => {
                let ended = ended
                    .map_err(|error| CommandError::io("cannot wait for ssh", error))?;
                return Ok(status(ended));
            }
            // Cancel-safe: a signal that is not returned stays with the stream of signals.
            signal = signals.next() => {
                // INT and QUIT came through the terminal, and so to ssh as well.
                if signal == Signal::TERM || signal == Signal::HUP {
                    forward(&child, signal);
                }
            }
        }
    }
}

/// The line that runs a command on a terminal in the guest: its arguments byte for byte, its status 128+n
/// after a signal.
///
/// # Errors
///
/// A NUL, or a variable's name that no shell can export.
pub(crate) fn command_line<'a>(
    words: impl Iterator<Item = &'a [u8]>,
    env: &[(String, Vec<u8>)],
    folder: Option<&[u8]>,
) -> Result<OsString, CommandError> {
    let cannot = |error: &dyn std::error::Error| {
        CommandError::new("cannot pass the command on").because(error.to_string())
    };
    let quote = |word: &[u8]| shell_quote(word).map_err(|error| cannot(&error));
    env_lines(env).map_err(|error| cannot(&error))?;
    // The shell stays, to turn a signal into a status that ssh passes on; so it must outlive Ctrl-C.
    // Its own remarks ("Killed") are not the command's, whose stderr waits on 3 meanwhile.
    let mut line = b"trap : INT QUIT; exec 3>&2 2>/dev/null; ".to_vec();
    if let Some(folder) = folder {
        line.extend_from_slice(b"cd ");
        line.extend(quote(&folder_from_home(folder))?);
        line.extend_from_slice(b" 2>&3 || exit 125; ");
    }
    // Through env, which also sets what a shell keeps for itself, and runs programs only. It would take
    // a program with `=` in its name for a variable, so a shell of its own runs the words.
    line.extend_from_slice(b"(exec env --");
    for (name, value) in env {
        line.push(b' ');
        line.extend_from_slice(name.as_bytes());
        line.push(b'=');
        line.extend(quote(value)?);
    }
    line.extend_from_slice(br#" sh -c 'exec "$@"' sh"#);
    for word in words {
        line.push(b' ');
        line.extend(quote(word)?);
    }
    line.extend_from_slice(b" 2>&3 3>&-); exit $?");
    Ok(OsString::from_vec(line))
}

/// What `vm ssh NAME -- …` has the guest's shell run: one word is a line of shell, as with ssh itself;
/// several are a command and its arguments, byte for byte.
pub(crate) fn shell_line(words: &[OsString]) -> Result<Option<OsString>, CommandError> {
    match words {
        [] => Ok(None),
        [line] => Ok(Some(line.clone())),
        words => {
            let mut line = Vec::new();
            for word in words {
                if !line.is_empty() {
                    line.push(b' ');
                }
                line.extend(shell_quote(word.as_bytes()).map_err(|error| {
                    CommandError::new("cannot pass the command on").because(error.to_string())
                })?);
            }
            Ok(Some(OsString::from_vec(line)))
        }
    }
}

fn ssh(access: &SshAnswer, terminal: Terminal, line: Option<&OsStr>) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.arg(match terminal {
        Terminal::Yes | Terminal::ForCommand => "-tt",
        Terminal::No => "-T",
    });
    if terminal == Terminal::ForCommand {
        ssh.args(["-e", "none"]);
    }
    if terminal != Terminal::No {
        let ours = std::env::var_os("TERM").unwrap_or_default();
        if let Some(term) = known_elsewhere(&ours) {
            ssh.env("TERM", term);
        }
    }
    // What follows `--` is the host and then the command, whatever it begins with.
    ssh.arg("-F")
        .arg(&access.config)
        .arg("--")
        .arg(&access.host);
    ssh.args(line);
    ssh
}

/// The name under which a guest knows a terminal that is newer than its own list of them, where it needs another.
///
/// Debian's ncurses-base, which every system of it has, knows the terminals below by their family; those that are
/// newer take what is written for xterm-256color, and say so by calling themselves xterm-something.
fn known_elsewhere(term: &OsStr) -> Option<&'static str> {
    const FAMILIES: [&[u8]; 10] = [
        b"ansi", b"cygwin", b"dumb", b"linux", b"rxvt", b"screen", b"sun", b"tmux", b"vt", b"wsvt",
    ];
    const XTERMS: [&[u8]; 7] = [
        b"xterm",
        b"xterm-256color",
        b"xterm-color",
        b"xterm-mono",
        b"xterm-r5",
        b"xterm-r6",
        b"xterm-vt220",
    ];
    let term = term.as_bytes();
    let is_known = term.is_empty()
        || XTERMS.contains(&term)
        || FAMILIES.iter().any(|family| term.starts_with(family));
    (!is_known).then_some("xterm-256color")
}

fn not_run(error: io::Error) -> CommandError {
    let missing = error.kind() == io::ErrorKind::NotFound;
    let told = CommandError::io("cannot run ssh", error);
    if missing {
        told.hint("install it: apt install openssh-client")
    } else {
        told
    }
}

fn forward(child: &tokio::process::Child, signal: Signal) {
    let pid = child
        .id()
        .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
    let number = rustix::process::Signal::from_named_raw(i32::from(signal.number()));
    if let (Some(pid), Some(number)) = (pid, number) {
        // Not waited for yet, so the number is still its own; if it is gone, that is what was wanted.
        let _ = rustix::process::kill_process(pid, number);
    }
}

fn status(ended: ProcessStatus) -> ExitStatus {
    let by_signal = || ended.signal().map(|number| 128 + number);
    ExitStatus::of_guest(ended.code().or_else(by_signal).unwrap_or(255))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shell makes of a line.
    fn run(line: &OsStr) -> std::process::Output {
        Command::new("sh").arg("-c").arg(line).output().unwrap()
    }

    fn words<'a>(words: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
        words.iter().copied()
    }

    #[test]
    fn arguments_come_through_byte_for_byte() {
        let given: &[&[u8]] = &[
            b"printf", b"%s|", b"", b"it's", b"a\nb", b"$HOME", b"\xff", b"-n",
        ];
        let output = run(&command_line(words(given), &[], None).unwrap());
        assert_eq!(output.stdout, b"|it's|a\nb|$HOME|\xff|-n|");
    }

    #[test]
    fn variables_and_folder_are_set_and_the_status_comes_back() {
        let env = [
            ("A".to_owned(), b"x y".to_vec()),
            ("UID".to_owned(), b"7".to_vec()),
        ];
        let script: &[&[u8]] = &[
            b"sh",
            b"-c",
            b"echo \"$A $(pwd)\"; env | grep ^UID; exit 42",
        ];
        let output = run(&command_line(words(script), &env, Some(b"/usr")).unwrap());
        assert_eq!(output.stdout, b"x y /usr\nUID=7\n");
        assert_eq!(output.status.code(), Some(42));
    }

    #[test]
    fn a_signal_becomes_a_status() {
        let kill: &[&[u8]] = &[b"sh", b"-c", b"kill -9 $$"];
        let output = run(&command_line(words(kill), &[], None).unwrap());
        assert_eq!(output.status.code(), Some(137));
        assert_eq!(output.stderr, b"");
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_failure_of_ours() {
        let output = run(&command_line(words(&[b"true"]), &[], Some(b"/no/such")).unwrap());
        assert_eq!(output.status.code(), Some(125));
    }

    #[test]
    fn one_word_is_a_line_and_several_are_a_command() {
        assert_eq!(shell_line(&[]), Ok(None));
        let line = shell_line(&["echo a | cat".into()]).unwrap().unwrap();
        assert_eq!(run(&line).stdout, b"a\n");
        let line = shell_line(&["sh".into(), "-c".into(), "exit 42".into()]);
        assert_eq!(run(&line.unwrap().unwrap()).status.code(), Some(42));
    }

    #[test]
    fn a_commands_terminal_has_no_escape_and_a_name_that_guests_know() {
        let access = SshAnswer {
            host: "box.vm".to_owned(),
            config: "/run/ssh_config".into(),
            workspace: None,
        };
        let words = |terminal| {
            let ssh = ssh(&access, terminal, None);
            let words: Vec<_> = ssh.get_args().map(|word| word.to_owned()).collect();
            words
        };
        assert!(words(Terminal::ForCommand).starts_with(&[
            "-tt".into(),
            "-e".into(),
            "none".into()
        ]));
        assert!(!words(Terminal::Yes).contains(&"-e".into()));
        for term in [
            "xterm-ghostty",
            "xterm-kitty",
            "alacritty",
            "foot",
            "wezterm",
            "st-256color",
        ] {
            assert_eq!(
                known_elsewhere(term.as_ref()),
                Some("xterm-256color"),
                "{term}"
            );
        }
        for term in [
            "",
            "xterm",
            "xterm-256color",
            "tmux-256color",
            "screen.xterm-256color",
            "linux",
            "vt100",
            "dumb",
        ] {
            assert_eq!(known_elsewhere(term.as_ref()), None, "{term}");
        }
    }

    #[test]
    fn a_nul_is_refused() {
        assert!(command_line(words(&[b"a\0b"]), &[], None).is_err());
        assert!(shell_line(&["a\0".into(), "b".into()]).is_err());
    }
}
