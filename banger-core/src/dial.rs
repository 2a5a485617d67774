//! Dialling: a connected socket to a port of a guest, whatever network it has.
//!
//! Where the host can connect by itself, that connection is handed out as it is. Where it goes through
//! the guest's own connection, what is handed out is one end of a socket pair, and this process carries
//! the bytes for as long as both sides want them.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UnixStream};

use crate::engine::Engine;
use crate::error::Error;
use crate::host::{FileAct, HostError};
use crate::identity::{client_key, read_identity};
use crate::network::Route;
use crate::progress::Progress;
use crate::transport::{GuestStream, TransportError};
use crate::vm::VMRecord;

/// The port of ssh.
pub(crate) const SSH_PORT: u16 = 22;

/// How long a guest that has answered may take to open a port, or to say that it does not.
const LIMIT: Duration = Duration::from_secs(15);

/// What an ssh client of this user's is to be told of every guest alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshClient {
    /// The private key that guests let in; made, if this is the first time that it is asked for.
    pub identity: std::path::PathBuf,
    /// The cipher to try first, where guests are emulated and most are slow; none where it does not matter.
    pub first_cipher: Option<&'static str>,
}

impl Engine {
    /// Connects to a port of a running VM's guest, waiting for the guest to answer first. The socket is a
    /// connected stream that blocks; it belongs to the caller and can be passed to any other process.
    ///
    /// Port 22 is dialled as the VM's network has it. Other ports are those of the guest's own loopback.
    /// A VM that does not run, and a port on which nothing listens, are errors.
    pub async fn dial(&self, vm: &str, port: u16, progress: &Progress) -> Result<OwnedFd, Error> {
        let vm = self.lookup(vm).await?;
        // A user-mode network accepts for a guest that is still booting: only its ssh proves that it is up.
        self.wait_ready(vm.id.as_str(), progress).await?;
        let handles = self.inner.handles(&vm).await?;
        let network = self.inner.backends.network(vm.spec.network)?;
        let route = handles.and_then(|handles| network.route(&handles, port));
        let dialled = async {
            match route {
                Some(Route::Loopback(there)) => loopback(there).await,
                Some(Route::Namespace { namespace, address }) => {
                    let host = self.inner.host();
                    handed_out(host.connect_in(&namespace, address, LIMIT).await?)
                }
                Some(Route::ThroughGuest) => self.through_guest(&vm, port).await,
                None => Err(TransportError::NoWayIn {
                    vm: vm.name.clone(),
                }
                .into()),
            }
        };
        match tokio::time::timeout(LIMIT, dialled).await {
            Ok(dialled) => dialled,
            Err(_) => Err(Error::Transport(TransportError::PortRefused {
                vm: vm.name.clone(),
                port,
                message: format!("no answer within {} s", LIMIT.as_secs()),
            })),
        }
    }

    /// Returns the public half of the one key with which a VM's ssh may prove itself: `ssh-ed25519 AAAA…`.
    /// Whether it runs does not matter.
    pub async fn host_key(&self, vm: &str) -> Result<String, Error> {
        let vm = self.lookup(vm).await?;
        let identity = read_identity(self.inner.host(), &vm.runtime.vm_dir).await?;
        Ok(identity.host_key_pub.trim().to_owned())
    }

    /// Returns what an ssh client is to be told of every guest alike.
    pub async fn ssh_client(&self) -> Result<SshClient, Error> {
        let host = self.inner.host();
        let identity = self.inner.places.client_key();
        client_key(host, &identity).await?;
        Ok(SshClient {
            identity,
            first_cipher: match host.cpu().await.kvm {
                Ok(()) => None,
                Err(_) => Some("aes128-ctr"),
            },
        })
    }

    async fn through_guest(&self, vm: &VMRecord, port: u16) -> Result<OwnedFd, Error> {
        let limit = self.inner.config.limits.ready;
        let connection = self.connection(vm, limit).await?;
        let stream = connection.dial(port).await?;
        let (ours, theirs) = UnixStream::pair().map_err(no_socket)?;
        let hangup = Hangup::of(&ours).map_err(no_socket)?;
        tokio::spawn(carry(stream, ours, hangup));
        blocking(theirs.into_std().map_err(no_socket)?)
    }
}

async fn loopback(port: u16) -> Result<OwnedFd, Error> {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .map_err(no_socket)?;
    handed_out(stream)
}

fn handed_out(stream: TcpStream) -> Result<OwnedFd, Error> {
    let _ = stream.set_nodelay(true);
    let stream = stream.into_std().map_err(no_socket)?;
    stream.set_nonblocking(false).map_err(no_socket)?;
    Ok(stream.into())
}

fn blocking(socket: std::os::unix::net::UnixStream) -> Result<OwnedFd, Error> {
    socket.set_nonblocking(false).map_err(no_socket)?;
    Ok(socket.into())
}

/// Carries both directions, each to its own end; the guest's side is let go of when ours is closed.
async fn carry(guest: GuestStream, ours: UnixStream, hangup: Hangup) {
    let (mut from_us, mut to_us) = ours.into_split();
    let GuestStream {
        read: mut from_guest,
        write: mut to_guest,
    } = guest;
    let both = async {
        tokio::join!(
            async {
                let _ = tokio::io::copy(&mut from_us, &mut to_guest).await;
                let _ = to_guest.shutdown().await;
                // A pipe ends only when it is dropped.
                drop(to_guest);
            },
            async {
                let _ = tokio::io::copy(&mut from_guest, &mut to_us).await;
                let _ = to_us.shutdown().await;
            }
        )
    };
    tokio::select! {
        _ = both => {}
        // Whoever dialled has closed both directions: what the guest still has to say interests nobody.
        () = hangup.happened() => {}
    }
}

/// Hears that the other end of a socket pair is closed in both directions.
struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    fn of(socket: &UnixStream) -> io::Result<Self> {
        use std::os::fd::AsFd;
        let copy = socket.as_fd().try_clone_to_owned()?;
        // epoll(7) reports a hang-up whatever is asked for; what is asked for never happens on such a socket.
        #[allow(
            deprecated,
            reason = "the constructor that takes its place is for types that may close their descriptor"
        )]
        let watched = AsyncFd::try_with_interest(copy, Interest::PRIORITY)?;
        Ok(Hangup(watched))
    }

    async fn happened(&self) {
        while let Ok(mut guard) = self.0.ready(Interest::PRIORITY).await {
            if guard.ready().is_read_closed() {
                return;
            }
            guard.clear_ready();
        }
    }
}

fn no_socket(source: io::Error) -> Error {
    Error::Host(HostError::File {
        act: FileAct::Connect,
        path: "a guest's port".into(),
        source,
    })
}
