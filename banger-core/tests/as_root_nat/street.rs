//! A street of network namespaces, in a process that has a network and mounts of its own: this host, an
//! internet on one side of it and a network of its owner's on the other, and guests. Their addresses are
//! nowhere else, and nothing leaves them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const TUNSETIFF: Opcode = 0x4004_54ca;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

/// Somebody on the internet.
pub(crate) const SHOP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
/// The host, as the internet sees it.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The host's neighbour there, and its router.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Where clouds tell a machine its secrets.
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The host on its owner's network, and a printer there, which also resolves names.
pub(crate) const HOST_AT_HOME: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub(crate) const PRINTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// Every guest.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

pub(crate) const INTERNET: &str = "internet";
pub(crate) const HOME: &str = "home";

/// How long a connection is given that must not come about.
const SHORT: Duration = Duration::from_millis(700);

/// Runs a test of this binary again, in a network and with mounts of its own; there it returns true, and the
/// test goes on. Needs root; without it, says so and returns false.
pub(crate) fn in_a_network_of_its_own(test: &str) -> bool {
    const INSIDE: &str = "BANGER_TEST_STREET";
    if std::env::var_os(INSIDE).is_some() {
        build();
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: {test}: network namespaces need root");
        return false;
    }
    for program in ["nft", "ip", "unshare"] {
        if Command::new(program).arg("--version").output().is_err() {
            println!("SKIP: {test}: {program} is not installed");
            return false;
        }
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "in a network of its own:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

fn build() {
    std::fs::create_dir_all("/run/netns").unwrap();
    sh("mount -t tmpfs none /run/netns");
    let resolvers = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&resolvers, format!("nameserver {PRINTER}\n")).unwrap();
    sh(&format!(
        "mount --bind {} /etc/resolv.conf",
        resolvers.path().display()
    ));
    sh(&format!(
        "ip link set lo up
         ip netns add {INTERNET}; ip netns add {HOME}
         ip link add wan type veth peer name eth0 netns {INTERNET}
         ip link add lan type veth peer name eth0 netns {HOME}
         ip addr add {HOST}/24 dev wan; ip link set wan up
         ip addr add {HOST_AT_HOME}/24 dev lan; ip link set lan up
         ip route add default via {ROUTER}
         sysctl() {{ echo 1 >/proc/sys/net/ipv4/conf/$1/forwarding; }}; sysctl wan; sysctl lan
         ip -n {INTERNET} link set lo up; ip -n {INTERNET} link set eth0 up
         ip -n {INTERNET} addr add {ROUTER}/24 dev eth0
         ip -n {INTERNET} addr add {SHOP}/32 dev lo
         ip -n {INTERNET} addr add {METADATA}/32 dev lo
         ip -n {INTERNET} route add 198.18.0.0/16 via {HOST}
         ip -n {INTERNET} route add 10.0.2.0/24 via {HOST}
         ip -n {HOME} link set lo up; ip -n {HOME} link set eth0 up
         ip -n {HOME} addr add {PRINTER}/24 dev eth0
         ip -n {HOME} route add default via {HOST_AT_HOME}"
    ));
}

/// Runs a script, which must succeed, and returns what it prints.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What the host holds that an uplink could leave.
pub(crate) fn state() -> String {
    sh("ip -br link; ip route; nft list ruleset; ls /run/netns; cat /proc/mounts")
}

/// Does something in a namespace; none is the host.
pub(crate) fn within<T: Send + 'static>(
    namespace: Option<&str>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let pin = namespace.map(|name| File::open(Path::new("/run/netns").join(name)).unwrap());
    let thread = std::thread::spawn(move || {
        if let Some(pin) = pin {
            let kind = LinkNameSpaceType::Network;
            move_into_link_name_space(pin.as_fd(), Some(kind)).unwrap();
        }
        work()
    });
    thread.join().unwrap()
}

/// Answers every connection to an address in a namespace with who it came from, for as long as the test
/// lives.
pub(crate) fn serve(namespace: Option<&str>, address: Ipv4Addr, port: u16) {
    let at = SocketAddrV4::new(address, port);
    let listener = within(namespace, move || TcpListener::bind(at).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let from = stream.peer_addr().unwrap().ip();
            let _ = write!(stream, "{from}");
        }
    });
    let socket = within(namespace, move || UdpSocket::bind(at).unwrap());
    std::thread::spawn(move || {
        let mut packet = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
        }
    });
}

/// Dials from a namespace and returns what is answered; none if nobody is reached.
pub(crate) fn ask(namespace: Option<&str>, to: Ipv4Addr, port: u16) -> Option<String> {
    within(namespace, move || {
        let to = SocketAddr::from((to, port));
        let mut stream = TcpStream::connect_timeout(&to, SHORT).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
}

/// The same by UDP.
pub(crate) fn ask_by_udp(namespace: Option<&str>, to: Ipv4Addr, port: u16) -> Option<String> {
    within(namespace, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(SHORT)).unwrap();
        socket.connect((to, port)).ok()?;
        socket.send(b"?").ok()?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    })
}

/// Puts a guest behind the tap of a VM's namespace, as a monitor does: frames are carried by hand between it
/// and a namespace of the guest's own. Returns that namespace's name.
pub(crate) fn guest(vm: &str) -> String {
    let name = format!("guest-{vm}");
    sh(&format!("ip netns add {name}"));
    let outer = within(Some(vm), || tap("tap0"));
    let inner = within(Some(&name), || tap("eth0"));
    sh(&format!(
        "ip -n {name} link set lo up
         ip -n {name} link set eth0 address 52:54:00:12:34:56 up
         ip -n {name} addr add {GUEST}/24 dev eth0
         ip -n {name} route add default via 10.0.2.2"
    ));
    let (tell, told) = mpsc::channel();
    for (mut from, mut to) in [
        (outer.try_clone().unwrap(), inner.try_clone().unwrap()),
        (inner, outer),
    ] {
        let tell = tell.clone();
        std::thread::spawn(move || {
            let mut frame = vec![0; 4096];
            tell.send(()).unwrap();
            // A guest that is gone, or a tap that is, ends it.
            while let Ok(length @ 1..) = from.read(&mut frame) {
                let _ = to.write(&frame[..length]);
            }
        });
    }
    told.recv().unwrap();
    told.recv().unwrap();
    name
}

#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

#[allow(unsafe_code, reason = "a tap is taken by an ioctl")]
fn tap(name: &str) -> File {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which this is in size and as far as it is read.
    unsafe { ioctl(&device, Setter::<TUNSETIFF, _>::new(request)) }.unwrap();
    device
}
