//! What each method of `guest.session` does.

use std::time::Duration;

use banger_core::{
    AttachRequest, Follow, GuestSession, LogRequest, LogStart, SessionFolder, SessionRequest,
    SessionStopOutcome, SessionView, Signal, StdinMode,
};
use banger_session::session::{
    ATTACH_BACKEND_SSH_REHYDRATABLE, ATTACH_MODE_EXCLUSIVE, ATTACH_TRANSPORT_UNIX_SOCKET,
    BACKEND_SSH, STREAM_FORMAT_STDIO_MUX_V1, describe_exit,
};

use super::fault::Fault;
use super::methods::Operation;
use super::tickets::Held;
use crate::protocol::*;

/// How much of an attacher's own words is repeated to others, in characters.
const MAX_HOLDER_CHARS: usize = 120;

impl Operation {
    pub(super) async fn session_start(
        &self,
        params: SessionStartParams,
    ) -> Result<SessionInfo, Fault> {
        let name = params.name.map(|name| name.parse()).transpose();
        let request = SessionRequest {
            name: name.map_err(banger_core::Error::Name)?,
            argv: params.argv.into_iter().map(Vec::from).collect(),
            env: (params.env.into_iter())
                .map(|(name, value)| (name, value.into()))
                .collect(),
            cwd: params.cwd.map(Vec::from),
            stdin: match params.stdin {
                StdinWord::Closed => StdinMode::Closed,
                StdinWord::Pipe => StdinMode::Pipe,
            },
            required: params.required,
            tags: params.tags,
        };
        let started = self.engine().session_start(&params.vm, request);
        let session = self.waiting_for_guest(&params.vm, started).await?;
        Ok(session.into())
    }

    pub(super) async fn session_list(&self, params: VmParams) -> Result<SessionListAnswer, Fault> {
        let views = self.engine().session_list(&params.vm).await?;
        Ok(SessionListAnswer {
            sessions: views.into_iter().map(SessionInfo::from).collect(),
        })
    }

    pub(super) async fn session_show(&self, params: SessionParams) -> Result<SessionInfo, Fault> {
        let SessionParams { vm, session } = params;
        Ok(self.engine().session_show(&vm, &session).await?.into())
    }

    pub(super) async fn session_logs(
        &self,
        params: SessionLogsParams,
    ) -> Result<TicketAnswer, Fault> {
        let request = LogRequest {
            stream: params.stream,
            start: start_of(params.from),
            follow: match params.follow {
                true => Follow::Yes,
                false => Follow::No,
            },
        };
        let engine = self.engine();
        let logs = engine.session_logs(&params.vm, &params.session, request);
        let held = Held::Logs {
            stream: params.stream,
            logs: logs.await?,
        };
        let ticket = self.shared.tickets.issue(held)?;
        Ok(TicketAnswer { ticket, note: None })
    }

    pub(super) async fn session_send(&self, params: SessionSendParams) -> Result<Nothing, Fault> {
        let data: Vec<u8> = params.data.into();
        if data.len() > MAX_SEND_BYTES {
            return Err(Fault::Params {
                method: SessionSend::NAME,
                reason: format!("data: {} bytes; at most {MAX_SEND_BYTES}", data.len()),
            });
        }
        let (vm, session) = (&params.vm, &params.session);
        // Only an end to send: then nothing is sent, not even nothing.
        if !data.is_empty() || !params.eof {
            self.engine().session_send(vm, session, &data).await?;
        }
        if params.eof {
            self.engine().session_close_stdin(vm, session).await?;
        }
        Ok(Nothing {})
    }

    pub(super) async fn session_attach(
        &self,
        params: SessionAttachParams,
    ) -> Result<TicketAnswer, Fault> {
        let request = AttachRequest {
            holder: printable(&params.holder),
            stdout: start_of(params.stdout),
            stderr: start_of(params.stderr),
        };
        let engine = self.engine();
        let attach = engine.session_attach(&params.vm, &params.session, request);
        let held = Held::Attach {
            attach: Box::new(attach.await?),
            engine: engine.clone(),
        };
        let ticket = self.shared.tickets.issue(held)?;
        Ok(TicketAnswer { ticket, note: None })
    }

    pub(super) async fn session_stop(
        &self,
        params: SessionStopParams,
    ) -> Result<SessionChangeAnswer, Fault> {
        let grace = params.grace_s.map(|s| Duration::from_secs(s.into()));
        let engine = self.engine();
        let outcome = engine
            .session_stop(&params.vm, &params.session, grace)
            .await?;
        Ok(match outcome {
            SessionStopOutcome::Stopped { session, by } => SessionChangeAnswer {
                outcome: "stopped".to_owned(),
                detail: Some(format!("by {by}{}", ended_with(&session))),
                session: session.into(),
            },
            SessionStopOutcome::AlreadyEnded(session) => SessionChangeAnswer {
                outcome: "already_ended".to_owned(),
                detail: None,
                session: session.into(),
            },
        })
    }

    pub(super) async fn session_kill(
        &self,
        params: SessionKillParams,
    ) -> Result<SessionChangeAnswer, Fault> {
        let signal = params.signal.parse::<Signal>();
        let signal = signal.map_err(|error| Fault::Params {
            method: SessionKill::NAME,
            reason: error.to_string(),
        })?;
        let (vm, session) = (&params.vm, &params.session);
        self.engine().session_kill(vm, session, signal).await?;
        Ok(SessionChangeAnswer {
            outcome: "signalled".to_owned(),
            detail: Some(format!("by {signal}")),
            session: self.engine().session_show(vm, session).await?.into(),
        })
    }

    pub(super) async fn session_delete(
        &self,
        params: SessionParams,
    ) -> Result<SessionChangeAnswer, Fault> {
        let SessionParams { vm, session } = params;
        let deleted = self.engine().session_delete(&vm, &session).await?;
        Ok(SessionChangeAnswer {
            outcome: "deleted".to_owned(),
            detail: match deleted.folder {
                SessionFolder::Removed => None,
                SessionFolder::Left(why) => Some(format!("its folder stays in the guest: {why}")),
            },
            session: deleted.session.into(),
        })
    }
}

impl From<SessionView> for SessionInfo {
    fn from(view: SessionView) -> Self {
        let SessionView { session, stale } = view;
        let GuestSession {
            id,
            vm_id,
            name,
            spec,
            state,
            created_at,
            updated_at,
        } = session;
        let failure = state.failure;
        SessionInfo {
            id: id.to_string(),
            name: name.to_string(),
            vm_id: vm_id.to_string(),
            status: state.status.to_string(),
            exit_code: state.exit_code,
            failed_at: failure.as_ref().map(|failure| failure.stage.to_string()),
            error: failure.map(|failure| failure.message),
            stale,
            argv: spec.argv.into_iter().map(|word| word.0.into()).collect(),
            env: (spec.env.into_iter())
                .map(|(name, value)| (name, value.0.into()))
                .collect(),
            cwd: spec.cwd.0.into(),
            stdin: match spec.stdin {
                StdinMode::Closed => StdinWord::Closed,
                StdinMode::Pipe => StdinWord::Pipe,
            },
            required: spec.required,
            tags: spec.tags,
            pid: state.pid.map(|group| group.get()),
            boot_id: state.boot_id,
            backend: BACKEND_SSH.to_owned(),
            attach_backend: ATTACH_BACKEND_SSH_REHYDRATABLE.to_owned(),
            attach_mode: ATTACH_MODE_EXCLUSIVE.to_owned(),
            attach_transport: ATTACH_TRANSPORT_UNIX_SOCKET.to_owned(),
            stream_format: STREAM_FORMAT_STDIO_MUX_V1.to_owned(),
            created_at: created_at.to_string(),
            updated_at: updated_at.to_string(),
        }
    }
}

impl From<GuestSession> for SessionInfo {
    fn from(session: GuestSession) -> Self {
        SessionView {
            session,
            stale: None,
        }
        .into()
    }
}

fn start_of(place: Option<LogPlace>) -> LogStart {
    match place {
        None => LogStart::default(),
        Some(LogPlace::Offset(offset)) => LogStart::Offset(offset),
        Some(LogPlace::LastLines(lines)) => LogStart::LastLines(lines),
    }
}

fn ended_with(session: &GuestSession) -> String {
    match session.state.exit_code {
        Some(code) => format!("; it ended with {}", describe_exit(code)),
        None => String::new(),
    }
}

/// Others read it on their terminals.
fn printable(text: &str) -> String {
    let shown = text.chars().filter(|c| !banger_session::is_unseen(*c));
    let shown: String = shown.take(MAX_HOLDER_CHARS).collect();
    match shown.trim() {
        "" => "somebody".to_owned(),
        shown => shown.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_holder_s_words_cannot_play_with_another_s_terminal() {
        assert_eq!(printable("\x1b[2Jme\n"), "[2Jme");
        assert_eq!(printable(" \n"), "somebody");
        assert_eq!(printable(&"x".repeat(1000)).len(), 120);
    }
}
