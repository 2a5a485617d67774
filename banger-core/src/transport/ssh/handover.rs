//! Passing a connected socket to ssh: we listen, a helper that ssh starts as its `ProxyCommand`
//! receives the socket from us, and sends it to ssh on its standard output (`ProxyUseFdpass`).

use std::convert::Infallible;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::net::{TcpStream, UnixListener};

use crate::host::{FileAct, HostError};

/// A socket that waits to be fetched, once.
pub(super) struct Handover {
    listener: UnixListener,
    socket: OwnedFd,
}

impl Handover {
    pub(super) fn listen(path: &Path, socket: TcpStream) -> Result<Self, HostError> {
        let failed = |source| HostError::File {
            act: FileAct::Connect,
            path: path.to_owned(),
            source,
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = socket.into_std().map_err(failed)?;
        // ssh expects a socket that blocks.
        socket.set_nonblocking(false).map_err(failed)?;
        Ok(Handover {
            listener,
            socket: socket.into(),
        })
    }

    /// Gives the socket to the first that asks, and then waits for ever.
    pub(super) async fn serve(self) -> Infallible {
        if let Ok((helper, _)) = self.listener.accept().await
            && let Ok(helper) = helper.into_std()
        {
            let sent = helper
                .set_nonblocking(false)
                .and_then(|()| send_fd(&helper, &self.socket));
            if let Err(error) = sent {
                tracing::warn!(%error, "could not hand the guest's connection to ssh");
            }
        }
        drop(self.socket);
        std::future::pending().await
    }
}

/// Fetches the socket that waits at `path` and passes it on to whoever holds our standard output.
/// This is all that a [`DialHelper`](super::DialHelper) has to do.
pub fn hand_over_socket(path: &Path) -> io::Result<()> {
    let socket = receive_fd(&UnixStream::connect(path)?)?;
    send_fd(&io::stdout(), &socket)
}

pub(super) fn send_fd(over: &impl AsFd, fd: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        over,
        &[IoSlice::new(&[0])],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn receive_fd(from: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        from,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "no socket was handed over",
    ))
}
