//! QMP on QEMU's control socket: a line of JSON each way, one command at a time, answers told apart by their
//! ids, events in between.
//!
//! Whoever is at the other end need not be in its right mind: a line has a longest, a wait has a limit, and
//! what is no QMP at all ends the connection with the reason. What QEMU may have learned since (an event, a
//! field) is passed over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use qapi::qmp::{self, QmpCommand};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex as AsyncMutex, Notify, oneshot, watch};
use tokio::task::JoinHandle;

use crate::engine::lock;
use crate::vm::VmmKind;
use crate::vmm::loss::{Loss, shown};
use crate::vmm::{EndReason, VmmError};

/// The longest line that is read, in bytes. QEMU's own are some kilobytes.
const LONGEST: usize = 1 << 20;

/// A connection that has been greeted.
#[derive(Debug)]
pub(super) struct Wire {
    write: AsyncMutex<Pen>,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    limit: Duration,
}

#[derive(Debug)]
struct Pen {
    write: OwnedWriteHalf,
    last: u64,
}

/// What the reader tells.
#[derive(Debug)]
struct Shared {
    waiting: Mutex<Option<(u64, oneshot::Sender<Message>)>>,
    end: watch::Sender<Option<EndReason>>,
    lost: watch::Sender<Option<Loss>>,
    errors: Mutex<IoErrors>,
    /// Told at each event after which the guest's state may be another.
    changed: Notify,
}

/// What QEMU has said of its disks' errors.
#[derive(Clone, Debug, Default)]
pub(super) struct IoErrors {
    /// The one that stopped the guest, until it goes on.
    pub(super) stopped: Option<qmp::BLOCK_IO_ERROR>,
    /// The last one that was passed on to the guest.
    pub(super) reported: Option<qmp::BLOCK_IO_ERROR>,
}

impl IoErrors {
    fn hear(&mut self, data: &Value) {
        // One that is not understood is no reason to lose the connection: the guest's state is asked for.
        let Ok(error) = qmp::BLOCK_IO_ERROR::deserialize(data) else {
            return;
        };
        match error.action {
            qmp::BlockErrorAction::stop => self.stopped = Some(error),
            qmp::BlockErrorAction::report => self.reported = Some(error),
            qmp::BlockErrorAction::ignore => {}
        }
    }
}

/// A line, as far as it is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    id: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    data: Value,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Wire {
    /// Waits for the greeting, and takes the capabilities as they are.
    pub(super) async fn open(stream: UnixStream, limit: Duration) -> Result<Self, VmmError> {
        const GREETING: &str = "qmp_capabilities";
        let (read, write) = stream.into_split();
        let mut read = BufReader::new(read);
        let greeting = within(limit, GREETING, next(&mut read)).await?;
        match greeting {
            Ok(Message {
                greeting: Some(_), ..
            }) => {}
            Ok(_) => {
                let said = "something else before its greeting".to_owned();
                return Err(Loss::Nonsense(said).told(VmmKind::Qemu, GREETING));
            }
            Err(loss) => return Err(loss.told(VmmKind::Qemu, GREETING)),
        }
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            end: watch::Sender::new(None),
            lost: watch::Sender::new(None),
            errors: Mutex::default(),
            changed: Notify::new(),
        });
        let wire = Wire {
            write: AsyncMutex::new(Pen { write, last: 0 }),
            reader: tokio::spawn(follow(read, shared.clone())),
            shared,
            limit,
        };
        let plain = qmp::qmp_capabilities { enable: None };
        wire.ask(GREETING, &plain).await?;
        Ok(wire)
    }

    /// Asks, and waits for the answer. One that comes after the limit is nobody's.
    pub(super) async fn ask<C: QmpCommand>(
        &self,
        name: &'static str,
        command: &C,
    ) -> Result<C::Ok, VmmError> {
        let arguments = serde_json::to_value(command)
            .map_err(|error| Loss::Broken(error.to_string()).told(VmmKind::Qemu, name))?;
        let answer = within(self.limit, name, self.exchange(name, C::NAME, arguments));
        serde_json::from_value(answer.await??)
            .map_err(|error| Loss::Nonsense(error.to_string()).told(VmmKind::Qemu, name))
    }

    async fn exchange(
        &self,
        name: &'static str,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, VmmError> {
        let mut pen = self.write.lock().await;
        pen.last += 1;
        let id = pen.last;
        let (tell, told) = oneshot::channel();
        *lock(&self.shared.waiting) = Some((id, tell));
        // Order matters here: a reader that has ended since has looked for who waits, or is seen to have.
        if let Some(loss) = self.shared.loss() {
            return Err(loss.told(VmmKind::Qemu, name));
        }
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        let torn = Torn(&self.shared);
        let written = pen.write.write_all(line.as_bytes()).await;
        std::mem::forget(torn);
        if let Err(error) = written {
            let loss = Loss::from(error);
            return Err(self.shared.loss().unwrap_or(loss).told(VmmKind::Qemu, name));
        }
        match told.await {
            Ok(Message {
                error: Some(refusal),
                ..
            }) => Err(VmmError::Refused {
                vmm: VmmKind::Qemu,
                command: name,
                message: refusal.desc,
            }),
            Ok(message) => Ok(message.answer.unwrap_or_default()),
            Err(_) => Err(self
                .shared
                .loss()
                .unwrap_or(Loss::HungUp)
                .told(VmmKind::Qemu, name)),
        }
    }

    /// Tells why the guest ended, once QEMU has said so.
    pub(super) fn end_reason(&self) -> watch::Receiver<Option<EndReason>> {
        self.shared.end.subscribe()
    }

    /// Returns when the guest may be in another state than before. For one listener. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Returns what was heard of the disks' errors.
    pub(super) fn io_errors(&self) -> IoErrors {
        lock(&self.shared.errors).clone()
    }

    /// Returns when the connection has become of no use, and says why.
    pub(super) async fn lost(&self) -> String {
        let mut lost = self.shared.lost.subscribe();
        let loss = lost.wait_for(Option::is_some).await;
        // The sender is ours, and does not go before us.
        let loss = loss.ok().and_then(|loss| loss.clone());
        loss.unwrap_or(Loss::HungUp).to_string()
    }
}

impl Shared {
    fn loss(&self) -> Option<Loss> {
        self.lost.borrow().clone()
    }

    fn hear(&self, event: &str, data: &Value) {
        match event {
            "SHUTDOWN" => drop(self.end.send_replace(Some(reason(data)))),
            "BLOCK_IO_ERROR" => lock(&self.errors).hear(data),
            "RESUME" => lock(&self.errors).stopped = None,
            "STOP" => {}
            _ => return,
        }
        self.changed.notify_one();
    }

    fn lose(&self, loss: Loss) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            lost.get_or_insert(loss);
            first
        });
        lock(&self.waiting).take();
    }
}

/// Dropped only in the middle of a line: what is written after it means nothing.
struct Torn<'a>(&'a Shared);

impl Drop for Torn<'_> {
    fn drop(&mut self) {
        let silence = "it did not take a whole command".to_owned();
        self.0.lose(Loss::Broken(silence));
    }
}

/// Reads until the connection is of no more use.
async fn follow(mut read: BufReader<OwnedReadHalf>, shared: Arc<Shared>) {
    loop {
        let message = match next(&mut read).await {
            Ok(message) => message,
            Err(loss) => return shared.lose(loss),
        };
        if let Some(event) = &message.event {
            shared.hear(event, &message.data);
            continue;
        }
        let mut waiting = lock(&shared.waiting);
        // A refusal of what QEMU could not even read bears no id.
        let is_answer = |id: u64| match &message.id {
            Some(of) => {
                of.as_u64() == Some(id) && (message.answer.is_some() || message.error.is_some())
            }
            None => message.error.is_some(),
        };
        match waiting.take() {
            Some((id, tell)) if is_answer(id) => drop(tell.send(message)),
            still => *waiting = still,
        }
    }
}

/// Reads one message.
async fn next(read: &mut (impl AsyncBufRead + Unpin)) -> Result<Message, Loss> {
    let mut line = Vec::new();
    loop {
        let piece = read.fill_buf().await?;
        if piece.is_empty() {
            return Err(Loss::HungUp);
        }
        let end = piece.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(piece.len(), |end| end + 1);
        line.extend_from_slice(&piece[..taken]);
        read.consume(taken);
        if line.len() > LONGEST {
            let said = format!("a line of more than {LONGEST} bytes, {}", shown(&line));
            return Err(Loss::Nonsense(said));
        }
        if end.is_some() {
            break;
        }
    }
    let whole: Result<serde_json::Map<String, Value>, _> = serde_json::from_slice(&line);
    let parsed = whole.and_then(|whole| serde_json::from_value(Value::Object(whole)));
    parsed.map_err(|_| Loss::Nonsense(shown(&line)))
}

fn reason(data: &Value) -> EndReason {
    match qmp::SHUTDOWN::deserialize(data).map(|data| data.reason) {
        Ok(qmp::ShutdownCause::guest_shutdown) => EndReason::PoweredOff,
        Ok(qmp::ShutdownCause::guest_reset | qmp::ShutdownCause::subsystem_reset) => {
            EndReason::Rebooted
        }
        Ok(qmp::ShutdownCause::guest_panic) => EndReason::Panicked,
        // A cause that is newer than our tables is none of the guest's that we know.
        _ => EndReason::Told,
    }
}

async fn within<T>(
    limit: Duration,
    command: &'static str,
    answer: impl Future<Output = T>,
) -> Result<T, VmmError> {
    tokio::time::timeout(limit, answer)
        .await
        .map_err(|_| VmmError::Unresponsive {
            vmm: VmmKind::Qemu,
            command,
            limit,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::host::{Detached, Host, LinuxHost, LinuxHostConfig, ProcessSignal};

    #[tokio::test]
    async fn a_real_qemu_is_understood_from_its_greeting_to_its_end() {
        let host = LinuxHost::new(LinuxHostConfig::default());
        let program = "qemu-system-x86_64";
        if host.find_program(program).await.is_none() {
            return println!("SKIP: {program} is not installed");
        }
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let qmp = format!("unix:{},server=on,wait=off", socket.display());
        let machine = "-nodefaults -display none -machine none -accel tcg -S -qmp";
        let words = machine.split(' ').map(Into::into).chain([qmp.into()]);
        let process = host
            .spawn(&Detached {
                program: program.to_owned(),
                arguments: words.collect(),
                log: folder.path().join("log"),
                walls: None,
                namespace: None,
                scope: None,
            })
            .await
            .unwrap();
        let limit = Duration::from_secs(20);
        let stream = crate::vmm::connect_once_made(&host, &socket, limit).await;
        let wire = Wire::open(stream.unwrap(), limit).await.unwrap();
        for _ in 0..3 {
            wire.ask("cont", &qmp::cont {}).await.unwrap();
            wire.ask("stop", &qmp::stop {}).await.unwrap();
        }
        let status = wire.ask("status", &qmp::query_status {}).await.unwrap();
        assert!(!status.running);
        let nothing = qmp::device_del {
            id: "none".to_owned(),
        };
        let refused = wire.ask("device_del", &nothing).await.unwrap_err();
        assert!(
            matches!(&refused, VmmError::Refused { message, .. } if message.contains("none")),
            "{refused:?}"
        );
        host.signal(&process, ProcessSignal::Term).await.unwrap();
        let mut end = wire.end_reason();
        let told = tokio::time::timeout(limit, end.wait_for(Option::is_some));
        assert_eq!(*told.await.unwrap().unwrap(), Some(EndReason::Told));
        assert_eq!(wire.lost().await, "it hung up");
        host.wait_end(&process).await.unwrap();
        let late = wire.ask("cont", &qmp::cont {}).await.unwrap_err();
        assert!(late.to_string().contains("hung up"), "{late}");
    }

    /// All that is understood of these pieces, and why no more.
    fn read(first: &[u8], second: &[u8]) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let mut both = BufReader::new(first.chain(second));
            let mut told = Vec::new();
            loop {
                match next(&mut both).await {
                    Ok(message) => told.push(format!("{:?} {message:?}", reason(&message.data))),
                    Err(loss) => {
                        told.push(loss.to_string());
                        return told;
                    }
                }
            }
        })
    }

    proptest! {
        #[test]
        fn fuzz_no_lines_of_a_monitor_are_read_otherwise_when_they_are_cut(
            lines in prop::collection::vec(prop_oneof![
                Just(r#"{"return": {}, "id": 1}"#.to_owned()),
                Just(r#"{"error": {"class": "GenericError", "desc": "no"}}"#.to_owned()),
                Just(r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-panic"}}"#.to_owned()),
                Just(r#"{"event": "SHUTDOWN", "data": [[[]]]}"#.to_owned()),
                "[\\[\\]{}\",:a0 ]{0,40}",
                (0..200_usize).prop_map(|deep| "[".repeat(deep)),
            ], 0..6),
            spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = lines.join("\n").into_bytes();
            bytes.push(b'\n');
            for (at, value) in spoil {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            let told = read(first, second);
            prop_assert_eq!(&told, &read(&bytes, b""));
            prop_assert!(told.len() <= bytes.len() + 1);
        }
    }
}
