//! `banger vm run`.

use std::ffi::OsString;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_daemon::protocol::{
    Carry, ExportParams, InspectParams, PrepareParams, SetParams, StartParams, VmCreate, VmDelete,
    VmInfo, VmParams, VmSet, VmSsh, VmStart, WorkspaceInspect, WorkspacePrepare,
};
use clap::Args;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::{self, CommandOptions, Signals, Way, words};
use crate::progress::Taken;
use crate::screen::Screen;
use crate::ssh::{command_line, run_ssh};
use crate::verb::create::{MachineArguments, warn_of_nat};
use crate::verb::workspace::carry::{CarryOptions, remark};
use crate::verb::workspace::export::{to_file, try_file};

#[derive(Args, Debug)]
#[command(after_help = "\
Without --rm the VM runs on afterwards. With it the VM is deleted when this command ends,
whatever ends it; only if --export fails it is kept, and named. For exit statuses see: banger --help

Examples:
  banger vm run --rm -- uname -a
  banger vm run --rm ./repo --export changes.patch -- make test
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

    /// A git repository to carry in, and to run the command in
    #[arg(value_name = "PATH")]
    path: Option<OsString>,

    /// Write what the command changed in the repository to a file, whatever its exit status
    #[arg(long, value_name = "FILE", requires = "path")]
    export: Option<PathBuf>,

    /// The command and its arguments, passed on byte for byte; a shell if left out
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    #[command(flatten)]
    options: CommandOptions,

    #[command(flatten)]
    machine: MachineArguments,

    #[command(flatten)]
    carry: CarryOptions,
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
    let what = carry(arguments)?;
    let work = work(arguments)?;
    let mut signals = Signals::catch()?;
    // One connection for all of it: a VM with --rm lives as long as this does.
    let mut daemon = signals.or(Daemon::open(screen), || None).await?;
    screen.progress().add("daemon", begun.elapsed());

    if let Some(what) = &what {
        // Refused before there is a VM.
        let params = InspectParams { what: what.clone() };
        let inspected = daemon.call::<WorkspaceInspect>(params);
        signals.or(inspected, || None).await?;
    }
    if let Some(file) = &arguments.export {
        signals.or(try_file(file), || None).await?;
    }
    let mut params = arguments.machine.params(arguments.name.as_deref());
    params.ephemeral = arguments.rm;
    let vm = signals
        .or(daemon.call::<VmCreate>(params), || {
            Some("the VM may be there all the same: banger vm list".to_owned())
        })
        .await?;
    warn_of_nat(&vm, screen);

    let outcome = in_vm(
        &vm,
        &work,
        what,
        arguments,
        &mut signals,
        &mut daemon,
        screen,
    )
    .await;
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

/// The repository that was named; a word that names none is a command that lacks its dashes.
fn carry(arguments: &RunArguments) -> Result<Option<Carry>, CommandError> {
    let Some(path) = &arguments.path else {
        return Ok(None);
    };
    let is_path = path.as_encoded_bytes().contains(&b'/') || Path::new(path).exists();
    if !is_path {
        let word = path.to_string_lossy();
        let error = format!("a command is given after --, and {word:?} is not");
        return Err(CommandError::new(error)
            .hint(format!("banger vm run -- {word} …"))
            .with_status(ExitStatus::USAGE));
    }
    arguments.carry.carry(path, false).map(Some)
}

fn work(arguments: &RunArguments) -> Result<Work, CommandError> {
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
        let home = home(arguments);
        let folder = options.folder(home.as_deref());
        let plain = env.is_empty() && folder.is_none();
        let shell: [&[u8]; 2] = [b"bash", b"-l"];
        let line = match plain {
            true => None,
            false => Some(command_line(shell.into_iter(), &env, folder)?),
        };
        return Ok(Work::Terminal { line });
    }
    Ok(match options.way()? {
        Way::Streams => Work::Streams,
        Way::Terminal => Work::Terminal {
            line: Some(command_line(
                words(&arguments.command),
                &options.variables()?,
                options.folder(home(arguments).as_deref()),
            )?),
        },
    })
}

/// Where the repository that was named will be.
fn home(arguments: &RunArguments) -> Option<Vec<u8>> {
    arguments
        .path
        .as_ref()
        .map(|_| arguments.carry.guest_path())
}

async fn in_vm(
    vm: &VmInfo,
    work: &Work,
    what: Option<Carry>,
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
    if let Some(what) = what {
        let params = PrepareParams {
            vm: vm.id.clone(),
            what,
            dry_run: false,
        };
        let prepared = signals
            .or(daemon.call::<WorkspacePrepare>(params), || None)
            .await?;
        remark(
            &prepared.repository,
            arguments.carry.carries_untracked(),
            screen,
        );
    }
    let outcome = at_work(vm, work, arguments, signals, daemon, screen).await;
    let Some(file) = &arguments.export else {
        return outcome;
    };
    let params = ExportParams {
        vm: vm.id.clone(),
        base: None,
    };
    let since = Instant::now();
    let exported = signals.or(to_file(daemon, params, file), || None).await;
    screen.progress().add("export", since.elapsed());
    // Whoever ends it by a signal wants it gone.
    let exported = match exported {
        Err(error) if arguments.rm && error.status().is_none() => {
            Err(keep(vm, error, daemon).await)
        }
        exported => exported,
    };
    match (outcome, exported) {
        (Ok(status), Ok(_)) => Ok(status),
        (Ok(_), Err(error)) => Err(error),
        // What became of the command weighs more.
        (Err(error), Ok(_)) => Err(error),
        (Err(error), Err(also)) => {
            screen.error(&also);
            Err(error)
        }
    }
}

/// Has a VM outlive us whose work did not come home.
async fn keep(vm: &VmInfo, error: CommandError, daemon: &mut Daemon<'_>) -> CommandError {
    let params = SetParams {
        vm: vm.id.clone(),
        keep: true,
        ..SetParams::default()
    };
    match daemon.call::<VmSet>(params).await {
        Ok(_) => error.hint(format!(
            "{0} was kept, with the work in it: banger vm workspace export {0} -o FILE, and then: banger vm delete {0}",
            vm.name
        )),
        Err(_) => error,
    }
}

async fn at_work(
    vm: &VmInfo,
    work: &Work,
    arguments: &RunArguments,
    signals: &mut Signals,
    daemon: &mut Daemon<'_>,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    match work {
        Work::Nothing => Ok(ExitStatus::SUCCESS),
        Work::Streams => {
            let options = &arguments.options;
            let params = options.params(&vm.id, &arguments.command, home(arguments).as_deref())?;
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
