//! A script in a guest, its standard output and nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_session::workspace::{Heading, WorkspaceRefusal};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::Error;
use crate::transport::{GuestConnection, GuestEnd, GuestProcess};
use crate::vm::VMRecord;
use crate::workspace::WorkspaceError;

/// The most that is kept of what a script's programs complain of, in bytes.
const KEPT: u64 = 16 << 10;

/// How many silences all that a script says may take: it could say a byte at a time.
const WHOLE: u32 = 12;

/// A script that runs in a guest, read piece by piece. The connection can be used meanwhile and after it.
pub(super) struct ScriptOutput {
    act: &'static str,
    vm: VMRecord,
    stdout: Pin<Box<dyn AsyncRead + Send>>,
    said: tokio::task::JoinHandle<Vec<u8>>,
    end: Pin<Box<dyn Future<Output = GuestEnd> + Send>>,
    buffer: Vec<u8>,
    /// How long it may say nothing.
    silence: Duration,
    begun: Instant,
    /// The guest's end of its input.
    pub(super) stdin: Option<Pin<Box<dyn tokio::io::AsyncWrite + Send>>>,
}

/// Starts a script over a connection.
pub(super) async fn start_script(
    connection: &Arc<dyn GuestConnection>,
    act: &'static str,
    vm: &VMRecord,
    script: &[u8],
    silence: Duration,
) -> Result<ScriptOutput, Error> {
    let GuestProcess {
        stdin,
        stdout,
        mut stderr,
        end,
    } = connection.run(script).await?;
    let said = tokio::spawn(async move {
        let mut said = Vec::new();
        // The last of it is what tells; the first, where there is little.
        let mut buffer = vec![0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
            said.extend_from_slice(&buffer[..read]);
            let surplus = said.len().saturating_sub(KEPT as usize);
            said.drain(..surplus);
        }
        said
    });
    Ok(ScriptOutput {
        act,
        vm: vm.clone(),
        stdout,
        said,
        end,
        buffer: vec![0; 64 << 10],
        silence,
        begun: Instant::now(),
        stdin: Some(stdin),
    })
}

/// Runs a script to its end and returns its standard output, at most `limit` bytes of it. What it writes
/// to its standard error is told if it fails, and dropped if it does not.
pub(super) async fn run_script_output(
    connection: &Arc<dyn GuestConnection>,
    act: &'static str,
    vm: &VMRecord,
    script: &[u8],
    silence: Duration,
    limit: usize,
) -> Result<Vec<u8>, Error> {
    let mut running = start_script(connection, act, vm, script, silence).await?;
    running.stdin = None;
    let mut output = Vec::new();
    while let Some(piece) = running.next().await? {
        output.extend_from_slice(piece);
        if output.len() > limit {
            return Err(running
                .lost(format!("its answer is longer than {limit} bytes"))
                .into());
        }
    }
    Ok(output)
}

/// Reads the heading of what a script says, and returns it with what came after it so far.
pub(super) async fn read_heading(running: &mut ScriptOutput) -> Result<(Heading, Vec<u8>), Error> {
    let mut begun = Vec::new();
    loop {
        if let Some((heading, length)) = Heading::read(&begun).map_err(WorkspaceError::from)? {
            begun.drain(..length);
            return Ok((heading, begun));
        }
        match running.next().await? {
            Some(piece) => begun.extend_from_slice(piece),
            None => return Err(running.lost("its answer has no end".to_owned()).into()),
        }
    }
}

impl ScriptOutput {
    /// Returns the next bytes; none when it has ended as it should.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        let read = tokio::time::timeout(self.silence, self.stdout.read(&mut self.buffer)).await;
        let Ok(read) = read else {
            return Err(self.silent().into());
        };
        if self.begun.elapsed() > self.silence * WHOLE {
            let reason = format!("it took more than {:?}", self.silence * WHOLE);
            return Err(self.lost(reason).into());
        }
        // An error is the connection's end, which its status tells better.
        match read {
            Ok(read @ 1..) => Ok(Some(&self.buffer[..read])),
            _ => {
                self.finish().await?;
                Ok(None)
            }
        }
    }

    /// Waits for its end.
    pub(super) async fn finish(&mut self) -> Result<(), Error> {
        self.stdin = None;
        // It may have closed its output, and go on for ever.
        let Ok(end) = tokio::time::timeout(self.silence, &mut self.end).await else {
            return Err(self.silent().into());
        };
        let status = match end {
            GuestEnd::Exited(0) => return Ok(()),
            GuestEnd::Exited(status) => status,
            GuestEnd::Lost(reason) => return Err(self.lost(reason).into()),
        };
        // A process that it left behind may hold its standard error.
        let patience = Duration::from_secs(2);
        let said = tokio::time::timeout(patience, &mut self.said).await;
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        let said = last_words(&said);
        let error = match WorkspaceRefusal::from_status(status) {
            Some(source) => WorkspaceError::Guest {
                act: self.act,
                vm: self.vm.name.clone(),
                source,
                said,
            },
            None => self.lost(match said.is_empty() {
                true => format!("the guest's shell ended with status {status}"),
                false => format!("the guest's shell ended with status {status}: {said}"),
            }),
        };
        Err(error.into())
    }

    fn silent(&self) -> WorkspaceError {
        self.lost(format!("it said nothing for {:?}", self.silence))
    }

    pub(super) fn lost(&self, reason: String) -> WorkspaceError {
        WorkspaceError::Lost {
            act: self.act,
            vm: self.vm.name.clone(),
            reason,
        }
    }
}

/// The last lines, fit for a terminal.
fn last_words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.trim().lines().rev().take(3).collect();
    let text = lines.into_iter().rev().collect::<Vec<_>>().join("; ");
    banger_session::printable(&text).into_owned()
}
