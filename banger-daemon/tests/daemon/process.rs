//! `bangerd` as a process: started by its clients, alone in its folder, ended by signals.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use banger_daemon::client::{Client, ClientError, Places, Reached, connect_or_start};
use banger_daemon::protocol::*;

use crate::rig::{LIMIT, named, quietly, until};

const BANGERD: &str = env!("CARGO_BIN_EXE_bangerd");

struct Home {
    scratch: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Home {
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("run").join(SOCKET)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BANGERD);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.scratch.path())
            .arg("--sim")
            .arg("--state")
            .arg(self.path("state"))
            .arg("--runtime")
            .arg(self.path("run"))
            .stdin(Stdio::null());
        command
    }

    fn places(&self) -> Places {
        Places {
            socket: self.socket(),
            daemon_program: BANGERD.into(),
            args: vec![
                "--sim".into(),
                "--state".into(),
                self.path("state").into(),
                "--runtime".into(),
                self.path("run").into(),
            ],
            log: self.path("log").join("bangerd.log"),
        }
    }

    async fn start(&self) -> Running {
        let child = self.command().stderr(Stdio::null()).spawn().unwrap();
        let running = Running(child);
        until("the daemon answers", || async {
            Client::connect(&self.socket()).await.is_ok()
        })
        .await;
        running
    }

    fn run(&self, change: impl FnOnce(&mut Command)) -> Output {
        let mut command = self.command();
        change(&mut command);
        command.output().unwrap()
    }
}

impl Drop for Home {
    /// A daemon that a client has started does not outlive a test that failed either.
    fn drop(&mut self) {
        use std::io::{Read, Write};
        if let Ok(mut stream) = std::os::unix::net::UnixStream::connect(self.socket()) {
            let stop = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"daemon.stop\"}\n";
            let _ = stream.set_read_timeout(Some(LIMIT));
            let _ = stream.write_all(stop);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
}

/// A daemon that a test has started; it does not outlive the test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    async fn ended(&mut self) -> Option<i32> {
        let begun = std::time::Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < LIMIT, "the daemon did not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn stop(client: &mut Client) {
    quietly::<DaemonStop>(client, &Nothing {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clients_that_start_at_once_share_one_daemon() {
    let home = Home::new();
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let places = home.places();
        starts.spawn(async move { connect_or_start(&places).await });
    }
    let mut clients = Vec::new();
    while let Some(started) = starts.join_next().await {
        let (client, _) = started.unwrap().unwrap();
        clients.push(client);
    }
    assert_eq!(clients.len(), 20);
    let mut pids = std::collections::BTreeSet::new();
    for client in &mut clients {
        let status = quietly::<DaemonStatus>(client, &Nothing {}).await.unwrap();
        pids.insert(status.pid);
    }
    assert_eq!(pids.len(), 1, "{pids:?}");
    let (mut late, reached) = connect_or_start(&home.places()).await.unwrap();
    assert_eq!(reached, Reached::Running);
    // The losers have nothing to say.
    let log = std::fs::read_to_string(home.places().log).unwrap();
    assert!(!log.contains("error"), "{log}");
    assert_eq!(log.matches("listening").count(), 1, "{log}");
    stop(&mut late).await;
}

#[tokio::test]
async fn a_daemon_started_by_a_client_has_a_session_of_its_own() {
    let home = Home::new();
    let (mut client, reached) = connect_or_start(&home.places()).await.unwrap();
    assert_eq!(reached, Reached::Started);
    let status = quietly::<DaemonStatus>(&mut client, &Nothing {})
        .await
        .unwrap();
    let pid = rustix::process::Pid::from_raw(status.pid as i32);
    assert_eq!(rustix::process::getsid(pid).unwrap(), pid.unwrap());
    stop(&mut client).await;
}

#[tokio::test]
async fn a_daemon_that_is_just_ending_is_followed_by_a_new_one() {
    let home = Home::new();
    let (mut client, _) = connect_or_start(&home.places()).await.unwrap();
    let first = quietly::<DaemonStatus>(&mut client, &Nothing {})
        .await
        .unwrap();
    stop(&mut client).await;
    // It may hold the lock still, and has or has not removed its socket.
    let second = loop {
        let (mut client, _) = connect_or_start(&home.places()).await.unwrap();
        match quietly::<DaemonStatus>(&mut client, &Nothing {}).await {
            Ok(status) => break (status, client),
            Err(ClientError::Lost) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let (status, mut client) = second;
    assert_ne!(status.pid, first.pid);
    assert_eq!(status.engine, first.engine);
    stop(&mut client).await;
}

#[tokio::test]
async fn a_client_tries_again_when_the_folder_was_held_by_one_that_never_answered() {
    let home = Home::new();
    let state = home.path("state");
    std::fs::create_dir(&state).unwrap();
    let held = std::fs::File::create(banger_core::Places::lock_of(&state)).unwrap();
    held.try_lock().unwrap();
    let places = home.places();
    let mut starting = tokio::spawn(async move { connect_or_start(&places).await });
    // Long enough for its first daemon to have ended; nothing can answer as long as the lock is held.
    let early = tokio::time::timeout(Duration::from_secs(1), &mut starting).await;
    assert!(early.is_err(), "{early:?}");
    drop(held);
    let (mut client, _) = starting.await.unwrap().unwrap();
    stop(&mut client).await;
}

#[tokio::test]
async fn a_daemon_that_cannot_start_says_why_through_its_client() {
    let home = Home::new();
    let mut places = home.places();
    places.args.push("--frobnicate".into());
    let Err(ClientError::EndedStarting { tail, log, .. }) = connect_or_start(&places).await else {
        panic!("it started");
    };
    assert!(tail.contains("--frobnicate"), "{tail}");
    assert_eq!(log, places.log);

    places.daemon_program = home.path("no-such-program");
    let failed = connect_or_start(&places).await;
    assert!(
        matches!(failed, Err(ClientError::Start { .. })),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_second_daemon_ends_at_once_and_names_the_state_folder() {
    let home = Home::new();
    let _first = home.start().await;
    let second = home.run(|_| {});
    assert_eq!(second.status.code(), Some(i32::from(STATUS_IN_USE)));
    let told = String::from_utf8_lossy(&second.stderr);
    assert!(
        told.contains(home.path("state").to_str().unwrap()),
        "{told}"
    );
    assert!(told.contains("hint: "), "{told}");
    assert!(
        Client::connect(&home.socket()).await.is_ok(),
        "the first one was harmed"
    );
}

#[tokio::test]
async fn a_daemon_with_another_state_folder_leaves_the_socket_alone() {
    let home = Home::new();
    let _first = home.start().await;
    let second = home.run(|command| {
        command.arg("--state").arg(home.path("other"));
    });
    // clap takes an argument once; the other folder is given by the variable then.
    assert!(!second.status.success());
    let mut command = Command::new(BANGERD);
    command
        .args(["--sim", "--runtime"])
        .arg(home.path("run"))
        .env("BANGER_STATE_DIR", home.path("other"))
        .env("BANGER_CONFIG_DIR", home.path("config"));
    let second = command.output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let told = String::from_utf8_lossy(&second.stderr);
    assert!(told.contains("another daemon"), "{told}");
    assert!(
        Client::connect(&home.socket()).await.is_ok(),
        "the first one was harmed"
    );
}

#[tokio::test]
async fn the_socket_of_a_killed_daemon_is_taken_over() {
    let home = Home::new();
    let mut first = home.start().await;
    first.signal(rustix::process::Signal::KILL);
    first.ended().await;
    assert!(home.socket().exists());
    let refused = Client::connect(&home.socket()).await;
    assert!(
        matches!(refused, Err(ClientError::NotRunning { .. })),
        "{refused:?}"
    );
    let _second = home.start().await;
}

#[tokio::test]
async fn a_signal_ends_the_daemon_with_status_0_and_no_socket() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let home = Home::new();
        let mut daemon = home.start().await;
        let mut client = Client::connect(&home.socket()).await.unwrap();
        quietly::<VmCreate>(&mut client, &named("box"))
            .await
            .unwrap();
        daemon.signal(signal);
        assert_eq!(daemon.ended().await, Some(0));
        assert!(!home.socket().exists());
        let _next = home.start().await;
        let mut client = Client::connect(&home.socket()).await.unwrap();
        let listed = quietly::<VmList>(&mut client, &VmListParams::default())
            .await
            .unwrap();
        assert_eq!(listed.vms[0].name, "box");
    }
}

#[tokio::test]
async fn a_daemon_of_a_background_job_hands_no_ignored_signal_on() {
    let home = Home::new();
    let bangerd = home.command();
    let child = Command::new("env")
        .arg("--ignore-signal=INT,QUIT")
        .arg(BANGERD)
        .args(bangerd.get_args())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut daemon = Running(child);
    until("the daemon answers", || async {
        Client::connect(&home.socket()).await.is_ok()
    })
    .await;
    let status = format!("/proc/{}/status", daemon.0.id());
    let ignored = text_field(Path::new(&status), "SigIgn:");
    let ignored = u64::from_str_radix(&ignored, 16).unwrap();
    let (interrupt, quit) = (1 << 1, 1 << 2);
    assert_eq!(ignored & (interrupt | quit), 0, "{ignored:x}");
    daemon.signal(rustix::process::Signal::INT);
    assert_eq!(daemon.ended().await, Some(0));
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_told_with_its_line() {
    let home = Home::new();
    let config = home.path("config");
    std::fs::create_dir(&config).unwrap();
    std::fs::write(config.join("config.toml"), "\nvmn = \"qemu\"\n").unwrap();
    let refused = home.run(|command| {
        command.env("BANGER_CONFIG_DIR", &config);
    });
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        told.contains("config.toml, line 2") && told.contains("vmn"),
        "{told}"
    );
}

#[tokio::test]
async fn a_runtime_folder_that_is_a_link_is_refused() {
    let home = Home::new();
    std::fs::create_dir(home.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(home.path("elsewhere"), home.path("run")).unwrap();
    let refused = home.run(|_| {});
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("is no folder"), "{told}");
}

#[tokio::test]
async fn a_daemon_at_rest_does_not_wake_up() {
    let home = Home::new();
    let daemon = home.start().await;
    let pid = daemon.0.id();
    let mut client = Client::connect(&home.socket()).await.unwrap();
    quietly::<VmList>(&mut client, &VmListParams::default())
        .await
        .unwrap();
    // It comes to rest within seconds: threads that were needed are given up.
    let mut before = switches(pid);
    let mut rests = false;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = switches(pid);
        if now == before {
            rests = true;
            break;
        }
        before = now;
    }
    assert!(rests, "some thread of it ran in each of thirty seconds");
    let resident = resident_kib(pid);
    eprintln!("resident: {resident} KiB");
}

/// How often its threads have gone to sleep by themselves, which each wake-up ends in.
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            field(
                &task.unwrap().path().join("status"),
                "voluntary_ctxt_switches:",
            )
        })
        .sum()
}

fn resident_kib(pid: u32) -> u64 {
    field(Path::new(&format!("/proc/{pid}/status")), "VmRSS:")
}

fn field(path: &Path, name: &str) -> u64 {
    text_field(path, name).parse().unwrap_or(0)
}

fn text_field(path: &Path, name: &str) -> String {
    // A thread may end between the listing and the look.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    word.unwrap_or_default().to_owned()
}
