//! Calling a daemon.
//!
//! ```no_run
//! # async fn example() -> Result<(), banger_daemon::client::ClientError> {
//! use banger_daemon::client::Client;
//! use banger_daemon::protocol::{VmList, VmListParams};
//!
//! let mut client = Client::connect("/run/banger/bangerd.sock".as_ref()).await?;
//! let answer = client.call::<VmList>(&VmListParams::default(), &mut |_| {}).await?;
//! println!("{} VMs", answer.vms.len());
//! # Ok(())
//! # }
//! ```

mod start;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::descriptor;
pub use crate::descriptor::pass_descriptor;
use crate::line::{Line, LineReader};
use crate::protocol::{
    MAX_ANSWER_BYTES, Method, Notification, PROGRESS, ProgressParams, Request, Response, RpcError,
    STREAM_OPEN, StreamOpenParams,
};
pub use crate::stream::{StreamError, StreamReader, StreamWriter};
pub use start::{Places, Reached, connect_or_start};

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon answers: there is no socket, or one that a dead daemon left.
    #[error("no daemon answers on {}", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket could not be connected to.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another user listens on the socket.
    #[error("{} belongs to user {uid}, not to you", socket.display())]
    Stranger {
        /// The socket.
        socket: PathBuf,
        /// Who listens.
        uid: u32,
    },
    /// The daemon could not be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The daemon's program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The daemon's log could not be opened.
    #[error("cannot open the daemon's log {}", log.display())]
    Log {
        /// The log.
        log: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The daemon ended while it was starting.
    #[error("the daemon ended while it was starting ({status}){}", said(tail))]
    EndedStarting {
        /// How.
        status: std::process::ExitStatus,
        /// The last lines of what it logged.
        tail: String,
        /// All of it.
        log: PathBuf,
    },
    /// The daemon was started and did not answer in time.
    #[error(
        "the daemon did not answer within {} s; its log is {}",
        limit.as_secs(), log.display()
    )]
    StartTimeout {
        /// The time it had.
        limit: Duration,
        /// What it logged.
        log: PathBuf,
    },
    /// The daemon answered that it could not do it.
    #[error("{}", .0.message)]
    Rpc(Box<RpcError>),
    /// The connection ended before the answer came: nobody knows what became of the request.
    #[error("the daemon ended the connection before it answered")]
    Lost,
    /// The daemon's answer is not understood.
    #[error("the daemon's answer to {method} is not understood: {reason}")]
    Protocol {
        /// What was asked.
        method: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A stream broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// A connection to a daemon. VMs that were asked for as ephemeral live as long as it does.
#[derive(Debug)]
pub struct Client {
    lines: LineReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    next_id: u64,
    state: State,
    /// Who listens, as the kernel says.
    daemon: Option<i32>,
}

/// Whether the place of the next line is known, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Broken,
}

/// A stream's connection, to be read and written at the same time.
#[derive(Debug)]
pub struct StreamConnection {
    /// What the daemon sends.
    pub read: StreamReader,
    /// What is sent to it.
    pub write: StreamWriter,
}

impl Client {
    /// Connects to the daemon behind a socket, which must run as our own user or as root.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = connect(socket).await?;
        let daemon = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let (read, write) = stream.into_split();
        Ok(Client {
            lines: LineReader::new(read, MAX_ANSWER_BYTES),
            write,
            next_id: 1,
            state: State::Whole,
            daemon,
        })
    }

    /// Carries out one method, and tells of its progress while it is at work. If the future is dropped
    /// the daemon finishes what it has begun, and the connection can be used again.
    pub async fn call<M: Method>(
        &mut self,
        params: &M::Params,
        on_progress: &mut dyn FnMut(ProgressParams),
    ) -> Result<M::Answer, ClientError> {
        let garbled = |reason: String| ClientError::Protocol {
            method: M::NAME,
            reason,
        };
        let id = self.next_id;
        self.next_id += 1;
        let request = Request {
            jsonrpc: "2.0".to_owned(),
            id,
            method: M::NAME.to_owned(),
            params: serde_json::to_value(params).map_err(|error| garbled(error.to_string()))?,
        };
        self.send(&request).await?;
        loop {
            let line = match self.lines.next().await {
                Ok(Line::Whole(line)) => line,
                Ok(Line::TooLong) => {
                    self.state = State::Broken;
                    return Err(garbled(format!(
                        "it is longer than {MAX_ANSWER_BYTES} bytes"
                    )));
                }
                Ok(Line::End) | Err(_) => return Err(ClientError::Lost),
            };
            match parse(&line).map_err(|error| garbled(error.to_string()))? {
                Incoming::Progress(progress) if progress.id == id => on_progress(progress),
                Incoming::Response(Response {
                    id: None,
                    error: Some(error),
                    ..
                }) => return Err(ClientError::Rpc(Box::new(error))),
                Incoming::Response(response) if response.id == Some(id) => {
                    if let Some(error) = response.error {
                        return Err(ClientError::Rpc(Box::new(error)));
                    }
                    let result = response.result.unwrap_or(Value::Null);
                    return serde_json::from_value(result)
                        .map_err(|error| garbled(error.to_string()));
                }
                // Of an earlier call that nobody waited for, or of a newer release.
                Incoming::Progress(_) | Incoming::Response(_) | Incoming::Other => {}
            }
        }
    }

    /// Opens the stream that a ticket stands for, on a connection of its own.
    pub async fn open_stream(socket: &Path, ticket: &str) -> Result<StreamConnection, ClientError> {
        let (read, mut write) = connect(socket).await?.into_split();
        let line = open_line(ticket)?;
        write
            .write_all(&line)
            .await
            .map_err(|_| ClientError::Lost)?;
        Ok(StreamConnection {
            read: StreamReader::new(read, &[]),
            write: StreamWriter::new(write),
        })
    }

    /// Fetches the connected socket that a ticket of `vm.dial` stands for. It blocks.
    pub async fn open_socket(socket: &Path, ticket: &str) -> Result<OwnedFd, ClientError> {
        let mut stream = connect(socket).await?;
        let line = open_line(ticket)?;
        stream
            .write_all(&line)
            .await
            .map_err(|_| ClientError::Lost)?;
        match descriptor::receive(&stream).await {
            Ok(Some(socket)) => Ok(socket),
            Ok(None) | Err(_) => Err(ClientError::Lost),
        }
    }

    async fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let line = line_of(request)?;
        // Broken until the whole line is out: a dropped future may leave half of it.
        if std::mem::replace(&mut self.state, State::Broken) == State::Broken {
            return Err(ClientError::Lost);
        }
        let sent = self.write.write_all(&line).await;
        self.state = State::Whole;
        // A daemon that refuses a line says so before it hangs up: whatever became of the writing, the
        // reading tells.
        drop(sent);
        Ok(())
    }
}

enum Incoming {
    Response(Response),
    Progress(ProgressParams),
    Other,
}

fn parse(line: &[u8]) -> Result<Incoming, serde_json::Error> {
    let value: Value = serde_json::from_slice(line)?;
    Ok(match value.get("method").and_then(Value::as_str) {
        Some(PROGRESS) => {
            let params = value.get("params").cloned().unwrap_or_default();
            Incoming::Progress(ProgressParams::deserialize(params)?)
        }
        Some(_) => Incoming::Other,
        None => Incoming::Response(serde_json::from_value(value)?),
    })
}

async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning {
            socket: socket.to_owned(),
        },
        _ => ClientError::Connect {
            socket: socket.to_owned(),
            source,
        },
    };
    let stream = UnixStream::connect(socket).await.map_err(failed)?;
    let uid = stream.peer_cred().map_err(failed)?.uid();
    let ours = rustix::process::geteuid().as_raw();
    // Root too has its own daemon: another user's would be told all that root asks for.
    if uid != ours && uid != 0 {
        return Err(ClientError::Stranger {
            socket: socket.to_owned(),
            uid,
        });
    }
    Ok(stream)
}

/// The first and only line of a stream's connection.
fn open_line(ticket: &str) -> Result<Vec<u8>, ClientError> {
    line_of(&Notification {
        jsonrpc: "2.0".to_owned(),
        method: STREAM_OPEN.to_owned(),
        params: serde_json::json!(StreamOpenParams {
            ticket: ticket.to_owned(),
        }),
    })
}

fn line_of(message: &impl serde::Serialize) -> Result<Vec<u8>, ClientError> {
    let mut line = serde_json::to_vec(message).map_err(|error| ClientError::Protocol {
        method: "a request",
        reason: error.to_string(),
    })?;
    line.push(b'\n');
    Ok(line)
}

fn said(tail: &str) -> String {
    match tail.trim_end() {
        "" => String::new(),
        tail => format!("; it said:\n{tail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_daemon_of_another_user_s_is_not_spoken_to_by_root_either() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can be somebody else");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(folder.path(), everybody).unwrap();
        let socket = folder.path().join("bangerd.sock");
        let there = socket.clone();
        // A thread's identity is its own, as long as no library spreads it.
        let listening = std::thread::spawn(move || {
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            std::os::unix::net::UnixListener::bind(there).unwrap()
        });
        let listener = listening.join().unwrap();
        let refused = Client::connect(&socket).await.unwrap_err();
        assert!(
            matches!(refused, ClientError::Stranger { uid: 65534, .. }),
            "{refused}"
        );
        listener.set_nonblocking(true).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut heard).unwrap();
        assert_eq!(heard, b"", "nothing was said to it");
    }
}
