//! Commands in a guest, over a stream.

use std::time::Duration;

use banger_daemon::client::{Client, StreamConnection};
use banger_daemon::protocol::*;
use banger_session::mux::{Control, Frame, Stream};

use crate::rig::{LIMIT, Rig, named, quietly};

/// What came over a stream, up to its last word.
#[derive(Debug, Default)]
struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Controls and ends, in order.
    words: Vec<String>,
    last: Option<Control>,
}

struct Guest {
    rig: Rig,
    client: Client,
}

impl Guest {
    async fn new() -> Option<Self> {
        let rig = Rig::new().await;
        let mut client = rig.client().await;
        rig.running(&mut client, named("box")).await?;
        Some(Guest { rig, client })
    }

    async fn ticket(&mut self, argv: &[&str]) -> String {
        let params = ExecParams {
            in_workspace: false,
            vm: "box".to_owned(),
            argv: argv
                .iter()
                .map(|word| Bytes::Text((*word).to_owned()))
                .collect(),
            env: vec![("COLOUR".to_owned(), Bytes::Raw(b"bl\xe5".to_vec()))],
            cwd: None,
            stdin_closed: false,
        };
        self.asked(params).await
    }

    async fn asked(&mut self, params: ExecParams) -> String {
        quietly::<VmExec>(&mut self.client, &params)
            .await
            .unwrap()
            .ticket
    }

    async fn stream(&mut self, argv: &[&str]) -> StreamConnection {
        let ticket = self.ticket(argv).await;
        Client::open_stream(&self.rig.socket, &ticket)
            .await
            .unwrap()
    }

    /// Waits until a command in the guest succeeds.
    async fn until(&mut self, what: &str, script: &str) {
        let begun = std::time::Instant::now();
        loop {
            let mut stream = self.stream(&["sh", "-c", script]).await;
            stream.write.send_end(Stream::Stdin).await.unwrap();
            if heard(&mut stream).await.last == Some(Control::Exit { exit_code: 0 }) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "it never came to this: {what}");
        }
    }
}

async fn heard(stream: &mut StreamConnection) -> Heard {
    let mut heard = Heard::default();
    let listen = async {
        while let Some(frame) = stream.read.next_frame().await.unwrap() {
            match frame {
                Frame::Data {
                    stream: Stream::Stdout,
                    bytes,
                } => heard.stdout.extend(bytes),
                Frame::Data { bytes, .. } => heard.stderr.extend(bytes),
                Frame::End { stream } => heard.words.push(format!("{stream:?} over")),
                Frame::Control(control) => {
                    if control.is_last() {
                        heard.last = Some(control);
                        return;
                    }
                    heard.words.push(format!("{control:?}"));
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, listen)
        .await
        .expect("the stream neither spoke nor ended");
    heard
}

#[tokio::test]
async fn a_command_gives_its_output_its_errors_and_its_status_in_this_order() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let script = "printf 'out %s' \"$COLOUR\"; echo err >&2; exit 42";
    let mut stream = guest.stream(&["sh", "-c", script]).await;
    let heard = heard(&mut stream).await;
    assert_eq!(heard.stdout, b"out bl\xe5");
    assert_eq!(heard.stderr, b"err\n");
    assert_eq!(heard.last, Some(Control::Exit { exit_code: 42 }));
    assert!(heard.words[0].starts_with("Started"), "{:?}", heard.words);
    assert_eq!(heard.words[1..], ["Stdout over", "Stderr over"]);
    assert!(stream.read.next_frame().await.unwrap().is_none());
}

#[tokio::test]
async fn ten_megabytes_go_through_a_command_byte_for_byte() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let mut sent = Vec::with_capacity(10 << 20);
    let mut state = 1_u32;
    while sent.len() < 10 << 20 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        sent.extend(state.to_be_bytes());
    }
    let stream = guest.stream(&["cat"]).await;
    let StreamConnection { read, mut write } = stream;
    let talk = async {
        for piece in sent.chunks(100_000) {
            write.send_data(Stream::Stdin, piece).await.unwrap();
        }
        write.send_end(Stream::Stdin).await.unwrap();
        write
    };
    let listen = async {
        let mut received = Vec::new();
        let mut read = read;
        loop {
            match read.next_frame().await.unwrap().expect("cut short") {
                Frame::Data { bytes, .. } => received.extend(bytes),
                Frame::Control(control) if control.is_last() => return (received, control),
                _ => {}
            }
        }
    };
    let both = async { tokio::join!(talk, listen) };
    let (_write, (received, last)) = tokio::time::timeout(LIMIT, both).await.unwrap();
    assert_eq!(last, Control::Exit { exit_code: 0 });
    assert!(
        received == sent,
        "{} bytes of {}",
        received.len(),
        sent.len()
    );
}

#[tokio::test]
async fn what_is_sent_right_behind_the_ticket_is_not_lost() {
    use std::io::Write;
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let ticket = guest.ticket(&["cat"]).await;
    let mut wire = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"stream.open\",\"params\":{{\"ticket\":\"{ticket}\"}}}}\n"
    )
    .into_bytes();
    banger_session::mux::encode(Stream::Stdin, b"early", &mut wire);
    banger_session::mux::encode_end(Stream::Stdin, &mut wire);
    let mut socket = std::os::unix::net::UnixStream::connect(&guest.rig.socket).unwrap();
    socket.write_all(&wire).unwrap();
    let all = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut socket, &mut all).unwrap();
        all
    });
    let all = tokio::time::timeout(LIMIT, all).await.unwrap().unwrap();
    assert!(all.windows(5).any(|window| window == b"early"));
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group_while_output_flows() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let script = "yes | cat";
    let mut stream = guest.stream(&["sh", "-c", script]).await;
    // It is under way, and nobody has taken its output yet.
    let first = tokio::time::timeout(LIMIT, stream.read.next_frame()).await;
    assert!(first.unwrap().unwrap().is_some());
    let signal = Control::Signal {
        signal: "TERM".to_owned(),
    };
    stream.write.send_control(&signal).await.unwrap();
    let heard = heard(&mut stream).await;
    assert_eq!(heard.last, Some(Control::Exit { exit_code: 143 }));
}

#[tokio::test]
async fn a_signal_overtakes_input_that_the_command_does_not_read() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let mut stream = guest.stream(&["sleep", "1000"]).await;
    stream
        .write
        .send_data(Stream::Stdin, &[b'x'; 200_000])
        .await
        .unwrap();
    // Not INT: whoever started this run in the background may have had it ignored, guests included.
    let signal = Control::Signal {
        signal: "TERM".to_owned(),
    };
    stream.write.send_control(&signal).await.unwrap();
    let heard = heard(&mut stream).await;
    assert_eq!(heard.last, Some(Control::Exit { exit_code: 143 }));
}

#[tokio::test]
async fn a_command_whose_client_dies_is_hung_up_on() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    // One that prints nothing, so that only the client's death can be noticed; one that does not read
    // what it is sent, so that the client's last bytes are still in the way; one that prints.
    let quiet = "touch /root/up; sleep 1000";
    let loud = "touch /root/up; yes";
    for (script, input) in [(quiet, 0), (quiet, 2 << 20), (loud, 0)] {
        let marker = format!("trap 'touch /root/hung-up; exit' HUP; {script} & wait");
        let mut stream = guest.stream(&["sh", "-c", &marker]).await;
        guest.until("it is up", "test -e /root/up").await;
        let mut left = input;
        let fill = async {
            while left > 0 {
                stream
                    .write
                    .send_data(Stream::Stdin, &[0; 65536])
                    .await
                    .unwrap();
                left -= 65536;
            }
        };
        // It does not all fit, unless there is none.
        let _ = tokio::time::timeout(Duration::from_millis(300), fill).await;
        drop(stream);
        let check = "test -e /root/hung-up && rm /root/hung-up /root/up";
        guest.until("it is hung up on", check).await;
    }
}

#[tokio::test]
async fn a_client_that_only_stops_talking_hears_the_rest() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let stream = guest
        .stream(&["sh", "-c", "cat; sleep 0.3; echo done"])
        .await;
    let StreamConnection {
        mut read,
        mut write,
    } = stream;
    write.send_data(Stream::Stdin, b"said\n").await.unwrap();
    // Ends this direction without a word.
    drop(write);
    let mut stdout = Vec::new();
    let listen = async {
        loop {
            match read.next_frame().await.unwrap().expect("cut short") {
                Frame::Data { bytes, .. } => stdout.extend(bytes),
                Frame::Control(control) if control.is_last() => return control,
                _ => {}
            }
        }
    };
    let last = tokio::time::timeout(LIMIT, listen).await.unwrap();
    assert_eq!(last, Control::Exit { exit_code: 0 });
    assert_eq!(stdout, b"said\ndone\n");
}

#[tokio::test]
async fn a_folder_that_cannot_be_entered_is_no_exit_status() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let ticket = guest
        .asked(ExecParams {
            in_workspace: false,
            vm: "box".to_owned(),
            argv: vec![Bytes::Text("true".to_owned())],
            env: Vec::new(),
            cwd: Some(Bytes::Text("/no/such".to_owned())),
            stdin_closed: true,
        })
        .await;
    let mut stream = Client::open_stream(&guest.rig.socket, &ticket)
        .await
        .unwrap();
    let Some(Control::Error { error, kind }) = heard(&mut stream).await.last else {
        panic!("it ran");
    };
    assert_eq!(kind, "no_such_folder");
    assert!(error.contains("/no/such"), "{error}");
}

#[tokio::test]
async fn a_ticket_is_good_once_and_a_made_up_one_never() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let ticket = guest.ticket(&["true"]).await;
    let socket = guest.rig.socket.clone();
    let mut first = Client::open_stream(&socket, &ticket).await.unwrap();
    assert_eq!(
        heard(&mut first).await.last,
        Some(Control::Exit { exit_code: 0 })
    );
    for bad in [ticket.as_str(), "0123456789abcdef0123456789abcdef", ""] {
        let mut stream = Client::open_stream(&socket, bad).await.unwrap();
        let last = heard(&mut stream).await.last;
        assert!(matches!(last, Some(Control::Error { kind, .. }) if kind == "not_found"));
    }
}

#[tokio::test]
async fn a_client_that_breaks_the_framing_loses_its_stream_and_nobody_elses() {
    use std::io::Write;
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let mut other = guest.stream(&["cat"]).await;
    let ticket = guest.ticket(&["cat"]).await;
    let open = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"stream.open\",\"params\":{{\"ticket\":\"{ticket}\"}}}}\njunk"
    );
    let mut socket = std::os::unix::net::UnixStream::connect(&guest.rig.socket).unwrap();
    socket.write_all(open.as_bytes()).unwrap();
    let over = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        let _ = std::io::Read::read_to_end(&mut socket, &mut all);
    });
    tokio::time::timeout(LIMIT, over).await.unwrap().unwrap();
    other
        .write
        .send_data(Stream::Stdin, b"still here")
        .await
        .unwrap();
    other.write.send_end(Stream::Stdin).await.unwrap();
    assert_eq!(heard(&mut other).await.stdout, b"still here");
}

#[tokio::test]
async fn a_daemon_that_stops_says_that_the_command_is_lost() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let mut stream = guest.stream(&["sleep", "1000"]).await;
    let first = tokio::time::timeout(LIMIT, stream.read.next_frame()).await;
    assert!(first.unwrap().unwrap().is_some());
    guest.rig.stop.ask();
    let last = heard(&mut stream).await.last;
    assert!(matches!(last, Some(Control::Lost { .. })), "{last:?}");
    guest.rig.ended().await;
}

#[tokio::test]
async fn fifty_commands_run_side_by_side() {
    let Some(mut guest) = Guest::new().await else {
        return;
    };
    let mut streams = Vec::new();
    for number in 0..50 {
        streams.push((
            number,
            guest
                .stream(&["sh", "-c", &format!("cat; exit {number}")])
                .await,
        ));
    }
    for (number, stream) in &mut streams {
        let text = format!("number {number}");
        stream
            .write
            .send_data(Stream::Stdin, text.as_bytes())
            .await
            .unwrap();
        stream.write.send_end(Stream::Stdin).await.unwrap();
    }
    for (number, stream) in &mut streams {
        let heard = heard(stream).await;
        assert_eq!(heard.stdout, format!("number {number}").as_bytes());
        assert_eq!(heard.last, Some(Control::Exit { exit_code: *number }));
    }
}
