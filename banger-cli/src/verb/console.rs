//! `banger vm console`.

use std::io::{self, IsTerminal};

use banger_daemon::protocol::{VmConsole, VmParams};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::{Risen, Seat, Signals, sit};
use crate::screen::Screen;
use crate::verb::completion::vm_names;

#[derive(Args, Debug)]
#[command(after_help = "\
Ctrl-] leaves it; all other keys are the guest's. In an image of ours Enter opens a shell as root,
without a password: who may use this daemon is root in its guests anyway. One at a time; everybody
else can watch by: banger vm logs -f")]
pub(crate) struct ConsoleArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    name: String,
}

/// Sits there until it is left or the VM ends.
pub(crate) async fn console(
    arguments: &ConsoleArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut signals = Signals::catch()?;
    let name = &arguments.name;
    let connect = async {
        let mut daemon = Daemon::open(screen).await?;
        let vm = name.clone();
        let ticket = daemon.call::<VmConsole>(VmParams { vm }).await?;
        daemon.stream(&ticket).await
    };
    let stream = signals.or(connect, || None).await?;
    if io::stdin().is_terminal() {
        screen.say(format_args!(
            "the console of {name}; Enter opens a shell, Ctrl-] leaves"
        ));
    }
    let risen = sit(stream, Seat::Keyboard, &mut signals).await?;
    screen.say(match risen {
        Risen::Left => format!("\nleft the console; {name} runs on"),
        Risen::Ended => format!("\n{name} has ended"),
    });
    Ok(ExitStatus::SUCCESS)
}
