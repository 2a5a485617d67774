//! `banger daemon …`.

use banger_daemon::protocol::{
    DaemonReconcile, DaemonStatus, DaemonStop, Nothing, ReconcileParams, Status,
};
use clap::Args;

use crate::age::to_the_second;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::table::table;

#[derive(Args, Debug)]
pub(crate) struct StatusArguments {
    /// Print an object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReconcileArguments {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,

    /// Print the answer as an object
    #[arg(long)]
    json: bool,
}

/// Shows the daemon, of whatever version; none is an error.
pub(crate) async fn status(
    arguments: &StatusArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let Some(mut daemon) = Daemon::open_running(screen).await? else {
        return Err(CommandError::new("bangerd does not run")
            .hint("whatever needs it starts it, such as: banger ps"));
    };
    let status = daemon.call::<DaemonStatus>(Nothing {}).await?;
    if arguments.json {
        screen.json(&status)?;
    } else {
        screen.data(&described(&status))?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// Ends the daemon, of whatever version; none is as good.
pub(crate) async fn stop(screen: &Screen) -> Result<ExitStatus, CommandError> {
    match Daemon::open_running(screen).await? {
        Some(mut daemon) => {
            // One that cannot say how it is can still be ended.
            let status = daemon.call::<DaemonStatus>(Nothing {}).await;
            daemon.call::<DaemonStop>(Nothing {}).await?;
            screen.say(match status.map_or(0, |status| status.running) {
                0 => "bangerd: stopped".to_owned(),
                1 => "bangerd: stopped; its VM runs on".to_owned(),
                running => format!("bangerd: stopped; {running} VMs run on"),
            });
        }
        None => screen.say("bangerd: already stopped"),
    }
    Ok(ExitStatus::SUCCESS)
}

/// Reconciles, and shows what was done to whom; fails if any of it did.
pub(crate) async fn reconcile(
    arguments: &ReconcileArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let params = ReconcileParams {
        dry_run: arguments.dry_run,
    };
    let answer = daemon.call::<DaemonReconcile>(params).await?;
    if arguments.json {
        screen.json(&answer)?;
    } else if answer.lines.is_empty() {
        screen.say("nothing to do: the records and the host agree");
    } else {
        let rows: Vec<_> = answer
            .lines
            .iter()
            .map(|line| [line.vm.clone(), line.action.clone(), line.detail.clone()])
            .collect();
        screen.data(&table(["VM", "ACTION", "REASON"], &rows))?;
    }
    let mut outcome = Ok(ExitStatus::SUCCESS);
    for line in &answer.lines {
        if let Some(error) = &line.error {
            screen.error(
                &CommandError::new(format!("{}: {} failed", line.vm, line.action))
                    .because(error.clone()),
            );
            outcome = Err(CommandError::already_told());
        }
    }
    outcome
}

fn described(status: &Status) -> String {
    format!(
        "version:        {}\n\
         process:        {}\n\
         started:        {}\n\
         engine:         {}\n\
         state folder:   {}\n\
         runtime folder: {}\n\
         running VMs:    {}\n",
        status.version,
        status.pid,
        to_the_second(&status.started_at),
        status.engine,
        status.state_dir.display(),
        status.runtime_dir.display(),
        status.running,
    )
}
