//! Runs `banger` where nothing of this machine's own is seen.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// Folders of its own.
pub(crate) struct World {
    scratch: TempDir,
    daemon: PathBuf,
}

/// What a run left.
pub(crate) struct Run {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) status: Option<i32>,
    scratch: PathBuf,
}

impl World {
    /// Without a daemon, and with none to start.
    pub(crate) fn new() -> Self {
        let scratch = tempfile::Builder::new().prefix("bcli-").tempdir().unwrap();
        World::in_folder(scratch, Path::new("/no/such/bangerd"))
    }

    /// In this folder, where `banger` starts this daemon.
    pub(crate) fn in_folder(scratch: TempDir, daemon: &Path) -> Self {
        World {
            scratch,
            daemon: daemon.to_owned(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("run/bangerd.sock")
    }

    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banger"));
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("BANGER_STATE_DIR", self.path().join("state"))
            .env("BANGER_RUNTIME_DIR", self.path().join("run"))
            .env("BANGER_CONFIG_DIR", self.path().join("config"))
            .env("BANGERD", &self.daemon)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn banger<A: AsRef<OsStr>>(&self, args: &[A]) -> Run {
        self.run(&mut self.command(args))
    }

    pub(crate) fn run(&self, command: &mut Command) -> Run {
        self.left(command.output().unwrap())
    }

    /// Gives it this input, and then the end of input.
    pub(crate) fn banger_reads<A: AsRef<OsStr>>(&self, args: &[A], input: &[u8]) -> Run {
        let mut child = self.spawn(args);
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // Whether it was read is for the test to say.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        self.left(output)
    }

    /// All three streams are pipes, and no signal is ignored: whoever started this run in the background
    /// may have had INT and QUIT ignored, which programs inherit and banger respects.
    pub(crate) fn spawn<A: AsRef<OsStr>>(&self, args: &[A]) -> Child {
        let banger = self.command(args);
        let mut command = Command::new("env");
        command
            .arg("--default-signal=INT,QUIT")
            .arg(banger.get_program())
            .args(banger.get_args())
            .current_dir(self.path())
            .env_clear();
        for (name, value) in banger.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn left(&self, output: Output) -> Run {
        Run {
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code(),
            scratch: self.path().to_owned(),
        }
    }
}

/// For snapshots: all three, with the scratch folder's name replaced.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scratch = self.scratch.to_string_lossy();
        let stdout = String::from_utf8_lossy(&self.stdout).replace(&*scratch, "[SCRATCH]");
        let stderr = self.stderr.replace(&*scratch, "[SCRATCH]");
        match self.status {
            Some(status) => writeln!(f, "status: {status}")?,
            None => writeln!(f, "ended by a signal")?,
        }
        write!(
            f,
            "----- stdout -----\n{stdout}----- stderr -----\n{stderr}"
        )
    }
}
