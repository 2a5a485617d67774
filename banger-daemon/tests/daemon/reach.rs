//! Sockets to guests' ports and serial consoles, by ticket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use banger_daemon::client::{Client, ClientError, StreamConnection};
use banger_daemon::protocol::*;
use banger_session::mux::{Control, Frame, Stream};

use crate::rig::{LIMIT, Rig, named, quietly, until};

const SERVER: &str = r#"
use IO::Socket::INET;
my $l = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 7000, Listen => 5) or die;
$| = 1; print "up\n";
while (my $c = $l->accept) { local $/; my $all = <$c>; print $c uc $all; close $c }
"#;

async fn with_box() -> Option<(Rig, Client)> {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    rig.running(&mut client, named("box")).await?;
    Some((rig, client))
}

fn vm(name: &str) -> VmParams {
    VmParams {
        vm: name.to_owned(),
    }
}

#[tokio::test]
async fn a_dialled_socket_is_the_clients_own_and_outlives_its_connections() {
    let Some((rig, mut client)) = with_box().await else {
        return;
    };
    let words = ["perl", "-e", SERVER].map(|word| Bytes::Text(word.to_owned()));
    let exec = ExecParams {
        vm: "box".to_owned(),
        argv: words.into(),
        env: Vec::new(),
        cwd: None,
        stdin_closed: true,
        in_workspace: false,
    };
    let ticket = quietly::<VmExec>(&mut client, &exec).await.unwrap().ticket;
    let mut server = Client::open_stream(&rig.socket, &ticket).await.unwrap();
    while !matches!(
        server.read.next_frame().await.unwrap().unwrap(),
        Frame::Data { .. }
    ) {}

    let port = |port| DialParams {
        vm: "box".to_owned(),
        port,
    };
    let ticket = quietly::<VmDial>(&mut client, &port(7000))
        .await
        .unwrap()
        .ticket;
    let socket = Client::open_socket(&rig.socket, &ticket).await.unwrap();
    drop(client);
    let answer = tokio::task::spawn_blocking(move || {
        let mut socket = UnixStream::from(socket);
        socket.write_all(b"hello").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(answer.await.unwrap(), "HELLO");

    // A ticket is good once, and nothing listens on other ports.
    let again = Client::open_socket(&rig.socket, &ticket).await;
    assert!(matches!(again, Err(ClientError::Lost)), "{again:?}");
    let mut client = rig.client().await;
    let refused = quietly::<VmDial>(&mut client, &port(7001)).await;
    let Err(ClientError::Rpc(error)) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        error.message.contains("no connection on port 7001"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_console_that_is_slow_to_read_never_holds_its_guest_up() {
    let Some((rig, mut client)) = with_box().await else {
        return;
    };
    let ticket = quietly::<VmConsole>(&mut client, &vm("box"))
        .await
        .unwrap()
        .ticket;
    let StreamConnection {
        mut read,
        mut write,
    } = Client::open_stream(&rig.socket, &ticket).await.unwrap();
    // The simulated console gives every byte back: ten megabytes that nobody reads meanwhile.
    let typing = async {
        for _ in 0..160 {
            write
                .send_data(Stream::Stdin, &[b'x'; 65536])
                .await
                .unwrap();
        }
    };
    tokio::time::timeout(LIMIT, typing)
        .await
        .expect("it takes what is typed");
    let mut notice = false;
    let reading = async {
        loop {
            if let Some(Frame::Data { bytes, .. }) = read.next_frame().await.unwrap() {
                notice |= bytes.windows(20).any(|w| w == b"bytes were dropped h");
            }
            if notice {
                return;
            }
            // What was dropped is told with the next piece.
            write.send_data(Stream::Stdin, b"y").await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, reading)
        .await
        .expect("it is told");
}

#[tokio::test]
async fn a_console_is_one_clients_until_it_leaves_or_never_comes_for_it() {
    let Some((rig, mut client)) = with_box().await else {
        return;
    };
    let ticket = quietly::<VmConsole>(&mut client, &vm("box"))
        .await
        .unwrap()
        .ticket;
    let held = quietly::<VmConsole>(&mut client, &vm("box")).await;
    let Err(ClientError::Rpc(error)) = held else {
        panic!("{held:?}");
    };
    assert_eq!(error.data.unwrap().kind, "in_use");
    let mut console = Client::open_stream(&rig.socket, &ticket).await.unwrap();
    let first = console.read.next_frame().await.unwrap();
    assert_eq!(first, Some(Frame::Control(Control::Started { pid: None })));
    drop(console);
    until("it is free again", async || {
        let mut client = rig.client().await;
        quietly::<VmConsole>(&mut client, &vm("box")).await.is_ok()
    })
    .await;
}
