//! Looking: which sessions there are, and what became of them.

use std::collections::HashMap;
use std::time::Duration;

use banger_session::session::{
    Folder, Liveness, SessionState, SessionStatus, Stage, StateSnapshot, apply_state_snapshot,
    fail_launch, inspect_script, parse_state, state_changed,
};
use jiff::Timestamp;

use crate::engine::{Engine, Inner};
use crate::error::Error;
use crate::names::{SessionId, VmName};
use crate::session::{GuestSession, SessionView};
use crate::store::{StoreError, Written};
use crate::vm::VMRecord;

/// What stands between the answers about several sessions; no answer has such a line.
const SEPARATOR: &[u8] = b"\x1e\n";

/// Sessions asked about in one round trip: a script has to stay far below 128 KiB.
const ABREAST: usize = 16;

/// How long a session may have no folder, or no monitor, in its guest after it was asked for: the script that launches it
/// goes on when the engine that sent it dies.
const LAUNCH_GRACE: Duration = Duration::from_secs(15);

/// The time that a stop gives to a last look.
const LAST_LOOK: Duration = Duration::from_secs(2);

impl Engine {
    /// Lists a VM's sessions, oldest first, brought up to date in one round trip if it runs.
    pub async fn session_list(&self, vm: &str) -> Result<Vec<SessionView>, Error> {
        let vm = self.lookup(vm).await?;
        let mut views = Vec::new();
        let sessions = self.inner.store.sessions(&vm.id).await?;
        for sessions in sessions.chunks(ABREAST) {
            views.extend(self.look_at(&vm, sessions).await?);
        }
        Ok(views)
    }

    /// Shows one session, brought up to date if its VM runs. A guest that does not answer makes it stale,
    /// not an error.
    pub async fn session_show(&self, vm: &str, session: &str) -> Result<SessionView, Error> {
        let (vm, session) = self.find_session(vm, session).await?;
        let name = session.name.clone();
        let views = self.look_at(&vm, &[session]).await?;
        let view = views.into_iter().next();
        view.ok_or_else(|| no_such_session(&vm.name, name.as_str()))
    }

    /// Finds a session by its name, or by at least four first digits of its id.
    pub(super) async fn find_session(
        &self,
        vm: &str,
        session: &str,
    ) -> Result<(VMRecord, GuestSession), Error> {
        let vm = self.lookup(vm).await?;
        if let Some(found) = self.inner.store.session_named(&vm.id, session).await? {
            return Ok((vm, found));
        }
        let is_prefix = session.len() >= 4 && session.bytes().all(|byte| byte.is_ascii_hexdigit());
        let prefix = session.to_ascii_lowercase();
        let mut found = match is_prefix {
            true => self.inner.store.sessions(&vm.id).await?,
            false => Vec::new(),
        };
        found.retain(|session| session.id.as_str().starts_with(&prefix));
        match (found.pop(), found.is_empty()) {
            (Some(session), true) => Ok((vm, session)),
            (Some(_), false) => Err(Error::AmbiguousSession { prefix }),
            (None, _) => Err(no_such_session(&vm.name, session)),
        }
    }

    /// Brings one session up to date, or says why that was not possible.
    pub(super) async fn refresh(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
    ) -> Result<GuestSession, Error> {
        let snapshot = match self.inner.needs_look(session) {
            false => return self.inner.session_now(vm, session).await,
            true if self.inner.is_down(vm).await? => {
                return self.inner.settle(vm, session).await;
            }
            true => self.inspect(vm, session).await?,
        };
        self.inner.apply_seen(vm, session, &snapshot).await
    }

    /// Looks at a session in its guest, and leaves the record as it is.
    pub(super) async fn inspect(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
    ) -> Result<StateSnapshot, Error> {
        let script = inspect_script(&session.dir()?);
        let limit = self.inner.config.limits.session;
        let answer = self.ask(vm, &script, &[], limit).await?;
        if answer.status != 0 {
            return Err(answer.unexpected(vm));
        }
        parse_state(&answer.stdout).map_err(|error| nonsense(vm, &error))
    }

    /// Brings several up to date together. Those that are gone by then are left out.
    async fn look_at(
        &self,
        vm: &VMRecord,
        sessions: &[GuestSession],
    ) -> Result<Vec<SessionView>, Error> {
        let (inner, mut views) = (&self.inner, Vec::new());
        let open: Vec<&GuestSession> = sessions.iter().filter(|s| inner.needs_look(s)).collect();
        let down = !open.is_empty() && inner.is_down(vm).await?;
        let mut seen: HashMap<&SessionId, Result<StateSnapshot, String>> = HashMap::new();
        if !open.is_empty() && !down {
            let ids = open.iter().map(|session| &session.id);
            match self.inspect_together(vm, &open).await {
                Ok(snapshots) => seen.extend(ids.zip(snapshots)),
                Err(error) => {
                    let why = error.chain().join(": ");
                    seen.extend(ids.map(|id| (id, Err(why.clone()))));
                }
            }
        }
        for session in sessions {
            let (looked, stale) = match seen.remove(&session.id) {
                Some(Ok(seen)) => (inner.apply_seen(vm, session, &seen).await, None),
                Some(Err(why)) => (inner.session_now(vm, session).await, Some(why)),
                None if down => (inner.settle(vm, session).await, None),
                None => (inner.session_now(vm, session).await, None),
            };
            match looked {
                Ok(session) => views.push(SessionView { session, stale }),
                Err(Error::NoSuchSession { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    async fn inspect_together(
        &self,
        vm: &VMRecord,
        sessions: &[&GuestSession],
    ) -> Result<Vec<Result<StateSnapshot, String>>, Error> {
        let mut script = Vec::new();
        for session in sessions {
            script.extend_from_slice(&inspect_script(&session.dir()?));
            script.extend_from_slice(b"printf '\\036\\n'\n");
        }
        let limit = self.inner.config.limits.session;
        let answer = self.ask(vm, &script, &[], limit).await?;
        if answer.status != 0 {
            return Err(answer.unexpected(vm));
        }
        let mut rest = &answer.stdout[..];
        let mut seen = Vec::new();
        while let Some(end) = find(rest, SEPARATOR) {
            seen.push(parse_state(&rest[..end]).map_err(|error| error.to_string()));
            rest = &rest[end + SEPARATOR.len()..];
        }
        match seen.len() == sessions.len() {
            true => Ok(seen),
            false => Err(nonsense(vm, &"the answer was cut off")),
        }
    }

    /// Takes a last look at the sessions of a VM that is about to be stopped: what has ended by now ended by
    /// itself. Never takes longer than two seconds, and never fails.
    pub(crate) async fn refresh_before_stop(&self, vm: &VMRecord) {
        let look = async {
            let mut sessions = self.inner.store.sessions(&vm.id).await?;
            sessions.retain(|session| !session.state.status.is_final());
            for sessions in sessions.chunks(ABREAST) {
                self.look_at(vm, sessions).await?;
            }
            Ok::<(), Error>(())
        };
        match tokio::time::timeout(LAST_LOOK, look).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(vm = %vm.name, %error, "no last look at the sessions");
            }
            Err(_) => tracing::debug!(vm = %vm.name, "the guest was too slow for a last look"),
        }
    }
}

impl Inner {
    /// Gives every session of a VM that has just stopped the status it is left with. Never fails: whoever
    /// looks at one later does the same.
    pub(crate) async fn settle_sessions(&self, vm: &VMRecord) {
        let sessions = match self.store.sessions(&vm.id).await {
            Ok(sessions) => sessions,
            Err(error) => {
                tracing::warn!(vm = %vm.name, %error, "cannot list the sessions of a stopped VM");
                return;
            }
        };
        for session in sessions {
            if session.state.status.is_final() {
                continue;
            }
            if let Err(error) = self.settle(vm, &session).await {
                tracing::warn!(vm = %vm.name, session = %session.name, %error, "cannot settle a session");
            }
        }
    }

    /// Gives a session of a VM that does not run its last status, from its disk. What has none there has
    /// failed: nobody is left to end it.
    pub(super) async fn settle(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
    ) -> Result<GuestSession, Error> {
        if session.state.status.is_final() {
            return self.session_now(vm, session).await;
        }
        let seen = self.state_on_disk(vm, &session.dir()?).await;
        if let Err(error) = &seen {
            let causes = error.chain().join(": ");
            tracing::warn!(vm = %vm.name, session = %session.name, error = %causes, "cannot read how a session ended");
        }
        // The record that was handed in may be from before it stopped.
        let now = self.store.vm(&vm.id).await?;
        let why = now.and_then(|vm| vm.runtime.stop_reason);
        let why = why.as_deref().unwrap_or("unknown");
        let settled = self.note_session(session, |state| {
            let ran = match state.status {
                SessionStatus::Starting => "was starting",
                _ => "ran",
            };
            match &seen {
                // What the guest's files say of an end counts; that nothing runs any more we know.
                Ok(seen) if seen.folder == Folder::Present => apply_state_snapshot(state, seen),
                _ => {}
            }
            let left = format!("the VM stopped while the session {ran} ({why})");
            fail_launch(state, Stage::Guest, &left);
            if let Some(failure) = state.failure.as_mut()
                && failure.stage == Stage::Guest
            {
                failure.message = left;
            }
        });
        settled
            .await?
            .ok_or_else(|| no_such_session(&vm.name, session.name.as_str()))
    }

    /// Brings a record up to what was seen in the running guest.
    pub(super) async fn apply_seen(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
        seen: &StateSnapshot,
    ) -> Result<GuestSession, Error> {
        let age = Timestamp::now().duration_since(session.created_at);
        let still_comes = session.state.status == SessionStatus::Starting
            && (seen.folder == Folder::Missing || is_being_launched(seen))
            && age < jiff::SignedDuration::from_secs(LAUNCH_GRACE.as_secs() as i64);
        if still_comes || self.desk.is_launching(&session.id) {
            return self.session_now(vm, session).await;
        }
        let applied = self.note_session(session, |state| {
            if state.status == SessionStatus::Starting && seen.folder == Folder::Missing {
                let lost =
                    "its launch never reached the guest: the engine or the connection ended before";
                return fail_launch(state, Stage::Launch, lost);
            }
            apply_state_snapshot(state, seen);
        });
        applied
            .await?
            .ok_or_else(|| no_such_session(&vm.name, session.name.as_str()))
    }

    /// Changes a session's state, again if somebody else has changed it meanwhile, and writes it only if
    /// that makes a difference. `None` if the session is gone.
    pub(super) async fn note_session(
        &self,
        session: &GuestSession,
        change: impl Fn(&mut SessionState),
    ) -> Result<Option<GuestSession>, StoreError> {
        let mut now = self.store.session(&session.id).await?;
        while let Some(session) = now {
            let mut after = session.state.clone();
            change(&mut after);
            if !state_changed(&session.state, &after) {
                return Ok(Some(session));
            }
            let replaced = self
                .store
                .replace_session_state(&session.id, &session.state, &after);
            if replaced.await? == Written::Yes {
                tracing::info!(session = %session.name, from = %session.state.status, to = %after.status, "a session changed");
            }
            now = self.store.session(&session.id).await?;
            if let Some(now) = &now
                && now.state == after
            {
                break;
            }
        }
        Ok(now)
    }

    /// Returns the record as it is now.
    pub(super) async fn session_now(
        &self,
        vm: &VMRecord,
        session: &GuestSession,
    ) -> Result<GuestSession, Error> {
        let now = self.store.session(&session.id).await?;
        now.ok_or_else(|| no_such_session(&vm.name, session.name.as_str()))
    }

    /// Says whether a VM is known not to run: promised so, and not watched.
    pub(super) async fn is_down(&self, vm: &VMRecord) -> Result<bool, Error> {
        let now = self.store.vm(&vm.id).await?;
        let now = now.ok_or_else(|| Error::NoSuchVm {
            name: vm.name.to_string(),
        })?;
        Ok(now.runtime.run_id.is_none() && self.live(&vm.id).is_none())
    }

    fn needs_look(&self, session: &GuestSession) -> bool {
        !session.state.status.is_final() && !self.desk.is_launching(&session.id)
    }
}

/// Says whether a guest has a session's files, and its monitor has not begun yet: on a busy guest that may
/// take its time.
fn is_being_launched(seen: &StateSnapshot) -> bool {
    seen.liveness != Liveness::Rebooted
        && seen.monitor_pid.is_none()
        && seen.error.is_none()
        && matches!(seen.status, None | Some(SessionStatus::Starting))
}

pub(super) fn no_such_session(vm: &VmName, name: &str) -> Error {
    Error::NoSuchSession {
        vm: vm.clone(),
        name: name.to_owned(),
    }
}

fn nonsense(vm: &VMRecord, reason: &dyn std::fmt::Display) -> Error {
    Error::SessionAnswer {
        vm: vm.name.clone(),
        reason: reason.to_string(),
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|at| at == wanted)
}
