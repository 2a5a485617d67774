//! `banger vm workspace …`.

pub(crate) mod apply;
pub(crate) mod carry;
pub(crate) mod changes;
pub(crate) mod export;
pub(crate) mod prepare;
pub(crate) mod show;

use crate::arguments::WorkspaceCommand;
use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::screen::Screen;

/// What a workspace is, for the help.
pub(crate) const HELP: &str = "\
A workspace is a git repository of this host in a VM: what is checked out, its last commits, and
the changes of tracked files. Nothing that the repository has configured (hooks, filters, …) is
run on this host, and passwords in its origin stay here.

Examples:
  banger vm workspace prepare box ./repo
  banger vm exec box -- make test
  banger vm workspace export box --stat
  banger vm workspace apply box --check && banger vm workspace apply box
  banger vm workspace export box | git apply";

/// Does what was typed.
pub(crate) async fn run(
    command: &WorkspaceCommand,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    match command {
        WorkspaceCommand::Prepare(arguments) => prepare::prepare(arguments, screen).await,
        WorkspaceCommand::Export(arguments) => export::export(arguments, screen).await,
        WorkspaceCommand::Apply(arguments) => apply::apply(arguments, screen).await,
        WorkspaceCommand::Show(arguments) => show::show(arguments, screen).await,
    }
}
