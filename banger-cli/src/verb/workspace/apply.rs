//! `banger vm workspace apply`.

use std::ffi::OsString;

use banger_daemon::protocol::{
    ApplyAnswer, ApplyParams, UndoParams, VmParams, VmShow, WorkspaceApply, WorkspaceUndo,
};
use clap::Args;
use clap_complete::ArgValueCandidates;

use super::carry::{absolute, counted, shown};
use super::changes::listed;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::verb::completion::vm_names;

#[derive(Args, Debug)]
#[command(after_help = "\
What was done in the guest since the last time is merged with the repository as it is now, all
of it or nothing; its index and its branches stay as they are. Files that something runs by
itself (hooks, CI, build scripts, …) are pointed out: look at them before anything else.")]
pub(crate) struct ApplyArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    vm: String,

    /// The repository [default: the one that was carried in]
    #[arg(long, value_name = "PATH")]
    path: Option<OsString>,

    /// Compare with this commit of the guest's [default: what both sides last had]
    #[arg(long, value_name = "COMMIT", conflicts_with = "undo")]
    base_commit: Option<String>,

    /// Only find out whether it would go, and what it would touch
    #[arg(long, conflicts_with = "undo")]
    check: bool,

    /// Take back what was applied last
    #[arg(long)]
    undo: bool,

    /// Take a repository that belongs to another user
    #[arg(long)]
    any_owner: bool,

    /// Print an object: root, files, and the ref to undo it by
    #[arg(long)]
    json: bool,
}

/// Takes back what was applied last; of a VM that is gone, in the repository around the working folder.
async fn undo(
    daemon: &mut Daemon<'_>,
    mut params: UndoParams,
) -> Result<ApplyAnswer, CommandError> {
    let of = VmParams {
        vm: params.vm.clone(),
    };
    let is_gone = async |daemon: &mut Daemon<'_>| {
        let shown = daemon.call::<VmShow>(of).await;
        shown.is_err_and(|error| error.is_missing())
    };
    if params.path.is_some() || !is_gone(daemon).await {
        return daemon.call::<WorkspaceUndo>(params).await;
    }
    params.path = Some(absolute(".".as_ref())?);
    let undone = daemon.call::<WorkspaceUndo>(params).await;
    undone.map_err(|error| {
        error.hint("there is no such VM: name the repository that it was applied to: --path PATH")
    })
}

/// Brings a guest's changes home.
pub(crate) async fn apply(
    arguments: &ApplyArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let path = arguments.path.as_deref().map(absolute).transpose()?;
    let (vm, any_owner) = (arguments.vm.clone(), arguments.any_owner);
    let mut daemon = Daemon::open(screen).await?;
    let answer = match arguments.undo {
        true => {
            let params = UndoParams {
                vm,
                path,
                any_owner,
            };
            undo(&mut daemon, params).await?
        }
        false => {
            let params = ApplyParams {
                vm,
                path,
                base: arguments.base_commit.clone(),
                check: arguments.check,
                any_owner,
            };
            daemon.call::<WorkspaceApply>(params).await?
        }
    };
    if arguments.json {
        screen.json(&answer)?;
        return Ok(ExitStatus::SUCCESS);
    }
    screen.data(&listed(&answer.files))?;
    answer.notes.iter().for_each(|note| screen.say(note));
    let files = counted(answer.files.len(), "file", "files");
    let root = shown(&answer.root);
    let vm = &arguments.vm;
    screen.say(
        match (answer.files.len(), arguments.undo, arguments.check) {
            (0, ..) => "nothing to change".to_owned(),
            (_, true, _) => format!("{files} in {root} as before"),
            (_, _, true) => format!("{files} in {root} would be changed; nothing was"),
            _ => format!(
                "{files} changed in {root}; take it back: banger vm workspace apply {vm} --undo"
            ),
        },
    );
    let looks = answer.files.iter().filter(|file| file.look.is_some());
    let looks = looks.count();
    if looks > 0 && !arguments.undo {
        screen.say(format_args!(
            "{} by itself: look before you run anything there",
            counted(looks, "of them runs", "of them run")
        ));
    }
    Ok(ExitStatus::SUCCESS)
}
