//! `banger vm prune`.

use std::io::{self, BufRead, IsTerminal};

use banger_daemon::protocol::{PruneAnswer, PruneParams, VmInfo, VmList, VmListParams, VmPrune};
use clap::Args;
use jiff::Timestamp;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::verb::list::LabelFilter;
use crate::vm_table::vm_table;

#[derive(Args, Debug)]
#[command(after_help = "\
Deletes VMs that have run and are stopped. Those that were only created, that run or that are in
an error are left. One that is started while you decide is left too.")]
pub(crate) struct PruneArguments {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    /// Print what was deleted as an object; needs --yes
    #[arg(long, requires = "yes")]
    json: bool,

    #[command(flatten)]
    labels: LabelFilter,
}

/// Says what it would delete, asks, and deletes that and nothing else.
pub(crate) async fn prune(
    arguments: &PruneArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let mut vms = daemon.call::<VmList>(VmListParams::default()).await?.vms;
    vms.retain(|vm| vm.state == "stopped" && arguments.labels.fits(vm));
    if !arguments.yes && !vms.is_empty() && !agreed(&vms, screen)? {
        screen.say("nothing was deleted");
        return Ok(ExitStatus::SUCCESS);
    }
    // By id: a name may be another's by now.
    let params = PruneParams {
        vms: vms.into_iter().map(|vm| vm.id).collect(),
    };
    let answer = match params.vms.is_empty() {
        true => PruneAnswer::default(),
        false => daemon.call::<VmPrune>(params).await?,
    };
    if arguments.json {
        screen.json(&answer)?;
    } else {
        told(&answer, screen);
    }
    match answer.failed.is_empty() {
        true => Ok(ExitStatus::SUCCESS),
        false => Err(CommandError::already_told()),
    }
}

fn agreed(vms: &[VmInfo], screen: &Screen) -> Result<bool, CommandError> {
    if !io::stdin().is_terminal() {
        let names: Vec<_> = vms.iter().map(|vm| vm.name.as_str()).collect();
        return Err(CommandError::new(format!(
            "{} would be deleted ({}), and standard input is no terminal to ask on",
            counted(vms.len()),
            names.join(", ")
        ))
        .hint("if that is what you want: banger vm prune --yes"));
    }
    screen.asked_for(vm_table(vms, Timestamp::now()).trim_end());
    screen.asked_for(format!(
        "Delete {} with all that is on their disks? [y/N]",
        counted(vms.len())
    ));
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| CommandError::io("cannot read the answer", error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn told(answer: &PruneAnswer, screen: &Screen) {
    for name in &answer.deleted {
        screen.say(format!("{name}: deleted"));
    }
    for name in &answer.left {
        screen.say(format!("{name}: left, it is not stopped any more"));
    }
    for failure in &answer.failed {
        screen.error(&CommandError::new(format!(
            "{}: {}",
            failure.vm, failure.error
        )));
    }
    if answer.deleted.is_empty() && answer.left.is_empty() && answer.failed.is_empty() {
        screen.say("no VM is stopped");
    }
}

fn counted(vms: usize) -> String {
    match vms {
        1 => "1 stopped VM".to_owned(),
        many => format!("{many} stopped VMs"),
    }
}
