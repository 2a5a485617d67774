//! `banger vm logs`.

use banger_daemon::protocol::{LogsParams, VmLogs};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::verb::completion::vm_names;

#[derive(Args, Debug)]
pub(crate) struct LogsArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// At most this many last lines; all that is kept if left out
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u32>,

    /// Print the text and the file's path as an object
    #[arg(long)]
    json: bool,
}

/// Prints the console, running or not.
pub(crate) async fn logs(
    arguments: &LogsArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let answer = daemon
        .call::<VmLogs>(LogsParams {
            vm: arguments.name.clone(),
            lines: arguments.lines,
        })
        .await?;
    if arguments.json {
        screen.json(&answer)?;
    } else {
        screen.whisper(format_args!("all of it: {}", answer.path.display()));
        screen.data(&answer.text)?;
    }
    Ok(ExitStatus::SUCCESS)
}
