//! The shells of this host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A shell that may be a guest's login shell or its `/bin/sh`.
#[derive(Debug, Clone)]
pub(crate) struct Shell {
    pub(crate) name: &'static str,
    program: PathBuf,
    first: Option<&'static str>,
}

impl Shell {
    /// All that are installed here; says on stderr which are not.
    pub(crate) fn all() -> Vec<Self> {
        let known = [
            ("dash", "dash", None),
            ("bash", "bash", None),
            ("busybox ash", "busybox", Some("ash")),
        ];
        let mut shells = Vec::new();
        for (name, program, first) in known {
            match find(program) {
                Some(program) => shells.push(Self {
                    name,
                    program,
                    first,
                }),
                None => eprintln!("skipped: {name}, no `{program}` in PATH"),
            }
        }
        assert!(!shells.is_empty(), "this host has none of the shells");
        shells
    }

    /// `SHELL -c SCRIPT` as the leader of a new session, as sshd starts it.
    pub(crate) fn command(&self, script: &[u8]) -> Command {
        let mut command = Command::new("setsid");
        command.arg(&self.program).args(self.first);
        command.arg("-c").arg(OsStr::from_bytes(script));
        command
    }

    /// Fails unless `script` parses here.
    #[track_caller]
    pub(crate) fn check_syntax(&self, script: &[u8]) {
        let mut command = Command::new(&self.program);
        command.args(self.first).arg("-n").arg("-c");
        let output = command.arg(OsStr::from_bytes(script)).output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}: {}\n{}",
            self.name,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(script)
        );
    }
}

/// Fails unless shellcheck finds nothing to say.
#[track_caller]
pub(crate) fn shellcheck(script: &[u8]) {
    use std::io::Write;

    let Some(program) = find("shellcheck") else {
        eprintln!("skipped: no `shellcheck` in PATH");
        return;
    };
    let mut child = Command::new(program)
        // SC2016: `$` between single quotes is meant to stay one.
        .args(["-s", "sh", "-e", "SC2016", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(script)
    );
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
