//! `banger vm workspace prepare`.

use std::ffi::OsString;

use banger_daemon::protocol::{PrepareAnswer, PrepareParams, WorkspacePrepare};
use clap::Args;
use clap_complete::ArgValueCandidates;

use super::carry::{CarryOptions, remark, short, shown, summary};
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::verb::completion::vm_names;

#[derive(Args, Debug)]
#[command(after_help = "\
Repeated, it brings the workspace up to date: ignored files of the guest's, such as build results,
stay, and changes that were made in the guest stand in the way unless --force lets them go.")]
pub(crate) struct PrepareArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    vm: String,

    /// A folder in the repository's working tree
    #[arg(default_value = ".", value_name = "PATH")]
    path: OsString,

    /// Let changes that were made in the guest go
    #[arg(long)]
    force: bool,

    /// Only say what would be carried
    #[arg(long)]
    dry_run: bool,

    /// Print an object: the workspace, and what was found of the repository
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    options: CarryOptions,
}

/// Carries a repository in.
pub(crate) async fn prepare(
    arguments: &PrepareArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let params = PrepareParams {
        vm: arguments.vm.clone(),
        what: arguments.options.carry(&arguments.path, arguments.force)?,
        dry_run: arguments.dry_run,
    };
    let mut daemon = Daemon::open(screen).await?;
    let answer = daemon.call::<WorkspacePrepare>(params).await?;
    let untracked = arguments.options.carries_untracked();
    if arguments.json {
        screen.json(&answer)?;
    } else if arguments.dry_run {
        screen.data(&planned(&answer, untracked))?;
    } else {
        screen.say(summary(&answer, &arguments.vm));
    }
    remark(&answer.repository, untracked, screen);
    Ok(ExitStatus::SUCCESS)
}

/// What would be done, a line a file.
fn planned(answer: &PrepareAnswer, untracked: bool) -> String {
    let repository = &answer.repository;
    let mut text = format!(
        "{} at {}{}\n",
        shown(&repository.root),
        short(&repository.head),
        match &repository.branch {
            Some(branch) => format!(", branch {branch}"),
            None => String::new(),
        }
    );
    if answer.replaces {
        text.push_str("replaces the workspace that is there\n");
    }
    let mut list = |mark: char, paths: &[banger_daemon::protocol::Bytes]| {
        for path in paths {
            text.push_str(&format!("{mark} {}\n", shown(path)));
        }
    };
    list('M', &repository.changed);
    list('D', &repository.deleted);
    if untracked {
        list('?', &repository.untracked);
    }
    text
}
