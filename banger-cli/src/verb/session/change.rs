//! `banger vm session stop`, `kill` and `delete`.

use banger_daemon::protocol::{
    SessionChangeAnswer, SessionDelete, SessionKill, SessionKillParams, SessionParams, SessionStop,
    SessionStopParams,
};
use clap::Args;

use super::SessionName;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;

#[derive(Args, Debug)]
pub(crate) struct StopArguments {
    #[command(flatten)]
    session: SessionName,

    /// How many seconds it has between TERM and KILL [default: 10]
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u32>,

    /// Print what changed as an object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct KillArguments {
    #[command(flatten)]
    session: SessionName,

    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,

    /// Print what changed as an object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    session: SessionName,

    /// Print what changed as an object
    #[arg(long)]
    json: bool,
}

/// Ends it in peace, if it lets itself be.
pub(crate) async fn stop(
    arguments: &StopArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let SessionName { vm, session } = &arguments.session;
    let params = SessionStopParams {
        vm: vm.clone(),
        session: session.clone(),
        grace_s: arguments.grace,
    };
    let mut daemon = Daemon::open(screen).await?;
    let answer = daemon.call::<SessionStop>(params).await?;
    tell(&answer, arguments.json, screen)
}

/// Sends it a signal.
pub(crate) async fn kill(
    arguments: &KillArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let SessionName { vm, session } = &arguments.session;
    let params = SessionKillParams {
        vm: vm.clone(),
        session: session.clone(),
        signal: arguments.signal.clone(),
    };
    let mut daemon = Daemon::open(screen).await?;
    let answer = daemon.call::<SessionKill>(params).await?;
    tell(&answer, arguments.json, screen)
}

/// Deletes it with all it wrote.
pub(crate) async fn delete(
    arguments: &DeleteArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let SessionName { vm, session } = &arguments.session;
    let params = SessionParams {
        vm: vm.clone(),
        session: session.clone(),
    };
    let mut daemon = Daemon::open(screen).await?;
    let answer = daemon.call::<SessionDelete>(params).await?;
    tell(&answer, arguments.json, screen)
}

/// `web: stopped (by TERM; it ended with status 143 (TERM))`.
fn tell(
    answer: &SessionChangeAnswer,
    json: bool,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    if json {
        screen.json(answer)?;
        return Ok(ExitStatus::SUCCESS);
    }
    let words = answer.outcome.replace('_', " ");
    let name = &answer.session.name;
    match &answer.detail {
        Some(detail) => screen.say(format_args!("{name}: {words} ({detail})")),
        None => screen.say(format_args!("{name}: {words}")),
    }
    Ok(ExitStatus::SUCCESS)
}
