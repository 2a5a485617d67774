//! `banger vm workspace show`.

use std::fmt::Display;

use banger_daemon::protocol::{VmParams, WorkspaceInfo, WorkspaceShow, WorkspaceShowAnswer};
use clap::Args;
use clap_complete::ArgValueCandidates;

use super::carry::{counted, short, shown};
use crate::age::to_the_second;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::verb::completion::vm_names;

#[derive(Args, Debug)]
pub(crate) struct ShowArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    vm: String,

    /// Print an object
    #[arg(long)]
    json: bool,
}

/// Shows what was carried into a VM, and whether it is still what is here.
pub(crate) async fn show(
    arguments: &ShowArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let vm = arguments.vm.clone();
    let answer = daemon.call::<WorkspaceShow>(VmParams { vm }).await?;
    let Some(workspace) = &answer.workspace else {
        return Err(
            CommandError::new(format!("VM {} has no workspace", arguments.vm)).hint(format!(
                "carry one in: banger vm workspace prepare {} PATH",
                arguments.vm
            )),
        );
    };
    match arguments.json {
        true => screen.json(&answer)?,
        false => screen.data(&described(workspace, &answer))?,
    }
    Ok(ExitStatus::SUCCESS)
}

fn described(workspace: &WorkspaceInfo, answer: &WorkspaceShowAnswer) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn Display| {
        text.push_str(&format!("{:<16}{value}\n", format!("{key}:")));
    };
    line("repository", &shown(&workspace.host_root));
    line("in the guest", &shown(&workspace.guest_path));
    line("mode", &workspace.mode);
    if let Some(branch) = &workspace.branch {
        line("branch", branch);
    }
    line("commit", &workspace.head);
    if workspace.base != workspace.head {
        line("base", &workspace.base);
        let carried = counted(workspace.carried, "changed file", "changed files");
        line("carried", &carried);
    }
    line("prepared", &to_the_second(&workspace.prepared_at));
    line("here", &here(answer));
    text
}

fn here(answer: &WorkspaceShowAnswer) -> String {
    let detail = answer.detail.as_deref().unwrap_or_default();
    match answer.host.as_deref() {
        Some("moved") => format!("has moved on to {}", short(detail)),
        Some("unknown") => format!("not known: {detail}"),
        _ => "on the same commit".to_owned(),
    }
}
