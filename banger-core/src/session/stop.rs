//! Ending sessions: by a signal, by TERM and then KILL, and with everything they left.

use std::time::{Duration, Instant};

use banger_session::Signal;
use banger_session::session::{
    Liveness, Process, Refusal, SessionStatus, remove_script, signal_script,
};

use crate::engine::Engine;
use crate::error::Error;
use crate::session::GuestSession;
use crate::session::refresh::no_such_session;
use crate::vm::VMRecord;

/// What a stop changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionStopOutcome {
    /// It, or what was left of its process group, was ended.
    Stopped {
        /// The session as it is now.
        session: GuestSession,
        /// What it took.
        by: Signal,
    },
    /// Nothing of it ran.
    AlreadyEnded(GuestSession),
}

impl SessionStopOutcome {
    /// Returns the session as it is now.
    pub fn session(&self) -> &GuestSession {
        match self {
            SessionStopOutcome::Stopped { session, .. }
            | SessionStopOutcome::AlreadyEnded(session) => session,
        }
    }
}

/// What a delete changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDeleteOutcome {
    /// The session that is no more, as it was last.
    pub session: GuestSession,
    /// What became of its folder in the guest.
    pub folder: SessionFolder,
}

/// What became of a deleted session's folder, with its logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionFolder {
    /// It is gone.
    Removed,
    /// It lies on the VM's disk still; why.
    Left(String),
}

impl Engine {
    /// Ends a session: TERM to its whole process group, and after a while KILL. `grace` is that while;
    /// 10 s if none is given.
    pub async fn session_stop(
        &self,
        vm: &str,
        session: &str,
        grace: Option<Duration>,
    ) -> Result<SessionStopOutcome, Error> {
        let (vm, session) = self.find_session(vm, session).await?;
        let engine = self.clone();
        self.to_its_end(async move { engine.end_session(&vm, &session, grace).await })
            .await
    }

    /// Sends a signal to every process of a session's group that has not left it.
    pub async fn session_kill(&self, vm: &str, session: &str, signal: Signal) -> Result<(), Error> {
        let (vm, session) = self.find_session(vm, session).await?;
        if self.inner.is_down(&vm).await? {
            self.inner.settle(&vm, &session).await?;
            return Err(refused("signal", &vm, &session, Refusal::NotRunning));
        }
        self.send_signal(&vm, &session, signal).await
    }

    /// Deletes a session, ending it first, with its folder and its logs in the guest. Its record goes in any
    /// case; what a guest that cannot be reached still has is told.
    pub async fn session_delete(
        &self,
        vm: &str,
        session: &str,
    ) -> Result<SessionDeleteOutcome, Error> {
        let (vm, session) = self.find_session(vm, session).await?;
        let engine = self.clone();
        self.to_its_end(async move {
            let folder = match engine.clear_away(&vm, &session).await {
                Ok(()) => SessionFolder::Removed,
                Err(error) => {
                    let why = error.chain().join(": ");
                    tracing::warn!(vm = %vm.name, session = %session.name, error = %why, "a deleted session's folder stays");
                    SessionFolder::Left(why)
                }
            };
            let now = engine.inner.store.session(&session.id).await?;
            engine.inner.store.delete_session(&session.id).await?;
            Ok(SessionDeleteOutcome {
                session: now.unwrap_or(session),
                folder,
            })
        })
        .await
    }

    async fn clear_away(&self, vm: &VMRecord, session: &GuestSession) -> Result<(), Error> {
        if self.inner.is_down(vm).await? {
            let state = &self.inner.settle(vm, session).await?.state;
            if state.pid.is_none() {
                return Ok(());
            }
            return Err(Error::NotRunning {
                vm: vm.name.clone(),
                condition: "its disk keeps the session's folder".to_owned(),
            });
        }
        if !session.state.status.is_final() {
            self.end_session(vm, session, None).await?;
        }
        let script = remove_script(&session.dir()?);
        let deadline = Instant::now() + self.inner.config.limits.session_command;
        loop {
            let limit = self.inner.config.limits.session;
            let answer = self.ask(vm, &script, &[], limit).await?;
            match answer.of("remove the folder of", vm, session) {
                // The monitor ends a moment after what it writes last.
                Err(Error::SessionRefused {
                    source: Refusal::StillRunning,
                    ..
                }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                done => return done.map(drop),
            }
        }
    }

    async fn end_session(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        grace: Option<Duration>,
    ) -> Result<SessionStopOutcome, Error> {
        let limits = &self.inner.config.limits;
        if self.inner.is_down(vm).await? {
            let settled = self.inner.settle(vm, session).await?;
            return Ok(SessionStopOutcome::AlreadyEnded(settled));
        }
        let grace = grace.unwrap_or(limits.session_command);
        for (signal, time) in [
            (Signal::TERM, grace),
            (Signal::KILL, limits.session_command),
        ] {
            match self.send_signal(vm, session, signal).await {
                Ok(()) => self.mark_stopping(vm, session).await?,
                Err(Error::SessionRefused {
                    source: Refusal::NotRunning | Refusal::NoSession,
                    ..
                }) => {
                    let soon = Duration::from_secs(2);
                    let now = match self.session_ends_within(vm, session, soon).await? {
                        Some(now) => now,
                        None => self.inner.session_now(vm, session).await?,
                    };
                    return Ok(match signal {
                        Signal::TERM => SessionStopOutcome::AlreadyEnded(now),
                        _ => SessionStopOutcome::Stopped {
                            session: now,
                            by: Signal::TERM,
                        },
                    });
                }
                Err(error) => return Err(error),
            }
            if let Some(session) = self.session_ends_within(vm, session, time).await? {
                let by = signal;
                tracing::info!(vm = %vm.name, session = %session.name, %by, "stopped a session");
                return Ok(SessionStopOutcome::Stopped { session, by });
            }
        }
        Err(Error::SessionUnkillable {
            vm: vm.name.clone(),
            session: session.name.clone(),
            limit: limits.session_command,
        })
    }

    async fn mark_stopping(&self, vm: &VMRecord, session: &GuestSession) -> Result<(), Error> {
        let marked = self.inner.note_session(session, |state| {
            if !state.status.is_final() {
                state.status = SessionStatus::Stopping;
            }
        });
        let marked = marked.await?.map(drop);
        marked.ok_or_else(|| no_such_session(&vm.name, session.name.as_str()))
    }

    /// Waits until nothing of a session's group is left and its end is written down.
    async fn session_ends_within(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        limit: Duration,
    ) -> Result<Option<GuestSession>, Error> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(20);
        loop {
            if self.inner.is_down(vm).await? {
                return self.inner.settle(vm, session).await.map(Some);
            }
            let seen = self.inspect(vm, session).await?;
            let now = self.inner.apply_seen(vm, session, &seen).await?;
            let group_left = matches!(
                seen.liveness,
                Liveness::Seen {
                    group: Process::Alive,
                    ..
                }
            );
            if now.state.status.is_final() && !group_left {
                return Ok(Some(now));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn send_signal(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        signal: Signal,
    ) -> Result<(), Error> {
        let script = signal_script(&session.dir()?, signal);
        let limit = self.inner.config.limits.session;
        let answer = self.ask(vm, &script, &[], limit).await?;
        answer.of("signal", vm, session).map(drop)
    }
}

fn refused(act: &'static str, vm: &VMRecord, session: &GuestSession, source: Refusal) -> Error {
    Error::SessionRefused {
        act,
        vm: vm.name.clone(),
        session: session.name.clone(),
        source,
    }
}
