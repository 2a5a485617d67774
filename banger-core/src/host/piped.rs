//! Programs that run for us: bounded in everything, watched by a keeper, ended with all that they started.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::process::ChildStdout;
use tokio::task::AbortHandle;

use super::program::Surroundings;
use super::{HostError, Program, ProgramLimits, ProgramOutput};

/// The most that is kept of a program's standard error, in bytes: the end of it, which tells most.
const KEPT: usize = 64 << 10;

/// A program that runs while its streams are used. Dropping `end` ends it, with all that it has started.
pub struct PipedProgram {
    /// Its standard input; drop it to end it.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// Its standard output: an error beyond what the program's limits allow.
    pub stdout: Pin<Box<dyn AsyncRead + Send>>,
    /// Resolves when it has ended, with its status and the end of its standard error, or with the limit
    /// that ended it. The program is killed if this is dropped.
    pub end: Pin<Box<dyn Future<Output = Result<ProgramOutput, HostError>> + Send>>,
}

impl fmt::Debug for PipedProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipedProgram").finish_non_exhaustive()
    }
}

impl PipedProgram {
    /// Gives it all of its input and waits for its end, whatever the length of what it reads and prints.
    pub(crate) async fn finish(self, input: &[u8]) -> Result<ProgramOutput, HostError> {
        let PipedProgram {
            stdin,
            mut stdout,
            end,
        } = self;
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A program that does not read what it is given is within its rights.
                let _ = stdin.write_all(input).await;
                let _ = stdin.shutdown().await;
            }
        };
        let mut printed = Vec::new();
        // Too much of it ends the program, and the end says so.
        let read = async {
            let _ = stdout.read_to_end(&mut printed).await;
        };
        let ((), (), end) = tokio::join!(feed, read, end);
        Ok(ProgramOutput {
            stdout: printed,
            ..end?
        })
    }
}

/// Which limit ended a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exceeded {
    Time,
    Output,
}

/// Our end of the pipe by which a keeper knows that its program is wanted.
#[derive(Debug)]
struct Leash(Mutex<(Option<OwnedFd>, Option<Exceeded>)>);

impl Leash {
    /// Lets go: the program is killed, and all that it has started.
    fn cut(&self, why: Option<Exceeded>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0.take().is_some() {
            held.1 = why;
        }
    }

    fn why(&self) -> Option<Exceeded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// Lets go when nobody waits for the end any more.
struct Wanted {
    leash: Arc<Leash>,
    clock: AbortHandle,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.clock.abort();
        self.leash.cut(None);
    }
}

/// A program's output, which ends in an error where it is longer than it may be.
struct Bounded {
    stdout: ChildStdout,
    left: u64,
    leash: Arc<Leash>,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stdout).poll_read(context, buffer);
        let read = (buffer.filled().len() - before) as u64;
        match self.left.checked_sub(read) {
            Some(left) => {
                self.left = left;
                polled
            }
            None => {
                buffer.set_filled(before);
                self.leash.cut(Some(Exceeded::Output));
                Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()))
            }
        }
    }
}

impl Surroundings {
    /// Runs a program to its end, in a network namespace if one is given.
    pub(super) async fn run_in(
        &self,
        namespace: Option<&str>,
        program: &Program,
    ) -> Result<ProgramOutput, HostError> {
        let piped = self.pipe_in(namespace, program)?;
        piped.finish(&program.input).await
    }

    /// Starts a program whose streams are used while it runs.
    pub(super) fn pipe(&self, program: &Program) -> Result<PipedProgram, HostError> {
        self.pipe_in(None, program)
    }

    fn pipe_in(
        &self,
        namespace: Option<&str>,
        program: &Program,
    ) -> Result<PipedProgram, HostError> {
        let name = program.program.clone();
        let cannot_start = move |source| HostError::StartProgram {
            program: name,
            source,
        };
        let (command, held) = self.kept_command(namespace, program)?;
        let mut child = tokio::process::Command::from(command)
            .args(&program.arguments)
            .current_dir("/")
            .envs(program.environment.iter().map(|(k, v)| (k, v)))
            .stdin(stream(program.stdin.as_deref()).map_err(cannot_start.clone())?)
            .stdout(stream(program.stdout.as_deref()).map_err(cannot_start.clone())?)
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is for whoever embeds us to interpret.
            .process_group(0)
            .spawn()
            .map_err(cannot_start.clone())?;
        let leash = Arc::new(Leash(Mutex::new((Some(held), None))));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let Some(stderr) = child.stderr.take() else {
            return Err(cannot_start(io::ErrorKind::BrokenPipe.into()));
        };
        // Read while nobody waits for the end: a program must not be held up by what it complains of.
        let said = tokio::spawn(last_of(stderr));
        let (limits, clock_leash) = (program.limits, Arc::clone(&leash));
        let clock = tokio::spawn(async move {
            tokio::time::sleep(limits.time).await;
            clock_leash.cut(Some(Exceeded::Time));
        });
        let wanted = Wanted {
            leash: Arc::clone(&leash),
            clock: clock.abort_handle(),
        };
        let name = program.program.clone();
        let end = async move {
            let wanted = wanted;
            let status = child.wait().await.map_err(cannot_start)?;
            let status = status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            if let Some(error) = exceeded(&name, &limits, status, wanted.leash.why()) {
                return Err(error);
            }
            Ok(ProgramOutput {
                status,
                stdout: Vec::new(),
                stderr: said.await.unwrap_or_default(),
            })
        };
        let bounded = stdout.map(|stdout| Bounded {
            stdout,
            left: limits.output_bytes,
            leash,
        });
        Ok(PipedProgram {
            stdin: stdin.map(|stdin| Box::pin(stdin) as Pin<Box<dyn AsyncWrite + Send>>),
            stdout: match bounded {
                Some(bounded) => Box::pin(bounded),
                None => Box::pin(tokio::io::empty()),
            },
            end: Box::pin(end),
        })
    }
}

/// A pipe to us, or an open file.
fn stream(file: Option<&File>) -> io::Result<Stdio> {
    match file {
        Some(file) => Ok(file.try_clone()?.into()),
        None => Ok(Stdio::piped()),
    }
}

/// Says which limit ended a program, if one did.
fn exceeded(
    program: &str,
    limits: &ProgramLimits,
    status: i32,
    why: Option<Exceeded>,
) -> Option<HostError> {
    let program = program.to_owned();
    let limit = match (why, status - 128) {
        (Some(Exceeded::Time), _) => {
            return Some(HostError::ProgramTimeout {
                program,
                limit: limits.time,
            });
        }
        (Some(Exceeded::Output), _) => format!("{} MiB of output", limits.output_bytes >> 20),
        (None, libc::SIGXCPU) => format!("{} s of processor time", limits.cpu.as_secs()),
        (None, libc::SIGXFSZ) => format!("files of {} MiB", limits.file_bytes >> 20),
        (None, _) => return None,
    };
    Some(HostError::ProgramLimit { program, limit })
}

/// Reads a stream to its end and keeps the last of it.
async fn last_of(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 8 << 10];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
    kept.drain(..kept.len().saturating_sub(KEPT));
    kept
}
