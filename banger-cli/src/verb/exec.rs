//! `banger vm exec`.

use std::ffi::OsString;

use banger_daemon::protocol::{
    Carry, PrepareParams, VmParams, VmSsh, WorkspacePrepare, WorkspaceShow,
};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::{self, CommandOptions, Signals, Way, words};
use crate::screen::Screen;
use crate::ssh::{Terminal, become_ssh, command_line};
use crate::verb::completion::vm_names;
use crate::verb::workspace::carry::summary;
use crate::verb::workspace::show::stale;

#[derive(Args, Debug)]
#[command(after_help = "\
Ctrl-C, SIGTERM, SIGHUP and SIGQUIT go to the command and all its children; a second Ctrl-C
within a second ends banger itself. For exit statuses see: banger --help")]
pub(crate) struct ExecArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// The command and its arguments, passed on byte for byte
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,

    /// Bring the VM's workspace up to date first, if the repository here has moved on
    #[arg(long)]
    auto_prepare: bool,

    #[command(flatten)]
    options: CommandOptions,
}

/// Runs the command and ends as it does.
pub(crate) async fn exec(
    arguments: &ExecArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let options = &arguments.options;
    match options.way()? {
        Way::Streams => {
            let mut signals = Signals::catch()?;
            let mut daemon = signals.or(Daemon::open(screen), || None).await?;
            let home = signals
                .or(home(arguments, &mut daemon, screen), || None)
                .await?;
            let params = options.params(&arguments.name, &arguments.command, home.as_deref())?;
            guest_command::stream(&mut daemon, &mut signals, params).await
        }
        Way::Terminal => {
            let mut daemon = Daemon::open(screen).await?;
            let home = home(arguments, &mut daemon, screen).await?;
            let line = command_line(
                words(&arguments.command),
                &options.variables()?,
                options.folder(home.as_deref()),
            )?;
            let vm = arguments.name.clone();
            let access = daemon.call::<VmSsh>(VmParams { vm }).await?;
            Err(become_ssh(&access, Terminal::Yes, Some(&line)))
        }
    }
}

/// The folder of the VM's workspace, brought up to date or warned of if the repository here has moved on.
async fn home(
    arguments: &ExecArguments,
    daemon: &mut Daemon<'_>,
    screen: &Screen,
) -> Result<Option<Vec<u8>>, CommandError> {
    let vm = &arguments.name;
    let found = daemon
        .call::<WorkspaceShow>(VmParams { vm: vm.clone() })
        .await?;
    let Some(workspace) = &found.workspace else {
        return Ok(None);
    };
    if let Some(warning) = stale(&found, vm) {
        if arguments.auto_prepare {
            let what = Carry {
                path: workspace.host_root.clone(),
                mode: Some(workspace.mode.clone()),
                branch: None,
                from: None,
                include_untracked: false,
                guest_path: Some(workspace.guest_path.clone()),
                force: false,
                any_owner: false,
            };
            let params = PrepareParams {
                vm: vm.clone(),
                what,
                dry_run: false,
            };
            let answer = daemon.call::<WorkspacePrepare>(params).await?;
            screen.say(summary(&answer, vm));
        } else {
            screen.say(warning);
        }
    }
    Ok(Some(workspace.guest_path.clone().into()))
}
