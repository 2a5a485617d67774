//! `banger vm session list` and `show`.

use std::fmt::Display;

use banger_daemon::protocol::{
    Bytes, SessionInfo, SessionList, SessionParams, SessionShow, StdinWord, VmParams,
};
use clap::Args;
use clap_complete::ArgValueCandidates;
use jiff::Timestamp;

use super::SessionName;
use crate::age::{since, to_the_second};
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::table::table;
use crate::verb::completion::vm_names;

/// The longest command in a table, in characters.
const MAX_COMMAND: usize = 50;

#[derive(Args, Debug)]
pub(crate) struct ListArguments {
    /// The VM's name, or at least four digits of its id
    #[arg(add = ArgValueCandidates::new(vm_names))]
    vm: String,

    /// Print an array of sessions
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    session: SessionName,

    /// Print the session as an object
    #[arg(long)]
    json: bool,
}

/// All sessions of a VM.
pub(crate) async fn list(
    arguments: &ListArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let vm = arguments.vm.clone();
    let answer = daemon.call::<SessionList>(VmParams { vm }).await?;
    if arguments.json {
        screen.json(&answer.sessions)?;
        return Ok(ExitStatus::SUCCESS);
    }
    let now = Timestamp::now();
    let rows: Vec<_> = (answer.sessions.iter())
        .map(|session| {
            [
                session.name.clone(),
                state_of(session),
                stdin_word(session.stdin).to_owned(),
                since(&session.created_at, now),
                shortened(&command_line(&session.argv)),
            ]
        })
        .collect();
    screen.data(&table(["NAME", "STATE", "STDIN", "AGE", "COMMAND"], &rows))?;
    if let Some(why) = answer
        .sessions
        .iter()
        .find_map(|session| session.stale.as_ref())
    {
        screen.say(format_args!("this is what was seen last: {why}"));
    }
    Ok(ExitStatus::SUCCESS)
}

/// One session.
pub(crate) async fn show(
    arguments: &ShowArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let SessionName { vm, session } = &arguments.session;
    let params = SessionParams {
        vm: vm.clone(),
        session: session.clone(),
    };
    let session = daemon.call::<SessionShow>(params).await?;
    match arguments.json {
        true => screen.json(&session)?,
        false => screen.data(&described(&session))?,
    }
    Ok(ExitStatus::SUCCESS)
}

/// `running`, `exited (3)`, `failed`.
pub(super) fn state_of(session: &SessionInfo) -> String {
    match session.exit_code {
        Some(code) => format!("{} ({code})", session.status),
        None => session.status.clone(),
    }
}

/// One line a fact; what there is not is left out.
fn described(session: &SessionInfo) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn Display| {
        text.push_str(&format!("{:<16}{value}\n", format!("{key}:")));
    };
    line("name", &session.name);
    line("id", &session.id);
    line("state", &state_of(session));
    if let Some(why) = &session.stale {
        line("seen last", why);
    }
    if let Some(error) = &session.error {
        line("error", error);
    }
    if let Some(stage) = &session.failed_at {
        line("failed at", stage);
    }
    line("command", &command_line(&session.argv));
    line("folder", &word(&session.cwd));
    for (name, value) in &session.env {
        line("variable", &format!("{name}={}", word(value)));
    }
    line("stdin", &stdin_word(session.stdin));
    for command in &session.required {
        line("required", command);
    }
    for (key, value) in &session.tags {
        line("tag", &format!("{key}={value}"));
    }
    if let Some(pid) = session.pid {
        line("process", &format!("{pid} (in the guest)"));
    }
    line("created", &to_the_second(&session.created_at));
    line("changed", &to_the_second(&session.updated_at));
    text
}

/// A command as one line that cannot play with a terminal.
fn command_line(argv: &[Bytes]) -> String {
    let words: Vec<String> = argv.iter().map(word).collect();
    words.join(" ")
}

/// As it is where that is plain, else quoted, with what cannot be printed written out.
fn word(bytes: &Bytes) -> String {
    let bytes: Vec<u8> = bytes.clone().into();
    let text = String::from_utf8_lossy(&bytes);
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,@%+".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.into_owned(),
        false => format!("{text:?}"),
    }
}

fn shortened(text: &str) -> String {
    match text.chars().count() > MAX_COMMAND {
        true => text.chars().take(MAX_COMMAND - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

fn stdin_word(stdin: StdinWord) -> &'static str {
    match stdin {
        StdinWord::Closed => "closed",
        StdinWord::Pipe => "pipe",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_line_whatever_is_in_it() {
        let argv = ["sh", "-c", "echo \"$A\"\n\x1b[2J", ""].map(|w| Bytes::Text(w.to_owned()));
        assert_eq!(command_line(&argv), r#"sh -c "echo \"$A\"\n\u{1b}[2J" """#);
    }

    #[test]
    fn a_long_command_is_cut() {
        assert_eq!(shortened(&"x".repeat(50)), "x".repeat(50));
        assert_eq!(shortened(&"ä".repeat(51)), format!("{}…", "ä".repeat(49)));
    }
}
