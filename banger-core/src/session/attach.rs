//! Attaching to a session: both its logs as they grow, and its stdin, for one client at a time.
//!
//! Nothing of an attach is kept anywhere: it is made of the guest's own files, by byte offset, so that it
//! can be left and taken up again, by another engine too.
//!
//! What is written here goes into the session's pipe in pieces of at most 4096 bytes, which are never
//! mixed with a `send` of at most that size. A larger `send` may be interleaved with what an attached
//! client writes at the same moment: the attach does not take the senders' lock, because it would keep
//! every sender out for as long as it lasts.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use banger_session::Signal;
use banger_session::mux::Stream;
use banger_session::session::{
    Refusal, SessionState, SessionStatus, StdinMode, attach_input_command,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::engine::Engine;
use crate::error::Error;
use crate::names::VmId;
use crate::session::desk::Hold;
use crate::session::follow::{Piece, Tail, TailEnd, Task, Until};
use crate::session::refresh::no_such_session;
use crate::session::{GuestSession, LogStart};
use crate::transport::{GuestEnd, GuestProcess};
use crate::vm::VMRecord;

/// Who attaches, and from where on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// What a second attacher is told of this one: `pid 4711 (alice, pts/3)`.
    pub holder: String,
    /// Where in the log of its standard output to begin.
    pub stdout: LogStart,
    /// Where in the log of its standard error to begin.
    pub stderr: LogStart,
}

impl AttachRequest {
    /// Begins with the last lines of both logs.
    pub fn by(holder: impl Into<String>) -> Self {
        AttachRequest {
            holder: holder.into(),
            stdout: LogStart::default(),
            stderr: LogStart::default(),
        }
    }
}

/// What an attach tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachEvent {
    /// Bytes of one of its logs; of each in order and without a gap.
    Output {
        /// Which log.
        stream: Stream,
        /// How many bytes of the log are before them.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// What was written last did not reach the session. Its output goes on.
    InputRefused(Refusal),
    /// It is over; nothing follows.
    Ended(AttachEnd),
}

/// Why an attach is over, other than by being left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachEnd {
    /// The session's command ended with this status: its own, or 128+n after signal n.
    Exited(i32),
    /// How it ended, or whether it did, is not known: the VM was stopped or deleted, or does not answer.
    Lost(String),
}

/// An attach. Dropping it leaves the session, which runs on.
#[derive(Debug)]
pub struct SessionAttach {
    session: GuestSession,
    starts: [u64; 2],
    events: mpsc::Receiver<AttachEvent>,
    input: Option<AttachInput>,
    _hold: Arc<Hold>,
    _task: Task,
}

/// The way to an attached session's stdin. Dropping it does not end that stdin: the next attach, or
/// `send`, goes on; [`Engine::session_close_stdin`] ends it.
pub struct AttachInput {
    engine: Engine,
    vm: VmId,
    session: GuestSession,
    events: mpsc::Sender<AttachEvent>,
    open: Option<OpenInput>,
    _hold: Arc<Hold>,
}

struct OpenInput {
    stdin: Pin<Box<dyn AsyncWrite + Send>>,
    end: watch::Receiver<Option<GuestEnd>>,
}

impl fmt::Debug for AttachInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachInput")
            .field("session", &self.session.id)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Attaches to a session, if nobody else is. One that has ended shows its logs and how it ended.
    pub async fn session_attach(
        &self,
        vm: &str,
        session: &str,
        request: AttachRequest,
    ) -> Result<SessionAttach, Error> {
        let (vm, session) = self.find_session(vm, session).await?;
        let hold = self.inner.desk.hold(&session.id, &request.holder);
        let hold = Arc::new(hold.map_err(|holder| Error::SessionHeld {
            vm: vm.name.clone(),
            session: session.name.clone(),
            holder: holder.who,
            since: holder.since,
        })?);
        let out = self.tail(&vm, &session, Stream::Stdout, request.stdout);
        let err = self.tail(&vm, &session, Stream::Stderr, request.stderr);
        let (out, err) = tokio::try_join!(out, err)?;
        let starts = [out.offset, err.offset];
        // A slow client holds the session's output up, not our memory: at most this many pieces wait.
        let (tell, events) = mpsc::channel(8);
        let input = AttachInput {
            engine: self.clone(),
            vm: vm.id.clone(),
            session: session.clone(),
            events: tell.clone(),
            open: None,
            _hold: hold.clone(),
        };
        let (engine, watched) = (self.clone(), session.clone());
        let task = Task::spawn(async move {
            let out = out.run(tell.clone(), in_attach);
            let err = err.run(tell.clone(), in_attach);
            let (out, err) = tokio::join!(out, err);
            let end = engine.attach_end(&vm, &watched, [out, err]).await;
            let _ = tell.send(AttachEvent::Ended(end)).await;
        });
        Ok(SessionAttach {
            session,
            starts,
            events,
            input: Some(input),
            _hold: hold,
            _task: task,
        })
    }

    async fn tail(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        stream: Stream,
        start: LogStart,
    ) -> Result<Tail, Error> {
        let extent = self.extent(vm, session, stream, start).await?;
        Ok(Tail {
            engine: self.clone(),
            vm: vm.id.clone(),
            session: session.id.clone(),
            stream,
            offset: extent.start,
            until: Until::SessionEnds,
        })
    }

    /// Says why both logs have come to their end.
    async fn attach_end(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        ends: [TailEnd; 2],
    ) -> AttachEnd {
        let lost = ends.into_iter().find_map(|end| match end {
            TailEnd::Complete => None,
            TailEnd::Lost(reason) => Some(reason),
        });
        let state: Option<SessionState> = match self.inner.store.session(&session.id).await {
            Ok(Some(now)) if now.state.status.is_final() => Some(now.state),
            Ok(Some(now)) => self.refresh(vm, &now).await.ok().map(|now| now.state),
            _ => None,
        };
        let known = state.map(|state| (state.status, state.exit_code, state.failure));
        match (known, lost) {
            // Some of its output may be missing, but how it ended is known.
            (Some((SessionStatus::Exited, Some(exit_code), _)), _) => AttachEnd::Exited(exit_code),
            (Some((_, _, Some(failure))), _) => AttachEnd::Lost(failure.message),
            (_, Some(lost)) => AttachEnd::Lost(lost),
            (_, None) => AttachEnd::Lost("the session was deleted".to_owned()),
        }
    }
}

impl SessionAttach {
    /// Returns the session as it was when the attach began.
    pub fn session(&self) -> &GuestSession {
        &self.session
    }

    /// Returns the byte of one of its logs with which the attach began.
    pub fn start(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stderr => self.starts[1],
            Stream::Stdout | Stream::Stdin => self.starts[0],
        }
    }

    /// Returns what it tells next. After [`AttachEvent::Ended`] it repeats that it is over. Cancel-safe.
    pub async fn next(&mut self) -> AttachEvent {
        let over = || AttachEvent::Ended(AttachEnd::Lost("it is over already".to_owned()));
        self.events.recv().await.unwrap_or_else(over)
    }

    /// Takes the way to its stdin, to be used while somebody waits in [`SessionAttach::next`].
    pub fn take_input(&mut self) -> Option<AttachInput> {
        self.input.take()
    }
}

impl AttachInput {
    /// Writes to the session's stdin. A command that does not read holds the caller up.
    ///
    /// When the connection is lost, what was written just before may not have arrived; the next write makes
    /// a new one. What must arrive whole and be acknowledged is for [`Engine::session_send`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let vm = self.engine.inner.store.vm(&self.vm).await?;
        let vm = vm.ok_or_else(|| Error::NoSuchVm {
            name: self.vm.to_string(),
        })?;
        if self.session.spec.stdin == StdinMode::Closed {
            return Err(self.refused(&vm, Refusal::NotAPipe));
        }
        let open = match self.open.take().filter(|open| open.end.borrow().is_none()) {
            Some(open) => open,
            None => {
                let (engine, session) = (self.engine.clone(), self.session.clone());
                open_input(engine, &vm, session, self.events.clone()).await?
            }
        };
        let open = self.open.insert(open);
        let written = async {
            open.stdin.write_all(bytes).await?;
            open.stdin.flush().await
        };
        if written.await.is_ok() {
            return Ok(());
        }
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        // The script has ended, and is about to say why.
        let end = tokio::time::timeout(Duration::from_secs(5), open.end.wait_for(Option::is_some));
        let end = end
            .await
            .ok()
            .and_then(Result::ok)
            .and_then(|end| end.clone());
        match end {
            Some(GuestEnd::Exited(status)) => Err(self.refused(&vm, refusal_of(status))),
            Some(GuestEnd::Lost(reason)) => Err(Error::SessionAnswer {
                vm: vm.name,
                reason,
            }),
            None => Err(no_such_session(&vm.name, self.session.name.as_str())),
        }
    }

    /// Ends the session's stdin for good, once all that was written here has gone before.
    pub async fn end(&mut self) -> Result<(), Error> {
        if let Some(OpenInput { stdin, mut end }) = self.open.take() {
            drop(stdin);
            let limit = self.engine.inner.config.limits.session_command;
            let passed_on = tokio::time::timeout(limit, end.wait_for(Option::is_some));
            let in_time = passed_on.await.is_ok();
            if !in_time {
                let vm = self.engine.lookup(self.vm.as_str()).await?;
                return Err(self.refused(&vm, Refusal::TimedOut));
            }
        }
        let (vm, session) = (self.vm.as_str(), self.session.id.as_str());
        self.engine.session_close_stdin(vm, session).await
    }

    fn refused(&self, vm: &VMRecord, source: Refusal) -> Error {
        Error::SessionRefused {
            act: "write to",
            vm: vm.name.clone(),
            session: self.session.name.clone(),
            source,
        }
    }
}

async fn open_input(
    engine: Engine,
    vm: &VMRecord,
    session: GuestSession,
    events: mpsc::Sender<AttachEvent>,
) -> Result<OpenInput, Error> {
    let connection = engine
        .connection(vm, engine.inner.config.limits.session)
        .await?;
    let GuestProcess {
        stdin,
        stdout,
        stderr,
        end,
    } = connection
        .run(&attach_input_command(&session.dir()?))
        .await?;
    let (told, ended) = watch::channel(None);
    tokio::spawn(async move {
        // They say nothing, and their being open keeps the script from failing over it.
        let _unread = (stdout, stderr);
        let end = end.await;
        // A first piece is taken before the script has looked whether it can be delivered.
        if let GuestEnd::Exited(status) = end
            && status != 0
        {
            let _ = events
                .send(AttachEvent::InputRefused(refusal_of(status)))
                .await;
        }
        told.send_replace(Some(end));
    });
    Ok(OpenInput { stdin, end: ended })
}

/// What kept input from its session: the script's own word, or else that nobody read the pipe.
fn refusal_of(status: i32) -> Refusal {
    match Signal::TERM.number() {
        // That is how whoever ends a session's stdin ends what else writes to it.
        term if status == 128 + i32::from(term) => Refusal::StdinClosed,
        _ => Refusal::from_status(status).unwrap_or(Refusal::NoReader),
    }
}

fn in_attach(piece: Piece) -> AttachEvent {
    AttachEvent::Output {
        stream: piece.stream,
        offset: piece.offset,
        bytes: piece.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_breaks_means_that_nobody_reads() {
        assert_eq!(refusal_of(141), Refusal::NoReader);
        assert_eq!(refusal_of(1), Refusal::NoReader);
        assert_eq!(refusal_of(143), Refusal::StdinClosed);
        assert_eq!(
            refusal_of(Refusal::StdinClosed.status()),
            Refusal::StdinClosed
        );
    }
}
