//! The generated lines. They must mean the same to bash, dash and busybox.

use thiserror::Error;

use super::request::{ExecRequest, ExecStage, ExecStdin, Nonce};
use crate::command::{CommandError, env_lines, push_exec, push_folder};
use crate::signal::{ProcessGroup, Signal};

/// Longest script that fits between sshd and the shell, in bytes: one
/// argument of execve(2) is limited to 32 pages, its NUL included
/// (`MAX_ARG_STRLEN`).
pub const MAX_SCRIPT_BYTES: usize = 128 * 1024 - 1;

/// Why no script was made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExecError {
    /// The command cannot be written as shell.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Arguments and environment are too long for one execve(2).
    #[error("command and environment take {length} bytes, the limit is {MAX_SCRIPT_BYTES}")]
    TooLong {
        /// Bytes with the quoting.
        length: usize,
    },
}

/// Writes the lines that run `request` and mark the beginning and the end of
/// what it prints; see the [module](crate::exec) for what the streams carry.
///
/// For the whole of `ssh HOST SCRIPT`, or of `sh -c SCRIPT` in a process that
/// leads its own process group. Statuses are the shell's: 127 for a program
/// that is not there, 126 for one that cannot be run, 128 + n after signal n.
///
/// # Errors
///
/// [`ExecError::Command`] for a request that no shell can express,
/// [`ExecError::TooLong`] above [`MAX_SCRIPT_BYTES`].
pub fn exec_script(request: &ExecRequest, nonce: &Nonce) -> Result<Vec<u8>, ExecError> {
    let mut script = Vec::with_capacity(1024);
    // A handler, not "ignore": children get the default action back. First of
    // all lines, so that nobody knows the process group before it is caught.
    // Left out: what `Signal::ends_wrapper` lists, and what does not kill.
    line(
        &mut script,
        "trap : HUP INT QUIT TRAP ABRT USR1 USR2 PIPE ALRM TERM XCPU XFSZ VTALRM PROF IO PWR SYS",
    );
    // The shell's own remarks ("Killed", "Terminated") must not mix with the
    // command's stderr, which waits on 3 meanwhile.
    line(&mut script, "exec 3>&2 2>/dev/null");
    if let Some(cwd) = &request.cwd {
        let failed = format!(r"'\036banger-{nonce} f {}\036'", ExecStage::Cwd.name());
        script.extend_from_slice(b"cd ");
        push_folder(cwd, &mut script)?;
        line(
            &mut script,
            &format!(" || {{ printf {failed}; printf {failed} >&3; exit 0; }}"),
        );
    }
    line(&mut script, "(");
    script.extend_from_slice(&env_lines(&request.env)?);
    // From inside the subshell, where signals have their default action
    // again: one sent on the strength of this line finds the command, not the
    // handler above. bash alone swallows an INT that arrives before its exec,
    // some microseconds on; a second one gets through.
    line(
        &mut script,
        &format!(r#"printf '\036banger-{nonce} p %s\036' "$$" >&3"#),
    );
    push_exec(&request.argv, &request.env, &mut script)?;
    line(
        &mut script,
        match request.stdin {
            ExecStdin::Channel => " 2>&3 3>&-",
            ExecStdin::Closed => " </dev/null 2>&3 3>&-",
        },
    );
    line(&mut script, ")");
    line(&mut script, "r=$?");
    let ended = format!(r#"printf '\036banger-{nonce} e %s\036' "$r""#);
    line(&mut script, &ended);
    line(&mut script, &format!("{ended} >&3"));
    if script.len() > MAX_SCRIPT_BYTES {
        return Err(ExecError::TooLong {
            length: script.len(),
        });
    }
    Ok(script)
}

/// Writes the line that sends `signal` to every process of `group`, for a
/// second channel to the same guest.
///
/// It ends with status 0 if there was a process to signal. Send it only while
/// the command's streams have not ended: afterwards the number may belong to
/// others.
pub fn signal_script(group: ProcessGroup, signal: Signal) -> Vec<u8> {
    // `-NAME` and no `--`: the one form that all three shells' builtins take.
    format!("kill -{signal} -{group} 2>/dev/null\n").into_bytes()
}

fn line(script: &mut Vec<u8>, text: &str) {
    script.extend_from_slice(text.as_bytes());
    script.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_real_newlines_and_no_marker_of_its_own() {
        let script = exec_script(&ExecRequest::new(["true"]), &Nonce([0xab; 16])).unwrap();
        let text = String::from_utf8(script).unwrap();
        assert_eq!(text.lines().count(), 9);
        assert!(!text.contains(r"\n"));
        assert!(text.contains("abababababababababababababababab"));
        assert!(!text.contains('\x1e'));
    }

    #[test]
    fn a_command_too_long_for_execve_is_refused_here() {
        let request = ExecRequest::new([vec![b'x'; MAX_SCRIPT_BYTES]]);
        let Err(ExecError::TooLong { length }) = exec_script(&request, &Nonce([0; 16])) else {
            panic!("accepted")
        };
        assert!(length > MAX_SCRIPT_BYTES);
    }

    #[test]
    fn a_signal_goes_to_the_group_by_name() {
        let script = signal_script(ProcessGroup::new(77).unwrap(), Signal::INT);
        assert_eq!(script, b"kill -INT -77 2>/dev/null\n");
    }
}
