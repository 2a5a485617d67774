//! `banger vm session logs`.

use banger_daemon::protocol::{LogPlace, SessionLogsParams};
use banger_session::mux::Stream;
use clap::{Args, ValueEnum};

use super::SessionName;
use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::guest_command::{Form, follow};
use crate::screen::Screen;

#[derive(Args, Debug)]
#[command(after_help = "\
With --offset reading goes on exactly where an earlier one ended. -f loses and repeats no byte
when the connection to the guest or the daemon is lost, and ends when the session does.")]
pub(crate) struct LogsArguments {
    #[command(flatten)]
    session: SessionName,

    /// Which log
    #[arg(long, value_name = "STREAM", default_value = "stdout")]
    stream: Log,

    /// Begin with this many last lines [default: 200]
    #[arg(short = 'n', long, value_name = "N", conflicts_with_all = ["offset", "all"])]
    lines: Option<u64>,

    /// Begin with this byte
    #[arg(long, value_name = "BYTE", conflicts_with = "all")]
    offset: Option<u64>,

    /// Begin with the first byte
    #[arg(short, long)]
    all: bool,

    /// Go on with what comes, until the session ends
    #[arg(short, long)]
    follow: bool,

    /// Print an object a line: stream, offset and data of a piece
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Log {
    Stdout,
    Stderr,
}

/// Prints a log, which is data, on standard output.
pub(crate) async fn logs(
    arguments: &LogsArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let SessionName { vm, session } = &arguments.session;
    let from = match (arguments.all, arguments.offset, arguments.lines) {
        (true, ..) => Some(LogPlace::Offset(0)),
        (_, Some(offset), _) => Some(LogPlace::Offset(offset)),
        (.., lines) => lines.map(LogPlace::LastLines),
    };
    let params = SessionLogsParams {
        vm: vm.clone(),
        session: session.clone(),
        stream: match arguments.stream {
            Log::Stdout => Stream::Stdout,
            Log::Stderr => Stream::Stderr,
        },
        from,
        follow: arguments.follow,
    };
    let form = match arguments.json {
        true => Form::Objects,
        false => Form::Bytes,
    };
    follow(screen, params, form).await
}
