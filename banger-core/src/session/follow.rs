//! Following one log to its end, whatever becomes of the connection, the VM and the engine before.
//!
//! The place in the log is all there is to remember: a connection that is lost is made again and goes on
//! at the next byte, and when the VM has stopped the rest is read from its disk.

use std::time::{Duration, Instant};

use banger_session::mux::Stream;
use banger_session::session::{Refusal, SessionDir, attach_tail_command, until_input_ends};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::engine::Engine;
use crate::error::Error;
use crate::names::{SessionId, VmId};
use crate::session::disk::Span;
use crate::transport::{GuestEnd, GuestProcess};
use crate::vm::VMRecord;

/// Bytes of a log.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) stream: Stream,
    /// How many bytes of the log are before them.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// Where to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// When the session has ended.
    SessionEnds,
    /// Before this byte.
    Byte(u64),
}

/// Why there is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TailEnd {
    /// All of it was read.
    Complete,
    /// What may have followed cannot be read any more.
    Lost(String),
}

/// One log that is being read.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) engine: Engine,
    pub(super) vm: VmId,
    pub(super) session: SessionId,
    pub(super) stream: Stream,
    /// The next byte.
    pub(super) offset: u64,
    pub(super) until: Until,
}

/// A task that ends with what it works for.
#[derive(Debug)]
pub(super) struct Task(AbortHandle);

impl Task {
    pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Task(tokio::spawn(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What one connection brought.
enum Pass {
    /// All that was wanted.
    Full,
    /// The guest's script ended with this status.
    Ended(i32),
    /// The connection was lost.
    Lost(String),
}

/// Before the first new attempt, and between later ones at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Bytes read at once from a disk.
const DISK_CHUNK: u64 = 4 << 20;

impl Tail {
    /// Reads on and on. A reader that is slow holds this up, and the guest's side of it; memory holds one
    /// piece. Returns early, as if complete, when nobody reads any more.
    pub(super) async fn run<T: Send>(
        mut self,
        tell: mpsc::Sender<T>,
        wrap: fn(Piece) -> T,
    ) -> TailEnd {
        let patience = self.engine.inner.config.limits.ready;
        let mut pause = PAUSE.0;
        let mut trouble_since: Option<Instant> = None;
        loop {
            if self.left() == 0 {
                return TailEnd::Complete;
            }
            let (before, began) = (self.offset, Instant::now());
            let trouble = match self.attempt(&tell, wrap).await {
                Ok(Some(end)) => return end,
                Ok(None) => None,
                Err(Error::NoSuchVm { .. }) => {
                    return TailEnd::Lost("the VM was deleted".to_owned());
                }
                Err(error) => Some(error.chain().join(": ")),
            };
            if self.offset > before || began.elapsed() > Duration::from_secs(5) {
                (pause, trouble_since) = (PAUSE.0, None);
            }
            match trouble {
                None => trouble_since = None,
                Some(trouble) => {
                    tracing::debug!(session = %self.session, offset = self.offset, %trouble, "a log's connection is made again");
                    if trouble_since.get_or_insert_with(Instant::now).elapsed() > patience {
                        return TailEnd::Lost(trouble);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Reads as much as one connection, or the disk, gives. `None` means that more may come.
    async fn attempt<T: Send>(
        &mut self,
        tell: &mpsc::Sender<T>,
        wrap: fn(Piece) -> T,
    ) -> Result<Option<TailEnd>, Error> {
        let engine = self.engine.clone();
        let inner = &engine.inner;
        let lost = |why: &str| Ok(Some(TailEnd::Lost(why.to_owned())));
        let Some(vm) = inner.store.vm(&self.vm).await? else {
            return lost("the VM was deleted");
        };
        let Some(session) = inner.store.session(&self.session).await? else {
            return lost("the session was deleted");
        };
        let dir = session.dir()?;
        if inner.is_down(&vm).await? {
            inner.settle(&vm, &session).await?;
            return self.rest_on_disk(&vm, &dir, tell, wrap).await.map(Some);
        }
        match self.pass(&vm, &dir, tell, wrap).await? {
            Pass::Full => Ok(Some(TailEnd::Complete)),
            Pass::Ended(0) if self.until != Until::SessionEnds => Ok(Some(TailEnd::Complete)),
            // Nothing could come any more before this pass began: it has read all.
            Pass::Ended(0) if session.state.status.is_final() => Ok(Some(TailEnd::Complete)),
            Pass::Ended(0) => {
                engine.refresh(&vm, &session).await?;
                Ok(None)
            }
            Pass::Ended(status) if Refusal::from_status(status) == Some(Refusal::NoSession) => {
                match session.state.pid {
                    // It never ran, and never wrote.
                    None => Ok(Some(TailEnd::Complete)),
                    Some(_) => lost("the session's files are gone from the guest"),
                }
            }
            Pass::Ended(status) => Err(Error::SessionAnswer {
                vm: vm.name,
                reason: format!("reading a log ended with status {status}"),
            }),
            Pass::Lost(reason) => Err(Error::SessionAnswer {
                vm: vm.name,
                reason,
            }),
        }
    }

    async fn pass<T: Send>(
        &mut self,
        vm: &VMRecord,
        dir: &SessionDir,
        tell: &mpsc::Sender<T>,
        wrap: fn(Piece) -> T,
    ) -> Result<Pass, Error> {
        let limit = self.engine.inner.config.limits.session;
        let connection = self.engine.connection(vm, limit).await?;
        let tail = attach_tail_command(dir, self.stream, self.offset);
        let mut script = b"exec 2>/dev/null\n".to_vec();
        script.extend_from_slice(&until_input_ends(&tail));
        // Its input and its diagnostics are held to the end of the pass: the former ends it.
        let GuestProcess {
            stdin: _held,
            mut stdout,
            stderr: _unread,
            end,
        } = connection.run(&script).await?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let most = usize::try_from(self.left()).map_or(buffer.len(), |n| n.min(buffer.len()));
            if most == 0 {
                return Ok(Pass::Full);
            }
            // An error is the connection's end, as the end of the stream is.
            let read = stdout.read(&mut buffer[..most]).await.unwrap_or(0);
            if read == 0 {
                break;
            }
            if !self.tell(buffer[..read].to_vec(), tell, wrap).await {
                return Ok(Pass::Full);
            }
        }
        let end = tokio::time::timeout(Duration::from_secs(5), end).await;
        Ok(match end {
            Ok(GuestEnd::Exited(status)) => Pass::Ended(status),
            Ok(GuestEnd::Lost(reason)) => Pass::Lost(reason),
            Err(_) => Pass::Lost("the connection to the guest was lost".to_owned()),
        })
    }

    async fn rest_on_disk<T: Send>(
        &mut self,
        vm: &VMRecord,
        dir: &SessionDir,
        tell: &mpsc::Sender<T>,
        wrap: fn(Piece) -> T,
    ) -> Result<TailEnd, Error> {
        let path = log_path(dir, self.stream);
        while self.left() > 0 {
            let span = Span {
                offset: self.offset,
                limit: self.left().min(DISK_CHUNK),
            };
            let read = self.engine.inner.read_on_disk(vm, &path, span).await;
            let bytes = match read {
                Ok(bytes) => bytes.unwrap_or_default(),
                Err(error) if self.is_deleted(vm).await? => {
                    tracing::debug!(%error, "a deleted VM's disk");
                    return Ok(TailEnd::Lost("the VM was deleted".to_owned()));
                }
                Err(error) => return Ok(TailEnd::Lost(error.chain().join(": "))),
            };
            if bytes.is_empty() {
                return Ok(match self.is_deleted(vm).await? {
                    true => TailEnd::Lost("the VM was deleted".to_owned()),
                    false => TailEnd::Complete,
                });
            }
            if !self.tell(bytes, tell, wrap).await {
                break;
            }
        }
        Ok(TailEnd::Complete)
    }

    /// Says whether a VM that does not run has been deleted, once whoever works on it is done: a delete
    /// stops it first, and takes its disk away before its row.
    async fn is_deleted(&self, vm: &VMRecord) -> Result<bool, Error> {
        let inner = &self.engine.inner;
        drop(inner.turn(&vm.id).await);
        Ok(inner.store.vm(&vm.id).await?.is_none())
    }

    /// Hands bytes on and counts them. False if nobody takes them.
    async fn tell<T: Send>(
        &mut self,
        bytes: Vec<u8>,
        tell: &mpsc::Sender<T>,
        wrap: fn(Piece) -> T,
    ) -> bool {
        let piece = Piece {
            stream: self.stream,
            offset: self.offset,
            bytes,
        };
        self.offset += piece.bytes.len() as u64;
        tell.send(wrap(piece)).await.is_ok()
    }

    fn left(&self) -> u64 {
        match self.until {
            Until::SessionEnds => u64::MAX,
            Until::Byte(end) => end.saturating_sub(self.offset),
        }
    }
}

/// Where a log lies in the guest.
pub(super) fn log_path(dir: &SessionDir, stream: Stream) -> String {
    match stream {
        Stream::Stderr => dir.stderr_log(),
        Stream::Stdout | Stream::Stdin => dir.stdout_log(),
    }
}
