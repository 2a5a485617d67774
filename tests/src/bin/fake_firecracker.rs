//! A stand-in for Firecracker that runs nothing: it speaks the API over the socket, refuses whatever the
//! published description of it (`firecracker.yaml`) does not have, and does on demand what goes wrong.
//!
//! Beside the name that it is called by may lie a file `script`, with a word a line:
//!
//! ```text
//! version 1.15.1             what it says of itself
//! exits                      before it has made its socket
//! refuses PUT /drives/work   with a fault message of its own
//! hangs PUT /vsock           for ever, with the connection open
//! dies PUT /actions          in the middle of the answer
//! ```
//!
//! What it was asked is appended to a file `calls`, one a line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn main() {
    let mut arguments = std::env::args();
    let called = PathBuf::from(arguments.next().unwrap_or_default());
    let folder = called.parent().unwrap_or(Path::new("/")).to_owned();
    let script = Script::read(&folder);
    // What follows the dashes is for others.
    let arguments: Vec<String> = arguments.take_while(|word| word != "--").collect();
    if arguments == ["--version"] {
        println!("Firecracker v{}\n", script.version());
        return;
    }
    let options = match options(&arguments) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("Error: ParseArguments({message})");
            std::process::exit(153);
        }
    };
    if script.has("exits", "") {
        eprintln!("Error: it was told to end at once");
        std::process::exit(1);
    }
    if let Some(log) = options.get("--log-path") {
        // Firecracker opens it, and never makes it.
        if let Err(error) = std::fs::OpenOptions::new().append(true).open(log) {
            eprintln!("Error: LoggerInit({error})");
            std::process::exit(1);
        }
    }
    let machine = Arc::new(Machine {
        id: options.get("--id").cloned().unwrap_or_default(),
        folder,
        script,
        state: Mutex::default(),
    });
    let listener = UnixListener::bind(&options["--api-sock"]).expect("the socket is free");
    for stream in listener.incoming().flatten() {
        let machine = Arc::clone(&machine);
        std::thread::spawn(move || machine.serve(stream));
    }
}

fn options(arguments: &[String]) -> Result<BTreeMap<String, String>, String> {
    const KNOWN: [&str; 4] = ["--api-sock", "--id", "--log-path", "--level"];
    let mut options = BTreeMap::new();
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if KNOWN.contains(&name.as_str()) => {
                options.insert(name.clone(), value.clone());
            }
            _ => return Err(format!("UnexpectedArgument({})", pair[0])),
        }
    }
    let id = options.get("--id").ok_or("MissingArgument(id)")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if id.is_empty() || id.len() > 64 || !id.chars().all(plain) {
        return Err(format!("InvalidInstanceId({id})"));
    }
    if !options.contains_key("--api-sock") {
        return Err("MissingArgument(api-sock)".to_owned());
    }
    Ok(options)
}

struct Script(Vec<String>);

impl Script {
    fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("script")).unwrap_or_default();
        Script(text.lines().map(str::to_owned).collect())
    }

    fn has(&self, word: &str, call: &str) -> bool {
        self.0
            .iter()
            .any(|line| *line == format!("{word} {call}").trim())
    }

    fn version(&self) -> &str {
        let mut versions = self
            .0
            .iter()
            .filter_map(|line| line.strip_prefix("version "));
        versions.next().unwrap_or("1.15.1")
    }
}

struct Machine {
    id: String,
    folder: PathBuf,
    script: Script,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    run: Run,
    kernel: bool,
    drives: Vec<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Run {
    #[default]
    NotStarted,
    Running,
    Paused,
}

type Answer = Result<Option<Value>, String>;

impl Machine {
    fn serve(&self, stream: UnixStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
        let mut writer = stream;
        while let Some((call, body)) = request(&mut reader) {
            let mut calls = std::fs::OpenOptions::new();
            let calls = calls
                .append(true)
                .create(true)
                .open(self.folder.join("calls"));
            let line = format!("{call} {}\n", String::from_utf8_lossy(&body));
            calls
                .expect("a file")
                .write_all(line.as_bytes())
                .expect("room");
            if self.script.has("hangs", &call) {
                loop {
                    std::thread::park();
                }
            }
            if self.script.has("dies", &call) {
                let _ = writer.write_all(b"HTTP/1.1 204 \r\nContent-Le");
                std::process::exit(139);
            }
            let answer = match self.script.has("refuses", &call) {
                true => Err(format!("told to refuse {call}")),
                false => self.answer(&call, &body),
            };
            let (status, body) = match answer {
                Ok(None) => ("204 No Content", String::new()),
                Ok(Some(value)) => ("200 OK", value.to_string()),
                Err(fault) => (
                    "400 Bad Request",
                    json!({ "fault_message": fault }).to_string(),
                ),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if writer.write_all(head.as_bytes()).is_err() {
                return;
            }
            if call == "PUT /actions" && status.starts_with("204") {
                self.after_action(&line);
            }
        }
    }

    fn after_action(&self, call: &str) {
        if call.contains("SendCtrlAltDel") {
            // The guest restarts, and that ends it.
            std::process::exit(0);
        }
        println!("the console of {}", self.id);
    }

    fn answer(&self, call: &str, body: &[u8]) -> Answer {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (method, path) = call.split_once(' ').unwrap_or_default();
        let path: Vec<&str> = path.trim_matches('/').split('/').collect();
        if method != "GET"
            && method != "PATCH"
            && path != ["actions"]
            && state.run != Run::NotStarted
        {
            return Err(
                "The requested operation is not supported after starting the microVM.".into(),
            );
        }
        match (method, &path[..]) {
            ("GET", [""]) => Ok(Some(json!({
                "id": self.id,
                "state": match state.run {
                    Run::NotStarted => "Not started",
                    Run::Running => "Running",
                    Run::Paused => "Paused",
                },
                "vmm_version": self.script.version(),
                "app_name": "Firecracker",
            }))),
            ("GET", ["version"]) => Ok(Some(json!({
                "firecracker_version": self.script.version(),
            }))),
            ("PUT", ["machine-config"]) => {
                let config: MachineConfig = strictly(body)?;
                match config.vcpu_count {
                    1..=32 => Ok(None),
                    _ => Err("The vCPU number is invalid!".into()),
                }
            }
            ("PUT", ["boot-source"]) => {
                let source: BootSource = strictly(body)?;
                exists(&source.kernel_image_path)?;
                source.initrd_path.as_deref().map_or(Ok(()), exists)?;
                state.kernel = true;
                Ok(None)
            }
            ("PUT", ["drives", id]) => {
                let drive: Drive = strictly(body)?;
                same(id, &drive.drive_id)?;
                exists(drive.path_on_host.as_deref().unwrap_or_default())?;
                state.drives.push(drive.drive_id);
                Ok(None)
            }
            ("PUT", ["network-interfaces", id]) => {
                let interface: NetworkInterface = strictly(body)?;
                same(id, &interface.iface_id)?;
                Ok(None)
            }
            ("PUT", ["vsock"]) => {
                let vsock: Vsock = strictly(body)?;
                match vsock.guest_cid {
                    3.. => Ok(None),
                    _ => Err("guest_cid: the least is 3".into()),
                }
            }
            ("PUT", ["metrics"]) => {
                let metrics: Metrics = strictly(body)?;
                exists(&metrics.metrics_path).map(|()| None)
            }
            ("PUT", ["entropy"]) => strictly::<Entropy>(body).map(|_| None),
            ("PUT", ["actions"]) => {
                let action: Action = strictly(body)?;
                match (action.action_type, state.run) {
                    (ActionType::InstanceStart, Run::NotStarted) if !state.kernel => {
                        Err("Cannot start microvm without kernel configuration.".into())
                    }
                    (ActionType::InstanceStart, Run::NotStarted) => {
                        state.run = Run::Running;
                        Ok(None)
                    }
                    (ActionType::InstanceStart, _) => Err(
                        "The requested operation is not supported after starting the microVM."
                            .into(),
                    ),
                    (_, Run::NotStarted) => Err(
                        "The requested operation is not supported before starting the microVM."
                            .into(),
                    ),
                    _ => Ok(None),
                }
            }
            ("PATCH", ["vm"]) => {
                let change: VmChange = strictly(body)?;
                if state.run == Run::NotStarted {
                    return Err("The microVM is not running.".into());
                }
                state.run = match change.state {
                    VmState::Paused => Run::Paused,
                    VmState::Resumed => Run::Running,
                };
                Ok(None)
            }
            _ => Err(format!("Invalid request method and/or path: {call}.")),
        }
    }
}

/// Reads one request: method and path, and the body; none when the connection has ended.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let call = line.rsplit_once(' ')?.0.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((call, body))
}

fn strictly<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| {
        format!("An error occurred when deserializing the json body of a request: {error}.")
    })
}

fn exists(path: &str) -> Result<(), String> {
    match std::fs::File::open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot open {path}: {error}")),
    }
}

fn same(path: &str, body: &str) -> Result<(), String> {
    match path == body {
        true => Ok(()),
        false => Err("The id from the path does not match the id from the body!".into()),
    }
}

// Every field that the description has, and no other. What a field may hold is checked by its type.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read to be checked")]
struct MachineConfig {
    vcpu_count: u8,
    mem_size_mib: usize,
    smt: Option<bool>,
    cpu_template: Option<String>,
    track_dirty_pages: Option<bool>,
    huge_pages: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read to be checked")]
struct BootSource {
    kernel_image_path: String,
    initrd_path: Option<String>,
    boot_args: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read to be checked")]
struct Drive {
    drive_id: String,
    is_root_device: bool,
    partuuid: Option<String>,
    cache_type: Option<CacheType>,
    is_read_only: Option<bool>,
    path_on_host: Option<String>,
    rate_limiter: Option<Value>,
    io_engine: Option<IoEngine>,
    socket: Option<String>,
}

#[derive(Deserialize)]
enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Deserialize)]
enum IoEngine {
    Sync,
    Async,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read to be checked")]
struct NetworkInterface {
    iface_id: String,
    host_dev_name: String,
    guest_mac: Option<String>,
    mtu: Option<u16>,
    rx_rate_limiter: Option<Value>,
    tx_rate_limiter: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read to be checked")]
struct Vsock {
    guest_cid: u32,
    uds_path: String,
    vsock_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metrics {
    metrics_path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read to be checked")]
struct Entropy {
    rate_limiter: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    action_type: ActionType,
}

#[derive(Deserialize)]
#[allow(clippy::enum_variant_names, reason = "the API's own words")]
enum ActionType {
    FlushMetrics,
    InstanceStart,
    SendCtrlAltDel,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VmChange {
    state: VmState,
}

#[derive(Deserialize)]
enum VmState {
    Paused,
    Resumed,
}
