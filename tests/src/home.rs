//! The command and its daemon as a user has them, in folders of their own.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::{Rig, binary, why_not_real};

/// A hermetic `banger`: folders of its own over the shared image. Dropping it ends its daemon.
pub struct Home {
    /// Its folders, and the proof that nothing is left in them.
    pub rig: Rig,
}

impl Home {
    /// Makes the folders, and the image if this is the first.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        Home {
            rig: runtime.block_on(Rig::new()),
        }
    }

    /// `banger` with these arguments, to be started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("banger"));
        command
            .args(arguments)
            .env("BANGER_STATE_DIR", &self.rig.config.state_dir)
            .env("BANGER_RUNTIME_DIR", &self.rig.config.runtime_dir)
            .env("BANGER_CONFIG_DIR", self.rig.folder().join("config"))
            .env("NO_COLOR", "1");
        command
    }

    /// Runs `banger` with nothing to read, whatever comes of it.
    pub fn banger(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it starts")
    }

    /// Runs `banger`, which must succeed, and returns what it printed.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.banger(arguments);
        assert!(
            output.status.success(),
            "banger {arguments:?}: {}: {}",
            output.status,
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// The daemon's process.
    pub fn daemon(&self) -> u32 {
        let status = self.done(&["daemon", "status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("it answers in JSON");
        u32::try_from(status["pid"].as_u64().expect("a pid")).expect("a pid")
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.banger(&["daemon", "stop"]);
    }
}

/// Kills a process, and waits until the kernel has taken it apart: until then it still accepts connections.
pub fn kill(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is killed");
    let alive = || rustix::process::test_kill_process(pid).is_ok();
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive() && Instant::now() < deadline {
        std::thread::yield_now();
    }
}

/// Bytes as a person reads them.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Says so, with the reason, where no real VM can be booted.
pub fn skipped() -> bool {
    match why_not_real() {
        Some(reason) => {
            println!("SKIP: {reason}");
            true
        }
        None => false,
    }
}
