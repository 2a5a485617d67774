//! What was seen of a session in the guest. All of it is hostile input.

use thiserror::Error;

use super::dir::file;
use super::inspect::{FOOTER, HEADER};
use super::state::SessionStatus;
use crate::signal::ProcessGroup;

/// Longest answer that is read, in bytes; a caller need not collect more.
pub const MAX_STATE_BYTES: usize = 64 << 10;

/// Longest error text that is kept, in characters.
const MAX_ERROR_CHARS: usize = 2048;

/// Whether the guest has the session's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Folder {
    /// It is there.
    Present,
    /// It is not.
    Missing,
}

/// Whether a process was there when the guest was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Process {
    /// It ran.
    Alive,
    /// It did not.
    Gone,
}

/// What became of the session's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// The guest was asked, in the boot the session was started in.
    Seen {
        /// The monitor.
        monitor: Process,
        /// The command itself.
        command: Process,
        /// Any process of the command's group: children may outlive it.
        group: Process,
    },
    /// The guest was booted again since; no process is left.
    Rebooted,
    /// The files were read from the disk of a VM that does not run.
    Offline,
}

/// The FIFO of a session in pipe mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StdinPipe {
    /// Takes input.
    Open,
    /// End of file was sent.
    Closed,
}

/// The state of a session as the guest's files and processes have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSnapshot {
    /// Whether there is anything at all.
    pub folder: Folder,
    /// Which of its processes are left.
    pub liveness: Liveness,
    /// What the guest's file says; never [`SessionStatus::Stopping`].
    pub status: Option<SessionStatus>,
    /// The command's pid and process group.
    pub pid: Option<ProcessGroup>,
    /// When the command began, in clock ticks after boot.
    pub start_time: Option<u64>,
    /// The monitor's pid.
    pub monitor_pid: Option<u32>,
    /// The boot the session was started in.
    pub boot_id: Option<String>,
    /// The command's status, 0 to 255.
    pub exit_code: Option<i32>,
    /// Why the command was not run, one line of printable text.
    pub error: Option<String>,
    /// The stdin pipe, while there is one.
    pub stdin: Option<StdinPipe>,
    /// Length of the stdout log, if it was asked for.
    pub stdout_bytes: Option<u64>,
    /// Length of the stderr log, if it was asked for.
    pub stderr_bytes: Option<u64>,
}

impl StateSnapshot {
    /// What is seen of a session the guest does not know.
    pub fn missing() -> Self {
        Self {
            folder: Folder::Missing,
            liveness: Liveness::Seen {
                monitor: Process::Gone,
                command: Process::Gone,
                group: Process::Gone,
            },
            status: None,
            pid: None,
            start_time: None,
            monitor_pid: None,
            boot_id: None,
            exit_code: None,
            error: None,
            stdin: None,
            stdout_bytes: None,
            stderr_bytes: None,
        }
    }

    pub(super) fn with_folder(mut self) -> Self {
        self.folder = Folder::Present;
        self
    }

    /// Takes the first line of one of the guest's files.
    fn read_file(&mut self, name: &str, line: &[u8]) -> Result<(), ParseStateError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            // Not written yet, or the guest's disk was full.
            return Ok(());
        }
        let text = String::from_utf8_lossy(line);
        match name {
            file::STATUS => self.status = Some(known(name, SessionStatus::from_guest(&text))?),
            file::PID => {
                let number = known(name, number(&text))?;
                self.pid = Some(known(name, ProcessGroup::new(number).ok())?);
            }
            file::START_TIME => self.start_time = Some(known(name, number(&text))?),
            file::MONITOR_PID => self.monitor_pid = Some(known(name, number(&text))?),
            file::EXIT_CODE => {
                let status: u8 = known(name, number(&text))?;
                self.exit_code = Some(status.into());
            }
            file::BOOT_ID => self.boot_id = Some(known(name, boot_id(&text))?),
            file::ERROR => self.error = Some(printable(&text)),
            file::STDOUT_LOG => self.stdout_bytes = Some(known(name, number(&text))?),
            file::STDERR_LOG => self.stderr_bytes = Some(known(name, number(&text))?),
            _ => {}
        }
        Ok(())
    }
}

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseStateError {
    /// It does not begin as an answer does.
    #[error("the guest's answer is not the state of a session")]
    NotAnAnswer,
    /// It does not end as an answer does: the connection was lost in it.
    #[error("the guest's answer was cut off")]
    CutOff,
    /// It is longer than [`MAX_STATE_BYTES`].
    #[error("the guest's answer is {length} bytes long, the limit is {MAX_STATE_BYTES}")]
    TooLong {
        /// Bytes it has.
        length: usize,
    },
    /// A field cannot be what it should be.
    #[error("the guest's {field} cannot be read")]
    Field {
        /// Which.
        field: String,
    },
}

/// Reads the output of [`inspect_script`](super::inspect_script) and of
/// [`launch_command`](super::launch_command).
///
/// Lines of a newer release are passed over.
///
/// # Errors
///
/// [`ParseStateError`]; an answer is taken whole or not at all.
pub fn parse_state(answer: &[u8]) -> Result<StateSnapshot, ParseStateError> {
    if answer.len() > MAX_STATE_BYTES {
        return Err(ParseStateError::TooLong {
            length: answer.len(),
        });
    }
    let body = answer
        .strip_prefix(HEADER.as_bytes())
        .and_then(|rest| rest.strip_prefix(b"\n"))
        .ok_or(ParseStateError::NotAnAnswer)?;
    // A whole line of its own: "end" also ends a line of text that was cut.
    let body = body
        .strip_suffix(b"\n")
        .and_then(|rest| rest.strip_suffix(FOOTER.as_bytes()))
        .filter(|rest| rest.is_empty() || rest.ends_with(b"\n"))
        .ok_or(ParseStateError::CutOff)?;

    let mut snapshot = StateSnapshot::missing().with_folder();
    let mut rebooted = false;
    let (mut monitor, mut command, mut group) = (Process::Gone, Process::Gone, Process::Gone);
    for line in body.split(|&byte| byte == b'\n') {
        let (key, value) = match line.iter().position(|&byte| byte == b' ') {
            Some(space) => (&line[..space], &line[space + 1..]),
            None => (line, &[] as &[u8]),
        };
        match key {
            b"folder" if value == b"missing" => return Ok(StateSnapshot::missing()),
            b"boot" => rebooted = value != b"same",
            b"monitor" => monitor = process(value)?,
            b"command" => command = process(value)?,
            b"group" => group = process(value)?,
            b"stdin" => snapshot.stdin = Some(known("stdin", stdin_pipe(value))?),
            _ => snapshot.read_file(&String::from_utf8_lossy(key), value)?,
        }
    }
    snapshot.liveness = if rebooted {
        Liveness::Rebooted
    } else {
        Liveness::Seen {
            monitor,
            command,
            group,
        }
    };
    Ok(snapshot)
}

/// Reads the state of a session from its files alone, for a VM that does not
/// run.
///
/// `read` is given a file's name and returns its content, or `None` if the
/// file is not there; it need not return more than [`MAX_STATE_BYTES`] of it.
/// The logs are not read. A folder without any of the files counts as
/// missing.
///
/// # Errors
///
/// Those of `read`, and [`ParseStateError::Field`].
pub fn state_from_dir<E>(
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
) -> Result<StateSnapshot, E>
where
    E: From<ParseStateError>,
{
    let mut snapshot = StateSnapshot::missing();
    snapshot.liveness = Liveness::Offline;
    for name in [
        file::STATUS,
        file::PID,
        file::START_TIME,
        file::MONITOR_PID,
        file::BOOT_ID,
        file::EXIT_CODE,
        file::ERROR,
    ] {
        if let Some(content) = read(name)? {
            snapshot.folder = Folder::Present;
            let content = &content[..content.len().min(MAX_STATE_BYTES)];
            let line = content.split(|&byte| byte == b'\n').next();
            snapshot.read_file(name, line.unwrap_or_default())?;
        }
    }
    Ok(snapshot)
}

fn known<T>(field: &str, value: Option<T>) -> Result<T, ParseStateError> {
    value.ok_or_else(|| ParseStateError::Field {
        field: field.to_owned(),
    })
}

fn process(value: &[u8]) -> Result<Process, ParseStateError> {
    match value {
        b"alive" => Ok(Process::Alive),
        b"gone" => Ok(Process::Gone),
        _ => known("list of processes", None),
    }
}

fn stdin_pipe(value: &[u8]) -> Option<StdinPipe> {
    match value {
        b"open" => Some(StdinPipe::Open),
        b"closed" => Some(StdinPipe::Closed),
        _ => None,
    }
}

/// Digits only: `str::parse` would take a sign too.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn boot_id(text: &str) -> Option<String> {
    let fits = text.len() == 36 && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    fits.then(|| text.to_owned())
}

/// One that cannot move a terminal's cursor, nor fill a screen.
fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_ERROR_CHARS)
        .map(|c| if crate::is_unseen(c) { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "0b5c7dd3-6c6f-4a0e-9a05-5d1f0c8d9f11";

    fn answer(lines: &str) -> Vec<u8> {
        format!("banger-session 1\n{lines}end\n").into_bytes()
    }

    #[test]
    fn an_answer_is_read_into_its_fields() {
        let lines = format!(
            "boot same\nmonitor_pid 70\nmonitor alive\nstart_time 123456\npid 71\ncommand alive\n\
             group alive\nstatus running\nexit_code \nerror \nboot_id {BOOT}\nstdin open\n\
             stdout.log 104857600\nstderr.log 0\n"
        );
        let seen = parse_state(&answer(&lines)).unwrap();
        assert_eq!(
            seen,
            StateSnapshot {
                folder: Folder::Present,
                liveness: Liveness::Seen {
                    monitor: Process::Alive,
                    command: Process::Alive,
                    group: Process::Alive,
                },
                status: Some(SessionStatus::Running),
                pid: Some(ProcessGroup::new(71).unwrap()),
                start_time: Some(123_456),
                monitor_pid: Some(70),
                boot_id: Some(BOOT.to_owned()),
                exit_code: None,
                error: None,
                stdin: Some(StdinPipe::Open),
                stdout_bytes: Some(104_857_600),
                stderr_bytes: Some(0),
            }
        );
    }

    #[test]
    fn a_reboot_and_a_missing_folder_are_seen() {
        let rebooted = parse_state(&answer("boot other\nmonitor alive\n")).unwrap();
        assert_eq!(rebooted.liveness, Liveness::Rebooted);
        let missing = parse_state(&answer("folder missing\n")).unwrap();
        assert_eq!(missing, StateSnapshot::missing());
    }

    #[test]
    fn a_newer_guest_s_lines_are_passed_over() {
        let seen = parse_state(&answer("colour blue\nstatus exited\nexit_code 0\n\n")).unwrap();
        assert_eq!(seen.exit_code, Some(0));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        use ParseStateError::{CutOff, NotAnAnswer};
        for (bad, error) in [
            (b"".as_slice(), NotAnAnswer),
            (b"sh: not found\n", NotAnAnswer),
            (b"banger-session 2\nend\n", NotAnAnswer),
            (b"banger-session 1\n", CutOff),
            (b"banger-session 1\nerror the end\n", CutOff),
            (b"banger-session 1\nstatus running\nend", CutOff),
        ] {
            assert_eq!(parse_state(bad), Err(error), "{bad:?}");
        }
        let long = answer(&"x\n".repeat(MAX_STATE_BYTES));
        assert!(matches!(
            parse_state(&long),
            Err(ParseStateError::TooLong { .. })
        ));
    }

    #[test]
    fn a_field_that_cannot_be_is_refused_by_its_name() {
        for (line, name) in [
            ("status stopping", "status"),
            ("status ../etc", "status"),
            ("pid 1", "pid"),
            ("pid -5", "pid"),
            ("pid 99999999999", "pid"),
            ("exit_code 256", "exit_code"),
            ("exit_code +1", "exit_code"),
            ("boot_id $(reboot)", "boot_id"),
            ("stdout.log 1e9", "stdout.log"),
            ("monitor maybe", "list of processes"),
        ] {
            let field = name.to_owned();
            assert_eq!(
                parse_state(&answer(&format!("{line}\n"))),
                Err(ParseStateError::Field { field }),
                "{line}"
            );
        }
    }

    #[test]
    fn an_error_s_text_cannot_play_with_a_terminal() {
        let seen = parse_state(&answer("error launch: \x1b[2Jboo\x07\n")).unwrap();
        assert_eq!(seen.error.unwrap(), "launch: \u{fffd}[2Jboo\u{fffd}");
        let long = format!("error {}\n", "é".repeat(10_000));
        let seen = parse_state(&answer(&long)).unwrap();
        assert_eq!(seen.error.unwrap().chars().count(), MAX_ERROR_CHARS);
    }

    #[test]
    fn a_stopped_vm_s_files_are_read_without_its_processes() {
        let seen = state_from_dir(|name| {
            Ok::<_, ParseStateError>(match name {
                "status" => Some(b"running\n".to_vec()),
                "pid" => Some(b"71\n".to_vec()),
                "exit_code" => Some(Vec::new()),
                _ => None,
            })
        })
        .unwrap();
        assert_eq!(seen.folder, Folder::Present);
        assert_eq!(seen.liveness, Liveness::Offline);
        assert_eq!(seen.status, Some(SessionStatus::Running));
        assert_eq!(seen.exit_code, None);

        let nothing = state_from_dir(|_| Ok::<_, ParseStateError>(None)).unwrap();
        assert_eq!(nothing.folder, Folder::Missing);
    }
}
