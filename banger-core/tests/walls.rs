//! What a monitor is started within, read from `/proc` of a process, and how its logs are kept. Alone in its file:
//! it changes this process's own limits.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_core::{
    Detached, Host, HostError, LOG_BYTES, LinuxHost, LinuxHostConfig, ProcessEnd, ProcessIdentity,
    ProcessSignal, Walls,
};
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};

/// Fewer open files than a process has by itself, so that it shows.
const OPEN_FILES: u64 = 777;

fn host() -> LinuxHost {
    LinuxHost::new(LinuxHostConfig {
        open_files: Some((OPEN_FILES, OPEN_FILES + 1)),
        ..LinuxHostConfig::default()
    })
}

/// A program within walls, whose further log is `console.log`.
fn walled(dir: &Path, script: &str) -> Detached {
    Detached {
        program: "sh".to_owned(),
        arguments: ["-c", script].map(Into::into).into(),
        log: dir.join("monitor.log"),
        walls: Some(Walls {
            opens: vec![dir.join("disk")],
            logs: vec![dir.join("console.log")],
        }),
        namespace: None,
        scope: None,
    }
}

async fn end(host: &LinuxHost, process: &ProcessIdentity) {
    host.signal(process, ProcessSignal::Kill).await.unwrap();
    host.wait_end(process).await.unwrap();
}

/// Waits for a condition.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read(path: PathBuf) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |facts| facts.len())
}

/// A field of `/proc/<pid>/status`.
fn status(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// The soft and the hard limit of `/proc/<pid>/limits`.
fn limits(pid: u32, name: &str) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

fn score(pid: u32) -> i32 {
    read(format!("/proc/{pid}/oom_score_adj").into())
        .trim()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn what_runs_within_walls_has_no_privilege_no_core_dump_our_first_limits_and_dies_before_us()
{
    let (host, dir) = (host(), tempfile::tempdir().unwrap());
    // As a daemon does.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let process = host
        .spawn(&walled(dir.path(), "exec sleep 1000"))
        .await
        .unwrap();
    let pid = process.pid;
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    if rustix::process::geteuid().is_root() {
        assert_eq!(status(pid, "CapBnd"), "0000000000000000");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(limits(pid, "Max core file size"), ("0".into(), "0".into()));
    assert_eq!(
        limits(pid, "Max open files"),
        (OPEN_FILES.to_string(), (OPEN_FILES + 1).to_string())
    );
    // Its disks are files.
    assert_eq!(limits(pid, "Max file size").0, "unlimited");
    assert_eq!(score(pid), (score(std::process::id()) + 300).min(1000));
    end(&host, &process).await;
}

#[tokio::test]
async fn a_helper_has_our_first_limits_no_core_dump_and_a_log_that_cannot_grow_for_ever() {
    let (host, dir) = (host(), tempfile::tempdir().unwrap());
    let mut helper = walled(dir.path(), "exec cat /dev/zero");
    helper.walls = None;
    let process = host.spawn(&helper).await.unwrap();
    assert_eq!(limits(process.pid, "Max core file size").0, "0");
    assert_eq!(
        limits(process.pid, "Max open files").0,
        OPEN_FILES.to_string()
    );
    let ended = host.wait_end(&process).await.unwrap();
    assert!(matches!(ended, ProcessEnd::Signaled(_)), "{ended}");
    assert_eq!(bytes(&helper.log), LOG_BYTES);
}

#[tokio::test]
async fn logs_of_one_that_writes_for_ever_stay_short_and_hold_its_last_words() {
    let (host, dir) = (host(), tempfile::tempdir().unwrap());
    let logs = ["monitor.log", "console.log"].map(|name| dir.path().join(name));
    std::fs::write(&logs[1], "of a run before\n").unwrap();
    // Both for ever, and then an end with a reason.
    let script = r#"
        padding=$(head -c 4000 /dev/zero | tr "\0" x)
        yes "the guest talks" >/proc/self/fd/3 & talks=$!
        while :; do echo "the monitor complains, $padding"; done >&2 & complains=$!
        read -r stop <"$0.stop"
        kill $talks $complains
        wait
        echo "last of the guest" >/proc/self/fd/3
        # A pipe that is full drops it.
        until echo "last of the monitor" >&2; do :; done
    "#;
    let stop = dir.path().join("told.stop");
    rustix::fs::mknodat(CWD, &stop, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut talker = walled(dir.path(), script);
    talker.arguments.push(dir.path().join("told").into());
    let process = host.spawn(&talker).await.unwrap();
    for log in &logs {
        let (mut most, mut before, mut anew) = (0, 0, 0);
        eventually("it begins anew, again and again", || {
            let now = bytes(log);
            anew += u32::from(now < before);
            (most, before) = (most.max(now), now);
            anew >= 5
        });
        assert!((LOG_BYTES / 2..=LOG_BYTES).contains(&most), "{most}");
    }
    assert!(!read(logs[1].clone()).contains("of a run before"));
    std::fs::write(&stop, "\n").unwrap();
    host.wait_end(&process).await.unwrap();
    let last = ["last of the monitor", "last of the guest"];
    for (log, last) in logs.iter().zip(last) {
        assert!(read(log.clone()).trim_end().ends_with(last), "{last}");
    }
}

#[tokio::test]
async fn what_a_program_says_before_it_ends_is_in_its_log_behind_what_was_there() {
    let (host, dir) = (host(), tempfile::tempdir().unwrap());
    let said = walled(
        dir.path(),
        "echo out; echo error >&2; echo console >&3; exit 7",
    );
    std::fs::write(&said.log, "before\n").unwrap();
    let process = host.spawn(&said).await.unwrap();
    assert_eq!(
        host.wait_end(&process).await.unwrap(),
        ProcessEnd::Exited(7)
    );
    // At once: the end is told when they are written.
    assert_eq!(read(said.log.clone()), "before\nout\nerror\n");
    assert_eq!(read(dir.path().join("console.log")), "console\n");
    assert_eq!(keepers(&host, dir.path()).await, []);
}

/// Those who keep the logs in a folder, and the program that each of them has started.
async fn keepers(host: &LinuxHost, dir: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for keeper in host.find_processes(dir.to_str().unwrap()).await.unwrap() {
        let pid = keeper.identity.pid;
        let children = read(format!("/proc/{pid}/task/{pid}/children").into());
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        let all = children.chain([i32::try_from(pid).unwrap()]);
        found.extend(all.filter_map(Pid::from_raw));
    }
    found
}

/// Waits for a shell and a `cat` for each of two logs.
async fn begun(host: &LinuxHost, dir: &Path) -> Vec<Pid> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = keepers(host, dir).await;
        // One that is about to become `cat` still is a second shell.
        let cats = found.iter().filter(|pid| {
            let pid = pid.as_raw_nonzero();
            read(format!("/proc/{pid}/comm").into()).trim() == "cat"
        });
        if (cats.count(), found.len()) == (2, 4) {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {found:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_whose_keepers_are_killed_or_stand_still_goes_on() {
    let (host, scratch) = (host(), tempfile::tempdir().unwrap());
    for signal in [Signal::KILL, Signal::STOP] {
        // Its own words do not name the folder of its logs.
        let dir = scratch.path().join(format!("logs-{}", signal.as_raw()));
        let told = scratch.path().join(format!("told-{}", signal.as_raw()));
        std::fs::create_dir(&dir).unwrap();
        rustix::fs::mknodat(CWD, &told, FileType::Fifo, Mode::RWXU, 0).unwrap();
        // More than a pipe holds, from one who is not ended by one that is broken, as QEMU is not.
        let script =
            r#"trap "" PIPE; read -r go <"$0"; head -c 4000000 /dev/zero >&2; echo >"$0.done""#;
        let mut talker = walled(&dir, script);
        talker.arguments.push(told.clone().into());
        let process = host.spawn(&talker).await.unwrap();
        let found = begun(&host, &dir).await;
        for pid in &found {
            kill_process(*pid, signal).unwrap();
        }
        std::fs::write(&told, "\n").unwrap();
        let done = scratch
            .path()
            .join(format!("told-{}.done", signal.as_raw()));
        eventually("it goes on", || done.exists());
        host.wait_end(&process).await.unwrap();
        for pid in found {
            let _ = kill_process(pid, Signal::CONT);
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while !keepers(&host, &dir).await.is_empty() {
            assert!(
                Instant::now() < deadline,
                "they end with what they keep the logs of"
            );
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn one_whose_log_cannot_be_kept_is_not_started() {
    let (host, dir) = (host(), tempfile::tempdir().unwrap());
    let mut program = walled(dir.path(), "exec sleep 1000");
    program.walls.as_mut().unwrap().logs = vec![dir.path().join("none/console.log")];
    let error = host.spawn(&program).await.unwrap_err();
    assert!(matches!(error, HostError::File { .. }), "{error:?}");
    let nothing = LinuxHost::new(LinuxHostConfig {
        program_folders: vec![dir.path().to_owned()],
        ..LinuxHostConfig::default()
    });
    std::os::unix::fs::symlink("/bin/sleep", dir.path().join("sleep-of-walls")).unwrap();
    let mut program = walled(dir.path(), "");
    program.program = "sleep-of-walls".to_owned();
    program.arguments = vec!["1234.5".into()];
    let error = nothing.spawn(&program).await.unwrap_err();
    assert!(
        matches!(error, HostError::ProgramMissing { .. }),
        "{error:?}"
    );
    let left = host.find_processes("1234.5").await.unwrap();
    let left: Vec<_> = left
        .iter()
        .filter(|facts| facts.command_line.contains("sleep-of-walls"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
