//! A command and its environment as lines of shell, for `exec` and for
//! sessions alike.

use thiserror::Error;

use crate::quote::{NulByte, quote_into};

/// Why a command cannot be written as shell.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// No program was named.
    #[error("no command given")]
    NoCommand,
    /// The program's name is the empty string.
    #[error("the command's name is empty")]
    EmptyName,
    /// A variable's name is none that a shell can export.
    #[error("{name:?} is not a name for an environment variable")]
    EnvName {
        /// The name as given.
        name: String,
    },
    /// An argument, a value or a folder holds a NUL.
    #[error("cannot pass {part}")]
    Nul {
        /// Which one.
        part: String,
        /// Where in it.
        source: NulByte,
    },
}

/// Writes one `export` line for each variable, a later one of the same name
/// winning.
///
/// Names that the shell keeps for itself (`UID`, `RANDOM`, `BASH_…`) are left
/// out: assigning them fails or has another meaning. The scripts of this crate
/// hand those to `env` in the line that runs the command.
///
/// # Errors
///
/// [`CommandError::EnvName`] for a name that is not `[A-Za-z_][A-Za-z0-9_]*`,
/// [`CommandError::Nul`] for a value with a NUL.
pub fn env_lines(env: &[(String, Vec<u8>)]) -> Result<Vec<u8>, CommandError> {
    let mut lines = Vec::new();
    for (name, value) in env {
        check_env_name(name)?;
        if is_kept_by_shell(name) {
            continue;
        }
        lines.extend_from_slice(b"export ");
        assign(name, value, &mut lines)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Appends `exec` and the quoted command, without a newline.
///
/// `exec` looks for programs only, so no function, alias or builtin of the
/// login shell's start-up files stands in the command's place.
pub(crate) fn push_exec(
    argv: &[Vec<u8>],
    env: &[(String, Vec<u8>)],
    script: &mut Vec<u8>,
) -> Result<(), CommandError> {
    let program = program_name(argv)?;
    let mut kept: Vec<&(String, Vec<u8>)> = Vec::new();
    for variable in env {
        check_env_name(&variable.0)?;
        if is_kept_by_shell(&variable.0) {
            kept.push(variable);
        }
    }
    script.extend_from_slice(b"exec");
    // bash takes a leading dash for an option, dash takes `--` for a command:
    // only `env` reads both alike.
    if !kept.is_empty() || program.starts_with(b"-") {
        script.extend_from_slice(b" env --");
        for (name, value) in kept {
            script.push(b' ');
            assign(name, value, script)?;
        }
        if program.contains(&b'=') {
            // `env` would take it for one more assignment.
            script.extend_from_slice(br#" sh -c '"$@"' sh"#);
        }
    }
    for (index, argument) in argv.iter().enumerate() {
        script.push(b' ');
        quote_part(argument, || format!("argument {index}"), script)?;
    }
    Ok(())
}

/// The program's name, never empty.
pub(crate) fn program_name(argv: &[Vec<u8>]) -> Result<&[u8], CommandError> {
    let program = argv.first().ok_or(CommandError::NoCommand)?;
    if program.is_empty() {
        return Err(CommandError::EmptyName);
    }
    Ok(program)
}

/// Appends `folder`, quoted, in a form that `cd` cannot take for an option,
/// for `-` or for something to look up in `CDPATH`.
pub(crate) fn push_folder(folder: &[u8], script: &mut Vec<u8>) -> Result<(), CommandError> {
    quote_part(
        &folder_from_home(folder),
        || "the working folder".to_owned(),
        script,
    )
}

/// A folder for `cd` in a shell that is in its home folder: from there if it
/// is not absolute, which is what `~` and `~/` mean as well.
pub fn folder_from_home(folder: &[u8]) -> Vec<u8> {
    if folder.starts_with(b"/") {
        return folder.to_vec();
    }
    let below = match folder {
        b"~" => b"",
        [b'~', b'/', rest @ ..] => rest,
        folder => folder,
    };
    [b"./", below].concat()
}

pub(crate) fn quote_part(
    word: &[u8],
    part: impl FnOnce() -> String,
    script: &mut Vec<u8>,
) -> Result<(), CommandError> {
    quote_into(word, script).map_err(|source| CommandError::Nul {
        part: part(),
        source,
    })
}

fn assign(name: &str, value: &[u8], script: &mut Vec<u8>) -> Result<(), CommandError> {
    script.extend_from_slice(name.as_bytes());
    script.push(b'=');
    quote_part(value, || format!("the value of {name}"), script)
}

fn check_env_name(name: &str) -> Result<(), CommandError> {
    let mut bytes = name.bytes();
    let first = bytes.next();
    let starts_well = first.is_some_and(|byte| byte == b'_' || byte.is_ascii_alphabetic());
    if starts_well && bytes.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(CommandError::EnvName {
        name: name.to_owned(),
    })
}

/// bash(1) "Shell Variables" that are read-only, computed or checked, and
/// dash's `OPTIND`, a bad value of which ends the shell.
fn is_kept_by_shell(name: &str) -> bool {
    const KEPT: [&str; 23] = [
        "COMP_WORDBREAKS",
        "DIRSTACK",
        "EPOCHREALTIME",
        "EPOCHSECONDS",
        "EUID",
        "FUNCNAME",
        "GROUPS",
        "HISTCMD",
        "HISTSIZE",
        "IFS",
        "LINENO",
        "OPTIND",
        "PIPESTATUS",
        "POSIXLY_CORRECT",
        "PPID",
        "PS4",
        "RANDOM",
        "SECONDS",
        "SHELLOPTS",
        "SHLVL",
        "SRANDOM",
        "UID",
        "_",
    ];
    name.starts_with("BASH") || KEPT.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> (String, Vec<u8>) {
        (name.to_owned(), value.as_bytes().to_vec())
    }

    #[test]
    fn each_variable_is_one_export_in_the_order_given() {
        let lines = env_lines(&[variable("A", "1"), variable("_b2", "it's")]).unwrap();
        assert_eq!(lines, b"export A='1'\nexport _b2='it'\\''s'\n");
    }

    #[test]
    fn a_name_that_is_no_identifier_is_refused() {
        for name in ["", "2A", "A-B", "A B", "A=B", "A;reboot", "Ä", "A\n"] {
            let refused = Err(CommandError::EnvName {
                name: name.to_owned(),
            });
            assert_eq!(env_lines(&[variable(name, "")]), refused);
            let mut script = Vec::new();
            let pushed = push_exec(&[b"true".to_vec()], &[variable(name, "")], &mut script);
            assert_eq!(pushed.map(|()| Vec::new()), refused);
        }
    }

    #[test]
    fn a_folder_begins_at_home_unless_it_is_absolute() {
        for (folder, read) in [
            ("/srv", "/srv"),
            ("a b", "./a b"),
            ("-", "./-"),
            ("~", "./"),
            ("~/a", "./a"),
            ("~a", "./~a"),
            ("./~", "././~"),
        ] {
            assert_eq!(folder_from_home(folder.as_bytes()), read.as_bytes());
        }
    }

    #[test]
    fn a_nul_is_refused_and_its_place_named() {
        let error =
            push_exec(&[b"echo".to_vec(), b"a\0".to_vec()], &[], &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "cannot pass argument 1");
        let error = env_lines(&[variable("KEY", "\0")]).unwrap_err();
        assert_eq!(error.to_string(), "cannot pass the value of KEY");
    }

    #[test]
    fn a_command_without_a_name_is_refused() {
        let nothing = push_exec(&[], &[], &mut Vec::new());
        assert_eq!(nothing, Err(CommandError::NoCommand));
        let empty = push_exec(&[Vec::new()], &[], &mut Vec::new());
        assert_eq!(empty, Err(CommandError::EmptyName));
    }
}
