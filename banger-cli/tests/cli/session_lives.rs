//! `vm session logs` and `attach` when the daemon dies under them: reading goes on at the next byte.

use std::sync::atomic::{AtomicUsize, Ordering};

use banger_daemon::protocol::{LogPlace, SessionAttach, SessionLogs};
use banger_session::mux::{Control, Stream};

use crate::banger::World;
use crate::fake::{FakeDaemon, Guest, Reply, ticket};

/// A daemon whose streams are, one after the other, what these do; each then dies.
fn world<const N: usize>(lives: [fn(&mut Guest); N]) -> (World, FakeDaemon) {
    let world = World::new();
    let daemon = FakeDaemon::start(&world);
    let life = AtomicUsize::new(0);
    daemon.on_stream(move |guest| lives[life.fetch_add(1, Ordering::SeqCst)](guest));
    (world, daemon)
}

fn begins(guest: &mut Guest, stream: Stream, offset: u64) {
    guest.tells(&Control::Offset { stream, offset });
}

#[test]
fn a_log_goes_on_at_the_byte_after_the_last_one_that_came() {
    let (world, daemon) = world([
        // Nothing was printed yet, but what comes from here on is wanted.
        |guest| begins(guest, Stream::Stdout, 5),
        |guest| {
            begins(guest, Stream::Stdout, 5);
            guest.says(Stream::Stdout, b"one\n");
        },
        |guest| {
            begins(guest, Stream::Stdout, 9);
            guest.says(Stream::Stdout, b"two\n");
            guest.ends(&Control::Detached);
        },
    ]);
    // One of them even dies while it is asked.
    daemon.on::<SessionLogs>([ticket(), Reply::HangUp, ticket(), ticket()]);
    let run = world.banger(&["vm", "session", "logs", "box", "job", "-n", "0", "-f"]);
    assert_eq!((run.status, run.stdout), (Some(0), b"one\ntwo\n".to_vec()));
    let asked: Vec<_> = daemon.asked::<SessionLogs>();
    let from: Vec<_> = asked.iter().map(|params| params.from).collect();
    let [five, nine] = [5, 9].map(|offset| Some(LogPlace::Offset(offset)));
    assert_eq!(from, [Some(LogPlace::LastLines(0)), five, five, nine]);
}

#[test]
fn an_attach_goes_on_at_the_next_byte_of_both_logs() {
    let (world, daemon) = world([
        |guest| {
            begins(guest, Stream::Stdout, 5);
            begins(guest, Stream::Stderr, 0);
            guest.says(Stream::Stdout, b"one\n");
        },
        |guest| {
            begins(guest, Stream::Stdout, 9);
            begins(guest, Stream::Stderr, 0);
            guest.says(Stream::Stderr, b"two\n");
            guest.exits(7);
        },
    ]);
    daemon.on::<SessionAttach>([ticket(), Reply::HangUp, ticket()]);
    let run = world.banger(&["vm", "session", "attach", "box", "job"]);
    assert_eq!(
        (run.status, run.stdout.as_slice()),
        (Some(7), &b"one\n"[..])
    );
    assert!(run.stderr.contains("attaching by another one"), "{run}");
    assert!(run.stderr.ends_with("two\n"), "{run}");
    let asked = daemon.asked::<SessionAttach>();
    let last = asked.last().unwrap();
    assert_eq!(last.stdout, Some(LogPlace::Offset(9)));
    assert_eq!(last.stderr, Some(LogPlace::Offset(0)));
}

#[test]
fn a_daemon_that_always_dies_is_given_up_and_the_place_is_told() {
    let (world, daemon) = world([|guest| begins(guest, Stream::Stdout, 5); 9]);
    daemon.on::<SessionLogs>([ticket()]);
    let run = world.banger(&["vm", "session", "logs", "box", "job", "-f"]);
    assert_eq!(run.status, Some(1), "{run}");
    assert!(
        run.stderr.contains("go on where this ends: --offset 5"),
        "{run}"
    );
}

#[test]
fn an_attach_in_json_says_how_it_ended_and_where_to_take_it_up() {
    let (world, daemon) = world([|guest| {
        begins(guest, Stream::Stdout, 5);
        begins(guest, Stream::Stderr, 2);
        guest.says(Stream::Stderr, b"\xff");
        guest.says(Stream::Stdout, b"one\n");
        // A status that could be one of ours.
        guest.exits(125);
    }]);
    daemon.on::<SessionAttach>([ticket()]);
    let run = world.banger(&["vm", "session", "attach", "box", "job", "--json"]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(125), ""));
    let text = String::from_utf8(run.stdout).unwrap();
    let objects: Vec<serde_json::Value> = (text.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected = serde_json::json!([
        { "stream": "stderr", "offset": 2, "data": [255] },
        { "stream": "stdout", "offset": 5, "data": "one\n" },
        { "ended": "exited", "exit_code": 125, "error": null, "offsets": { "stdout": 9, "stderr": 3 } },
    ]);
    assert_eq!(serde_json::json!(objects), expected);
}
