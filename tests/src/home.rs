//! The whole thing as a user has it: `banger`, in folders of its own, and the daemon that it starts.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use crate::{Rig, binary, why_not_real};

/// A hermetic `banger`: folders of its own over the shared image. Dropping it ends its daemon.
pub struct Home {
    /// Its folders.
    pub rig: Rig,
    backends: Value,
}

/// The daemon is gone, and with it the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost;

impl Home {
    /// Makes the folders, and the image if this is the first.
    pub fn new() -> Self {
        Home::over(json!({}))
    }

    /// The same, whose small VMs are over these backends: as `{"disk": "dm-snapshot"}`.
    pub fn over(backends: Value) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        Home {
            rig: runtime.block_on(Rig::new()),
            backends,
        }
    }

    /// The same, with a folder of images of its own that holds the shared one.
    pub fn with_images_of_its_own() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        Home {
            rig: runtime.block_on(Rig::with_images_of_its_own()),
            backends: json!({}),
        }
    }

    /// Writes its `config.toml`.
    pub fn configure(&self, text: &str) {
        let config = self.rig.folder().join("config");
        std::fs::create_dir_all(&config).expect("a folder");
        std::fs::write(config.join("config.toml"), text).expect("a configuration");
    }

    /// A `banger` that is not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.surround(Command::new(binary("banger")));
        command.args(arguments);
        command
    }

    /// A program that finds this `banger` and nothing of who runs the test.
    pub fn surround(&self, mut command: Command) -> Command {
        command
            .env("BANGER_STATE_DIR", &self.rig.config.state_dir)
            .env("BANGER_RUNTIME_DIR", &self.rig.config.runtime_dir)
            .env("BANGER_CONFIG_DIR", self.rig.folder().join("config"))
            .env("HOME", self.rig.folder())
            .env("NO_COLOR", "1")
            .current_dir(self.rig.folder())
            .stdin(Stdio::null());
        command
    }

    /// Runs `banger` to its end.
    pub fn banger(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it starts")
    }

    /// Runs `banger`, which must succeed, and returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.banger(arguments);
        let (said, told) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}{told}");
        said
    }

    /// Runs `banger … --json`, which must succeed, and returns what it printed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ok(&all)).expect("it is JSON")
    }

    /// Returns the daemon's process, which must run.
    pub fn daemon(&self) -> u32 {
        let status = self.json(&["daemon", "status"]);
        u32::try_from(status["pid"].as_u64().expect("a pid")).expect("a pid")
    }

    /// Says whether backends work here; prints why not.
    pub fn works(&self, names: &[&str]) -> bool {
        let doctor = self.doctor();
        let works = |name: &&str| works(&doctor["candidates"], "name", name);
        names.iter().all(works)
    }

    /// Says whether the doctor finds that something of this host works, as `kvm`; prints why not.
    pub fn has(&self, subject: &str) -> bool {
        works(&self.doctor()["facts"], "subject", subject)
    }

    fn doctor(&self) -> Value {
        // Whatever its status is: what does not work is read, not met.
        let doctor = self.banger(&["doctor", "--json"]);
        serde_json::from_slice(&doctor.stdout).expect("it is JSON")
    }

    /// Creates a VM that is as small as can be, and starts it; its guest is not waited for.
    pub fn boot(&self, name: &str) {
        self.create(name);
        let params = json!({"vm": name, "wait": false});
        self.rpc("vm.start", params)
            .expect("the daemon lives")
            .expect("it starts");
    }

    /// Creates a VM that is as small as can be.
    pub fn create(&self, name: &str) {
        self.rpc("vm.create", self.small(name))
            .expect("the daemon lives")
            .expect("it is created");
    }

    /// The parameters of a VM that is as small as can be.
    pub fn small(&self, name: &str) -> Value {
        let mut small = json!({"name": name, "vcpus": 1, "memory_mib": 128, "work_disk_mib": 16});
        let backends = self.backends.as_object().expect("an object").clone();
        small.as_object_mut().expect("an object").extend(backends);
        small
    }

    /// Calls a method of the daemon that runs. What is refused is an error in the answer.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Result<Value, String>, Lost> {
        let socket = self.rig.config.runtime_dir.join("bangerd.sock");
        call(&socket, method, &params)
    }

    /// Returns a VM as it is shown; none if there is none of this name.
    pub fn vm(&self, name: &str) -> Option<Value> {
        let vms = self.json(&["vm", "list"]);
        let mut vms = vms.as_array().expect("an array").iter();
        vms.find(|vm| vm["name"] == name).cloned()
    }

    /// Returns a VM's state; none if there is no VM of this name.
    pub fn state(&self, name: &str) -> Option<String> {
        let vm = self.vm(name)?;
        Some(vm["state"].as_str().expect("a state").to_owned())
    }

    /// Returns the process of a VM's monitor, which must run.
    pub fn monitor(&self, name: &str) -> u32 {
        let vm = self.vm(name).expect("it is there");
        let pid = vm["pid"].as_u64().expect("it runs");
        u32::try_from(pid).expect("a pid")
    }

    /// Waits until a VM is in a state.
    pub fn becomes(&self, name: &str, state: &str) {
        let shown = || self.vm(name).map(|vm| vm["state"].clone());
        eventually(&format!("{name} becomes {state}"), || {
            shown() == Some(state.into())
        });
    }

    /// Asserts that records and host agree, and that everything of ours on the host has an owner.
    pub fn assert_proven(&self, what: &str) {
        let plan = self.json(&["daemon", "reconcile", "--dry-run"]);
        let lines = plan["lines"].as_array().expect("lines");
        let changes: Vec<&Value> = lines
            .iter()
            .filter(|line| line["action"] != "kept")
            .collect();
        assert!(changes.is_empty(), "{what}: it has more to do: {changes:?}");
        let proof = self.banger(&["doctor", "--prove"]);
        assert!(
            proof.status.success(),
            "{what}: {}{}",
            text(&proof.stdout),
            text(&proof.stderr)
        );
    }

    /// What the daemon logged, for a test that fails.
    pub fn log(&self) -> String {
        let log = self.rig.config.state_dir.join("bangerd.log");
        std::fs::read_to_string(log).unwrap_or_default()
    }
}

impl Default for Home {
    fn default() -> Self {
        Home::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        let _ = self.banger(&["daemon", "stop"]);
    }
}

/// Calls a method of the daemon behind a socket.
pub(crate) fn call(
    socket: &Path,
    method: &str,
    params: &Value,
) -> Result<Result<Value, String>, Lost> {
    let mut stream = UnixStream::connect(socket).map_err(|_| Lost)?;
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    writeln!(stream, "{request}").map_err(|_| Lost)?;
    for line in BufReader::new(stream).lines() {
        let mut answer: Value = serde_json::from_str(&line.map_err(|_| Lost)?).expect("JSON");
        match (answer["result"].take(), answer["error"].take()) {
            // Progress.
            (Value::Null, Value::Null) => {}
            (Value::Null, error) => return Ok(Err(error.to_string())),
            (result, _) => return Ok(Ok(result)),
        }
    }
    Err(Lost)
}

/// Kills a process, and waits until it is gone.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
    gone(pid);
}

/// Sends a signal to a process of ours; one that has ended already is as good.
pub fn signal(pid: u32, signal: Signal) {
    // An error: it has ended.
    let _ = kill_process(raw(pid), signal);
}

/// Waits until a process is gone. A killed one still accepts connections until the kernel has taken it
/// apart.
pub fn gone(pid: u32) {
    eventually("it is gone", || !is_alive(pid));
}

/// Says whether a process lives: a zombie does not, once its last thread is gone.
pub fn is_alive(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    test_kill_process(raw(pid)).is_ok() && !(state.starts_with(['Z', 'X']) && threads <= 1)
}

/// Waits until something is true.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a program printed.
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

/// Says whether what the doctor has listed under this name works; prints why not.
fn works(listed: &Value, key: &str, name: &str) -> bool {
    let listed = listed.as_array().expect("an array");
    let found = listed.iter().find(|it| it[key] == name);
    let found = found.expect("the doctor speaks of it");
    let works = found["works"] == true;
    if !works {
        println!("SKIP: {name}: {found}");
    }
    works
}

pub(crate) fn raw(pid: u32) -> Pid {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.expect("a process's number")
}
