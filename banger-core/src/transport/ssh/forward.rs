//! Connections to a guest's ports through its ssh master, over the master's own protocol
//! (`PROTOCOL.mux` of OpenSSH, version 4): a stdio forward, which is what `ssh -W` asks for. No program
//! is started, and a refusal is told apart from a connection that ends at once.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::handover::send_fd;
use crate::transport::GuestStream;

const HELLO: u32 = 0x0000_0001;
const VERSION: u32 = 4;
const NEW_STDIO_FORWARD: u32 = 0x1000_0008;
const SESSION_OPENED: u32 = 0x8000_0006;
const PERMISSION_DENIED: u32 = 0x8000_0002;
const FAILURE: u32 = 0x8000_0003;

/// The longest answer that is waited for, in bytes: a master sends words, not data.
const MAX_ANSWER: u32 = 1 << 16;

/// Why there is no connection.
pub(super) enum Refusal {
    /// The master could not be talked to.
    Master(io::Error),
    /// Nothing listens, or forwarding is forbidden.
    Port(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Master(error)
    }
}

/// Has a master connect to a port of its guest's own loopback. The connection ends with its streams,
/// with the guest, or with us.
pub(super) async fn forward(control: &Path, port: u16) -> Result<GuestStream, Refusal> {
    let mut master = UnixStream::connect(control).await?;
    send(&mut master, &Message::of(HELLO).number(VERSION)).await?;
    let (kind, _) = receive(&mut master).await?;
    if kind != HELLO {
        return Err(nonsense(kind).into());
    }
    let request = Message::of(NEW_STDIO_FORWARD)
        .number(0)
        .text("")
        .text("localhost")
        .number(port.into());
    send(&mut master, &request).await?;
    // Two pipes rather than one socket: only so does the end of one direction reach the other side.
    let (to_guest, its_input) = pipe::pipe()?;
    let (its_output, from_guest) = pipe::pipe()?;
    pass(&master, its_input.into_blocking_fd()?).await?;
    pass(&master, its_output.into_blocking_fd()?).await?;
    let (kind, body) = receive(&mut master).await?;
    match kind {
        SESSION_OPENED => {}
        FAILURE => {
            // It never says why the guest's sshd refused.
            tracing::debug!(port, reason = reason(&body), "a forward was refused");
            let message = "nothing listens there, or its ssh forwards nothing";
            return Err(Refusal::Port(message.to_owned()));
        }
        PERMISSION_DENIED => return Err(Refusal::Port(reason(&body))),
        kind => return Err(nonsense(kind).into()),
    }
    // The forward lives as long as this connection; the master closes it when the forward is over.
    tokio::spawn(async move {
        let mut rest = [0; 64];
        while matches!(master.read(&mut rest).await, Ok(1..)) {}
    });
    Ok(GuestStream {
        read: Box::pin(from_guest),
        write: Box::pin(to_guest),
    })
}

/// A message in the making: a length, then numbers and texts, all big-endian.
struct Message(Vec<u8>);

impl Message {
    fn of(kind: u32) -> Self {
        Message(kind.to_be_bytes().into())
    }

    fn number(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        // Ours are a few bytes long.
        self.0.extend((text.len() as u32).to_be_bytes());
        self.0.extend(text.as_bytes());
        self
    }
}

async fn send(master: &mut UnixStream, message: &Message) -> io::Result<()> {
    let mut wire = Vec::from((message.0.len() as u32).to_be_bytes());
    wire.extend(&message.0);
    master.write_all(&wire).await
}

/// Returns a message's kind and what follows it.
async fn receive(master: &mut UnixStream) -> io::Result<(u32, Vec<u8>)> {
    let length = master.read_u32().await?;
    if !(4..=MAX_ANSWER).contains(&length) {
        return Err(nonsense(length));
    }
    let kind = master.read_u32().await?;
    let mut body = vec![0; length as usize - 4];
    master.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// Passes a descriptor as the master expects it: with one byte, in a message of its own.
async fn pass(master: &UnixStream, fd: OwnedFd) -> io::Result<()> {
    loop {
        master.writable().await?;
        let sent = master.try_io(Interest::WRITABLE, || send_fd(master, &fd));
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}

/// The text of a refusal: the request's number, then the length of the text and the text.
fn reason(body: &[u8]) -> String {
    let text = body.get(8..).unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_owned()
}

fn nonsense(number: u32) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the ssh master's answer {number:#x} makes no sense"),
    )
}
