//! Namespaces on the real host. Each act enters one on a thread of its own, which ends with it: the
//! process's other threads stay where they are. A rootless helper would take this file's place: it would
//! pass back the same sockets.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::{Handle, LinkUnspec};
use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use tokio::net::{TcpSocket, TcpStream};

use super::{LinuxHost, blocking};
use crate::host::spaces::{Spaces, TapSpec};
use crate::host::{FileAct, Host, HostError, files};

/// Where namespaces are pinned: ip(8) finds them there too.
const PINNED: &str = "/run/netns";

const TUN: &str = "/dev/net/tun";

const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETPERSIST: Opcode = 0x4004_54cb;

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// Without it, one that exists is silently adopted.
const IFF_TUN_EXCL: u16 = 0x8000;

/// `struct ifreq` of linux/if.h, as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

#[async_trait]
impl Spaces for LinuxHost {
    async fn tap_support(&self) -> Result<(), String> {
        if self.user_id() != 0 {
            return Err("network namespaces and taps need root".to_owned());
        }
        // Opening it loads the module, where there is one.
        match OpenOptions::new().read(true).write(true).open(TUN) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{TUN} cannot be opened ({error}): modprobe tun")),
        }
    }

    async fn make_namespace(&self, name: &str) -> Result<(), HostError> {
        let name = name.to_owned();
        on_a_thread(move || make(&name).map_err(failed("make the network namespace", &name))).await
    }

    async fn make_tap(&self, namespace: &str, tap: &TapSpec) -> Result<(), HostError> {
        let (space, spec) = (namespace.to_owned(), tap.clone());
        // The tap and the netlink socket are made inside; the socket is then spoken to from here.
        let netlink = inside(namespace, move || {
            make_tap(&spec.name).map_err(failed("make a tap in", &space))
        })
        .await?;
        let set_up = set_up(&netlink.handle, tap).await;
        set_up.map_err(|error| failed("set up the tap in", namespace)(spelled(error)))
    }

    async fn remove_namespace(&self, name: &str) -> Result<(), HostError> {
        let path = pin(name);
        // Not mounted is what a make that was cut short leaves.
        match unmount(&path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed("unpin the network namespace", name)(error.into())),
        }
        files::remove_file(&path)
    }

    async fn list_namespaces(&self, prefix: &str) -> Result<Vec<String>, HostError> {
        let mut names = files::list(PINNED.as_ref())?;
        names.retain(|name| name.starts_with(prefix));
        Ok(names)
    }

    async fn list_pins(&self, prefix: &str) -> Result<Vec<PathBuf>, HostError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = files::read(path)?.unwrap_or_default();
        Ok(pins_in(&String::from_utf8_lossy(&mounts), prefix))
    }

    async fn connect_in(
        &self,
        namespace: &str,
        to: SocketAddrV4,
        limit: Duration,
    ) -> Result<TcpStream, HostError> {
        let space = namespace.to_owned();
        let socket = on_a_thread(move || {
            enter(&space)
                .and_then(|()| socket())
                .map_err(failed("dial in", &space))
        })
        .await?;
        // A socket stays in the namespace that it was made in.
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        match tokio::time::timeout(limit, socket.connect(to.into())).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(failed("dial in", namespace)(error)),
            Err(_) => Err(failed("dial in", namespace)(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Opens a pinned namespace, for a program that is started in it.
pub(in crate::host) fn open(name: &str) -> Result<OwnedFd, HostError> {
    let path = pin(name);
    let file = File::open(&path).map_err(files::failed(FileAct::Read, &path))?;
    Ok(file.into())
}

pub(super) fn pin(name: &str) -> PathBuf {
    PathBuf::from(PINNED).join(name)
}

/// The fifth field of a line of proc_pid_mountinfo(5) is where it is mounted. No name of ours is one that the
/// kernel would spell otherwise.
fn pins_in(mounts: &str, prefix: &str) -> Vec<PathBuf> {
    let paths = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let is_pin = |path: &&str| {
        let name = Path::new(path).strip_prefix(PINNED);
        name.is_ok_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let mut pins: Vec<PathBuf> = paths.filter(is_pin).map(PathBuf::from).collect();
    pins.sort();
    pins
}

/// Somebody who speaks netlink for us, until this is dropped.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    speaker: tokio::task::JoinHandle<()>,
}

impl Netlink {
    /// Speaks to the network that this process is in.
    pub(super) fn here() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let speaker = tokio::spawn(connection);
        Ok(Netlink { handle, speaker })
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.speaker.abort();
    }
}

/// Does something in a namespace, and returns who speaks netlink there.
pub(super) async fn inside(
    namespace: &str,
    work: impl FnOnce() -> Result<(), HostError> + Send + 'static,
) -> Result<Netlink, HostError> {
    let space = namespace.to_owned();
    let runtime = tokio::runtime::Handle::current();
    on_a_thread(move || {
        enter(&space).map_err(failed("enter", &space))?;
        work()?;
        let _here = runtime.enter();
        Netlink::here().map_err(failed("speak netlink in", &space))
    })
    .await
}

/// Runs what changes the thread's namespace on a thread that nobody uses afterwards.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    blocking(move || {
        let thread = std::thread::Builder::new()
            .name("namespace".to_owned())
            .spawn(work)
            .map_err(failed("enter", "a network namespace"))?;
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
    .await
}

fn enter(name: &str) -> io::Result<()> {
    let space = File::open(pin(name))?;
    Ok(move_into_link_name_space(
        space.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

fn make(name: &str) -> io::Result<()> {
    let path = pin(name);
    std::fs::create_dir_all(PINNED)?;
    // The file first: a death before the mount leaves an empty file under the VM's name.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    let pinned = (|| {
        // SAFETY: NEWNET shares nothing of the address space or the file table; the thread ends with us.
        #[allow(unsafe_code)]
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        mount_bind("/proc/thread-self/ns/net", &path)
    })();
    pinned.map_err(|error| {
        let _ = std::fs::remove_file(&path);
        error.into()
    })
}

/// Makes a tap in the namespace that the thread is in. It lives as long as the namespace.
fn make_tap(name: &str) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open(TUN)?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL,
        rest: [0; 22],
    };
    if name.len() > 15 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which this is in size and as far as it is read.
    #[allow(unsafe_code)]
    unsafe { ioctl(&device, Setter::<TUNSETIFF, _>::new(request)) }?;
    // SAFETY: TUNSETPERSIST takes a number.
    #[allow(unsafe_code)]
    unsafe { ioctl(&device, IntegerSetter::<TUNSETPERSIST>::new_usize(1)) }?;
    Ok(())
}

async fn set_up(netlink: &Handle, tap: &TapSpec) -> Result<(), rtnetlink::Error> {
    let loopback = index(netlink, "lo").await?;
    let up = |index| LinkUnspec::new_with_index(index).up().build();
    netlink.link().set(up(loopback)).execute().await?;
    let index = index(netlink, &tap.name).await?;
    netlink
        .address()
        .add(index, tap.address.into(), tap.prefix)
        .execute()
        .await?;
    netlink.link().set(up(index)).execute().await?;
    netlink
        .neighbours()
        .add(index, tap.peer.into())
        .link_layer_address(&tap.peer_mac)
        .state(NeighbourState::Permanent)
        .execute()
        .await
}

pub(super) async fn index(netlink: &Handle, name: &str) -> Result<u32, rtnetlink::Error> {
    let mut links = netlink.link().get().match_name(name.to_owned()).execute();
    let mut links = std::pin::pin!(&mut links);
    let next =
        std::future::poll_fn(|cx| futures_core::TryStream::try_poll_next(links.as_mut(), cx));
    match next.await {
        Some(link) => Ok(link?.header.index),
        None => Err(rtnetlink::Error::RequestFailed),
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// The system's own answer, where it is one.
pub(super) fn spelled(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(answer) => answer.to_io(),
        other => io::Error::other(other),
    }
}

pub(super) fn failed<'a>(
    act: &'static str,
    what: &'a str,
) -> impl FnOnce(io::Error) -> HostError + 'a {
    move |source| HostError::Device {
        act,
        device: what.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_size_that_the_kernel_gives_it() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }
}
