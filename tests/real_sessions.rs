//! Guest sessions as a user has them: `banger`, the daemon that it starts, one real VM for all of it. Both
//! are killed at their work, the guest reboots and stops, and nothing of a session is lost but what ended.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use banger_tests::{Home, alone, kill, skipped, text};
use serde_json::Value;

/// Nothing here takes longer, on a slow machine that is emulated.
const LONG: Duration = Duration::from_secs(120);

/// What the session prints that is followed through a dying daemon: numbered lines, so that a byte that
/// is lost or comes twice shows. The same program on this host says what it must be.
const MUCH: &str = "seq 1 99999999 | head -c 100000000";

#[test]
fn a_session_survives_all_but_its_own_end() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let home = Home::new();
    home.ok(&["-q", "vm", "run", "--name", "box", "--", "true"]);
    let all: [fn(&Home); 6] = [
        runs_in_a_prepared_workspace,
        is_fed_and_watched_through_killed_daemons_and_clients,
        is_whole_or_told_of_when_the_daemon_is_killed_at_its_start,
        prints_a_hundred_megabytes_through_a_killed_daemon,
        fails_with_the_reason_when_its_guest_reboots,
        is_read_after_its_vm_has_stopped,
    ];
    for (number, check) in all.into_iter().enumerate() {
        let begun = Instant::now();
        check(&home);
        println!("check {number}: {:.1} s", begun.elapsed().as_secs_f64());
    }
    home.ok(&["vm", "delete", "box"]);
    home.rig.assert_nothing_left();
}

fn runs_in_a_prepared_workspace(home: &Home) {
    let repository = home.rig.folder().join("repository");
    let script = "git init -q \"$0\" && cd \"$0\" && echo hello >file && git add file && \
        git -c user.name=me -c user.email=me@host commit -qm first";
    let made = Command::new("sh")
        .args(["-c", script])
        .arg(&repository)
        .status();
    assert!(made.expect("it starts").success());
    let path = repository.to_string_lossy().into_owned();
    home.ok(&["-q", "vm", "workspace", "prepare", "box", &path]);
    start(
        home,
        "job",
        &["--cwd", "/root/repo", "-e", "A=it's"],
        r#"pwd; cat file; echo "$A"; exit 3"#,
    );
    until("it has ended", || shown(home, "job")["status"] == "exited");
    assert_eq!(log(home, "job"), "/root/repo\nhello\nit's\n");
    assert_eq!(shown(home, "job")["exit_code"], 3);
    let missing = home.banger(&[
        "vm",
        "session",
        "start",
        "box",
        "--cwd",
        "/root/nowhere",
        "--",
        "true",
    ]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("\"/root/nowhere\" does not exist"),
        "{missing:?}"
    );
}

/// An attach and a follower see one daemon die; then the attach is killed too, and another goes on.
fn is_fed_and_watched_through_killed_daemons_and_clients(home: &Home) {
    let script = "while read -r line; do echo \"got $line\"; done; echo over; exit 7";
    start(home, "agent", &["--stdin", "pipe"], script);
    let mut attach = Banger::start(home, &["vm", "session", "attach", "box", "agent"]);
    let follower = Banger::start(home, &["vm", "session", "logs", "box", "agent", "-f"]);
    attach.types("one");
    attach.prints("got one");
    follower.prints("got one");

    let before = home.daemon();
    kill(before);
    send(home, "two");
    assert_ne!(home.daemon(), before);
    for client in [&attach, &follower] {
        client.prints("got two");
    }
    attach.types("three");
    for client in [&attach, &follower] {
        client.prints("got three");
    }
    let held = home.banger(&["vm", "session", "attach", "box", "agent"]);
    assert_eq!(held.status.code(), Some(124), "{held:?}");
    assert!(
        text(&held.stderr).contains(&format!("(process {})", attach.child.id())),
        "{held:?}"
    );

    attach.killed();
    kill(home.daemon());
    send(home, "four");
    follower.prints("got four");
    let again = [
        "vm",
        "session",
        "attach",
        "box",
        "agent",
        "--stdout-offset",
        "16",
    ];
    let mut again = Banger::start(home, &again);
    again.types("five");
    for line in ["got three", "got four", "got five"] {
        again.prints(line);
    }
    home.ok(&[
        "vm", "session", "send", "box", "agent", "-m", "six", "--eof",
    ]);
    follower.prints("got five");
    for client in [&follower, &again] {
        client.prints("got six");
        client.prints("over");
    }
    assert_eq!(follower.ends(), Some(0));
    assert_eq!(again.ends(), Some(7));
    assert_eq!(
        log(home, "agent"),
        "got one\ngot two\ngot three\ngot four\ngot five\ngot six\nover\n"
    );
}

/// Wherever in a start the daemon dies: the session runs and can be stopped, or it is told why not.
fn is_whole_or_told_of_when_the_daemon_is_killed_at_its_start(home: &Home) {
    let pauses_ms = [20, 100, 250, 500];
    for pause_ms in pauses_ms {
        home.ok(&["ps"]);
        let daemon = home.daemon();
        let name = format!("cut-{pause_ms}");
        let mut start = home.command(&[
            "vm", "session", "start", "box", "--name", &name, "--", "sleep", "1000",
        ]);
        let start = start.stdout(Stdio::null()).stderr(Stdio::null());
        let mut start = start.spawn().expect("it starts");
        thread::sleep(Duration::from_millis(pause_ms));
        kill(daemon);
        start.wait().expect("it ends");
    }
    for pause_ms in pauses_ms {
        let name = format!("cut-{pause_ms}");
        let mut left = Value::Null;
        until("it is decided", || {
            let list = home.json(&["vm", "session", "list", "box"]);
            let mut list = list.as_array().into_iter().flatten();
            let found = list.find(|session| session["name"] == name.as_str());
            left = found.cloned().unwrap_or_default();
            left["status"] != "starting"
        });
        println!("{pause_ms} ms: {}, {}", left["status"], left["error"]);
        match left["status"].as_str() {
            None => {}
            Some("running") => {
                home.ok(&["vm", "session", "stop", "box", &name]);
                assert_eq!(shown(home, &name)["exit_code"], 143);
            }
            Some("failed") => assert_eq!(left["failed_at"], "launch", "{left}"),
            other => panic!("it is {other:?}"),
        }
    }
    let left = home.banger(&["vm", "exec", "box", "--", "pgrep", "-fx", "sleep 1000"]);
    assert_eq!(left.status.code(), Some(1), "one runs on unseen: {left:?}");
}

fn prints_a_hundred_megabytes_through_a_killed_daemon(home: &Home) {
    start(home, "much", &[], MUCH);
    let begun = Instant::now();
    let hash = hashing();
    let logs = home
        .command(&["vm", "session", "logs", "box", "much", "--all", "-f"])
        .stdin(Stdio::null())
        .stdout(hash.input)
        .spawn();
    let mut logs = logs.expect("it starts");
    // Somewhere in the middle of it, as the guest sees it.
    let id = shown(home, "much")["id"].clone();
    let path = format!(
        "/root/.local/state/banger/sessions/{}/stdout.log",
        id.as_str().expect("an id")
    );
    until("half of it was printed", || {
        let size = home.ok(&["vm", "exec", "box", "--", "stat", "-c", "%s", &path]);
        size.trim().parse::<u64>().expect("a number") > 50_000_000
    });
    kill(home.daemon());
    assert!(logs.wait().expect("it ends").success());
    println!("100 MB in {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(hash.output.join().expect("it is hashed"), expected_hash());
    assert_eq!(shown(home, "much")["exit_code"], 0);
}

fn fails_with_the_reason_when_its_guest_reboots(home: &Home) {
    start(
        home,
        "server",
        &["--stdin", "pipe"],
        "echo up; exec sleep 1000",
    );
    let follower = Banger::start(home, &["vm", "session", "logs", "box", "server", "-f"]);
    follower.prints("up");
    home.banger(&[
        "vm",
        "exec",
        "box",
        "--",
        "systemctl",
        "--no-block",
        "reboot",
    ]);
    until("it has failed", || {
        shown(home, "server")["status"] == "failed"
    });
    let error = shown(home, "server")["error"].to_string();
    assert!(error.contains("reboot"), "{error}");
    assert_eq!(follower.ends(), Some(0));
    until("the guest is back", || {
        home.banger(&["vm", "exec", "box", "--", "true"])
            .status
            .success()
    });
    assert_eq!(log(home, "server"), "up\n");
    let sent = home.banger(&["vm", "session", "send", "box", "server", "-m", "hi"]);
    assert!(
        text(&sent.stderr).contains("the session is not running"),
        "{sent:?}"
    );
}

fn is_read_after_its_vm_has_stopped(home: &Home) {
    start(
        home,
        "last",
        &[],
        "echo a word; echo another >&2; exec sleep 1000",
    );
    until("it has printed", || log(home, "last") == "a word\n");
    home.ok(&["vm", "stop", "box"]);
    let last = shown(home, "last");
    assert_eq!(last["status"], "failed");
    assert!(
        last["error"]
            .to_string()
            .contains("the VM stopped while the session ran"),
        "{last}"
    );
    assert_eq!(log(home, "last"), "a word\n");
    let stderr = [
        "vm", "session", "logs", "box", "last", "--stream", "stderr", "-f",
    ];
    assert_eq!(home.ok(&stderr), "another\n");
    assert_eq!(shown(home, "job")["exit_code"], 3);
    assert_eq!(log(home, "job"), "/root/repo\nhello\nit's\n");
    let begun = Instant::now();
    let hash = hashing();
    let read = home
        .command(&["vm", "session", "logs", "box", "much", "--all"])
        .stdout(hash.input)
        .status();
    assert!(read.expect("it starts").success());
    println!(
        "100 MB from its disk in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(hash.output.join().expect("it is hashed"), expected_hash());
}

fn start(home: &Home, name: &str, options: &[&str], script: &str) {
    let words = [
        &["vm", "session", "start", "box", "--name", name][..],
        options,
        &["--", "sh", "-c", script],
    ]
    .concat();
    assert_eq!(home.ok(&words), format!("{name}\n"));
}

fn send(home: &Home, message: &str) {
    home.ok(&[
        "vm",
        "session",
        "send",
        "box",
        "agent",
        "--message",
        message,
    ]);
}

fn log(home: &Home, name: &str) -> String {
    home.ok(&["vm", "session", "logs", "box", name, "--all"])
}

fn shown(home: &Home, name: &str) -> Value {
    home.json(&["vm", "session", "show", "box", name])
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A `banger` that is at work, and the lines that it prints.
struct Banger {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Banger {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let mut command = home.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let (tell, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("it has one"));
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let stdin = child.stdin.take().expect("it has one");
        Banger {
            child,
            stdin,
            lines,
        }
    }

    fn types(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it is taken");
    }

    /// The next line must be this one.
    fn prints(&self, line: &str) {
        let next = self.lines.recv_timeout(LONG);
        assert_eq!(next.as_deref(), Ok(line));
    }

    fn killed(mut self) {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it is gone");
    }

    fn ends(mut self) -> Option<i32> {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().expect("it is ours");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Banger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// sha256sum at work: where it reads, and what it says at the end.
struct Hashing {
    input: Stdio,
    output: thread::JoinHandle<String>,
}

fn hashing() -> Hashing {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let input = child.stdin.take().expect("it has one").into();
    let output = thread::spawn(move || text(&child.wait_with_output().expect("it ends").stdout));
    Hashing { input, output }
}

fn expected_hash() -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("{MUCH} | sha256sum")])
        .output();
    text(&output.expect("it starts").stdout)
}
