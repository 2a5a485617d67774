//! `banger vm workspace export`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use banger_daemon::protocol::{ExportParams, WorkspaceChanges, WorkspaceExport};
use banger_session::mux::{Control, Frame};
use clap::Args;
use clap_complete::ArgValueCandidates;

use super::changes;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::verb::completion::vm_names;

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
        let files = daemon.call::<WorkspaceChanges>(params).await?.files;
        match (arguments.name_only, arguments.stat) {
            (true, _) => screen.data(&changes::names(&files))?,
            (_, true) => screen.data(&changes::stat(&files))?,
            _ => screen.json(&files)?,
        }
        return Ok(ExitStatus::SUCCESS);
    }
    match &arguments.output {
        Some(file) => {
            let bytes = to_file(&mut daemon, params, file).await?;
            screen.say(format_args!("{bytes} bytes in {}", file.display()));
        }
        None => {
            let failed = |error: io::Error| match error.kind() {
                io::ErrorKind::BrokenPipe => CommandError::broken_pipe(),
                _ => CommandError::io("cannot write to standard output", error),
            };
            let mut stdout = io::stdout().lock();
            receive(&mut daemon, params, &mut |bytes| {
                stdout.write_all(bytes).map_err(failed)
            })
            .await?;
            stdout.flush().map_err(failed)?;
        }
    }
    Ok(ExitStatus::SUCCESS)
}

/// Writes a patch to a file that appears only when it is complete, and returns its length.
pub(crate) async fn to_file(
    daemon: &mut Daemon<'_>,
    params: ExportParams,
    file: &Path,
) -> Result<u64, CommandError> {
    let failed = |error| CommandError::io(format!("cannot write {}", file.display()), error);
    let mut name = file.as_os_str().to_owned();
    // Nobody else can have made it beforehand, in a folder that others write to.
    name.push(format!(".{}.part", crate::verb::cp::mark()));
    let part = PathBuf::from(name);
    let mut open = File::create_new(&part).map_err(failed)?;
    let mut written = 0;
    let received = receive(daemon, params, &mut |bytes| {
        written += bytes.len() as u64;
        open.write_all(bytes).map_err(failed)
    })
    .await
    .and_then(|()| std::fs::rename(&part, file).map_err(failed));
    if received.is_err() {
        // What is there of it is no patch.
        let _ = std::fs::remove_file(&part);
    }
    received.map(|()| written)
}

/// Receives a patch to its last byte; anything less is an error.
async fn receive(
    daemon: &mut Daemon<'_>,
    params: ExportParams,
    write: &mut dyn FnMut(&[u8]) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let lost =
        |reason: &str| CommandError::new("the patch did not come whole").because(reason.to_owned());
    let ticket = daemon.call::<WorkspaceExport>(params).await?;
    let mut stream = daemon.stream(&ticket).await?;
    loop {
        match stream.read.next_frame().await {
            Ok(Some(Frame::Data { bytes, .. })) => write(&bytes)?,
            Ok(Some(Frame::Control(Control::Exit { .. }))) => return Ok(()),
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
