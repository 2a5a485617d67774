//! `banger`: real Linux machines from the command line.
//!
//! Thin: it reads what was typed, asks `bangerd` through [`banger_daemon`]'s client and shows the
//! answer. Standard output is data, standard error everything else. What a run ends with is in
//! [`exit`].

mod age;
mod arguments;
mod command_error;
mod daemon;
mod environment;
mod exit;
mod guest_command;
mod guest_link;
mod progress;
mod screen;
mod size;
mod ssh;
mod table;
mod time_limit;
mod verb;
mod vm_table;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;
use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::screen::Screen;

fn main() -> ExitCode {
    // What a script holds open, a lock above all, is not for the daemon that we may have to start.
    close_fds::set_fds_cloexec(3, &[]);
    verb::completion::answer_scripts();
    let arguments = Arguments::parse();
    let screen = Screen::new(arguments.talk());
    // One thread is enough to wait for one daemon, and starting more would be felt in `ps`.
    let status = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let status = runtime.block_on(run(&arguments, &screen));
            // A thread that still waits for standard input is not waited for.
            runtime.shutdown_background();
            status
        }
        Err(error) => conclude(
            Err(CommandError::io("cannot set up waiting for events", error)),
            ExitStatus::FAILED,
            &screen,
        ),
    };
    ExitCode::from(status.number())
}

async fn run(arguments: &Arguments, screen: &Screen) -> ExitStatus {
    let outcome = verb::run(&arguments.command, screen).await;
    conclude(outcome, arguments.command.status_of_failure(), screen)
}

/// The one place where an error is shown.
fn conclude(
    outcome: Result<ExitStatus, CommandError>,
    failure: ExitStatus,
    screen: &Screen,
) -> ExitStatus {
    match outcome {
        Ok(status) => status,
        Err(error) => {
            screen.error(&error);
            error.status().unwrap_or(failure)
        }
    }
}
