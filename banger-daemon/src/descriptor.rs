//! Passing one descriptor over a connection, with one byte beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Passes `fd` to whoever holds the other end of `over`, a Unix socket. Blocks if the socket does.
pub fn pass_descriptor(over: impl AsFd, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let byte = [IoSlice::new(&[0])];
    sendmsg(over, &byte, &mut control, SendFlags::empty())?;
    Ok(())
}

/// The same, waiting for room. Cancel-safe.
#[cfg(feature = "server")]
pub(crate) async fn send(over: &UnixStream, fd: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        over.writable().await?;
        match over.try_io(Interest::WRITABLE, || pass_descriptor(over, fd)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}

/// Waits for a descriptor; none if something else came, or the end. Cancel-safe.
pub(crate) async fn receive(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    loop {
        from.readable().await?;
        let received = from.try_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let mut buffer = [IoSliceMut::new(&mut byte)];
            recvmsg(from, &mut buffer, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            Ok(control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            }))
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn what_arrives_is_the_very_socket_and_words_are_none() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        send(&here, theirs.as_fd()).await.unwrap();
        drop(theirs);
        let received = receive(&there).await.unwrap().unwrap();
        let mut received = std::os::unix::net::UnixStream::from(received);
        received.write_all(b"hi").unwrap();
        let mut said = [0; 2];
        ours.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hi");

        here.try_write(b"x").unwrap();
        assert!(receive(&there).await.unwrap().is_none());
        drop(here);
        assert!(receive(&there).await.unwrap().is_none());
    }
}
