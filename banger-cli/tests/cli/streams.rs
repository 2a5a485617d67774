//! `vm exec`: bytes, signals and statuses, against a guest that does as the test says.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::Duration;

use banger_daemon::protocol::{Bytes, VmExec};
use banger_session::mux::{Control, Stream};
use insta::assert_snapshot;

use crate::banger::{Run, World};
use crate::fake::{FakeDaemon, Guest, Reply, error};

/// A test that waits longer than this fails.
const LONG: Duration = Duration::from_secs(20);

fn world(guest: impl Fn(&mut Guest) + Send + Sync + 'static) -> (World, FakeDaemon) {
    let world = World::new();
    let daemon = FakeDaemon::start(&world);
    daemon.on_exec(guest);
    (world, daemon)
}

fn send(signal: &str, child: &Child) {
    let kill = Command::new("kill")
        .args([format!("-{signal}"), child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

#[test]
fn output_and_status_pass_through() {
    let (world, _daemon) = world(|guest| {
        guest.says(Stream::Stdout, b"out\n");
        guest.says(Stream::Stderr, b"err\n");
        guest.exits(42);
    });
    assert_snapshot!(world.banger(&["vm", "exec", "box", "sh", "-c", "exit 42"]), @"
    status: 42
    ----- stdout -----
    out
    ----- stderr -----
    err
    ");
}

#[test]
fn every_status_passes_through() {
    for status in [0, 1, 2, 125, 126, 127, 130, 137, 143, 255] {
        let (world, _daemon) = world(move |guest| guest.exits(status));
        let run = world.banger(&["vm", "exec", "box", "true"]);
        assert_eq!(run.status, Some(status), "{run}");
        assert_eq!((run.stderr.as_str(), run.stdout.len()), ("", 0));
    }
}

#[test]
fn arguments_are_passed_on_byte_for_byte_with_or_without_dashes() {
    let (world, daemon) = world(|guest| guest.exits(0));
    let odd: Vec<&OsStr> = [
        &b"it's"[..],
        b"",
        b"a\nb",
        b"$HOME `x`",
        b"-n",
        b"--",
        b"-q",
        b"\xff\xfe",
    ]
    .map(OsStr::from_bytes)
    .to_vec();
    for before in [
        &["vm", "exec", "box", "--", "prog"][..],
        &["vm", "exec", "box", "prog"],
    ] {
        let mut args: Vec<&OsStr> = before.iter().map(OsStr::new).collect();
        args.extend(&odd);
        let run = world.banger(&args);
        assert_eq!(run.status, Some(0), "{run}");
    }
    let asked = daemon.asked::<VmExec>();
    assert_eq!(asked[0], asked[1]);
    let words: Vec<Vec<u8>> = asked[0].argv.iter().cloned().map(Vec::from).collect();
    assert_eq!(words[0], b"prog");
    assert_eq!(
        words[1..],
        odd.iter()
            .map(|w| w.as_bytes().to_vec())
            .collect::<Vec<_>>()
    );
}

#[test]
fn environment_and_folder_are_passed_on() {
    let (world, daemon) = world(|guest| guest.exits(0));
    let mut value = OsString::from("B=");
    value.push(OsStr::from_bytes(b"\xff=x"));
    let mut command = world.command(&["vm", "exec", "-e", "A=1", "-e"]);
    command.arg(value);
    command.args(["-e", "HERE", "-w", "/tmp/a b", "box", "env"]);
    let run = world.run(command.env("HERE", "yes"));
    assert_eq!(run.status, Some(0), "{run}");
    let asked = &daemon.asked::<VmExec>()[0];
    assert_eq!(
        asked.env,
        [
            ("A".to_owned(), Bytes::Text("1".to_owned())),
            ("B".to_owned(), Bytes::Raw(b"\xff=x".to_vec())),
            ("HERE".to_owned(), Bytes::Text("yes".to_owned())),
        ]
    );
    assert_eq!(asked.cwd, Some(Bytes::Text("/tmp/a b".to_owned())));

    let unset = world.banger(&["vm", "exec", "-e", "GONE", "box", "env"]);
    assert_snapshot!(unset, @"
    status: 125
    ----- stdout -----
    ----- stderr -----
    error: --env GONE: it is not set here
    hint: give it a value: --env GONE=VALUE
    ");
}

#[test]
fn input_is_forwarded_and_its_end_too() {
    let (world, _daemon) = world(|guest| {
        let input = guest.reads_all();
        guest.says(Stream::Stdout, &input);
        guest.exits(0);
    });
    // Every byte, more than any buffer, and no multiple of a chunk.
    let input: Vec<u8> = (0..3_000_001_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let run = world.banger_reads(&["vm", "exec", "box", "cat"], &input);
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    assert!(run.stdout == input, "{} bytes came back", run.stdout.len());
}

#[test]
fn a_guest_that_echoes_while_it_reads_deadlocks_nobody() {
    let (world, _daemon) = world(|guest| {
        while let Some(frame) = guest.hears() {
            match frame {
                banger_session::mux::Frame::Data { bytes, .. } => {
                    guest.says(Stream::Stdout, &bytes);
                }
                banger_session::mux::Frame::End { .. } => break,
                banger_session::mux::Frame::Control(_) => {}
            }
        }
        guest.exits(0);
    });
    let input = vec![b'x'; 20 << 20];
    let run = world.banger_reads(&["vm", "exec", "box", "cat"], &input);
    assert!(run.stdout == input, "{} bytes came back", run.stdout.len());
}

#[test]
fn without_input_the_guest_is_told_to_read_nothing() {
    let (world, daemon) = world(|guest| guest.exits(0));
    let run = world.banger_reads(&["vm", "exec", "-n", "box", "true"], b"unread");
    assert_eq!(run.status, Some(0), "{run}");
    world.banger_reads(&["vm", "exec", "box", "true"], b"");
    let asked = daemon.asked::<VmExec>();
    assert_eq!(
        [asked[0].stdin_closed, asked[1].stdin_closed],
        [true, false]
    );
}

#[test]
fn a_command_that_ends_does_not_wait_for_our_input_to_end() {
    let (world, _daemon) = world(|guest| guest.exits(3));
    let mut child = world.spawn(&["vm", "exec", "box", "true"]);
    let open = child.stdin.take();
    let run = world.left(child.wait_with_output().unwrap());
    drop(open);
    assert_eq!(run.status, Some(3));
}

#[test]
fn fifty_megabytes_come_out_whole() {
    let (world, _daemon) = world(|guest| {
        let block: Vec<u8> = (0..1_000_000_u32).map(|n| ((n * 31) >> 2) as u8).collect();
        for _ in 0..50 {
            guest.says(Stream::Stdout, &block);
        }
        guest.exits(0);
    });
    let run = world.banger(&["vm", "exec", "box", "cat", "big"]);
    let block: Vec<u8> = (0..1_000_000_u32).map(|n| ((n * 31) >> 2) as u8).collect();
    assert_eq!(run.stdout.len(), 50_000_000);
    assert!(run.stdout.chunks(1_000_000).all(|chunk| chunk == block));
}

#[test]
fn signals_reach_the_guest_and_its_status_is_ours() {
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("QUIT", 131)] {
        let (world, _daemon) = world(move |guest| {
            guest.says(Stream::Stdout, b"up\n");
            assert_eq!(guest.is_signalled().as_deref(), Some(signal));
            guest.exits(status);
        });
        let mut child = world.spawn(&["vm", "exec", "box", "sleep", "1000"]);
        let mut up = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        send(signal, &child);
        let run = world.left(child.wait_with_output().unwrap());
        assert_eq!(
            (run.status, run.stderr.as_str()),
            (Some(status), ""),
            "{signal}"
        );
    }
}

#[test]
fn a_signal_before_the_command_begins_ends_banger() {
    let (world, daemon) = world(|_| {});
    let stages = vec![("ssh", "connecting")];
    daemon.on::<VmExec>([Reply::After(stages, Box::new(Reply::Silence))]);
    let mut child = world.spawn(&["vm", "exec", "box", "true"]);
    // The stage is told once the signal has somebody to catch it.
    let mut said = [0; "banger: connecting…\n".len()];
    child
        .stderr
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    send("TERM", &child);
    assert_snapshot!(world.left(child.wait_with_output().unwrap()), @"
    status: 143
    ----- stdout -----
    ----- stderr -----
    error: ended by SIGTERM
    ");
}

/// Sends a signal to a command that does not heed it, and once it has arrived sends it again.
fn signalled_twice(signal: &str) -> Run {
    let (heard, hears) = mpsc::channel();
    let (world, _daemon) = world(move |guest| {
        guest.says(Stream::Stdout, b"up\n");
        heard.send(guest.is_signalled()).unwrap();
        // Until `banger` hangs up.
        heard.send(guest.is_signalled()).unwrap();
    });
    let mut child = world.spawn(&["vm", "exec", "box", "sleep", "1000"]);
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    send(signal, &child);
    assert_eq!(hears.recv_timeout(LONG).unwrap().as_deref(), Some(signal));
    send(signal, &child);
    let run = world.left(child.wait_with_output().unwrap());
    assert_eq!(hears.recv_timeout(LONG), Ok(None));
    run
}

#[test]
fn a_command_that_does_not_heed_a_signal_keeps_nobody_when_it_comes_again() {
    for (signal, status) in [("TERM", 143), ("HUP", 129)] {
        let run = signalled_twice(signal);
        assert_eq!(run.status, Some(status), "{run}");
        assert!(
            run.stderr.contains("without waiting for the command"),
            "{run}"
        );
    }
}

#[test]
fn a_second_interrupt_within_a_second_ends_banger_itself() {
    assert_snapshot!(signalled_twice("INT"), @"
    status: 130
    ----- stdout -----
    ----- stderr -----
    error: ended by SIGINT without waiting for the command, which is hung up on
    ");
}

#[test]
fn a_signal_that_cannot_be_passed_on_ends_banger_itself() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let (world, _daemon) = world(move |guest| {
        guest.says(Stream::Stdout, b"up\n");
        // Reads nothing of its input.
        let _ = gone.lock().unwrap().recv_timeout(LONG);
    });
    let mut child = world.spawn(&["vm", "exec", "box", "sleep", "1000"]);
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    // A pipe's worth, a socket's worth and all that `banger` holds are full when this blocks; it ends
    // when `banger` does.
    let mut stdin = child.stdin.take().unwrap();
    let (full, is_full) = mpsc::channel();
    let writer = std::thread::spawn(move || {
        let mut written = 0;
        while stdin.write_all(&[b'x'; 4096]).is_ok() {
            written += 4096;
            let _ = full.send(written);
        }
    });
    while is_full.recv_timeout(Duration::from_millis(500)).is_ok() {}
    send("TERM", &child);
    let run = world.left(child.wait_with_output().unwrap());
    assert_eq!(run.status, Some(143), "{run}");
    writer.join().unwrap();
    drop(go);
}

#[test]
fn what_nohup_has_ignored_stays_ignored() {
    let (world, _daemon) = world(|guest| {
        guest.says(Stream::Stdout, b"up\n");
        let heard = guest.is_signalled();
        guest.says(Stream::Stdout, heard.unwrap_or_default().as_bytes());
        guest.exits(0);
    });
    let banger = world.command(&["vm", "exec", "-n", "box", "x"]);
    // The shell ignores it and so does what it becomes.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    shell.arg(banger.get_program()).args(banger.get_args());
    shell.env_clear();
    for (key, value) in banger.get_envs() {
        shell.env(key, value.unwrap());
    }
    let mut child = shell.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    send("HUP", &child);
    send("TERM", &child);
    let run = world.left(child.wait_with_output().unwrap());
    assert_eq!(run.stdout, b"TERM");
}

#[test]
fn a_reader_that_leaves_ends_banger_quietly_and_hangs_up_on_the_command() {
    let (heard, hears) = mpsc::channel();
    let (world, _daemon) = world(move |guest| {
        for _ in 0..1000 {
            guest.says(Stream::Stdout, &[b'y'; 65536]);
        }
        heard.send(guest.is_signalled()).unwrap();
    });
    let mut child = world.spawn(&["vm", "exec", "-n", "box", "yes"]);
    drop(child.stdout.take());
    let run = world.left(child.wait_with_output().unwrap());
    assert_eq!((run.status, run.stderr.as_str()), (Some(141), ""));
    assert_eq!(hears.recv_timeout(LONG).unwrap().as_deref(), Some("HUP"));
}

#[test]
fn a_full_disk_is_told_of() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let (world, _daemon) = world(|guest| {
        guest.says(Stream::Stdout, b"much");
        guest.exits(0);
    });
    let run = world.run(
        world
            .command(&["vm", "exec", "-n", "box", "x"])
            .stdout(full),
    );
    assert_snapshot!(run, @"
    status: 125
    ----- stdout -----
    ----- stderr -----
    error: cannot write to standard output
    caused by: No space left on device (os error 28)
    ");
}

#[test]
fn a_lost_connection_is_not_a_status_of_the_guests() {
    let (world, _daemon) = world(|guest| {
        guest.says(Stream::Stdout, b"so far\n");
        guest.ends(&Control::Lost {
            error: "the guest closed the connection".to_owned(),
        });
    });
    assert_snapshot!(world.banger(&["vm", "exec", "box", "true"]), @"
    status: 125
    ----- stdout -----
    so far
    ----- stderr -----
    error: lost the connection to the guest; what became of the command is unknown
    caused by: the guest closed the connection
    hint: see whether the VM still runs: banger vm list
    ");
}

#[test]
fn a_stream_that_just_ends_is_a_lost_connection() {
    let (world, _daemon) = world(|_| {});
    assert_snapshot!(world.banger(&["vm", "exec", "box", "true"]), @"
    status: 125
    ----- stdout -----
    ----- stderr -----
    error: lost the connection to the guest; what became of the command is unknown
    caused by: the daemon ended the connection
    hint: see whether the VM still runs: banger vm list
    ");
}

#[test]
fn a_command_that_could_not_be_begun_is_a_failure_of_ours() {
    let (world, daemon) = world(|guest| {
        guest.ends(&Control::Error {
            error: "cannot enter the folder /no/such in the guest".to_owned(),
            kind: "cwd".to_owned(),
        });
    });
    assert_snapshot!(world.banger(&["vm", "exec", "-w", "/no/such", "box", "true"]), @"
    status: 125
    ----- stdout -----
    ----- stderr -----
    error: cannot enter the folder /no/such in the guest
    ");
    daemon.on::<VmExec>([error(
        "VM box is not running (stopped)",
        &[],
        Some("banger vm start box"),
    )]);
    assert_snapshot!(world.banger(&["vm", "exec", "box", "true"]), @"
    status: 125
    ----- stdout -----
    ----- stderr -----
    error: VM box is not running (stopped)
    hint: banger vm start box
    ");
}

#[test]
fn a_terminal_is_not_given_where_there_is_none() {
    let world = World::new();
    assert_snapshot!(world.banger(&["vm", "exec", "-it", "box", "sh"]), @"
    status: 125
    ----- stdout -----
    ----- stderr -----
    error: --tty: standard input is not a terminal
    hint: leave it out: input, output and exit status pass through without it
    ");
}
