//! `banger vm workspace export`.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_daemon::client::StreamConnection;
use banger_daemon::protocol::{ChangesAnswer, ExportParams, WorkspaceChanges, WorkspaceExport};
use banger_session::mux::{Control, Frame};
use clap::Args;
use clap_complete::ArgValueCandidates;

use super::changes;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::Signals;
use crate::guest_link::refuse_link_of_a_guest;
use crate::screen::Screen;
use crate::verb::completion::vm_names;
use crate::verb::cp::{Sink, mark};

#[derive(Args, Debug)]
#[command(after_help = "\
The patch holds everything that changed since the workspace was prepared: commits, staged, changed
and new files that are not ignored. The guest's index and status stay as they are.")]
pub(crate) struct ExportArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    vm: String,

    /// Compare with this commit of the guest's [default: what was carried in]
    #[arg(long, value_name = "COMMIT")]
    base_commit: Option<String>,

    /// Write the patch to a file, once it is complete [default: standard output]
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["name_only", "stat", "json"])]
    output: Option<PathBuf>,

    /// Only list the changed files
    #[arg(long, conflicts_with_all = ["stat", "json"])]
    name_only: bool,

    /// Only count the changed lines
    #[arg(long, conflicts_with = "json")]
    stat: bool,

    /// Print an array of changed files
    #[arg(long)]
    json: bool,
}

/// Writes the patch, or what is in it.
pub(crate) async fn export(
    arguments: &ExportArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let params = ExportParams {
        vm: arguments.vm.clone(),
        base: arguments.base_commit.clone(),
    };
    let mut daemon = Daemon::open(screen).await?;
    if arguments.name_only || arguments.stat || arguments.json {
        let ChangesAnswer { files, notes } = daemon.call::<WorkspaceChanges>(params).await?;
        notes.iter().for_each(|note| screen.say(note));
        match (arguments.name_only, arguments.stat) {
            (true, _) => screen.data(&changes::names(&files))?,
            (_, true) => screen.data(&changes::stat(&files))?,
            _ => screen.json(&files)?,
        }
        return Ok(ExitStatus::SUCCESS);
    }
    match &arguments.output {
        Some(file) => {
            let mut signals = Signals::catch()?;
            let written = to_file(&mut daemon, params, file);
            let bytes = signals.unless_told(written).await?;
            screen.say(format_args!("{bytes} bytes in {}", file.display()));
        }
        None => {
            let failed = |error: io::Error| match error.kind() {
                io::ErrorKind::BrokenPipe => CommandError::broken_pipe(),
                _ => CommandError::io("cannot write to standard output", error),
            };
            let mut stdout = io::stdout().lock();
            let mut stream = begin(&mut daemon, params).await?;
            while let Some(bytes) = piece(&mut stream).await? {
                stdout.write_all(&bytes).map_err(failed)?;
            }
            stdout.flush().map_err(failed)?;
        }
    }
    Ok(ExitStatus::SUCCESS)
}

/// Writes a patch to a file as `cp` does: one that appears only when it is complete, and nothing is left of it if
/// the wait for it is given up. Returns its length.
pub(crate) async fn to_file(
    daemon: &mut Daemon<'_>,
    params: ExportParams,
    file: &Path,
) -> Result<u64, CommandError> {
    let mut sink = sink(file).await?;
    let mut written = 0;
    let mut stream = begin(daemon, params).await?;
    while let Some(bytes) = piece(&mut stream).await? {
        written += bytes.len() as u64;
        sink.put(bytes).await?;
    }
    sink.finish()?;
    Ok(written)
}

/// Finds out whether a patch can be written to a file, as far as that can be told before there is one.
pub(crate) async fn try_file(file: &Path) -> Result<(), CommandError> {
    // A pipe is opened when there is something to write: its reader may come later.
    let is_file = |facts: std::fs::Metadata| facts.is_file() || facts.is_dir();
    match std::fs::metadata(file).map_or(true, is_file) {
        true => sink(file).await.map(drop),
        false => refuse_link_of_a_guest(file),
    }
}

async fn sink(file: &Path) -> Result<Sink, CommandError> {
    refuse_link_of_a_guest(file)?;
    let there = std::fs::metadata(file).ok();
    let mode = there.map_or(0o666, |facts| facts.permissions().mode());
    Sink::file(file, None, mode, &mark()).await
}

async fn begin(
    daemon: &mut Daemon<'_>,
    params: ExportParams,
) -> Result<StreamConnection, CommandError> {
    let ticket = daemon.call::<WorkspaceExport>(params).await?;
    daemon.stream(&ticket).await
}

/// Returns the next piece of a patch; none when it is complete, and anything less is an error.
async fn piece(stream: &mut StreamConnection) -> Result<Option<Vec<u8>>, CommandError> {
    let lost =
        |reason: &str| CommandError::new("the patch did not come whole").because(reason.to_owned());
    loop {
        match stream.read.next_frame().await {
            Ok(Some(Frame::Data { bytes, .. })) => return Ok(Some(bytes)),
            Ok(Some(Frame::Control(Control::Exit { .. }))) => return Ok(None),
            Ok(Some(Frame::Control(Control::Error { error, .. }))) => {
                return Err(CommandError::new(error));
            }
            Ok(Some(Frame::Control(Control::Lost { error }))) => return Err(lost(&error)),
            Ok(Some(Frame::Control(_) | Frame::End { .. })) => {}
            Ok(None) => return Err(lost("the daemon ended the connection")),
            Err(error) => return Err(lost(&error.to_string())),
        }
    }
}
