//! A guest in a scratch folder: sessions started by the generated scripts.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use banger_session::Signal;
use banger_session::session::{
    Launch, Liveness, Process, Refusal, SessionDir, SessionState, SessionStatus, StateSnapshot,
    StdinMode, apply_state_snapshot, inspect_script, launch_command, parse_state, script,
    signal_script,
};
use tempfile::TempDir;

use crate::shell::Shell;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// One session below a state root of its own; killed when it is dropped.
pub(crate) struct Guest {
    pub(crate) shell: Shell,
    pub(crate) dir: SessionDir,
    _root: TempDir,
}

impl Guest {
    pub(crate) fn new(shell: Shell) -> Self {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("it's a/state root");
        let dir = SessionDir::new(below.to_str().unwrap(), "s-1").unwrap();
        Self {
            shell,
            dir,
            _root: root,
        }
    }

    /// One for each shell that can be a guest's: busybox has no `setsid -f`.
    pub(crate) fn all() -> Vec<Self> {
        Shell::all()
            .into_iter()
            .filter(|shell| shell.name != "busybox ash")
            .map(Self::new)
            .collect()
    }

    pub(crate) fn launch(&self, argv: &[&str], stdin: StdinMode) -> Launch {
        Launch {
            dir: self.dir.clone(),
            argv: argv.iter().map(|&argument| argument.into()).collect(),
            env: Vec::new(),
            cwd: b"/tmp".to_vec(),
            stdin,
        }
    }

    /// Starts it, and returns what the launch answered.
    #[track_caller]
    pub(crate) fn start(&self, launch: &Launch) -> StateSnapshot {
        let output = self.try_start(launch);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        parse_state(&output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn start_sh(&self, command: &str, stdin: StdinMode) -> StateSnapshot {
        self.start(&self.launch(&["/bin/sh", "-c", command], stdin))
    }

    /// The monitor runs under the shell being tested, too.
    pub(crate) fn try_start(&self, launch: &Launch) -> Output {
        let other = format!("{} \"$d", self.shell.name);
        let monitor = |script: Vec<u8>| replace(&script, b"/bin/sh \"$d", other.as_bytes());
        let run_sh = monitor(script(launch).unwrap());
        let command = monitor(launch_command(&self.dir, run_sh.len()));
        self.run_with_input(&command, &run_sh)
    }

    /// Runs a script to the end of its output.
    pub(crate) fn run_with_input(&self, script: &[u8], input: &[u8]) -> Output {
        let mut child = self
            .shell
            .command(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    pub(crate) fn run(&self, script: &[u8]) -> Output {
        self.run_with_input(script, b"")
    }

    /// Runs a script that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, script: &[u8]) -> Vec<u8> {
        let output = self.run(script);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        output.stdout
    }

    /// Runs a script that must refuse.
    #[track_caller]
    pub(crate) fn refused(&self, script: &[u8], input: &[u8]) -> Option<Refusal> {
        let output = self.run_with_input(script, input);
        let status = output.status.code().unwrap();
        assert_ne!(status, 0, "{output:?}");
        Refusal::from_status(status)
    }

    #[track_caller]
    pub(crate) fn inspect(&self) -> StateSnapshot {
        parse_state(&self.ok(&inspect_script(&self.dir))).unwrap()
    }

    /// The record of a session that was running, brought up to date.
    #[track_caller]
    pub(crate) fn refresh(&self) -> SessionState {
        let mut state = SessionState {
            status: SessionStatus::Running,
            ..SessionState::default()
        };
        apply_state_snapshot(&mut state, &self.inspect());
        state
    }

    /// Waits until the session has ended and its monitor with it.
    #[track_caller]
    pub(crate) fn wait_for_end(&self) -> SessionState {
        wait_until("the session's end", || {
            let seen = self.inspect();
            matches!(
                seen.liveness,
                Liveness::Seen {
                    monitor: Process::Gone,
                    ..
                }
            )
        });
        self.refresh()
    }

    pub(crate) fn stdout(&self) -> Vec<u8> {
        std::fs::read(self.dir.stdout_log()).unwrap_or_default()
    }

    /// Waits until the command has printed `text`.
    #[track_caller]
    pub(crate) fn wait_for_output(&self, text: &[u8]) {
        wait_until("output", || {
            self.stdout()
                .windows(text.len())
                .any(|window| window == text)
        });
    }

    /// The number in one of the session's files.
    pub(crate) fn number(&self, path: String) -> i32 {
        let text = std::fs::read_to_string(PathBuf::from(&path)).unwrap_or_default();
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("no number in {path}"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // What it does not find any more, it cannot end.
        drop(self.run(&signal_script(&self.dir, Signal::KILL)));
    }
}

/// Waits for what must come true, and fails if it does not.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Replaces each `from` in `bytes`.
fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        if let Some(after) = rest.strip_prefix(from) {
            replaced.extend_from_slice(to);
            rest = after;
        } else {
            replaced.push(first);
            rest = &rest[1..];
        }
    }
    replaced
}
