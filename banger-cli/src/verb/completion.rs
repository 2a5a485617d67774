//! `banger completion`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::screen::Screen;

#[derive(Args, Debug)]
pub(crate) struct CompletionArguments {
    /// The shell
    shell: CompletedShell,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CompletedShell {
    Bash,
    Zsh,
    Fish,
}

/// Writes the script; asks no daemon.
pub(crate) fn completion(
    arguments: &CompletionArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let shell = match arguments.shell {
        CompletedShell::Bash => Shell::Bash,
        CompletedShell::Zsh => Shell::Zsh,
        CompletedShell::Fish => Shell::Fish,
    };
    // Into memory first: the generator panics when a pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "banger", &mut script);
    screen.data(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::SUCCESS)
}
