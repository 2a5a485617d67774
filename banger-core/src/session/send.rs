//! Writing to a session's stdin, beside whoever is attached.

use banger_session::session::{Refusal, StdinMode, close_stdin_script, send_command};

use crate::engine::Engine;
use crate::error::Error;
use crate::session::GuestSession;
use crate::vm::VMRecord;

impl Engine {
    /// Delivers bytes to a session's stdin, and returns when they are in its pipe.
    ///
    /// All or nothing, and never mixed with another send, of whatever size; a connection that is lost half
    /// way delivers nothing. Only [`Refusal::TimedOut`] above 4096 bytes may mean that a part arrived: the
    /// command stopped reading in the middle.
    pub async fn session_send(&self, vm: &str, session: &str, bytes: &[u8]) -> Result<(), Error> {
        let (vm, session) = self.find_session(vm, session).await?;
        self.refuse_unwritable(&vm, &session).await?;
        let limits = &self.inner.config.limits;
        let patience = limits.session_command;
        let script = send_command(&session.dir()?, bytes.len() as u64, patience);
        // For other senders, for the command, and for the way.
        let limit = patience * 2 + limits.session;
        let answer = self.ask(&vm, &script, bytes, limit).await?;
        answer.of("send to", &vm, &session).map(drop)
    }

    /// Ends a session's stdin: its command reads what was sent, and then the end of file. Whoever is attached
    /// can write no more, and what they wrote this very moment may not arrive. Again is success.
    pub async fn session_close_stdin(&self, vm: &str, session: &str) -> Result<(), Error> {
        let (vm, session) = self.find_session(vm, session).await?;
        self.refuse_unwritable(&vm, &session).await?;
        let script = close_stdin_script(&session.dir()?);
        let limit = self.inner.config.limits.session;
        let answer = self.ask(&vm, &script, &[], limit).await?;
        answer.of("end the stdin of", &vm, &session).map(drop)
    }

    /// Refuses what is known not to arrive without asking the guest.
    async fn refuse_unwritable(&self, vm: &VMRecord, session: &GuestSession) -> Result<(), Error> {
        let session = match self.inner.is_down(vm).await? {
            true => self.inner.settle(vm, session).await?,
            false => session.clone(),
        };
        let source = match session.spec.stdin {
            StdinMode::Closed => Refusal::NotAPipe,
            StdinMode::Pipe if session.state.status.is_final() => Refusal::NotRunning,
            StdinMode::Pipe => return Ok(()),
        };
        Err(Error::SessionRefused {
            act: "write to",
            vm: vm.name.clone(),
            session: session.name,
            source,
        })
    }
}
