//! `banger vm start`, `stop`, `kill`, `restart` and `delete`: one change to each of several VMs.

use banger_daemon::protocol::{
    ChangeAnswer, StartParams, VmDelete, VmKill, VmParams, VmRestart, VmStart, VmStop,
};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::verb::completion::vm_names;
use crate::verb::each::each;

#[derive(Args, Debug)]
pub(crate) struct NamesArguments {
    /// The VMs' names, or at least four digits of their ids
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(vm_names))]
    names: Vec<String>,
}

/// Which change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Until ssh answers.
    Start,
    /// In peace.
    Stop,
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
            Change::Stop => daemon.call::<VmStop>(VmParams { vm }).await,
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
