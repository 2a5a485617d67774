//! `banger vm session attach`.

use std::io::{self, IsTerminal};

use banger_daemon::protocol::{LogPlace, SessionAttachParams};
use clap::Args;

use super::SessionName;
use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::guest_command::{self, Attach, Form};
use crate::screen::Screen;

#[derive(Args, Debug)]
#[command(after_help = "\
One client at a time: a second one is told who is attached. Ctrl-] leaves the session, which
runs on; it also does whatever ends banger. Ctrl-C goes to the session's processes; a second one
within a second leaves. The end of our input is not that of the session's: for that there is
send --eof.

Exit status:
  0       the session ended with 0, or was left
  124     refused: somebody else is attached, or there is no such session
  125     how the session ended is not known: its VM was stopped or deleted, or does not answer
  128+n   signal n ended the session's command, or banger
  other   what the session's command ended with
What a session ended with by itself is told from the rest by --json: its last object says it.")]
pub(crate) struct AttachArguments {
    #[command(flatten)]
    session: SessionName,

    /// Begin with this many last lines of both logs [default: 200]
    #[arg(short = 'n', long, value_name = "N", conflicts_with_all = ["stdout_offset", "stderr_offset"])]
    lines: Option<u64>,

    /// Begin with this byte of standard output
    #[arg(long, value_name = "BYTE")]
    stdout_offset: Option<u64>,

    /// Begin with this byte of standard error
    #[arg(long, value_name = "BYTE")]
    stderr_offset: Option<u64>,

    /// Only watch: pass on no input
    #[arg(long)]
    no_stdin: bool,

    /// Print an object a piece; the last one says how it ended
    #[arg(long)]
    json: bool,
}

/// Attaches, and ends as the session does.
pub(crate) async fn attach(
    arguments: &AttachArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let SessionName { vm, session } = &arguments.session;
    let lines = arguments.lines.map(LogPlace::LastLines);
    let place = |offset: Option<u64>| offset.map(LogPlace::Offset).or(lines);
    let attach = Attach {
        params: SessionAttachParams {
            vm: vm.clone(),
            session: session.clone(),
            holder: holder(),
            stdout: place(arguments.stdout_offset),
            stderr: place(arguments.stderr_offset),
        },
        with_input: !arguments.no_stdin,
        form: match arguments.json {
            true => Form::Objects,
            false => Form::Bytes,
        },
    };
    guest_command::attach(screen, attach).await
}

/// What a second attacher is told of us: enough to find this window, or to end it.
fn holder() -> String {
    let process = std::process::id();
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    match io::stdin().is_terminal().then(terminal).flatten() {
        Some(terminal) => format!("{user} on {terminal} (process {process})"),
        None => format!("{user} (process {process})"),
    }
}

fn terminal() -> Option<String> {
    let name = rustix::termios::ttyname(io::stdin(), Vec::new()).ok()?;
    Some(name.to_string_lossy().into_owned())
}
