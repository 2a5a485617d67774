//! Reading a session's logs, from any byte on, while it runs and after its VM has stopped.

use banger_session::mux::Stream;
use banger_session::session::{
    DEFAULT_LOG_TAIL_LINES, Refusal, last_lines, log_offset_command, parse_log_offset,
};
use tokio::sync::mpsc;

use crate::engine::Engine;
use crate::error::Error;
use crate::session::GuestSession;
use crate::session::disk::Span;
use crate::session::follow::{Piece, Tail, TailEnd, Task, Until, log_path};
use crate::vm::VMRecord;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStart {
    /// At the first byte.
    Beginning,
    /// At this byte. One beyond the log's end is refused.
    Offset(u64),
    /// At the beginning of this many last lines; in the middle of one that is longer than 1 MiB.
    LastLines(u64),
}

impl Default for LogStart {
    /// The last 200 lines.
    fn default() -> Self {
        LogStart::LastLines(DEFAULT_LOG_TAIL_LINES)
    }
}

/// Whether to wait for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// Only what there is now.
    #[default]
    No,
    /// Until the session ends.
    Yes,
}

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRequest {
    /// Which log: standard output or standard error.
    pub stream: Stream,
    /// Where to begin.
    pub start: LogStart,
    /// Whether to wait for more.
    pub follow: Follow,
}

/// What a log tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// Bytes of it, in order and without a gap.
    Bytes {
        /// How many bytes of the log are before them.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// There is no more.
    Ended(LogEnd),
}

/// Why there is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// All that was asked for was read.
    Complete,
    /// What may have followed cannot be read: the VM or the session was deleted, or does not answer.
    Lost(String),
}

/// A log that is being read. Dropping it ends the reading.
#[derive(Debug)]
pub struct SessionLogs {
    start: u64,
    events: mpsc::Receiver<LogEvent>,
    _task: Task,
}

/// Where a log begins and what it holds, at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) size: u64,
}

/// How far back a line is sought, in bytes; as the guest's script does.
const LINE_SEARCH_BYTES: u64 = 1 << 20;

impl Engine {
    /// Reads a session's log. The connection may be lost and made again, and the VM may stop: no byte is
    /// lost and none comes twice.
    ///
    /// A log is bounded by the VM's disk alone; deleting the session frees it.
    pub async fn session_logs(
        &self,
        vm: &str,
        session: &str,
        request: LogRequest,
    ) -> Result<SessionLogs, Error> {
        let (vm, session) = self.find_session(vm, session).await?;
        let extent = self
            .extent(&vm, &session, request.stream, request.start)
            .await?;
        let tail = Tail {
            engine: self.clone(),
            vm: vm.id,
            session: session.id,
            stream: request.stream,
            offset: extent.start,
            until: match request.follow {
                Follow::Yes => Until::SessionEnds,
                Follow::No => Until::Byte(extent.size),
            },
        };
        // A slow reader holds the guest up, not our memory: at most this many pieces wait.
        let (tell, events) = mpsc::channel(4);
        let task = Task::spawn(async move {
            let end = match tail.run(tell.clone(), in_log).await {
                TailEnd::Complete => LogEnd::Complete,
                TailEnd::Lost(reason) => LogEnd::Lost(reason),
            };
            let _ = tell.send(LogEvent::Ended(end)).await;
        });
        Ok(SessionLogs {
            start: extent.start,
            events,
            _task: task,
        })
    }

    /// Finds where reading is to begin, and where the log ends now.
    pub(super) async fn extent(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        stream: Stream,
        start: LogStart,
    ) -> Result<Extent, Error> {
        let extent = match self.inner.is_down(vm).await? {
            true => self.extent_on_disk(vm, session, stream, start).await?,
            false => self.extent_in_guest(vm, session, stream, start).await?,
        };
        match start {
            LogStart::Offset(offset) if offset > extent.size => Err(Error::OutOfRange {
                what: "the offset",
                range: format!("at most {}, the log's length", extent.size),
                given: offset.to_string(),
            }),
            _ => Ok(extent),
        }
    }

    async fn extent_in_guest(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        stream: Stream,
        start: LogStart,
    ) -> Result<Extent, Error> {
        let dir = session.dir()?;
        // The end last: the log may grow in between, and its last lines must not begin behind it.
        let mut script = Vec::new();
        if let LogStart::LastLines(lines) = start {
            script.extend_from_slice(&log_offset_command(&dir, stream, lines));
        }
        script.extend_from_slice(&log_offset_command(&dir, stream, 0));
        let limit = self.inner.config.limits.session;
        let answer = self.ask(vm, &script, &[], limit).await?;
        if answer.status == Refusal::NoSession.status() && session.state.pid.is_none() {
            // Never launched: it has no logs, and that is no error.
            return Ok(Extent { start: 0, size: 0 });
        }
        let output = answer.of("read the logs of", vm, session)?;
        let mut lines = output.split_inclusive(|&byte| byte == b'\n');
        let mut number = || {
            let line = lines.next().and_then(parse_log_offset);
            line.ok_or_else(|| Error::SessionAnswer {
                vm: vm.name.clone(),
                reason: "where its log ends cannot be read".to_owned(),
            })
        };
        let start = match start {
            LogStart::Beginning => 0,
            LogStart::Offset(offset) => offset,
            LogStart::LastLines(_) => number()?,
        };
        let size = number()?;
        Ok(Extent { start, size })
    }

    async fn extent_on_disk(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        stream: Stream,
        start: LogStart,
    ) -> Result<Extent, Error> {
        let (inner, path) = (&self.inner, log_path(&session.dir()?, stream));
        let size = inner.size_on_disk(vm, &path).await?.unwrap_or(0);
        let start = match start {
            LogStart::Beginning => 0,
            LogStart::Offset(offset) => offset,
            LogStart::LastLines(lines) => {
                let span = Span {
                    offset: size.saturating_sub(LINE_SEARCH_BYTES),
                    limit: LINE_SEARCH_BYTES,
                };
                let tail = inner.read_on_disk(vm, &path, span).await?;
                let tail = tail.unwrap_or_default();
                size - last_lines(&tail, lines).len() as u64
            }
        };
        Ok(Extent { start, size })
    }
}

impl SessionLogs {
    /// Returns the byte of the log with which the reading began.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns what it tells next. After [`LogEvent::Ended`] it repeats that it is over. Cancel-safe.
    pub async fn next(&mut self) -> LogEvent {
        let over = || LogEvent::Ended(LogEnd::Lost("it is over already".to_owned()));
        self.events.recv().await.unwrap_or_else(over)
    }
}

fn in_log(piece: Piece) -> LogEvent {
    LogEvent::Bytes {
        offset: piece.offset,
        bytes: piece.bytes,
    }
}
