//! ssh, by the `openssh` crate's native mux over a master that we start ourselves.
//!
//! The master's socket has a name derived from the VM, so that an engine that comes after us takes the
//! connection up instead of leaving a stranger behind. Nothing of the user's own ssh is read or
//! written: our config file, our known_hosts with the one key that we made, no agent.

mod config;
mod forward;
mod handover;

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use openssh::{Session, Stdio};
use tokio::net::TcpStream;

use super::{
    GuestConnection, GuestEnd, GuestProcess, GuestStream, GuestTarget, GuestTransport,
    TransportError,
};
use crate::host::{Detached, Host, ProcessEnd, ProcessSignal};
use crate::names::VmName;
use crate::network::Endpoint;

pub use handover::hand_over_socket;

pub(crate) use config::{Ciphers, SshFiles, write_files};
use handover::Handover;

/// A program that receives a connected socket from us and passes it on to ssh: it is called with the
/// path of a Unix socket as its last argument and is to call [`hand_over_socket`] with it.
#[derive(Clone, Debug)]
pub struct DialHelper {
    /// The program and its first arguments.
    pub command: Vec<PathBuf>,
}

/// The transport `ssh`.
#[derive(Debug)]
pub(crate) struct SshTransport {
    helper: Option<DialHelper>,
}

impl SshTransport {
    /// Makes the transport. Without a helper ssh dials once more by itself after the guest has
    /// answered, which costs an emulated guest some tenths of a second.
    pub(crate) fn new(helper: Option<DialHelper>) -> Self {
        SshTransport { helper }
    }

    async fn start_master(
        &self,
        host: &dyn Host,
        target: &GuestTarget,
        banner: TcpStream,
        limit: Duration,
    ) -> Result<(), TransportError> {
        let log = target.run_dir.join("ssh.log");
        host.remove_file(&log).await?;
        let mut arguments: Vec<std::ffi::OsString> = vec!["-F".into()];
        arguments.push(target.ssh_config.clone().into());
        arguments.extend(["-M", "-N", "-f", "-o", "ControlMaster=yes"].map(Into::into));
        let handover = match &self.helper {
            Some(helper) => {
                let socket = target.run_dir.join("dial.sock");
                host.remove_file(&socket).await?;
                let handover = Handover::listen(&socket, banner)?;
                let mut command: Vec<String> = Vec::new();
                for word in helper.command.iter().chain([&socket]) {
                    // A path holds no NUL, the one thing that cannot be quoted.
                    let quoted = banger_session::shell_quote_str(&word.to_string_lossy())
                        .unwrap_or_default();
                    // ssh expands %-sequences in this option and then gives it to a shell.
                    command.push(quoted.replace('%', "%%"));
                }
                arguments.push("-o".into());
                arguments.push(format!("ProxyCommand={}", command.join(" ")).into());
                arguments.extend(["-o", "ProxyUseFdpass=yes"].map(Into::into));
                Some(handover)
            }
            None => {
                drop(banner);
                None
            }
        };
        arguments.push(config::alias(&target.name).into());
        let process = host
            .spawn(&Detached {
                program: "ssh".to_owned(),
                arguments,
                log: log.clone(),
                walls: None,
                // Without a helper ssh connects by itself: it must be where the guest can be reached from.
                namespace: match &self.helper {
                    Some(_) => None,
                    None => target
                        .endpoint
                        .as_ref()
                        .and_then(Endpoint::namespace)
                        .map(str::to_owned),
                },
                scope: None,
            })
            .await?;
        // `-f`: the process that we started ends once the guest has let us in and the socket listens.
        let ended = async {
            match handover {
                Some(handover) => tokio::select! {
                    // Either side may be dropped: the handover serves one helper and then only waits.
                    end = host.wait_end(&process) => end,
                    never = handover.serve() => match never {},
                },
                None => host.wait_end(&process).await,
            }
        };
        let ended = tokio::time::timeout(limit, ended).await;
        if ended.is_err() {
            host.signal(&process, ProcessSignal::Kill).await?;
        }
        match ended {
            Ok(Ok(ProcessEnd::Exited(0))) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(TransportError::NotReady { limit }),
            Ok(Ok(end)) => {
                let said = host.read_tail(&log, 2000).await.unwrap_or_default();
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                Err(TransportError::Refused {
                    vm: target.name.clone(),
                    message: if said.is_empty() {
                        format!("it {end}")
                    } else {
                        said
                    },
                })
            }
        }
    }
}

#[async_trait]
impl GuestTransport for SshTransport {
    async fn connect(
        &self,
        host: &dyn Host,
        target: &GuestTarget,
        limit: Duration,
    ) -> Result<Box<dyn GuestConnection>, TransportError> {
        let deadline = Instant::now() + limit;
        let (Some(endpoint), Some(address)) = (
            &target.endpoint,
            target.endpoint.as_ref().and_then(Endpoint::address),
        ) else {
            return Err(TransportError::NoWayIn {
                vm: target.name.clone(),
            });
        };
        let answering = answering_socket(host, endpoint.namespace(), address);
        let banner = tokio::time::timeout(limit, answering)
            .await
            .map_err(|_| TransportError::NotReady { limit })?;
        // A guest that has shown its banner logs us in soon or never.
        let left = deadline.saturating_duration_since(Instant::now());
        host.remove_file(&target.ssh_control).await?;
        self.start_master(host, target, banner, left.max(Duration::from_secs(10)))
            .await?;
        Ok(Box::new(SshConnection::over(target)))
    }

    async fn resume(
        &self,
        host: &dyn Host,
        target: &GuestTarget,
    ) -> Option<Box<dyn GuestConnection>> {
        host.stat(&target.ssh_control).await.ok()??;
        let connection = SshConnection::over(target);
        match connection.is_up().await {
            true => Some(Box::new(connection)),
            false => None,
        }
    }

    async fn disconnect(
        &self,
        host: &dyn Host,
        target: &GuestTarget,
    ) -> Result<(), TransportError> {
        if host.stat(&target.ssh_control).await?.is_some() {
            // The master ends by itself when its guest is gone; this is for one that still stands.
            let session = Session::resume_mux(target.ssh_control.clone().into(), None);
            let _ = tokio::time::timeout(Duration::from_secs(1), session.close()).await;
        }
        // One that answers nobody is found by its socket's path, which ssh keeps on its command line.
        for master in host
            .find_processes(&target.run_dir.to_string_lossy())
            .await?
        {
            if is_ssh(&master.command_line) {
                host.signal(&master.identity, ProcessSignal::Term).await?;
                // Whoever counts what is left may do so at once.
                let gone = host.wait_end(&master.identity);
                let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
            }
        }
        Ok(host.remove_file(&target.ssh_control).await?)
    }
}

/// How long a guest's sshd may take to open a channel. It starts a process for that, which takes a busy emulated
/// guest seconds; one that stands still never does it, and its kernel keeps the connection up all the same.
const OPENING: Duration = Duration::from_secs(30);

/// One master, by its control socket.
#[derive(Debug)]
struct SshConnection {
    vm: VmName,
    control: PathBuf,
    session: Arc<Session>,
    opening: Duration,
}

impl SshConnection {
    fn over(target: &GuestTarget) -> Self {
        let control: Box<Path> = target.ssh_control.clone().into();
        SshConnection {
            vm: target.name.clone(),
            control: target.ssh_control.clone(),
            session: Arc::new(Session::resume_mux(control, None)),
            opening: OPENING,
        }
    }

    /// Waits for a channel to be opened. What is dropped when that takes too long closes its end of the master's
    /// socket, and the master forgets the channel.
    async fn opened<T>(&self, channel: impl Future<Output = T>) -> Result<T, TransportError> {
        let opened = tokio::time::timeout(self.opening, channel).await;
        opened.map_err(|_| TransportError::NoChannel {
            vm: self.vm.clone(),
            limit: self.opening,
        })
    }
}

#[async_trait]
impl GuestConnection for SshConnection {
    async fn is_up(&self) -> bool {
        let check = tokio::time::timeout(Duration::from_secs(2), self.session.check());
        matches!(check.await, Ok(Ok(())))
    }

    async fn run(&self, script: &[u8]) -> Result<GuestProcess, TransportError> {
        use std::os::unix::ffi::OsStrExt;
        let failed = |message: String| TransportError::Start {
            vm: self.vm.clone(),
            message,
        };
        let mut command =
            Arc::clone(&self.session).arc_raw_command(std::ffi::OsStr::from_bytes(script));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let spawned = self.opened(command.spawn()).await?;
        let mut child = spawned.map_err(|error| failed(chain(&error)))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (
            child.stdin().take(),
            child.stdout().take(),
            child.stderr().take(),
        ) else {
            return Err(failed("it has no streams".to_owned()));
        };
        let end = async move {
            match child.wait().await {
                Ok(status) => match status.code() {
                    Some(code) => GuestEnd::Exited(code),
                    None => GuestEnd::Lost("a signal ended the login shell".to_owned()),
                },
                // The crate takes a status of 127 for its own "not found".
                Err(openssh::Error::Remote(error))
                    if error.kind() == std::io::ErrorKind::NotFound =>
                {
                    GuestEnd::Exited(127)
                }
                Err(error) => GuestEnd::Lost(chain(&error)),
            }
        };
        Ok(GuestProcess {
            stdin: Box::pin(stdin),
            stdout: Box::pin(stdout),
            stderr: Box::pin(stderr),
            end: Box::pin(end),
        })
    }

    async fn dial(&self, port: u16) -> Result<GuestStream, TransportError> {
        let vm = self.vm.clone();
        let forwarded = self.opened(forward::forward(&self.control, port)).await?;
        forwarded.map_err(|refusal| match refusal {
            forward::Refusal::Port(message) => TransportError::PortRefused { vm, port, message },
            forward::Refusal::Master(error) => TransportError::Refused {
                vm,
                message: format!("its ssh connection forwards nothing: {error}"),
            },
        })
    }
}

/// Returns a connection whose other side has begun to talk.
///
/// QEMU's stack accepts at once, long before the guest is up, so that an open connection proves nothing:
/// it is held until its first byte comes, and is then the one that ssh uses. Until the guest's kernel
/// answers at all, the stack tries again at ever longer intervals, so that one connection alone could
/// sleep for seconds after the guest is up: then a fresh one is opened every quarter of a second. Once
/// the guest refuses (its kernel is up, its sshd is not), a refusal comes at once, and so does the next try.
async fn answering_socket(
    host: &dyn Host,
    namespace: Option<&str>,
    address: SocketAddrV4,
) -> TcpStream {
    const UNHEARD: Duration = Duration::from_millis(250);
    const REFUSED: Duration = Duration::from_millis(20);
    const SLOW: Duration = Duration::from_secs(5);
    let mut patience = match namespace {
        // There is no stack in between: it is the guest's own kernel that has accepted.
        Some(_) => SLOW,
        None => UNHEARD,
    };
    loop {
        let opened = match namespace {
            Some(namespace) => host.connect_in(namespace, address, UNHEARD).await.ok(),
            None => TcpStream::connect(address).await.ok(),
        };
        if let Some(stream) = opened {
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(patience, banner(&stream)).await {
                Ok(Banner::Ssh) => return stream,
                // From now on sshd may be slow to greet, but is never unheard.
                Ok(Banner::Closed) => patience = SLOW,
                // A little longer each time: a guest that needs more than this to greet would be asked anew for
                // ever, and be kept from greeting by that.
                Err(_) => {
                    patience = patience.mul_f64(1.05).min(SLOW);
                    continue;
                }
            }
        }
        tokio::time::sleep(REFUSED).await;
    }
}

enum Banner {
    Ssh,
    Closed,
}

async fn banner(stream: &TcpStream) -> Banner {
    let mut first = [0; 4];
    loop {
        match stream.peek(&mut first).await {
            Ok(4) if &first == b"SSH-" => return Banner::Ssh,
            // Not all there yet; the rest is on its way.
            Ok(1..4) => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => return Banner::Closed,
        }
    }
}

/// Says whether a command line is that of an ssh: a client, or a master that has retitled itself.
pub(crate) fn is_ssh(command_line: &str) -> bool {
    command_line.starts_with("ssh:") || command_line.split(' ').next().is_some_and(is_ssh_program)
}

fn is_ssh_program(program: &str) -> bool {
    Path::new(program)
        .file_name()
        .is_some_and(|name| name == "ssh")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{LinuxHost, LinuxHostConfig};
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_channel_that_is_never_opened_is_given_up_and_lets_go_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("ssh");
        // A master whose guest stands still: it takes the request and has nothing to answer.
        let master = tokio::net::UnixListener::bind(&control).unwrap();
        let connection = SshConnection {
            vm: "box".parse().unwrap(),
            control: control.clone(),
            session: Arc::new(Session::resume_mux(control.into(), None)),
            opening: Duration::from_millis(50),
        };
        let (ran, taken) = tokio::join!(connection.run(b"true"), master.accept());
        let error = ran.unwrap_err();
        assert!(
            matches!(error, TransportError::NoChannel { .. }),
            "{error:?}"
        );
        let (mut stream, _) = taken.unwrap();
        let mut said = Vec::new();
        let hung_up = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said);
        let limit = Duration::from_secs(60);
        let hung_up = tokio::time::timeout(limit, hung_up).await;
        hung_up.expect("the request is still held").unwrap();
        let (dialled, _) = tokio::join!(connection.dial(1), master.accept());
        let error = dialled.unwrap_err();
        assert!(
            matches!(error, TransportError::NoChannel { .. }),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_guest_that_is_slow_to_greet_is_not_asked_anew_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let Ok(std::net::SocketAddr::V4(address)) = listener.local_addr() else {
            panic!("it is one of version 4");
        };
        // It begins anew for everybody who asks, and nobody is greeted before this.
        let slow = Duration::from_millis(400);
        let guest = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    tokio::time::sleep(slow).await;
                    let _ = stream.write_all(b"SSH-2.0-slow\r\n").await;
                    std::future::pending::<()>().await;
                });
            }
        });
        let host = LinuxHost::new(LinuxHostConfig::default());
        let limit = Duration::from_secs(60);
        let answered = tokio::time::timeout(limit, answering_socket(&host, None, address)).await;
        answered.expect("it is asked anew for ever");
        guest.abort();
    }
}
