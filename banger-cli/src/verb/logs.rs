//! `banger vm logs`.

use banger_daemon::protocol::{LogsParams, VmFollowLogs, VmLogs};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::{Seat, Signals, sit};
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

    /// Go on with what comes, until the VM ends
    #[arg(short, long)]
    follow: bool,

    /// Print the text and the file's path as an object
    #[arg(long, conflicts_with = "follow")]
    json: bool,
}

/// Prints the console, running or not.
pub(crate) async fn logs(
    arguments: &LogsArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    if arguments.follow {
        return follow(arguments, screen).await;
    }
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
        screen.raw(&answer.text)?;
    }
    Ok(ExitStatus::SUCCESS)
}

async fn follow(arguments: &LogsArguments, screen: &Screen) -> Result<ExitStatus, CommandError> {
    let mut signals = Signals::catch()?;
    let params = LogsParams {
        vm: arguments.name.clone(),
        lines: arguments.lines,
    };
    let connect = async {
        let mut daemon = Daemon::open(screen).await?;
        let ticket = daemon.call::<VmFollowLogs>(params).await?;
        daemon.stream(&ticket).await
    };
    let stream = signals.or(connect, || None).await?;
    sit(stream, Seat::Spectator, &mut signals).await?;
    Ok(ExitStatus::SUCCESS)
}
