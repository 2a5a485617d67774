//! Guest sessions over the protocol.

use std::time::Duration;

use banger_daemon::client::{Client, ClientError, StreamConnection};
use banger_daemon::protocol::*;
use banger_session::mux::{Control, Frame, Stream};

use crate::rig::{LIMIT, Rig, named, quietly, until};

struct Guest {
    rig: Rig,
    client: Client,
}

const TALK: &str = "echo ready; while read -r line; do echo \"got $line\"; \
    [ \"$line\" != quit ] || exit 7; done; echo eof";

impl Guest {
    async fn new() -> Option<Self> {
        let rig = Rig::new().await;
        let mut client = rig.client().await;
        rig.running(&mut client, named("box")).await?;
        Some(Guest { rig, client })
    }

    async fn start(&mut self, name: &str, script: &str, stdin: StdinWord) -> SessionInfo {
        let params = SessionStartParams {
            vm: "box".to_owned(),
            name: Some(name.to_owned()),
            argv: ["sh", "-c", script]
                .map(|w| w.as_bytes().to_vec().into())
                .to_vec(),
            stdin,
            ..SessionStartParams::default()
        };
        self.call::<SessionStart>(params).await.unwrap()
    }

    async fn call<M: Method>(&mut self, params: M::Params) -> Result<M::Answer, ClientError> {
        quietly::<M>(&mut self.client, &params).await
    }

    async fn show(&mut self, name: &str) -> SessionInfo {
        self.call::<SessionShow>(session(name)).await.unwrap()
    }

    async fn attach(&mut self, name: &str, from: Option<u64>) -> StreamConnection {
        let ticket = self
            .call::<SessionAttach>(attach_to(name, "me", from))
            .await
            .unwrap();
        self.open(&ticket).await
    }

    async fn logs(&mut self, name: &str, from: Option<LogPlace>, follow: bool) -> StreamConnection {
        let params = SessionLogsParams {
            vm: "box".to_owned(),
            session: name.to_owned(),
            stream: Stream::Stdout,
            from,
            follow,
        };
        let ticket = self.call::<SessionLogs>(params).await.unwrap();
        self.open(&ticket).await
    }

    async fn open(&self, ticket: &TicketAnswer) -> StreamConnection {
        Client::open_stream(&self.rig.socket, &ticket.ticket)
            .await
            .unwrap()
    }

    async fn send(&mut self, name: &str, data: &[u8], eof: bool) -> Result<Nothing, ClientError> {
        let params = SessionSendParams {
            vm: "box".to_owned(),
            session: name.to_owned(),
            data: data.to_vec().into(),
            eof,
        };
        self.call::<SessionSend>(params).await
    }
}

fn session(name: &str) -> SessionParams {
    SessionParams {
        vm: "box".to_owned(),
        session: name.to_owned(),
    }
}

fn attach_to(name: &str, holder: &str, from: Option<u64>) -> SessionAttachParams {
    SessionAttachParams {
        vm: "box".to_owned(),
        session: name.to_owned(),
        holder: holder.to_owned(),
        stdout: from.map(LogPlace::Offset),
        stderr: None,
    }
}

fn rpc_error(error: ClientError) -> (String, String) {
    match error {
        ClientError::Rpc(error) => (error.data.unwrap().kind, error.message),
        other => panic!("{other:?}"),
    }
}

async fn next(stream: &mut StreamConnection) -> Option<Frame> {
    let frame = tokio::time::timeout(LIMIT, stream.read.next_frame()).await;
    frame.expect("the stream neither spoke nor ended").unwrap()
}

/// Where a log begins.
async fn offset_of(stream: &mut StreamConnection, wanted: Stream) -> u64 {
    loop {
        match next(stream).await {
            Some(Frame::Control(Control::Offset { stream, offset })) if stream == wanted => {
                return offset;
            }
            Some(Frame::Control(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Collects standard output until it ends with `text`.
async fn reads(stream: &mut StreamConnection, text: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !all.ends_with(text) {
        match next(stream).await {
            Some(Frame::Data {
                stream: Stream::Stdout,
                bytes,
            }) => all.extend(bytes),
            Some(Frame::Data { .. } | Frame::Control(_)) => {}
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&all)),
        }
    }
    all
}

/// Standard output to the end, and the last word.
async fn to_its_end(stream: &mut StreamConnection) -> (Vec<u8>, Option<Control>) {
    let mut all = Vec::new();
    loop {
        match next(stream).await {
            Some(Frame::Data {
                bytes,
                stream: Stream::Stdout,
            }) => all.extend(bytes),
            Some(Frame::Control(control)) if control.is_last() => return (all, Some(control)),
            Some(_) => {}
            None => return (all, None),
        }
    }
}

#[tokio::test]
async fn a_session_from_its_start_to_its_deletion() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let started = guest
        .start("web", "echo up; exec sleep 600", StdinWord::Closed)
        .await;
    assert_eq!(
        (started.name.as_str(), started.status.as_str()),
        ("web", "running")
    );
    assert!(started.pid.is_some());
    assert_eq!(started.attach_mode, "exclusive");
    let list = VmParams {
        vm: "box".to_owned(),
    };
    let list = guest.call::<SessionList>(list).await.unwrap();
    assert_eq!(list.sessions, [guest.show("web").await]);

    let kill = SessionKillParams {
        vm: "box".to_owned(),
        session: "web".to_owned(),
        signal: "nonsense".to_owned(),
    };
    let (kind, message) = rpc_error(guest.call::<SessionKill>(kill).await.unwrap_err());
    assert_eq!(kind, "invalid");
    assert!(message.contains("nonsense"), "{message}");

    let stop = SessionStopParams {
        vm: "box".to_owned(),
        session: "web".to_owned(),
        grace_s: None,
    };
    let stopped = guest.call::<SessionStop>(stop.clone()).await.unwrap();
    assert_eq!(stopped.outcome, "stopped");
    let detail = stopped.detail.unwrap();
    assert_eq!(detail, "by TERM; it ended with status 143 (TERM)");
    assert_eq!(stopped.session.exit_code, Some(143));
    let again = guest.call::<SessionStop>(stop).await.unwrap();
    assert_eq!(again.outcome, "already_ended");

    let deleted = guest.call::<SessionDelete>(session("web")).await.unwrap();
    assert_eq!(
        (deleted.outcome.as_str(), deleted.detail),
        ("deleted", None)
    );
    let (kind, _) = rpc_error(guest.call::<SessionShow>(session("web")).await.unwrap_err());
    assert_eq!(kind, "not_found");
}

#[tokio::test]
async fn a_start_that_fails_says_what_is_missing_and_keeps_the_record() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let params = SessionStartParams {
        vm: "box".to_owned(),
        name: Some("bad".to_owned()),
        argv: vec![Bytes::Text("true".to_owned())],
        required: vec!["no-such-tool".to_owned()],
        ..SessionStartParams::default()
    };
    let (_, message) = rpc_error(guest.call::<SessionStart>(params).await.unwrap_err());
    assert!(message.contains("preflight_command"), "{message}");
    let shown = guest.show("bad").await;
    assert_eq!(shown.failed_at.as_deref(), Some("preflight_command"));
    assert!(shown.error.unwrap().contains("\"no-such-tool\""));
}

#[tokio::test]
async fn a_log_tells_where_it_begins_and_ends_with_its_stream() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    guest.start("seq", "seq 1 300", StdinWord::Closed).await;
    let mut all = guest.logs("seq", Some(LogPlace::Offset(0)), true).await;
    assert_eq!(offset_of(&mut all, Stream::Stdout).await, 0);
    let (text, last) = to_its_end(&mut all).await;
    assert_eq!((text.len(), last), (1092, None));
    let mut tail = guest.logs("seq", Some(LogPlace::LastLines(2)), false).await;
    assert_eq!(offset_of(&mut tail, Stream::Stdout).await, 1084);
    assert_eq!(to_its_end(&mut tail).await, (b"299\n300\n".to_vec(), None));
}

#[tokio::test]
async fn an_attach_carries_input_signals_and_the_session_s_own_status() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    guest.start("talk", TALK, StdinWord::Pipe).await;
    let mut stream = guest.attach("talk", Some(0)).await;
    reads(&mut stream, b"ready\n").await;
    stream
        .write
        .send_data(Stream::Stdin, b"one\n")
        .await
        .unwrap();
    reads(&mut stream, b"got one\n").await;
    // The end of this client's input is not that of the session's.
    stream.write.send_end(Stream::Stdin).await.unwrap();
    guest.send("talk", b"two\n", false).await.unwrap();
    reads(&mut stream, b"got two\n").await;
    let signal = "TERM".to_owned();
    stream
        .write
        .send_control(&Control::Signal { signal })
        .await
        .unwrap();
    let (_, last) = to_its_end(&mut stream).await;
    assert_eq!(last, Some(Control::Exit { exit_code: 143 }));
}

#[tokio::test]
async fn an_attach_may_end_the_session_s_stdin_for_good() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    guest.start("talk", TALK, StdinWord::Pipe).await;
    let mut stream = guest.attach("talk", Some(0)).await;
    let lines: Vec<u8> = (0..2000)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    stream.write.send_data(Stream::Stdin, &lines).await.unwrap();
    // After all that was written before.
    stream.write.send_control(&Control::Eof).await.unwrap();
    let (text, last) = to_its_end(&mut stream).await;
    assert!(text.ends_with(b"got 1999\neof\n"), "{} bytes", text.len());
    assert_eq!(last, Some(Control::Exit { exit_code: 0 }));
}

#[tokio::test]
async fn a_second_attacher_is_refused_until_the_first_has_left_and_takes_up_the_next_byte() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    guest.start("talk", TALK, StdinWord::Pipe).await;
    let mut first = guest.attach("talk", Some(0)).await;
    let seen = reads(&mut first, b"ready\n").await;
    let again = attach_to("talk", "bob", None);
    let (kind, message) = rpc_error(guest.call::<SessionAttach>(again).await.unwrap_err());
    assert_eq!(kind, "in_use");
    assert!(message.contains("held by me"), "{message}");

    // It leaves, and is told when it has.
    let StreamConnection { mut read, write } = first;
    drop(write);
    let last = loop {
        match read.next_frame().await.unwrap() {
            Some(Frame::Control(control)) if control.is_last() => break control,
            Some(_) => {}
            None => panic!("no last word"),
        }
    };
    assert_eq!(last, Control::Detached);
    assert_eq!(guest.show("talk").await.status, "running");
    guest.send("talk", b"meanwhile\n", false).await.unwrap();
    let mut second = guest.attach("talk", Some(seen.len() as u64)).await;
    let offset = offset_of(&mut second, Stream::Stdout).await;
    assert_eq!(offset, seen.len() as u64);
    reads(&mut second, b"got meanwhile\n").await;
    // One that is simply gone leaves too.
    drop(second);
    let socket = guest.rig.socket.clone();
    until("the next one may attach", || async {
        let mut client = Client::connect(&socket).await.unwrap();
        let again = attach_to("talk", "bob", None);
        quietly::<SessionAttach>(&mut client, &again).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_written_is_told_and_the_output_goes_on() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    guest
        .start("watch", "sleep 1; echo later; exit 3", StdinWord::Closed)
        .await;
    let mut stream = guest.attach("watch", Some(0)).await;
    stream.write.send_data(Stream::Stdin, b"x").await.unwrap();
    loop {
        match next(&mut stream).await {
            Some(Frame::Control(Control::InputRefused { error })) => {
                assert!(error.contains("not a pipe"), "{error}");
                break;
            }
            Some(Frame::Control(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    let (text, last) = to_its_end(&mut stream).await;
    assert_eq!(text, b"later\n");
    assert_eq!(last, Some(Control::Exit { exit_code: 3 }));
}

#[tokio::test]
async fn a_send_is_refused_with_its_reason_and_one_that_is_too_large_with_the_limit() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    guest
        .start("closed", "exec sleep 600", StdinWord::Closed)
        .await;
    let error = guest.send("closed", b"x", false).await.unwrap_err();
    let ClientError::Rpc(error) = error else {
        panic!("{error:?}");
    };
    let data = error.data.unwrap();
    assert!(data.causes[0].contains("not a pipe"), "{data:?}");
    assert_eq!(data.hint.as_deref(), Some("start it with --stdin pipe"));

    guest.start("cat", "exec cat", StdinWord::Pipe).await;
    // The longest, made of what takes the most room in JSON.
    let most = vec![1; MAX_SEND_BYTES];
    guest.send("cat", &most, false).await.unwrap();
    let (kind, message) = rpc_error(
        guest
            .send("cat", &[most.clone(), vec![1]].concat(), false)
            .await
            .unwrap_err(),
    );
    assert_eq!(kind, "invalid");
    assert!(message.contains(&MAX_SEND_BYTES.to_string()), "{message}");
    guest.send("cat", b"\xff\xfe", true).await.unwrap();
    let mut logs = guest.logs("cat", Some(LogPlace::Offset(0)), true).await;
    let (text, _) = to_its_end(&mut logs).await;
    assert!(text == [most, vec![0xff, 0xfe]].concat());
}

#[tokio::test]
async fn a_vm_that_is_deleted_under_an_attach_ends_it_as_lost() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    guest.start("talk", TALK, StdinWord::Pipe).await;
    let mut stream = guest.attach("talk", Some(0)).await;
    reads(&mut stream, b"ready\n").await;
    let vm = VmParams {
        vm: "box".to_owned(),
    };
    guest.call::<VmDelete>(vm).await.unwrap();
    let (_, last) = to_its_end(&mut stream).await;
    let Some(Control::Lost { error }) = last else {
        panic!("{last:?}");
    };
    assert_eq!(error, "the VM was deleted");
}

#[tokio::test]
async fn a_daemon_that_stops_says_so_to_who_is_attached_and_ends_in_time() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    guest.start("talk", TALK, StdinWord::Pipe).await;
    let mut stream = guest.attach("talk", Some(0)).await;
    reads(&mut stream, b"ready\n").await;
    let mut logs = guest.logs("talk", Some(LogPlace::Offset(0)), true).await;
    offset_of(&mut logs, Stream::Stdout).await;
    guest.rig.stop.ask();
    for stream in [&mut stream, &mut logs] {
        let (_, last) = to_its_end(stream).await;
        let Some(Control::Lost { error }) = last else {
            panic!("{last:?}");
        };
        assert!(error.contains("the session runs on"), "{error}");
    }
    let begun = std::time::Instant::now();
    guest.rig.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(10));
}
