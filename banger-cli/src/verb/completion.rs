//! `banger completion`, and what the scripts that it writes ask for.

use std::time::Duration;

use banger_daemon::protocol::{ImageList, Method, Nothing, VmList, VmListParams};
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use tokio::time::timeout;

use crate::arguments::Arguments;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::{Screen, Talk};

/// Set by the scripts when they ask.
const VARIABLE: &str = "BANGER_COMPLETE";

/// Nobody waits longer than this for a key to be answered.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub(crate) struct CompletionArguments {
    /// The shell
    shell: CompletedShell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CompletedShell {
    Bash,
    Zsh,
    Fish,
}

/// Writes the script, which asks `banger` itself at each key; asks no daemon.
pub(crate) fn completion(
    arguments: &CompletionArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let shell = match arguments.shell {
        CompletedShell::Bash => "bash",
        CompletedShell::Zsh => "zsh",
        CompletedShell::Fish => "fish",
    };
    let mut script = Vec::new();
    Shells::builtins()
        .completer(shell)
        .ok_or_else(|| CommandError::new(format!("there is no completion for {shell}")))?
        .write_registration(VARIABLE, "banger", "banger", "banger", &mut script)
        .map_err(|error| CommandError::io("cannot write the script", error))?;
    screen.raw(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::SUCCESS)
}

/// Answers a script that asks, and ends the process then; returns if none does.
pub(crate) fn answer_scripts() {
    CompleteEnv::with_factory(Arguments::command)
        .var(VARIABLE)
        .complete();
}

/// The names of all VMs; none where no daemon runs or it does not answer at once.
pub(crate) fn vm_names() -> Vec<CompletionCandidate> {
    let vms = ask::<VmList>(VmListParams::default()).map(|answer| answer.vms);
    (vms.into_iter().flatten())
        .map(|vm| CompletionCandidate::new(vm.name).help(Some(vm.state.into())))
        .collect()
}

/// The names of all images, likewise.
pub(crate) fn image_names() -> Vec<CompletionCandidate> {
    let images = ask::<ImageList>(Nothing {}).map(|answer| answer.images);
    (images.into_iter().flatten())
        .map(|image| CompletionCandidate::new(image.name).help(image.suite.map(Into::into)))
        .collect()
}

/// Asks the daemon if one runs.
fn ask<M: Method>(params: M::Params) -> Option<M::Answer> {
    let screen = Screen::new(Talk::Quiet);
    let asked = async {
        let mut daemon = Daemon::open_running(&screen).await.ok()??;
        daemon.call::<M>(params).await.ok()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    // Inside the runtime, whose clock it needs.
    (runtime.ok()?).block_on(async { timeout(PATIENCE, asked).await.ok()? })
}
