//! `make bench`: what banger costs over the bare thing, as ratios, alternating in one run.
//!
//! The bare boot is the fastest we know: the monitor's own command line (taken from a VM that banger
//! started, so that kernel line, disks and machine are the same), a qcow2 layer and a work disk made the
//! same way, one connection held until sshd greets on it and then handed to ssh.

#[path = "../bench_workspaces.rs"]
mod workspaces;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use banger_core::{CreateRequest, Engine, Progress};
use banger_daemon::client::Client;
use banger_daemon::protocol::{CreateParams, VmCreate};
use banger_tests::{Rig, binary, why_not_real};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    if let Some(reason) = why_not_real() {
        println!("SKIP: {reason}");
        return Ok(());
    }
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(5), |n| n.parse::<usize>())?;
    let runtime = tokio::runtime::Runtime::new()?;
    tell("an image, if there is none");
    let rig = runtime.block_on(Rig::new());
    if std::env::args().nth(2).as_deref() == Some("workspaces") {
        return only_workspaces(&rig, rounds);
    }
    let pattern = runtime.block_on(Pattern::take(&rig))?;
    let mut table = Vec::new();

    let (mut with, mut bare) = (Vec::new(), Vec::new());
    banger(&rig, &["ps"])?;
    for round in 1..=rounds {
        tell(&format!("cold boots, round {round} of {rounds}"));
        with.push(timed(|| {
            banger(&rig, &["-q", "vm", "run", "--rm", "--", "true"])
        })?);
        bare.push(timed(|| pattern.boot(rig.folder()))?);
    }
    table.push(Row::new("vm run --rm -- true", with, bare));

    tell("commands in a VM that runs");
    banger(&rig, &["-q", "vm", "run", "--name", "bench", "--", "true"])?;
    let config = ssh_config(&rig)?;
    let (mut with, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds * 4 {
        with.push(timed(|| {
            banger(&rig, &["vm", "exec", "bench", "--", "/bin/true"])
        })?);
        bare.push(timed(|| {
            succeed(
                Command::new("ssh")
                    .arg("-F")
                    .arg(&config)
                    .args(["bench.vm", "/bin/true"]),
            )
        })?);
    }
    table.push(Row::new("vm exec -- /bin/true", with, bare));
    tell("sessions");
    table.extend(session_rows(&rig, &config, rounds * 4)?);
    tell("workspaces");
    table.extend(workspaces::rows(&rig, &config, rounds)?);
    tell(&format!("the daemon at rest, {} s", REST.as_secs()));
    let rest = at_rest(&rig)?;
    banger(&rig, &["vm", "delete", "bench"])?;

    tell("ps over 100 VMs");
    for number in 0..100 {
        banger(
            &rig,
            &[
                "-q",
                "vm",
                "create",
                &format!("many-{number}"),
                "--disk-size",
                "16M",
            ],
        )?;
    }
    let (mut with, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds * 4 {
        with.push(timed(|| banger(&rig, &["ps"]))?);
        bare.push(timed(|| succeed(&mut Command::new("true")))?);
    }
    table.push(Row::new("ps, 100 VMs (over: true)", with, bare));
    let names: Vec<String> = (0..100).map(|number| format!("many-{number}")).collect();
    let mut delete = vec!["vm", "delete"];
    delete.extend(names.iter().map(String::as_str));
    banger(&rig, &delete)?;
    banger(&rig, &["daemon", "stop"])?;

    tell("a thousand VMs, simulated");
    table.push(runtime.block_on(many_records(rounds))?);
    let many = many_running()?;

    show(&table);
    let mut json: Vec<_> = table.iter().map(Row::json).collect();
    println!(
        "\na thousand running VMs, simulated; to open an engine over them is to take up a second at most"
    );
    for (what, took) in &many {
        println!("{what:<38}{took:>6} ms");
        json.push(serde_json::json!({"what": format!("1000 VMs: {what}"), "banger_ms": [took]}));
    }
    println!("\nthe daemon at rest, one VM running; 25 MB and no wake-up at most");
    println!("{:<38}{:>6.1} MB", "resident", rest.resident as f64 / 1e6);
    println!(
        "{:<38}{:>6}",
        format!("wake-ups in {} s", REST.as_secs()),
        rest.wakeups
    );
    json.push(serde_json::json!({
        "what": "the daemon at rest", "resident_bytes": rest.resident, "wakeups": rest.wakeups,
    }));
    let path = std::env::current_dir()?.join("target/bench.json");
    std::fs::write(&path, serde_json::to_string_pretty(&json)?)?;
    println!("also in {}", path.display());
    Ok(())
}

/// `bench ROUNDS workspaces`: those rows alone.
fn only_workspaces(rig: &Rig, rounds: usize) -> Result<(), AnyError> {
    banger(rig, &["-q", "vm", "run", "--name", "bench", "--", "true"])?;
    tell("workspaces");
    let table = workspaces::rows(rig, &ssh_config(rig)?, rounds)?;
    banger(rig, &["vm", "delete", "bench"])?;
    banger(rig, &["daemon", "stop"])?;
    show(&table);
    Ok(())
}

/// Says what is measured next: all of it takes many minutes.
fn tell(what: &str) {
    eprintln!("bench: {what}…");
}

fn show(table: &[Row]) {
    println!(
        "{:<28}{:>12}{:>12}{:>10}{:>18}",
        "", "banger", "bare", "ratio", "spread of ratios"
    );
    for row in table {
        println!("{}", row.line());
    }
}

/// For how long a daemon that nobody asks anything is looked at.
const REST: Duration = Duration::from_secs(10);

/// What a daemon takes that nobody asks anything.
struct Rest {
    /// In bytes.
    resident: u64,
    /// How often one of its threads went to sleep again.
    wakeups: u64,
}

fn at_rest(rig: &Rig) -> Result<Rest, AnyError> {
    let status = hermetic(rig, &["daemon", "status", "--json"]).output()?;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    let pid = status["pid"].as_u64().ok_or("no daemon")?;
    // The last call's connection is still being put away.
    std::thread::sleep(Duration::from_secs(1));
    let before = numbers(&format!("/proc/{pid}/task"), "voluntary_ctxt_switches:")?;
    std::thread::sleep(REST);
    let after = numbers(&format!("/proc/{pid}/task"), "voluntary_ctxt_switches:")?;
    let resident: Vec<u64> = numbers(&format!("/proc/{pid}/task"), "VmRSS:")?;
    Ok(Rest {
        resident: resident.first().ok_or("no thread")? * 1024,
        wakeups: after
            .iter()
            .sum::<u64>()
            .saturating_sub(before.iter().sum()),
    })
}

/// Returns a number of each thread's `status`.
fn numbers(tasks: &str, key: &str) -> Result<Vec<u64>, AnyError> {
    let mut numbers = Vec::new();
    for task in std::fs::read_dir(tasks)?.flatten() {
        let status = std::fs::read_to_string(task.path().join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next());
        numbers.push(number.ok_or("no such line")?.parse()?);
    }
    Ok(numbers)
}

/// `ps` where ten thousand VMs rest. They are simulated: a record is a record.
async fn many_records(rounds: usize) -> Result<Row, AnyError> {
    // Making them waits for the disk ten thousand times, which is not what is measured.
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory)?,
        false => tempfile::tempdir()?,
    };
    let (state, runtime) = (folder.path().join("state"), folder.path().join("run"));
    let mut daemon = Command::new(binary("bangerd"));
    daemon
        .arg("--sim")
        .args(["--state".as_ref(), state.as_os_str()])
        .args(["--runtime".as_ref(), runtime.as_os_str()])
        .stderr(Stdio::null());
    let daemon = Ended(daemon.spawn()?);
    let socket = runtime.join("bangerd.sock");
    while !socket.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut client = Client::connect(&socket).await?;
    for number in 0..10_000 {
        let params = CreateParams {
            name: Some(format!("many-{number}")),
            work_disk_mib: Some(16),
            ..CreateParams::default()
        };
        client.call::<VmCreate>(&params, &mut |_| {}).await?;
    }
    let mut ps = Command::new(binary("banger"));
    ps.arg("ps")
        .env("BANGER_STATE_DIR", &state)
        .env("BANGER_RUNTIME_DIR", &runtime)
        .env("BANGER_CONFIG_DIR", folder.path());
    let (mut with, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds * 4 {
        with.push(timed(|| succeed(&mut ps))?);
        bare.push(timed(|| succeed(&mut Command::new("true")))?);
    }
    drop(daemon);
    Ok(Row::new("ps, 10,000 VMs (over: true)", with, bare))
}

/// What an engine takes for a thousand running VMs, in milliseconds, as the example of it tells.
fn many_running() -> Result<Vec<(String, u64)>, AnyError> {
    let mut example = Command::new(binary("reconcile_many"));
    // Making them waits for the disk a thousand times, which is not what is measured.
    if Path::new("/dev/shm").is_dir() {
        example.env("TMPDIR", "/dev/shm");
    }
    let output = example.output()?;
    let told = String::from_utf8(output.stderr)?;
    if !output.status.success() {
        return Err(told.into());
    }
    let lines = told.lines().filter_map(|line| {
        let (what, took) = line.strip_suffix(" ms")?.split_once(": ")?;
        Some((what.to_owned(), took.parse().ok()?))
    });
    Ok(lines.collect())
}

/// The round trips of a session, over a command by ssh on a connection that is there.
fn session_rows(rig: &Rig, config: &Path, rounds: usize) -> Result<Vec<Row>, AnyError> {
    let start = "vm session start bench --name reader --stdin pipe -- cat";
    banger(rig, &start.split(' ').collect::<Vec<_>>())?;
    let send = "vm session send bench reader --message hello";
    let show = "vm session show bench reader";
    let mut rows = Vec::new();
    for (what, line) in [("session send", send), ("session show", show)] {
        let words: Vec<&str> = line.split(' ').collect();
        let (mut with, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            with.push(timed(|| banger(rig, &words))?);
            let mut ssh = Command::new("ssh");
            ssh.arg("-F").arg(config).args(["bench.vm", "/bin/true"]);
            bare.push(timed(|| succeed(&mut ssh))?);
        }
        rows.push(Row::new(what, with, bare));
    }
    Ok(rows)
}

/// Medians of alternating runs, in milliseconds.
struct Row {
    what: &'static str,
    with: Vec<f64>,
    bare: Vec<f64>,
}

impl Row {
    fn new(what: &'static str, with: Vec<Duration>, bare: Vec<Duration>) -> Self {
        let ms = |times: Vec<Duration>| times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
        Row {
            what,
            with: ms(with),
            bare: ms(bare),
        }
    }

    fn ratios(&self) -> Vec<f64> {
        self.with
            .iter()
            .zip(&self.bare)
            .map(|(with, bare)| with / bare)
            .collect()
    }

    fn line(&self) -> String {
        let ratios = self.ratios();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        format!(
            "{:<28}{:>9.1} ms{:>9.1} ms{:>10.2}{:>18}",
            self.what,
            median(&self.with),
            median(&self.bare),
            median(&ratios),
            format!("{least:.2} to {most:.2}"),
        )
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "what": self.what, "banger_ms": self.with, "bare_ms": self.bare, "ratio": median(&self.ratios()),
        })
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn timed(run: impl FnOnce() -> Result<(), AnyError>) -> Result<Duration, AnyError> {
    let started = Instant::now();
    run()?;
    Ok(started.elapsed())
}

fn banger(rig: &Rig, arguments: &[&str]) -> Result<(), AnyError> {
    succeed(&mut hermetic(rig, arguments))
}

fn hermetic(rig: &Rig, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("banger"));
    command
        .args(arguments)
        .env("BANGER_STATE_DIR", &rig.config.state_dir)
        .env("BANGER_RUNTIME_DIR", &rig.config.runtime_dir)
        .env("BANGER_CONFIG_DIR", rig.folder().join("config"));
    command
}

fn succeed(command: &mut Command) -> Result<(), AnyError> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?}: {}: {said}", output.status).into())
}

fn ssh_config(rig: &Rig) -> Result<PathBuf, AnyError> {
    for engine in std::fs::read_dir(&rig.config.runtime_dir)?.flatten() {
        for vm in std::fs::read_dir(engine.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let config = vm.path().join("ssh_config");
            if config.exists() {
                return Ok(config);
            }
        }
    }
    Err("no VM has an ssh_config".into())
}

/// A VM of banger's, taken apart: its monitor's words and the files that they name.
struct Pattern {
    words: Vec<String>,
    vm_dir: String,
    run_dir: String,
    rootfs: PathBuf,
    keep: PathBuf,
    key: PathBuf,
}

impl Pattern {
    async fn take(rig: &Rig) -> Result<Self, AnyError> {
        let engine: Engine = rig.open().await;
        let silent = Progress::silent();
        let request = CreateRequest::named("pattern".parse()?);
        let vm = engine.create(request, &silent).await?;
        engine.start("pattern", &silent).await?;
        let run_dir = vm
            .runtime
            .api_sock_path
            .parent()
            .ok_or("no run folder")?
            .to_owned();
        let keep = rig.folder().join("pattern");
        std::fs::create_dir_all(&keep)?;
        for file in ["initrd", "known_hosts", "ssh_config"] {
            std::fs::copy(run_dir.join(file), keep.join(file))?;
        }
        let (pid, _) = rig
            .processes()
            .into_iter()
            .find(|(_, line)| line.contains("-machine"))
            .ok_or("no monitor")?;
        let raw = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        let words = raw.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let pattern = Pattern {
            words: words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
            vm_dir: vm.runtime.vm_dir.to_string_lossy().into_owned(),
            run_dir: run_dir.to_string_lossy().into_owned(),
            rootfs: rig.config.state_dir.join("images/debian-12/rootfs.ext4"),
            key: rig.config.state_dir.join("ssh/id_ed25519"),
            keep,
        };
        engine.delete("pattern").await?;
        engine.close().await;
        Ok(pattern)
    }

    /// Boots it bare, runs `true` in it over the connection on which sshd greeted, and ends it.
    fn boot(&self, folder: &Path) -> Result<(), AnyError> {
        let here = tempfile::tempdir_in(folder)?;
        let (root, work) = (
            here.path().join("root.qcow2"),
            here.path().join("work.ext4"),
        );
        succeed(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                .args([&self.rootfs, &root]),
        )?;
        std::fs::File::create(&work)?.set_len(8 << 30)?;
        succeed(
            Command::new("mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-m", "0"])
                .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
                .arg(&work)
                .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin"),
        )?;
        std::fs::copy(self.keep.join("initrd"), here.path().join("initrd"))?;
        // A port that is free now; nobody else is about to take it.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let place = here.path().to_string_lossy().into_owned();
        let words = self.words[1..]
            .iter()
            .filter(|word| *word != "-S")
            .map(|word| {
                word.replace(&self.vm_dir, &place)
                    .replace(&self.run_dir, &place)
                    .replace("127.0.0.1:0-:22", &format!("127.0.0.1:{port}-:22"))
            });
        let mut monitor = Command::new(&self.words[0]);
        monitor
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0);
        let monitor = Ended(monitor.spawn()?);
        let greeted = greeted_socket(port);
        self.ssh_true(here.path(), &greeted)?;
        drop(monitor);
        Ok(())
    }

    fn ssh_true(&self, here: &Path, socket: &TcpStream) -> Result<(), AnyError> {
        let dial = here.join("dial.sock");
        let listener = UnixListener::bind(&dial)?;
        let helper = format!(
            "ProxyCommand={} dial {}",
            binary("bangerd").display(),
            dial.display()
        );
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
        ])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
        .args([
            "-o",
            "KexAlgorithms=curve25519-sha256",
            "-o",
            "Ciphers=^aes128-ctr",
        ])
        .args(["-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes"])
        .args(["-o", &helper, "-o", "ProxyUseFdpass=yes", "-i"])
        .arg(&self.key)
        .args(["root@bare", "true"]);
        let mut ssh = ssh.stdin(Stdio::null()).spawn()?;
        let (helper, _) = listener.accept()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [socket.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(
            &helper,
            &[IoSlice::new(&[0])],
            &mut control,
            SendFlags::empty(),
        )?;
        match ssh.wait()?.success() {
            true => Ok(()),
            false => Err("the bare ssh failed".into()),
        }
    }
}

/// A monitor that is killed when it is dropped: the bare script does not stop it gently.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As banger waits: see `banger-core/src/transport/ssh.rs`.
fn greeted_socket(port: u16) -> TcpStream {
    let mut patience = Duration::from_millis(250);
    loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.set_read_timeout(Some(patience));
            let mut first = [0; 4];
            match stream.peek(&mut first) {
                Ok(4) => {
                    let _ = stream.set_read_timeout(None);
                    return stream;
                }
                Ok(_) => patience = Duration::from_secs(5),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => patience = Duration::from_secs(5),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
