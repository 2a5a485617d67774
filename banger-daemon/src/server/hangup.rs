//! Hearing that a client has hung up, even while nothing is read from it or written to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Watches for the end of both directions. A client that has only ended its own direction still
/// listens, and is not taken for dead.
#[derive(Debug)]
pub(super) struct Hangup {
    /// A descriptor of its own: readiness that is consumed here is not missed elsewhere.
    watched: AsyncFd<OwnedFd>,
}

impl Hangup {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let copy = stream.as_fd().try_clone_to_owned()?;
        // epoll(7) reports EPOLLHUP whatever is asked for; what is asked for here never happens on a
        // Unix socket, so that no traffic wakes us.
        #[allow(
            deprecated,
            reason = "the constructor that takes its place is unsafe for the sake of types that may \
                      close their descriptor; an OwnedFd does not, and there is no unsafe in here"
        )]
        let watched = AsyncFd::try_with_interest(copy, Interest::PRIORITY)?;
        Ok(Hangup { watched })
    }

    /// Waits for it. Cancel-safe.
    pub(super) async fn happened(&self) {
        // An error means that the runtime is ending; then nobody is there any more either.
        while let Ok(mut guard) = self.watched.ready(Interest::PRIORITY).await {
            if guard.ready().is_read_closed() {
                return;
            }
            guard.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_client_that_only_stops_talking_has_not_hung_up() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let hangup = Hangup::of(&ours).unwrap();
        theirs.write_all(b"x").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut all = Vec::new();
        ours.read_to_end(&mut all).await.unwrap();
        let soon = Duration::from_millis(50);
        assert!(timeout(soon, hangup.happened()).await.is_err());

        drop(theirs);
        let limit = Duration::from_secs(10);
        assert!(timeout(limit, hangup.happened()).await.is_ok());
    }

    #[tokio::test]
    async fn a_hangup_is_heard_behind_bytes_that_nobody_has_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let hangup = Hangup::of(&ours).unwrap();
        theirs.write_all(&[0; 4096]).await.unwrap();
        drop(theirs);
        let limit = Duration::from_secs(10);
        assert!(timeout(limit, hangup.happened()).await.is_ok());
    }
}
