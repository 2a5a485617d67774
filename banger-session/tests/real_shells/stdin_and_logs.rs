//! Sessions: what goes in by send and attach, and what is read back.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use banger_session::Signal;
use banger_session::mux::Stream;
use banger_session::session::{
    PIPE_BUF_BYTES, Refusal, SessionDir, StdinMode, StdinPipe, attach_input_command,
    attach_tail_command, close_stdin_script, log_offset_command, log_tail_command,
    parse_log_offset, send_command, signal_script, until_input_ends,
};

use crate::guest::{Guest, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// A send that must be delivered.
#[track_caller]
fn send(guest: &Guest, payload: &[u8]) {
    let command = send_command(&guest.dir, payload.len() as u64, PATIENCE);
    let output = guest.run_with_input(&command, payload);
    assert_eq!(output.status.code(), Some(0), "{:?}", guest.shell);
}

#[track_caller]
fn send_refused(guest: &Guest, payload: &[u8], patience: Duration) -> Option<Refusal> {
    let command = send_command(&guest.dir, payload.len() as u64, patience);
    guest.refused(&command, payload)
}

#[test]
fn what_is_sent_arrives_and_the_end_after_it() {
    for guest in Guest::all() {
        let seen = guest.start_sh("cat; echo end", StdinMode::Pipe);
        assert_eq!(seen.stdin, Some(StdinPipe::Open));
        send(&guest, b"one\n");
        send(&guest, b"\0\xff\x1e two, no newline");
        send(&guest, b"");
        // The command keeps reading between the senders.
        guest.wait_for_output(b"no newline");
        guest.ok(&close_stdin_script(&guest.dir));
        assert_eq!(guest.wait_for_end().exit_code, Some(0));
        assert_eq!(guest.stdout(), b"one\n\0\xff\x1e two, no newlineend\n");
    }
}

#[test]
fn many_senders_at_once_are_never_mixed() {
    for guest in Guest::all() {
        guest.start_sh("exec cat", StdinMode::Pipe);
        // Below and above what a pipe writes at once.
        let payloads: Vec<Vec<u8>> = (0..24_u8)
            .map(|sender| {
                let length = if sender % 3 == 0 {
                    300_000
                } else {
                    PIPE_BUF_BYTES - 1
                };
                let mut payload = vec![b'a' + sender; length];
                payload.push(b'\n');
                payload
            })
            .collect();
        thread::scope(|scope| {
            for payload in &payloads {
                scope.spawn(|| send(&guest, payload));
            }
        });
        let total: usize = payloads.iter().map(Vec::len).sum();
        wait_until("all of it", || guest.stdout().len() == total);
        let got = guest.stdout();
        let mut lines: Vec<&[u8]> = got.split_inclusive(|&byte| byte == b'\n').collect();
        lines.sort_unstable();
        assert!(lines == payloads, "{:?}: mixed", guest.shell);
    }
}

#[test]
fn a_send_that_cannot_arrive_says_why() {
    for guest in Guest::all() {
        assert_eq!(
            send_refused(&guest, b"x", PATIENCE),
            Some(Refusal::NoSession)
        );
        guest.start_sh("sleep 600", StdinMode::Closed);
        assert_eq!(
            send_refused(&guest, b"x", PATIENCE),
            Some(Refusal::NotAPipe)
        );
        let close = close_stdin_script(&guest.dir);
        assert_eq!(guest.refused(&close, b""), Some(Refusal::NotAPipe));

        let guest = Guest::new(guest.shell.clone());
        guest.start_sh("exec sleep 600", StdinMode::Pipe);
        let cut = send_command(&guest.dir, 100, PATIENCE);
        assert_eq!(guest.refused(&cut, b"only this"), Some(Refusal::Truncated));
        guest.ok(&close_stdin_script(&guest.dir));
        assert_eq!(guest.inspect().stdin, Some(StdinPipe::Closed));
        assert_eq!(
            send_refused(&guest, b"x", PATIENCE),
            Some(Refusal::StdinClosed)
        );
        guest.ok(&close_stdin_script(&guest.dir));

        guest.ok(&signal_script(&guest.dir, Signal::KILL));
        guest.wait_for_end();
        assert_eq!(
            send_refused(&guest, b"x", PATIENCE),
            Some(Refusal::NotRunning)
        );
        assert_eq!(
            guest.refused(&close_stdin_script(&guest.dir), b""),
            Some(Refusal::NotRunning)
        );
    }
}

#[test]
fn a_send_never_waits_for_ever() {
    for guest in Guest::all() {
        // Nobody reads any more: told at once.
        guest.start_sh("exec <&-; echo closed; exec sleep 600", StdinMode::Pipe);
        guest.wait_for_output(b"closed\n");
        let began = Instant::now();
        assert_eq!(
            send_refused(&guest, b"x", PATIENCE),
            Some(Refusal::NoReader)
        );
        assert!(began.elapsed() < PATIENCE);

        // Somebody could, and does not.
        let guest = Guest::new(guest.shell.clone());
        guest.start_sh("exec sleep 600", StdinMode::Pipe);
        let much = vec![b'x'; 1 << 20];
        let refusal = send_refused(&guest, &much, Duration::from_secs(1));
        assert_eq!(refusal, Some(Refusal::TimedOut));
    }
}

#[test]
fn a_send_leaves_no_file_behind() {
    for guest in Guest::all() {
        guest.start_sh("exec cat", StdinMode::Pipe);
        send(&guest, b"x");
        let cut = send_command(&guest.dir, 100, PATIENCE);
        guest.refused(&cut, b"x");
        let left: Vec<String> = std::fs::read_dir(guest.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(".send"))
            .collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

#[test]
fn an_attach_passes_input_on_and_leaves_the_session_running() {
    let input: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
    for guest in Guest::all() {
        guest.start_sh("exec cat", StdinMode::Pipe);
        let output = guest.run_with_input(&attach_input_command(&guest.dir), &input);
        assert_eq!(output.status.code(), Some(0));
        send(&guest, b"after");
        wait_until("all of it", || guest.stdout().len() == input.len() + 5);
        assert!(guest.stdout()[..input.len()] == input);
    }
}

#[test]
fn the_end_of_stdin_reaches_a_command_beside_an_attach() {
    for guest in Guest::all() {
        guest.start_sh("cat; echo end", StdinMode::Pipe);
        let mut attach = guest
            .shell
            .command(&attach_input_command(&guest.dir))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        attach.stdin.as_mut().unwrap().write_all(b"typed").unwrap();
        guest.wait_for_output(b"typed");
        guest.ok(&close_stdin_script(&guest.dir));
        assert_eq!(guest.wait_for_end().exit_code, Some(0));
        assert_eq!(guest.stdout(), b"typedend\n");
        assert_eq!(attach.wait().unwrap().signal(), Some(15));
        // Nobody may begin again.
        let refused = guest.refused(&attach_input_command(&guest.dir), b"");
        assert_eq!(refused, Some(Refusal::NotRunning));
    }
}

#[test]
fn a_log_is_followed_to_its_end_and_taken_up_again_anywhere() {
    for guest in Guest::all() {
        guest.start_sh(
            "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.02; done; printf last",
            StdinMode::Closed,
        );
        let mut follower = guest
            .shell
            .command(&attach_tail_command(&guest.dir, Stream::Stdout, 0))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // A connection that breaks in the middle of a line.
        let mut first = vec![0; 101];
        let mut from = follower.stdout.take().unwrap();
        from.read_exact(&mut first).unwrap();
        drop(from);
        follower.kill().unwrap();
        follower.wait().unwrap();

        let offset = first.len() as u64;
        let rest = guest.ok(&attach_tail_command(&guest.dir, Stream::Stdout, offset));
        let log = guest.stdout();
        assert!(log.ends_with(b"line 39\nlast"));
        assert!([first, rest].concat() == log, "{:?}", guest.shell);

        guest.wait_for_end();
        let again = guest.ok(&attach_tail_command(&guest.dir, Stream::Stdout, 0));
        assert!(again == log);
        let beyond = guest.ok(&attach_tail_command(&guest.dir, Stream::Stdout, u64::MAX));
        assert_eq!(beyond, b"");
    }
}

#[test]
fn a_hundred_megabytes_are_followed_without_a_byte_lost() {
    let guest = Guest::all().remove(0);
    guest.start_sh("head -c 100000000 /dev/urandom", StdinMode::Closed);
    let mut follower = guest
        .shell
        .command(&attach_tail_command(&guest.dir, Stream::Stdout, 0))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut got = Vec::new();
    follower
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut got)
        .unwrap();
    follower.wait().unwrap();
    assert_eq!(got.len(), 100_000_000);
    assert!(got == guest.stdout());
}

#[test]
fn the_last_lines_are_shown_and_found() {
    for guest in Guest::all() {
        guest.start_sh("seq 1 1000; echo err >&2; printf part", StdinMode::Closed);
        guest.wait_for_end();
        let tail = |stream, lines| guest.ok(&log_tail_command(&guest.dir, stream, lines));
        assert_eq!(tail(Stream::Stdout, Some(3)), b"999\n1000\npart");
        assert_eq!(tail(Stream::Stdout, Some(0)), b"");
        assert_eq!(tail(Stream::Stdout, None), guest.stdout());
        assert_eq!(tail(Stream::Stderr, Some(200)), b"err\n");

        let found = guest.ok(&log_offset_command(&guest.dir, Stream::Stdout, 3));
        let offset = parse_log_offset(&found).unwrap() as usize;
        assert_eq!(&guest.stdout()[offset..], b"999\n1000\npart");
        let all = guest.ok(&log_offset_command(&guest.dir, Stream::Stdout, 5000));
        assert_eq!(parse_log_offset(&all), Some(0));

        let stdin = log_tail_command(&guest.dir, Stream::Stdin, None);
        assert_eq!(guest.refused(&stdin, b""), Some(Refusal::NoSession));
    }
}

#[test]
fn a_follower_that_went_away_does_not_stay_behind() {
    for guest in Guest::all() {
        guest.start_sh("echo up; exec sleep 600", StdinMode::Closed);
        let mut follower = guest
            .shell
            .command(&attach_tail_command(&guest.dir, Stream::Stdout, 0))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 3];
        let mut from = follower.stdout.take().unwrap();
        from.read_exact(&mut up).unwrap();
        drop(from);
        wait_until("the follower's end", || {
            follower.try_wait().unwrap().is_some()
        });
    }
}

#[test]
fn a_follower_ends_with_its_input_though_its_output_stays_open() {
    for guest in Guest::all() {
        guest.start_sh("echo up; exec sleep 600", StdinMode::Closed);
        let tail = attach_tail_command(&guest.dir, Stream::Stdout, 0);
        let mut follower = guest
            .shell
            .command(&until_input_ends(&tail))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut from = follower.stdout.take().unwrap();
        let mut up = [0; 3];
        from.read_exact(&mut up).unwrap();
        drop(follower.stdin.take());
        // Nothing stays behind that holds the output.
        let mut rest = Vec::new();
        from.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
        wait_until("the follower's end", || {
            follower.try_wait().unwrap().is_some()
        });
    }
}

#[test]
fn a_follower_whose_input_stays_open_ends_with_the_log_and_its_status() {
    for guest in Guest::all() {
        guest.start_sh("seq 1 1000; exit 3", StdinMode::Closed);
        guest.wait_for_end();
        let missing = SessionDir::new(guest.dir.root(), "other").unwrap();
        for (dir, status) in [(&guest.dir, 0), (&missing, Refusal::NoSession.status())] {
            let tail = attach_tail_command(dir, Stream::Stdout, 0);
            let mut follower = guest
                .shell
                .command(&until_input_ends(&tail))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let held = follower.stdin.take();
            let mut log = Vec::new();
            let mut from = follower.stdout.take().unwrap();
            from.read_to_end(&mut log).unwrap();
            assert_eq!(follower.wait().unwrap().code(), Some(status));
            assert_eq!(log.is_empty(), status != 0);
            drop(held);
        }
    }
}

#[test]
fn a_held_attach_sees_the_session_end() {
    for guest in Guest::all() {
        guest.start_sh("read -r line; echo \"got $line\"", StdinMode::Pipe);
        let mut attach = guest
            .shell
            .command(&attach_input_command(&guest.dir))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = attach.stdin.take().unwrap();
        stdin.write_all(b"hello\n").unwrap();
        guest.wait_for_end();
        assert_eq!(guest.stdout(), b"got hello\n");
        // The next byte finds nobody.
        let _ = stdin.write_all(b"more\n");
        wait_until("the attach's end", || attach.try_wait().unwrap().is_some());
    }
}
