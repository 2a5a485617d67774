//! `banger vm run`.

use std::ffi::OsString;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use banger_daemon::protocol::{StartParams, VmCreate, VmDelete, VmInfo, VmParams, VmSsh, VmStart};
use clap::Args;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::{self, CommandOptions, Signals, Way, words};
use crate::progress::Taken;
use crate::screen::Screen;
use crate::ssh::{command_line, run_ssh};
use crate::verb::create::{MachineArguments, warn_of_nat};

#[derive(Args, Debug)]
#[command(after_help = "\
Without --rm the VM runs on afterwards. With it the VM is deleted when this command ends,
whatever ends it. For exit statuses see: banger --help

Examples:
  banger vm run --rm -- uname -a
  banger vm run --name box
  banger vm run -d --name box && banger vm exec box -- make test
  tar c src | banger vm run --rm -- tar xv")]
pub(crate) struct RunArguments {
    /// What to call it; made up if left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Delete it afterwards
    #[arg(long)]
    rm: bool,

    /// Only start it, and print its name; it runs on
    #[arg(short, long, conflicts_with = "rm")]
    detach: bool,

    /// Say afterwards where the time went
    #[arg(long)]
    explain: bool,

    /// Catches a command that is given without `--`.
    #[arg(hide = true)]
    before_dashes: Option<String>,

    /// The command and its arguments, passed on byte for byte; a shell if left out
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    #[command(flatten)]
    options: CommandOptions,

    #[command(flatten)]
    machine: MachineArguments,
}

/// What to do in the VM, settled before there is one.
enum Work {
    /// A command by streams.
    Streams,
    /// ssh on our terminal, with a line to run or a shell.
    Terminal { line: Option<OsString> },
    /// None.
    Nothing,
}

/// Creates, starts, runs, and with `--rm` deletes.
pub(crate) async fn run(
    arguments: &RunArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let begun = Instant::now();
    let work = work(arguments)?;
    let mut signals = Signals::catch()?;
    // One connection for all of it: a VM with --rm lives as long as this does.
    let mut daemon = signals.or(Daemon::open(screen), || None).await?;
    screen.progress().add("daemon", begun.elapsed());

    let mut params = arguments.machine.params(arguments.name.as_deref());
    params.ephemeral = arguments.rm;
    let vm = signals
        .or(daemon.call::<VmCreate>(params), || {
            Some("the VM may be there all the same: banger vm list".to_owned())
        })
        .await?;
    warn_of_nat(&vm, screen);

    let outcome = in_vm(&vm, &work, arguments, &mut signals, &mut daemon, screen).await;
    let outcome = match (outcome, arguments.rm) {
        (Ok(status), true) => {
            let since = Instant::now();
            let deleted = delete(&vm, &mut signals, &mut daemon).await;
            screen.progress().add("delete", since.elapsed());
            deleted.map(|()| status)
        }
        (Ok(status), false) if arguments.detach => {
            screen.data(&format!("{}\n", vm.name))?;
            Ok(status)
        }
        (Ok(status), false) => {
            screen.say(runs_on(&vm));
            Ok(status)
        }
        // The daemon deletes it when we are gone, unless it is worth a look: it has then said so.
        (Err(error), true) => Err(error),
        (Err(error), false) => Err(error.hint(format!(
            "{0} is still there; see how it is: banger vm show {0}",
            vm.name
        ))),
    };
    if arguments.explain {
        let text = explained(screen.progress().taken(), begun.elapsed());
        screen.asked_for(text);
    }
    outcome
}

fn work(arguments: &RunArguments) -> Result<Work, CommandError> {
    if let Some(word) = &arguments.before_dashes {
        return Err(
            CommandError::new(format!("a command is given after --, and {word:?} is not"))
                .hint(format!("banger vm run -- {word} …"))
                .with_status(ExitStatus::USAGE),
        );
    }
    let options = &arguments.options;
    if arguments.detach {
        return match arguments.command.is_empty() {
            true => Ok(Work::Nothing),
            false => Err(
                CommandError::new("--detach only starts the VM: it runs no command")
                    .hint(
                        "leave a command running in it by: banger vm session start NAME -- COMMAND",
                    )
                    .with_status(ExitStatus::USAGE),
            ),
        };
    }
    if arguments.command.is_empty() {
        if !io::stdin().is_terminal() {
            return Err(CommandError::new(
                "no command given, and standard input is not a terminal for a shell",
            )
            .hint("give it a command: banger vm run -- COMMAND, or: banger vm run -- sh <FILE"));
        }
        let env = options.variables()?;
        // A login shell, as ssh opens one, unless something is to be set for it first.
        let plain = env.is_empty() && options.folder().is_none();
        let shell: [&[u8]; 2] = [b"bash", b"-l"];
        let line = match plain {
            true => None,
            false => Some(command_line(shell.into_iter(), &env, options.folder())?),
        };
        return Ok(Work::Terminal { line });
    }
    Ok(match options.way()? {
        Way::Streams => Work::Streams,
        Way::Terminal => Work::Terminal {
            line: Some(command_line(
                words(&arguments.command),
                &options.variables()?,
                options.folder(),
            )?),
        },
    })
}

async fn in_vm(
    vm: &VmInfo,
    work: &Work,
    arguments: &RunArguments,
    signals: &mut Signals,
    daemon: &mut Daemon<'_>,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let start = StartParams {
        vm: vm.id.clone(),
        wait: true,
    };
    signals
        .or(daemon.call::<VmStart>(start), || match arguments.rm {
            true => Some("the daemon deletes the VM".to_owned()),
            false => Some("the daemon goes on starting the VM".to_owned()),
        })
        .await?;
    match work {
        Work::Nothing => Ok(ExitStatus::SUCCESS),
        Work::Streams => {
            let params = arguments.options.params(&vm.id, &arguments.command)?;
            let since = Instant::now();
            let outcome = guest_command::stream(daemon, signals, params).await;
            screen.progress().add("command", since.elapsed());
            outcome
        }
        Work::Terminal { line } => {
            let params = VmParams { vm: vm.id.clone() };
            let access = signals.or(daemon.call::<VmSsh>(params), || None).await?;
            let since = Instant::now();
            let outcome = run_ssh(&access, line.as_deref(), signals).await;
            screen.progress().add("command", since.elapsed());
            outcome
        }
    }
}

async fn delete(
    vm: &VmInfo,
    signals: &mut Signals,
    daemon: &mut Daemon<'_>,
) -> Result<(), CommandError> {
    let params = VmParams { vm: vm.id.clone() };
    signals
        .or(daemon.call::<VmDelete>(params), || {
            Some("the daemon deletes the VM".to_owned())
        })
        .await?;
    Ok(())
}

fn runs_on(vm: &VmInfo) -> String {
    format!("{0} runs on; stop it: banger vm stop {0}", vm.name)
}

/// A line a stage in the order of time, and what is left over for everything in between.
fn explained(taken: &[Taken], total: Duration) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let width = taken.iter().map(|taken| taken.stage.len()).max();
    let width = width.unwrap_or(0).max("total".len());
    let mut text = "where the time went:".to_owned();
    let mut line = |stage: &str, time: Duration| {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {stage:<width$} {:>10.1} ms", ms(time));
    };
    let mut known = Duration::ZERO;
    for taken in taken {
        line(&taken.stage, taken.time);
        known += taken.time;
    }
    line("other", total.saturating_sub(known));
    line("total", total);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_and_the_rest_add_up_to_the_total() {
        let taken = |stage: &str, ms| Taken {
            stage: stage.to_owned(),
            time: Duration::from_millis(ms),
        };
        let text = explained(
            &[taken("disk", 12), taken("boot", 4800)],
            Duration::from_millis(5000),
        );
        assert_eq!(
            text,
            "where the time went:\n\
             \x20 disk        12.0 ms\n\
             \x20 boot      4800.0 ms\n\
             \x20 other      188.0 ms\n\
             \x20 total     5000.0 ms"
        );
    }
}
