//! `banger vm start`, `stop`, `kill`, `restart` and `delete`: one change to each of several VMs.

use banger_daemon::protocol::{
    ChangeAnswer, StartParams, StopParams, VmDelete, VmKill, VmParams, VmRestart, VmStart, VmStop,
};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::time_limit::TimeLimit;
use crate::verb::completion::vm_names;
use crate::verb::each::each;

#[derive(Args, Debug)]
pub(crate) struct NamesArguments {
    /// The VMs' names, or at least four digits of their ids
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(vm_names))]
    names: Vec<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
The guest is told to power off. A program in it that does not heed that is killed; when the time is
nearly over the guest writes its disks and switches itself off. One that does not even do that runs
on, and this fails: banger vm kill ends it, and cuts a stop in progress short.")]
pub(crate) struct StopArguments {
    #[command(flatten)]
    names: NamesArguments,

    /// How long a guest may take for its own power-off: 90, 90s, 5m, 1h [default: 30s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<TimeLimit>,
}

/// Stops each in turn.
pub(crate) async fn stop(
    arguments: &StopArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    each(&arguments.names.names, screen, async |name| {
        let params = StopParams {
            vm: name.to_owned(),
            timeout_s: arguments.timeout.map(TimeLimit::seconds),
        };
        Ok(outcome(&daemon.call::<VmStop>(params).await?))
    })
    .await
}

/// Which change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Until ssh answers.
    Start,
    /// At once.
    Kill,
    /// Stop, then start.
    Restart,
    /// With all that was its own.
    Delete,
}

/// Does it to each in turn: one that fails is told of and does not keep the others from it.
pub(crate) async fn change(
    change: Change,
    arguments: &NamesArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    each(&arguments.names, screen, async |name| {
        Ok(outcome(&change.apply(name, &mut daemon).await?))
    })
    .await
}

impl Change {
    async fn apply(
        self,
        name: &str,
        daemon: &mut Daemon<'_>,
    ) -> Result<ChangeAnswer, CommandError> {
        let vm = name.to_owned();
        match self {
            Change::Start => {
                let params = StartParams { vm, wait: true };
                daemon.call::<VmStart>(params).await
            }
            Change::Restart => {
                let params = StartParams { vm, wait: true };
                daemon.call::<VmRestart>(params).await
            }
            Change::Kill => daemon.call::<VmKill>(VmParams { vm }).await,
            Change::Delete => daemon.call::<VmDelete>(VmParams { vm }).await,
        }
    }
}

/// `box: already running`, `box: stopped (the guest powered off)`.
pub(crate) fn outcome(answer: &ChangeAnswer) -> String {
    let words = answer.outcome.replace('_', " ");
    match &answer.detail {
        Some(detail) => format!("{}: {words} ({detail})", answer.name),
        None => format!("{}: {words}", answer.name),
    }
}
