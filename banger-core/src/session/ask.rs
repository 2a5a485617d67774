//! Running one of a session's scripts to its end, within a time and a size.

use std::time::Duration;

use banger_session::session::{MAX_STATE_BYTES, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::engine::Engine;
use crate::error::Error;
use crate::session::GuestSession;
use crate::transport::{GuestEnd, GuestProcess};
use crate::vm::VMRecord;

/// What a script left.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its exit status.
    pub(super) status: i32,
    /// What it printed, cut after what an answer may have.
    pub(super) stdout: Vec<u8>,
    /// The beginning of its diagnostics.
    pub(super) stderr: Vec<u8>,
}

impl Answer {
    /// Returns the output of a script that did what it was asked to.
    pub(super) fn of(
        self,
        act: &'static str,
        vm: &VMRecord,
        session: &GuestSession,
    ) -> Result<Vec<u8>, Error> {
        if self.status == 0 {
            return Ok(self.stdout);
        }
        match Refusal::from_status(self.status) {
            Some(source) => Err(Error::SessionRefused {
                act,
                vm: vm.name.clone(),
                session: session.name.clone(),
                source,
            }),
            None => Err(self.unexpected(vm)),
        }
    }

    /// Says that a script ended as none of ours does.
    pub(super) fn unexpected(&self, vm: &VMRecord) -> Error {
        let said = String::from_utf8_lossy(&self.stderr);
        let said = said.trim().lines().next_back().unwrap_or_default();
        let said = banger_session::printable(said);
        let status = self.status;
        Error::SessionAnswer {
            vm: vm.name.clone(),
            reason: match said.is_empty() {
                true => format!("the guest's shell ended with status {status}"),
                false => format!("the guest's shell ended with status {status}: {said}"),
            },
        }
    }
}

impl Engine {
    /// Runs a script in a VM's guest, giving it `input`, for at most `limit`.
    pub(super) async fn ask(
        &self,
        vm: &VMRecord,
        script: &[u8],
        input: &[u8],
        limit: Duration,
    ) -> Result<Answer, Error> {
        let asked = async {
            let connection = self.connection(vm, limit).await?;
            let process = connection.run(script).await?;
            collect(process, input)
                .await
                .map_err(|reason| Error::SessionAnswer {
                    vm: vm.name.clone(),
                    reason,
                })
        };
        tokio::time::timeout(limit, asked)
            .await
            .map_err(|_| Error::SessionAnswer {
                vm: vm.name.clone(),
                reason: format!("it took longer than {} s", limit.as_secs()),
            })?
    }
}

async fn collect(process: GuestProcess, input: &[u8]) -> Result<Answer, String> {
    let GuestProcess {
        mut stdin,
        stdout,
        stderr,
        end,
    } = process;
    let feed = async move {
        // A script that refuses does not read what it is given.
        if stdin.write_all(input).await.is_ok() {
            let _ = stdin.flush().await;
        }
        let _ = stdin.shutdown().await;
    };
    let mut answer = Answer {
        status: 0,
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    let read = async {
        // One more than an answer may have, so that a longer one is known as such. An error is the
        // connection's end, which its status tells better.
        let mut stdout = stdout.take(MAX_STATE_BYTES as u64 + 1);
        let _ = stdout.read_to_end(&mut answer.stdout).await;
    };
    let read_diagnostics = async {
        let _ = stderr.take(4096).read_to_end(&mut answer.stderr).await;
    };
    tokio::join!(feed, read, read_diagnostics);
    match end.await {
        GuestEnd::Exited(status) => answer.status = status,
        GuestEnd::Lost(reason) => return Err(reason),
    }
    Ok(answer)
}
