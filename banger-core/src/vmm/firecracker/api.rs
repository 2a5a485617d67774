//! HTTP on Firecracker's socket: one connection, one request at a time, a time limit on each.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::bodies::Fault;
use crate::host::Host;
use crate::vm::VmmKind;
use crate::vmm::loss::{Loss, hung_up, shown};
use crate::vmm::{VmmError, connect_once_made};

/// The longest answer that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// A connection to the API.
#[derive(Debug)]
pub(super) struct Api {
    sender: Mutex<SendRequest<Full<Bytes>>>,
    speaker: JoinHandle<()>,
    lost: Arc<watch::Sender<Option<Loss>>>,
    limit: Duration,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.speaker.abort();
    }
}

impl Api {
    /// Connects, waiting for the socket to be made.
    pub(super) async fn connect(
        host: &dyn Host,
        socket: &Path,
        limit: Duration,
    ) -> Result<Self, VmmError> {
        let stream = connect_once_made(host, socket, limit).await?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| refused("connect", error.to_string()))?;
        let lost = Arc::new(watch::Sender::new(None));
        let tell = lost.clone();
        let speaker = tokio::spawn(async move {
            let loss = match connection.await {
                Ok(()) => Loss::HungUp,
                Err(error) => loss(&error),
            };
            tell.send_if_modified(|known| {
                let first = known.is_none();
                known.get_or_insert(loss);
                first
            });
        });
        Ok(Api {
            sender: Mutex::new(sender),
            speaker,
            lost,
            limit,
        })
    }

    /// Asks for something to read.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        command: &'static str,
        path: &str,
    ) -> Result<T, VmmError> {
        let body = self.ask(command, Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&body).map_err(|error| {
            let said = format!("{} ({error})", shown(&body));
            Loss::Nonsense(said).told(VmmKind::Firecracker, command)
        })
    }

    /// Returns when the connection has become of no use, and says why.
    pub(super) async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        let loss = lost.wait_for(Option::is_some).await;
        let loss = loss.ok().and_then(|loss| loss.clone());
        loss.unwrap_or(Loss::HungUp).to_string()
    }

    /// What a command met that failed for the connection's sake. What was wrong with an answer its command
    /// alone is told; whoever comes later only finds the connection closed.
    fn lost_at(&self, command: &'static str, error: &hyper::Error) -> VmmError {
        let mut loss = loss(error);
        self.lost.send_modify(|known| match known {
            Some(known) if loss == Loss::HungUp => loss = known.clone(),
            known => *known = Some(loss.clone()),
        });
        loss.told(VmmKind::Firecracker, command)
    }

    /// Sets something.
    pub(super) async fn put<T: Serialize>(
        &self,
        command: &'static str,
        path: &str,
        body: &T,
    ) -> Result<(), VmmError> {
        self.send(command, Method::PUT, path, body).await
    }

    /// Changes something.
    pub(super) async fn patch<T: Serialize>(
        &self,
        command: &'static str,
        path: &str,
        body: &T,
    ) -> Result<(), VmmError> {
        self.send(command, Method::PATCH, path, body).await
    }

    async fn send<T: Serialize>(
        &self,
        command: &'static str,
        method: Method,
        path: &str,
        body: &T,
    ) -> Result<(), VmmError> {
        let body = serde_json::to_vec(body).map_err(|error| refused(command, error.to_string()))?;
        self.ask(command, method, path, body.into()).await.map(drop)
    }

    async fn ask(
        &self,
        command: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, VmmError> {
        let asked = tokio::time::timeout(self.limit, async {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("Host", "localhost")
                .header("Content-Type", "application/json")
                .header("Accept", "application/json")
                .body(Full::new(body))
                .map_err(|error| refused(command, error.to_string()))?;
            // Locked for the whole exchange: a caller that gives up in the middle leaves the connection
            // with an answer that is nobody's, and hyper then refuses the next request.
            let mut sender = self.sender.lock().await;
            let lost = |error: hyper::Error| self.lost_at(command, &error);
            sender.ready().await.map_err(lost)?;
            let response = sender.send_request(request).await.map_err(lost)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST)
                .collect()
                .await
                .map_err(|error| match error.downcast::<hyper::Error>() {
                    Ok(error) => self.lost_at(command, &error),
                    // More than the longest.
                    Err(error) => {
                        Loss::Nonsense(error.to_string()).told(VmmKind::Firecracker, command)
                    }
                })?
                .to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            let message = match serde_json::from_slice::<Fault>(&body) {
                Ok(fault) => fault.fault_message,
                Err(_) => format!("{status}: {}", String::from_utf8_lossy(&body).trim()),
            };
            Err(refused(command, message))
        });
        asked.await.unwrap_or(Err(VmmError::Unresponsive {
            vmm: VmmKind::Firecracker,
            command,
            limit: self.limit,
        }))
    }
}

fn loss(error: &hyper::Error) -> Loss {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    let torn = io.is_some_and(hung_up);
    match error.is_parse() {
        true => Loss::Nonsense(format!("what is no HTTP: {error}")),
        false if torn || error.is_closed() || error.is_canceled() => Loss::HungUp,
        false if error.is_incomplete_message() => Loss::HungUp,
        false => Loss::Broken(format!("the connection: {error}")),
    }
}

pub(super) fn refused(command: &'static str, message: String) -> VmmError {
    VmmError::Refused {
        vmm: VmmKind::Firecracker,
        command,
        message,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::super::bodies::InstanceInfo;
    use super::*;
    use crate::host::{LinuxHost, LinuxHostConfig};

    const LIMIT: Duration = Duration::from_secs(20);

    /// What is made of an answer of these bytes, after which it hangs up.
    async fn answered(bytes: Vec<u8>) -> Result<InstanceInfo, VmmError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let says = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&bytes).await;
        });
        let host = LinuxHost::new(LinuxHostConfig::default());
        let api = Api::connect(&host, &socket, LIMIT).await.unwrap();
        let told = api.get("describe", "/").await;
        says.await.unwrap();
        told
    }

    proptest! {
        #[test]
        fn fuzz_no_answer_of_a_monitor_is_waited_for_once_it_has_hung_up(
            status in prop_oneof![Just(200_u16), Just(204), Just(400), any::<u16>()],
            header in prop_oneof![
                Just("Content-Length: 60".to_owned()),
                Just("Content-Length: 18446744073709551615".to_owned()),
                Just("Content-Length: 1\r\nContent-Length: 2".to_owned()),
                Just("Transfer-Encoding: chunked".to_owned()),
                Just("Connection: close".to_owned()),
                "[A-Za-z-]{1,8}: ?[ -~]{0,12}",
            ],
            body in prop_oneof![
                Just(r#"{"state": "Running", "vmm_version": "1.17.0", "id": "x", "app": 1}"#.to_owned()),
                Just(r#"{"fault_message": "no"}"#.to_owned()),
                Just("ffffffffffffffff\r\nx".to_owned()),
                "[\\[\\]{}\",:a0 ]{0,40}",
            ],
            spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut bytes = format!("HTTP/1.1 {status} OK\r\n{header}\r\n\r\n{body}").into_bytes();
            for (at, value) in spoil {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let told = runtime.block_on(answered(bytes));
            let waited = matches!(told, Err(VmmError::Unresponsive { .. }));
            prop_assert!(!waited, "{told:?}");
        }
    }
}
