//! What stands on ssh, over the configuration that `banger ssh-config` makes, against a real VM: ssh
//! itself, scp, rsync, git; and ports. And what works when ssh does not: the serial console.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use banger_tests::{Home, alone, skipped};

/// A user with a home folder of its own, whose ssh includes ours.
struct User {
    banger: Home,
    home: PathBuf,
}

impl User {
    fn new() -> Self {
        let banger = Home::new();
        let home = banger.rig.folder().join("home");
        fs::create_dir(&home).expect("a home folder");
        let user = User { banger, home };
        user.done(&["banger", "ssh-config", "--install"]);
        user
    }

    fn command(&self, words: &[&str]) -> Command {
        // ssh looks the home folder up by itself, whatever HOME says, so its file is named to it.
        let config = self.home.join(".ssh/config").display().to_string();
        let ssh = format!("ssh -F {config}");
        let first: &[&str] = match words[0] {
            "ssh" | "scp" => &["-F", &config],
            _ => &[],
        };
        let mut command = match words[0] {
            "banger" => self.banger.command(&[]),
            other => self.banger.surround(Command::new(other)),
        };
        command
            .args(first)
            .args(&words[1..])
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("RSYNC_RSH", &ssh)
            .env("GIT_SSH_COMMAND", &ssh);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("it starts")
    }

    /// Runs it and returns its output, which it must succeed to make.
    fn done(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn ssh_scp_rsync_and_git_reach_a_vm_by_its_name() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let user = User::new();
    user.done(&["banger", "vm", "create", "box", "asleep"]);
    user.done(&["banger", "vm", "start", "box"]);

    let output = user.run(&[
        "ssh",
        "box.vm",
        "echo to stdout; echo to stderr >&2; exit 7",
    ]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"to stdout\n");
    assert_eq!(output.stderr, b"to stderr\n", "nothing else is said");
    assert_eq!(user.done(&["ssh", "BOX.vm", "hostname"]), "box\n");

    // A host's locale draws no warnings. The host's own shell, which starts our end, is one that has none to give.
    let taken = "bash -c true; echo ${LC_ALL-none}";
    let mut ssh = user.command(&["ssh", "-o", "SendEnv=LC_ALL", "box.vm", taken]);
    ssh.env("LC_ALL", "en_US.UTF-8").env("SHELL", "/bin/sh");
    let output = ssh.output().expect("it starts");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.stdout, b"none\n");

    // Holes stay holes in a real guest's file system, and on the way back.
    fs::create_dir(user.home.join("disks")).expect("a folder");
    let disk = fs::File::create(user.home.join("disks/disk")).expect("a file");
    disk.write_all_at(b"abc", 300 << 20).expect("it is written");
    disk.set_len(600 << 20).expect("it is written");
    user.done(&["banger", "vm", "cp", "disks", "box:"]);
    user.done(&["banger", "vm", "cp", "disks/disk", "box:~/disk"]);
    let look = "stat -c %s disks/disk disk; du -c -m disks/disk disk | tail -n 1 | cut -f 1; cmp disks/disk disk";
    let seen = user.done(&["ssh", "box.vm", look]);
    assert_eq!(seen, "629145600\n629145600\n1\n");
    user.done(&["banger", "vm", "cp", "box:disks", "folder"]);
    user.done(&["banger", "vm", "cp", "box:disk", "file"]);
    for path in ["folder/disk", "file"] {
        let facts = fs::metadata(user.home.join(path)).expect("it came");
        assert_eq!(facts.len(), 600 << 20);
        assert!(
            facts.blocks() * 512 < 1 << 20,
            "{path}: {} blocks",
            facts.blocks()
        );
        let mut there = [0; 3];
        let file = fs::File::open(user.home.join(path)).expect("it came");
        file.read_exact_at(&mut there, 300 << 20)
            .expect("it is read");
        assert_eq!(&there, b"abc");
    }

    let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n >> 3) as u8).collect();
    fs::write(user.home.join("blob"), &bytes).expect("it is written");
    user.done(&["scp", "-q", "blob", "box.vm:"]);
    user.done(&["scp", "-q", "box.vm:blob", "back"]);
    assert!(fs::read(user.home.join("back")).expect("it is there") == bytes);

    let script = "git init -q repo && cd repo && echo hello >greeting && git add . && \
                  git -c user.name=a -c user.email=a@b commit -qm first";
    user.done(&["ssh", "box.vm", script]);
    user.done(&["git", "clone", "-q", "box.vm:repo", "clone"]);
    let greeting = fs::read_to_string(user.home.join("clone/greeting"));
    assert_eq!(greeting.expect("it is there"), "hello\n");

    if user.run(&["rsync", "--version"]).status.success() {
        fs::create_dir(user.home.join("tree")).expect("a folder");
        fs::write(user.home.join("tree/leaf"), "green").expect("it is written");
        user.done(&["rsync", "-a", "tree", "box.vm:"]);
        user.done(&["rsync", "-a", "box.vm:tree/leaf", "leaf"]);
        let leaf = fs::read_to_string(user.home.join("leaf"));
        assert_eq!(leaf.expect("it is there"), "green");
    } else {
        println!("SKIP: rsync is not installed (make setup installs it)");
    }

    // A daemon that is gone is started again, and one that ends cuts nothing that ssh has.
    let mut held = user
        .command(&["ssh", "box.vm", "echo up; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(held.stdout.take().expect("it has one"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("it says something");
    user.done(&["banger", "daemon", "stop"]);
    let mut stdin = held.stdin.take().expect("it has one");
    stdin.write_all(b"still here\n").expect("it is written");
    drop(stdin);
    lines.read_line(&mut line).expect("it says something");
    assert_eq!(line, "up\nstill here\n");
    held.wait().expect("it ends");
    assert_eq!(user.done(&["ssh", "box.vm", "hostname"]), "box\n");

    for (host, why) in [
        (
            "asleep.vm",
            "error: VM asleep is not running (created)\nhint: start it: banger vm start asleep\n",
        ),
        ("nobody.vm", "error: there is no VM \"nobody\"\n"),
    ] {
        let output = user.run(&["ssh", host, "true"]);
        assert_eq!(output.status.code(), Some(255));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with(why), "{said}");
    }

    a_port_is_forwarded(&user);
    user.done(&["banger", "vm", "delete", "box", "asleep"]);
    user.banger.rig.assert_nothing_left();
}

/// By the guest's own connection: `restrict=on` lets nothing else in.
fn a_port_is_forwarded(user: &User) {
    let server = "perl -MIO::Socket::INET -e '$l = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:7000\", \
                  Listen => 5); while ($c = $l->accept) { print $c \"served\\n\"; close $c }' \
                  >/dev/null 2>&1 & echo $!";
    user.done(&["ssh", "box.vm", server]);
    let mut forward = user
        .command(&[
            "banger",
            "vm",
            "port-forward",
            "box",
            "0:7000",
            "0:22",
            "0:9",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(forward.stdout.take().expect("it has one")).lines();
    let mut place = || {
        let line = lines.next().expect("a line").expect("a line");
        line.split(' ').next().expect("a place").to_owned()
    };
    let (web, ssh, nothing) = (place(), place(), place());
    let mut served = String::new();
    // The server may take a moment to listen.
    while served.is_empty() {
        let mut client = TcpStream::connect(&web).expect("it listens");
        client.read_to_string(&mut served).expect("it is read");
    }
    assert_eq!(served, "served\n");
    let mut banner = [0; 4];
    let mut client = TcpStream::connect(&ssh).expect("it listens");
    client.read_exact(&mut banner).expect("a banner");
    assert_eq!(&banner, b"SSH-");
    let mut refused = TcpStream::connect(&nothing).expect("it listens");
    assert_eq!(refused.read(&mut banner).unwrap_or(0), 0);
    let mut said = BufReader::new(forward.stderr.take().expect("it has one")).lines();
    let complaint = "error: VM box takes no connection on port 9: nothing listens there, or its ssh forwards nothing";
    assert!(
        said.any(|line| line.expect("it is read") == complaint),
        "it complains"
    );
    forward.kill().expect("it is killed");
    forward.wait().expect("it is gone");
}

#[test]
fn a_guest_whose_ssh_is_dead_has_a_console_and_one_whose_disk_grew_finds_it_grown() {
    if skipped() {
        return;
    }
    let _turn = alone();
    let user = User::new();
    user.done(&["banger", "vm", "create", "box", "--disk-size", "64M"]);
    user.done(&["banger", "vm", "start", "box"]);
    user.done(&["banger", "vm", "exec", "box", "sh", "-c", "echo kept >kept"]);
    let size = [
        "banger",
        "vm",
        "exec",
        "box",
        "sh",
        "-c",
        "df -m --output=size /root | tail -n 1",
    ];
    let before: u32 = user.done(&size).trim().parse().expect("a number");
    assert!(before < 64, "{before}");

    let used = user.done(&["banger", "vm", "stats", "--json"]);
    let used: serde_json::Value = serde_json::from_str(&used).expect("JSON");
    assert!(used[0]["cpu_ms"].as_u64() > Some(500), "{used}");
    assert!(used[0]["memory_bytes"].as_u64() > Some(100 << 20), "{used}");
    assert!(used[0]["uptime_ms"].as_u64() > Some(1000), "{used}");
    assert!(used[0]["root_disk_bytes"].as_u64() > Some(0), "{used}");

    // The connection that the engine holds is one of sshd's children.
    let _ = user.run(&[
        "banger",
        "vm",
        "exec",
        "box",
        "sh",
        "-c",
        "systemctl stop ssh; pkill sshd",
    ]);
    let mut console = user
        .command(&["banger", "vm", "console", "box"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut keyboard = console.stdin.take().expect("it has one");
    let mut shown = console.stdout.take().expect("it has one");
    let mut screen = String::new();
    let mut see = |expected: &str, screen: &mut String| {
        let mut piece = [0; 1000];
        while !screen.contains(expected) {
            let count = shown.read(&mut piece).expect("it is read");
            assert_ne!(count, 0, "it ended with: {screen}");
            screen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    };
    keyboard.write_all(b"\r").expect("it is typed");
    see("root@box:~#", &mut screen);
    keyboard
        .write_all(b"echo answer-$((40 + 2))-$(cat kept)\r")
        .expect("it is typed");
    see("answer-42-kept", &mut screen);
    let log = user.done(&["banger", "vm", "logs", "box"]);
    assert!(
        log.contains("answer-42-kept"),
        "all of it is in the log too"
    );
    keyboard.write_all(b"poweroff\r").expect("it is typed");
    let mut rest = String::new();
    shown.read_to_string(&mut rest).expect("it is read");
    let ended = console.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "\nbox has ended\n");

    let stopped = user.done(&["banger", "vm", "stop", "box"]);
    assert_eq!(stopped, "");
    user.done(&[
        "banger",
        "vm",
        "set",
        "box",
        "--disk-size",
        "300M",
        "--vcpu",
        "1",
    ]);
    user.done(&["banger", "vm", "start", "box"]);
    let after: u32 = user.done(&size).trim().parse().expect("a number");
    assert!(after > 200, "{before}, then {after}");
    let seen = user.done(&["banger", "vm", "exec", "box", "sh", "-c", "cat kept; nproc"]);
    assert_eq!(seen, "kept\n1\n");
    user.done(&["banger", "vm", "delete", "box"]);
    user.banger.rig.assert_nothing_left();
}
