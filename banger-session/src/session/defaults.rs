//! What a session gets when nothing was said.

use thiserror::Error;

/// Lines of a log that are shown when no number is given.
pub const DEFAULT_LOG_TAIL_LINES: u64 = 200;

/// Working folder when none is given.
pub const DEFAULT_CWD: &str = "/root";

/// Longest part of a command's name in a session's name, in bytes.
const MAX_NAME_PART_BYTES: usize = 24;

/// Digits of the id in a session's name.
const ID_DIGITS: usize = 8;

/// Says which command cannot be required.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} cannot be the name of a command")]
pub struct InvalidCommandName {
    /// As given.
    pub name: String,
}

/// Makes a session's name of its command and its id: `python3-5f1e08aa`.
///
/// Lower-case letters, digits and dashes only, whatever the command is
/// called.
pub fn default_name(program: &[u8], id: &str) -> String {
    let base = program.rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
    let mut name = String::new();
    for &byte in base.iter().take(MAX_NAME_PART_BYTES) {
        if byte.is_ascii_alphanumeric() {
            name.push(byte.to_ascii_lowercase() as char);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    let name = name.trim_end_matches('-');
    let name = if name.is_empty() { "session" } else { name };
    let id: String = id
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|digit| digit.to_ascii_lowercase())
        .take(ID_DIGITS)
        .collect();
    format!("{name}-{id}").trim_end_matches('-').to_owned()
}

/// The working folder: the one asked for, or [`DEFAULT_CWD`] for none or an
/// empty one.
pub fn default_cwd(asked: Option<&str>) -> &str {
    asked.filter(|cwd| !cwd.is_empty()).unwrap_or(DEFAULT_CWD)
}

/// Trims the names, drops empty ones and repetitions, and keeps the order.
///
/// # Errors
///
/// [`InvalidCommandName`] for one with a control character or a leading dash,
/// which would be a mistake in the asking.
pub fn normalize_required_commands<S: AsRef<str>>(
    asked: &[S],
) -> Result<Vec<String>, InvalidCommandName> {
    let mut names: Vec<String> = Vec::new();
    for name in asked {
        let name = name.as_ref().trim();
        if name.starts_with('-') || name.contains(char::is_control) {
            return Err(InvalidCommandName {
                name: name.to_owned(),
            });
        }
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The last `lines` lines of a log, the last one perhaps without its newline.
pub fn last_lines(log: &[u8], lines: u64) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let body = log.strip_suffix(b"\n").unwrap_or(log);
    let mut left = lines;
    for (place, &byte) in body.iter().enumerate().rev() {
        if byte == b'\n' {
            left -= 1;
            if left == 0 {
                return &log[place + 1..];
            }
        }
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_the_command_and_the_id() {
        let id = "5F1E08AA-1234";
        assert_eq!(
            default_name(b"/usr/bin/python3.11", id),
            "python3-11-5f1e08aa"
        );
        assert_eq!(default_name(b"--weird__name--", id), "weird-name-5f1e08aa");
        assert_eq!(default_name(b"\xff\n", id), "session-5f1e08aa");
        assert_eq!(default_name(b"/", ""), "session");
        assert_eq!(
            default_name(&[b'a'; 500], "1"),
            format!("{}-1", "a".repeat(24))
        );
    }

    #[test]
    fn a_folder_that_was_not_named_is_root_s_home() {
        assert_eq!(default_cwd(None), "/root");
        assert_eq!(default_cwd(Some("")), "/root");
        assert_eq!(default_cwd(Some("/srv")), "/srv");
    }

    #[test]
    fn required_commands_are_asked_for_once_and_in_order() {
        let asked = ["git", " make ", "", "git", "/opt/x y"];
        let names = normalize_required_commands(&asked).unwrap();
        assert_eq!(names, ["git", "make", "/opt/x y"]);
        for bad in ["-v", "a\0b", "a\nb"] {
            assert!(normalize_required_commands(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_last_lines_are_counted_as_tail_counts() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 2), b"b\nc");
        assert_eq!(last_lines(b"a\nb\n", 9), b"a\nb\n");
        assert_eq!(last_lines(b"\n\n\n", 1), b"\n");
        assert_eq!(last_lines(b"a\n", 0), b"");
        assert_eq!(last_lines(b"", 3), b"");
    }
}
