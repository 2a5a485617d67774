//! `banger vm session …` and the real daemon, over simulated machines.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use banger_daemon::protocol::{SessionChangeAnswer, SessionInfo};
use insta::assert_snapshot;

use crate::simulator::{Simulated, send, session, until};

const TALK: &str = "echo ready; while read -r line; do echo \"got $line\"; echo \"err $line\" >&2; \
    [ \"$line\" != quit ] || exit 7; done; echo eof";

impl Simulated {
    fn start(&self, name: &str, stdin: &str, script: &str) {
        let run = self.banger(&[
            "vm", "session", "start", "box", "--name", name, "--stdin", stdin, "--", "sh", "-c",
            script,
        ]);
        assert_eq!(run.status, Some(0), "{run}");
        assert_eq!(run.stdout, format!("{name}\n").as_bytes());
    }

    fn shown(&self, name: &str) -> SessionInfo {
        let run = self.banger(&["vm", "session", "show", "box", name, "--json"]);
        assert_eq!(run.status, Some(0), "{run}");
        serde_json::from_slice(&run.stdout).unwrap()
    }

    fn stdout_of(&self, name: &str) -> Vec<u8> {
        let run = self.banger(&["vm", "session", "logs", "box", name, "--all"]);
        assert_eq!(run.status, Some(0), "{run}");
        run.stdout
    }

    fn printed(&self, name: &str, text: &str) {
        until(&format!("{name} prints {text:?}"), || {
            String::from_utf8_lossy(&self.stdout_of(name)).contains(text)
        });
    }
}

/// Reads until it has seen `text`, and returns all of it.
fn reads(child: &mut Child, text: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    let stdout = child.stdout.as_mut().unwrap();
    while !all.ends_with(text.as_bytes()) {
        let read = stdout.read(&mut byte).unwrap();
        assert_eq!(
            read,
            1,
            "it ended after {:?}",
            String::from_utf8_lossy(&all)
        );
        all.push(byte[0]);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn a_session_as_a_user_sees_it() {
    let world = Simulated::with_box();
    let shown = session(
        &world,
        &[
            &[
                "vm",
                "session",
                "start",
                "box",
                "--name",
                "job",
                "--tag",
                "team=a",
                "--",
                "sh",
                "-c",
                "sleep 0.5; seq 1 3; exit 3",
            ],
            &["vm", "session", "logs", "box", "job", "-f"],
            &["vm", "session", "logs", "box", "job", "-n", "1"],
            &[
                "vm", "session", "logs", "box", "job", "--offset", "4", "--json",
            ],
            &["vm", "session", "attach", "box", "job"],
            &["vm", "session", "stop", "box", "job"],
            &["vm", "session", "kill", "box", "job"],
            &[
                "vm", "session", "start", "box", "--name", "web", "--", "sleep", "600",
            ],
            &[
                "vm", "session", "start", "box", "--name", "web", "--", "sleep", "600",
            ],
            &["vm", "session", "send", "box", "web", "--message", "hi"],
            &["vm", "session", "stop", "box", "web"],
            &["vm", "session", "delete", "box", "web"],
            &["vm", "session", "delete", "box", "web"],
            &["vm", "session", "attach", "box", "web"],
        ],
    );
    assert_snapshot!(shown, @r#"
    $ banger vm session start box --name job --tag team=a -- sh -c sleep 0.5; seq 1 3; exit 3
    job
    $ banger vm session logs box job -f
    1
    2
    3
    $ banger vm session logs box job -n 1
    3
    $ banger vm session logs box job --offset 4 --json
    {"data":"3\n","offset":4,"stream":"stdout"}
    $ banger vm session attach box job
    1
    2
    3
    => Some(3)
    $ banger vm session stop box job
      | job: already ended
    $ banger vm session kill box job
      | error: cannot signal session job of VM box
      | caused by: the session is not running
      | hint: how it ended: banger vm session show box job
    => Some(1)
    $ banger vm session start box --name web -- sleep 600
    web
    $ banger vm session start box --name web -- sleep 600
      | error: VM box already has a session named web
      | hint: choose another name, or delete that session: banger vm session delete box web
    => Some(1)
    $ banger vm session send box web --message hi
      | error: cannot write to session web of VM box
      | caused by: the session's stdin is not a pipe: it was started with stdin closed
      | hint: start it with --stdin pipe
    => Some(1)
    $ banger vm session stop box web
      | web: stopped (by TERM; it ended with status 143 (TERM))
    $ banger vm session delete box web
      | web: deleted
    $ banger vm session delete box web
      | error: VM box has no session "web"
      | hint: banger vm session list box shows what there is
    => Some(1)
    $ banger vm session attach box web
      | error: VM box has no session "web"
      | hint: banger vm session list box shows what there is
    => Some(124)
    "#);
}

#[test]
fn what_a_session_would_miss_is_told() {
    let world = Simulated::with_box();
    let shown = session(
        &world,
        &[
            &[
                "vm", "session", "start", "box", "--name", "a", "--cwd", "/no/such", "--", "true",
            ],
            &[
                "vm",
                "session",
                "start",
                "box",
                "--name",
                "b",
                "--",
                "no-such-program",
            ],
            &[
                "vm",
                "session",
                "start",
                "box",
                "--name",
                "c",
                "--require",
                "no-such-tool",
                "--",
                "true",
            ],
            &[
                "vm", "session", "start", "box", "--name", "d d", "--", "true",
            ],
            &["vm", "session", "start", "box", "-e", "2=x", "--", "true"],
            &["vm", "session", "start", "nobody", "--", "true"],
            &["vm", "session", "logs", "box", "nobody"],
            &["vm", "session", "kill", "box", "a", "-s", "NONSENSE"],
        ],
    );
    assert_snapshot!(shown, @r#"
    $ banger vm session start box --name a --cwd /no/such -- true
      | error: session a of VM box failed: preflight_cwd: the working folder "/no/such" does not exist in the guest
      | hint: its record is kept until: banger vm session delete box a
    => Some(1)
    $ banger vm session start box --name b -- no-such-program
      | error: session b of VM box failed: preflight_command: the guest has no command "no-such-program"
      | hint: its record is kept until: banger vm session delete box b
    => Some(1)
    $ banger vm session start box --name c --require no-such-tool -- true
      | error: session c of VM box failed: preflight_command: the guest has no command "no-such-tool"
      | hint: its record is kept until: banger vm session delete box c
    => Some(1)
    $ banger vm session start box --name d d -- true
      | error: the session name "d d" is not valid: use at most 63 letters, digits, '-', '_' and '.', beginning with a letter or digit
    => Some(1)
    $ banger vm session start box -e 2=x -- true
      | error: "2" is not a name for an environment variable
    => Some(1)
    $ banger vm session start nobody -- true
      | error: there is no VM "nobody"
      | hint: banger vm list shows the VMs there are
    => Some(1)
    $ banger vm session logs box nobody
      | error: VM box has no session "nobody"
      | hint: banger vm session list box shows what there is
    => Some(1)
    $ banger vm session kill box a -s NONSENSE
      | error: guest.session.kill: unknown signal "NONSENSE"
    => Some(1)
    "#);
    assert_eq!(world.shown("a").failed_at.as_deref(), Some("preflight_cwd"));
}

#[test]
fn a_session_runs_in_a_prepared_workspace() {
    let world = Simulated::with_box();
    let repository = world.path().join("repository");
    let script = "git init -q \"$1\" && cd \"$1\" && echo hello >file && git add file && \
        git -c user.name=me -c user.email=me@host commit -qm first";
    let made = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(&repository)
        .env("HOME", world.path())
        .status();
    assert!(made.unwrap().success());
    let path = repository.to_str().unwrap();
    let run = world.banger(&["vm", "workspace", "prepare", "box", path]);
    assert_eq!(run.status, Some(0), "{run}");
    let run = world.banger(&[
        "vm",
        "session",
        "start",
        "box",
        "--name",
        "build",
        "--cwd",
        "/root/repo",
        "--require",
        "git",
        "--",
        "sh",
        "-c",
        "pwd; cat file; git log --format=%s; echo built >result",
    ]);
    assert_eq!(run.status, Some(0), "{run}");
    until("it has ended", || world.shown("build").status == "exited");
    assert_eq!(world.stdout_of("build"), b"/root/repo\nhello\nfirst\n");
    assert_eq!(world.shown("build").exit_code, Some(0));
}

#[test]
fn programs_are_told_in_json() {
    let world = Simulated::with_box();
    let run = world.banger(&[
        "vm", "session", "start", "box", "--json", "--name", "web", "--stdin", "pipe", "--", "cat",
    ]);
    let started: SessionInfo = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(
        (started.name.as_str(), started.status.as_str()),
        ("web", "running")
    );
    let run = world.banger(&["vm", "session", "list", "box", "--json"]);
    let list: Vec<SessionInfo> = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(list, [world.shown("web")]);
    let run = world.banger(&["vm", "session", "send", "box", "web", "-m", "hi", "--json"]);
    let sent: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(sent, serde_json::json!({ "bytes": 3, "eof": false }));
    for (verb, outcome) in [
        ("kill", "signalled"),
        ("stop", "already_ended"),
        ("delete", "deleted"),
    ] {
        if verb == "stop" {
            until("it has ended", || world.shown("web").status == "exited");
        }
        let run = world.banger(&["vm", "session", verb, "box", "web", "--json"]);
        let change: SessionChangeAnswer = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(change.outcome, outcome, "{run}");
    }
}

#[test]
fn a_session_is_shown_to_people() {
    let world = Simulated::with_box();
    world.start("web", "closed", "echo \"it's up\"; exec sleep 600");
    let run = world.banger(&["vm", "session", "list", "box"]);
    let text = String::from_utf8(run.stdout).unwrap();
    let line = text.lines().nth(1).unwrap();
    assert!(line.starts_with("web   running  closed  "), "{text}");
    assert!(
        line.ends_with("sh -c \"echo \\\"it's up\\\"; exec sleep 600\""),
        "{text}"
    );
    let run = world.banger(&["vm", "session", "show", "box", "web"]);
    let text = String::from_utf8(run.stdout).unwrap();
    for line in [
        "state:          running\n",
        "folder:         /root\n",
        "stdin:          closed\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn what_is_sent_arrives_as_it_is_and_may_end_the_input() {
    let world = Simulated::with_box();
    world.start("cat", "pipe", "exec cat");
    for args in [
        &["--message", "a message"][..],
        &["--no-newline", "-m", "-x"],
    ] {
        let args = [&["vm", "session", "send", "box", "cat"], args].concat();
        let run = world.banger(&args);
        assert_eq!(run.status, Some(0), "{run}");
        assert!(run.stdout.is_empty() && run.stderr.is_empty(), "{run}");
    }
    let mut input: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    input.extend(b"the last line");
    let args = ["vm", "session", "send", "box", "cat", "--eof"];
    let run = world.banger_reads(&args, &input);
    assert_eq!(run.status, Some(0), "{run}");
    let run = world.banger(&["vm", "session", "logs", "box", "cat", "--all", "-f"]);
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    assert!(run.stdout == [b"a message\n-x".to_vec(), input].concat());
    assert_eq!(world.shown("cat").exit_code, Some(0));
}

#[test]
fn lines_are_sent_as_they_come() {
    let world = Simulated::with_box();
    world.start("talk", "pipe", TALK);
    let mut sender = world.spawn(&["vm", "session", "send", "box", "talk"]);
    let mut stdin = sender.stdin.take().unwrap();
    stdin.write_all(b"one\npart").unwrap();
    world.printed("talk", "got one\n");
    stdin.write_all(b" two\n").unwrap();
    world.printed("talk", "got part two\n");
    drop(stdin);
    let run = world.left(sender.wait_with_output().unwrap());
    assert_eq!(run.status, Some(0), "{run}");
}

#[test]
fn an_attach_carries_three_streams_and_ends_as_the_session_does() {
    let world = Simulated::with_box();
    world.start("talk", "pipe", TALK);
    let run = world.banger_reads(
        &[
            "vm",
            "session",
            "attach",
            "box",
            "talk",
            "--stdout-offset",
            "0",
        ],
        b"one\nquit\n",
    );
    assert_eq!(run.stdout, b"ready\ngot one\ngot quit\n", "{run}");
    assert_eq!(run.stderr, "err one\nerr quit\n");
    assert_eq!(run.status, Some(7));
}

#[test]
fn the_end_of_our_input_leaves_the_session_s_open() {
    let world = Simulated::with_box();
    world.start("talk", "pipe", TALK);
    let mut child = world.spawn(&["vm", "session", "attach", "box", "talk"]);
    drop(child.stdin.take());
    reads(&mut child, "ready\n");
    world.banger(&["vm", "session", "send", "box", "talk", "-m", "aside"]);
    reads(&mut child, "got aside\n");
    world.banger(&["vm", "session", "send", "box", "talk", "-m", "quit"]);
    let run = world.left(child.wait_with_output().unwrap());
    assert_eq!(run.status, Some(7), "{run}");
}

#[test]
fn a_second_attach_is_refused_with_a_status_of_its_own_and_names_the_holder() {
    let world = Simulated::with_box();
    world.start("talk", "pipe", TALK);
    let mut first = world.spawn(&["vm", "session", "attach", "box", "talk"]);
    reads(&mut first, "ready\n");
    let run = world.banger(&["vm", "session", "attach", "box", "talk"]);
    assert_eq!(run.status, Some(124), "{run}");
    let holder = format!("(process {})", first.id());
    assert!(run.stderr.contains(&holder), "{run}");
    assert!(run.stderr.contains("hint: leave it there first"), "{run}");
    // Its window is closed: the session does not notice, and the next one may come.
    send("HUP", &first);
    let left = world.left(first.wait_with_output().unwrap());
    assert_eq!(left.status, Some(129), "{left}");
    let run = world.banger_reads(&["vm", "session", "attach", "box", "talk"], b"quit\n");
    assert_eq!(run.status, Some(7), "{run}");
}

#[test]
fn an_interrupt_goes_to_the_session() {
    let world = Simulated::with_box();
    world.start("idle", "pipe", "echo up; sleep 600; exit 9");
    let mut child = world.spawn(&["vm", "session", "attach", "box", "idle"]);
    reads(&mut child, "up\n");
    send("INT", &child);
    let run = world.left(child.wait_with_output().unwrap());
    assert_eq!(run.status, Some(130), "{run}");
    assert_eq!(world.shown("idle").exit_code, Some(130));
}

#[test]
fn a_key_leaves_the_session_which_runs_on_and_the_terminal_is_as_before() {
    let world = Simulated::with_box();
    world.start("talk", "pipe", TALK);
    let (mut ours, theirs) = terminal();
    let before = rustix::termios::tcgetattr(&ours).unwrap();
    let mut child = world
        .command(&["vm", "session", "attach", "box", "talk"])
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    reads(&mut child, "ready\n");
    ours.write_all(b"typed\n").unwrap();
    reads(&mut child, "got typed\n");
    ours.write_all(b"half a line\x1d").unwrap();
    let run = world.left(child.wait_with_output().unwrap());
    assert_eq!(run.status, Some(0), "{run}");
    assert!(run.stderr.starts_with("attached; Ctrl-] leaves\n"), "{run}");
    let told = "left; the session runs on; take it up: \
        banger vm session attach box talk --stdout-offset 16 --stderr-offset ";
    assert!(run.stderr.contains(told), "{run}");
    assert_eq!(world.shown("talk").status, "running");
    let after = rustix::termios::tcgetattr(&ours).unwrap();
    let key = rustix::termios::SpecialCodeIndex::VEOL2;
    assert_eq!(before.special_codes[key], after.special_codes[key]);
    // The half line never reached it.
    let run = world.banger_reads(
        &[
            "vm",
            "session",
            "attach",
            "box",
            "talk",
            "--stdout-offset",
            "16",
        ],
        b"quit\n",
    );
    assert_eq!(run.stdout, b"got quit\n");
}

#[test]
fn a_vm_that_is_deleted_ends_attach_and_logs_with_their_reason() {
    let world = Simulated::with_box();
    world.start("talk", "pipe", TALK);
    let mut attach = world.spawn(&["vm", "session", "attach", "box", "talk"]);
    let mut logs = world.spawn(&["vm", "session", "logs", "box", "talk", "-f"]);
    reads(&mut attach, "ready\n");
    reads(&mut logs, "ready\n");
    let begun = Instant::now();
    let run = world.banger(&["vm", "delete", "box"]);
    assert_eq!(run.status, Some(0), "{run}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    for (child, status) in [(attach, 125), (logs, 1)] {
        let run = world.left(child.wait_with_output().unwrap());
        assert_eq!(run.status, Some(status), "{run}");
        assert!(run.stderr.contains("the VM was deleted"), "{run}");
    }
}

#[test]
fn a_log_that_is_followed_goes_through_a_pipe_that_closes() {
    let world = Simulated::with_box();
    world.start(
        "noise",
        "closed",
        "while :; do echo noise; sleep 0.01; done",
    );
    let mut child = world.spawn(&["vm", "session", "logs", "box", "noise", "-f"]);
    reads(&mut child, "noise\n");
    drop(child.stdout.take());
    let ended = (0..1000).find_map(|_| {
        thread::sleep(Duration::from_millis(20));
        child.try_wait().unwrap()
    });
    assert_eq!(ended.expect("it ends").code(), Some(141));
}

#[test]
fn logs_are_there_after_the_vm_has_stopped() {
    let world = Simulated::with_box();
    world.start("job", "closed", "seq 1 5; exit 4");
    until("it has ended", || world.shown("job").status == "exited");
    world.banger(&["vm", "stop", "box"]);
    assert_eq!(world.stdout_of("job"), b"1\n2\n3\n4\n5\n");
    assert_eq!(world.shown("job").exit_code, Some(4));
}

/// A terminal of our own: the side a person sits at, and the side a program has.
pub(crate) fn terminal() -> (File, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let theirs = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
    (File::from(ours), theirs)
}
