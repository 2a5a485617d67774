//! Finding out before a start what a command would miss.

use std::fmt;

use thiserror::Error;

use super::refusal::Refusal;
use super::shell::push_is_command;
use crate::command::{CommandError, env_lines, push_folder};

/// Last line of a complete answer.
const FOOTER: &[u8] = b"end";

/// Writes the script that finds out whether `cwd` can be the working folder.
///
/// Refuses with [`Refusal::CwdMissing`], [`Refusal::CwdNotAFolder`] and
/// [`Refusal::CwdDenied`].
///
/// # Errors
///
/// [`CommandError::Nul`] for a folder with a NUL.
pub fn cwd_preflight_script(cwd: &[u8]) -> Result<Vec<u8>, CommandError> {
    let mut script = b"set -- ".to_vec();
    push_folder(cwd, &mut script)?;
    script.extend_from_slice(
        format!(
            r#"
[ -e "$1" ] || exit {missing}
[ -d "$1" ] || exit {not_a_folder}
cd "$1" 2>/dev/null || exit {denied}
"#,
            missing = Refusal::CwdMissing.status(),
            not_a_folder = Refusal::CwdNotAFolder.status(),
            denied = Refusal::CwdDenied.status(),
        )
        .as_bytes(),
    );
    Ok(script)
}

/// Writes the script that finds out which of `commands` the guest lacks, in
/// the environment and the folder the session is to have; its output is read
/// by [`parse_command_preflight`].
///
/// `commands` are the session's own and every required one. Refuses with
/// [`Refusal::CwdDenied`] if the folder cannot be entered.
///
/// # Errors
///
/// [`CommandError`] for a name, a value or a folder that no shell can
/// express.
pub fn command_preflight_script(
    cwd: &[u8],
    env: &[(String, Vec<u8>)],
    commands: &[Vec<u8>],
) -> Result<Vec<u8>, CommandError> {
    let mut script = b"cd ".to_vec();
    push_folder(cwd, &mut script)?;
    script.extend_from_slice(
        format!(" 2>/dev/null || exit {}\n", Refusal::CwdDenied.status()).as_bytes(),
    );
    script.extend_from_slice(&env_lines(env)?);
    for (index, command) in commands.iter().enumerate() {
        if command.is_empty() {
            return Err(CommandError::EmptyName);
        }
        // By its number: a name may hold anything, the answer must not.
        script.extend_from_slice(b"{ ");
        push_is_command(command, &mut script)?;
        script.extend_from_slice(format!("; }} || echo {index}\n").as_bytes());
    }
    script.extend_from_slice(b"echo end\n");
    Ok(script)
}

/// Commands that a guest lacks, in the order they were asked for; may be
/// none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingCommands(pub Vec<Vec<u8>>);

/// Names each of them, quoted.
impl fmt::Display for MissingCommands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{:?}", String::from_utf8_lossy(name))?;
        }
        Ok(())
    }
}

/// Says that an answer was cut off or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the guest's answer to the command preflight cannot be read")]
pub struct ParsePreflightError;

/// Reads the output of [`command_preflight_script`], given the same
/// `commands`.
///
/// # Errors
///
/// [`ParsePreflightError`] for an answer to another question.
pub fn parse_command_preflight(
    output: &[u8],
    commands: &[Vec<u8>],
) -> Result<MissingCommands, ParsePreflightError> {
    let mut missing = Vec::new();
    let mut next = 0;
    for line in output.split(|&byte| byte == b'\n') {
        if line == FOOTER {
            return Ok(MissingCommands(missing));
        }
        let index: usize = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.parse().ok())
            .filter(|&index| index >= next)
            .ok_or(ParsePreflightError)?;
        missing.push(commands.get(index).ok_or(ParsePreflightError)?.clone());
        next = index + 1;
    }
    Err(ParsePreflightError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Vec<Vec<u8>> {
        ["git", "it's", "make"].map(|name| name.into()).to_vec()
    }

    #[test]
    fn each_missing_command_is_named() {
        let missing = parse_command_preflight(b"1\n2\nend\n", &commands()).unwrap();
        assert_eq!(missing.to_string(), r#""it's", "make""#);
        let none = parse_command_preflight(b"end\n", &commands()).unwrap();
        assert_eq!(none, MissingCommands(Vec::new()));
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        for bad in [
            b"".as_slice(),
            b"1\n",
            b"3\nend\n",
            b"1\n1\nend\n",
            b"x\nend\n",
            b"\xff",
        ] {
            assert!(
                parse_command_preflight(bad, &commands()).is_err(),
                "{bad:?}"
            );
        }
    }
}
