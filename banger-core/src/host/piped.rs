//! Programs whose streams are used while they run.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::program::Surroundings;
use super::{HostError, Program, ProgramOutput};

/// The most that is kept of a program's standard error, in bytes.
const KEPT: u64 = 64 << 10;

/// A program that runs while its streams are used. Dropping it kills it.
pub struct PipedProgram {
    /// Its standard input; drop it to end it.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// Its standard output.
    pub stdout: Pin<Box<dyn AsyncRead + Send>>,
    /// Resolves when it has ended, with its status and the beginning of its standard error. The
    /// program is killed if this is dropped.
    pub end: Pin<Box<dyn Future<Output = Result<ProgramOutput, HostError>> + Send>>,
}

impl fmt::Debug for PipedProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipedProgram").finish_non_exhaustive()
    }
}

impl Surroundings {
    pub(super) fn pipe(&self, program: &Program) -> Result<PipedProgram, HostError> {
        let path = self.resolve(&program.program)?;
        let name = program.program.clone();
        let cannot_start = move |source| HostError::StartProgram {
            program: name,
            source,
        };
        let mut child = tokio::process::Command::from(self.command(&path))
            .args(&program.arguments)
            .current_dir("/")
            .envs(program.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is for whoever embeds us to interpret.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot_start.clone())?;
        let (Some(stdin), Some(stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(cannot_start(std::io::ErrorKind::BrokenPipe.into()));
        };
        // Read while nobody waits for the end: a program must not be held up by what it complains of.
        let said = tokio::spawn(async move {
            let mut said = Vec::new();
            let _ = (&mut stderr).take(KEPT).read_to_end(&mut said).await;
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            said
        });
        let end = async move {
            let status = child.wait().await.map_err(cannot_start)?;
            Ok(ProgramOutput {
                status: status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
                stdout: Vec::new(),
                stderr: said.await.unwrap_or_default(),
            })
        };
        Ok(PipedProgram {
            stdin: Some(Box::pin(stdin)),
            stdout: Box::pin(stdout),
            end: Box::pin(end),
        })
    }
}
