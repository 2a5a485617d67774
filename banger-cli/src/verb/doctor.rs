//! `banger doctor`.

mod prove;

use banger_daemon::protocol::{Doctor, DoctorAnswer, DoctorLine, Nothing};
use clap::Args;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::table::table;

#[derive(Args, Debug)]
pub(crate) struct DoctorArguments {
    /// Instead, list everything on the host that is banger's, with its owner; fails if something is nobody's
    #[arg(long)]
    prove: bool,

    /// Then remove what is nobody's
    #[arg(long, requires = "prove")]
    fix: bool,

    /// Print the report as an object
    #[arg(long)]
    json: bool,
}

/// Shows the report; fails if some part of a VM has no backend that works.
pub(crate) async fn doctor(
    arguments: &DoctorArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    if arguments.prove {
        let then = match arguments.fix {
            true => prove::Then::Fix,
            false => prove::Then::Stop,
        };
        return prove::prove(daemon, then, arguments.json, screen).await;
    }
    let report = daemon.call::<Doctor>(Nothing {}).await?;
    if arguments.json {
        screen.json(&report)?;
    } else {
        screen.data(&described(&report))?;
    }
    match lacking(&report.candidates).as_slice() {
        [] => Ok(ExitStatus::SUCCESS),
        subjects => Err(CommandError::new(format!(
            "no VM can be run here: nothing works for {}",
            subjects.join(", ")
        ))),
    }
}

fn described(report: &DoctorAnswer) -> String {
    let lines = || report.candidates.iter().chain(&report.facts);
    let rows: Vec<_> = lines()
        .map(|line| {
            [
                line.subject.clone(),
                line.name.clone(),
                verdict(line).to_owned(),
                line.reason.clone(),
            ]
        })
        .collect();
    let mut text = table(["WHAT", "WHICH", "WORKS", "WHY"], &rows);
    for line in lines() {
        if let Some(hint) = &line.hint {
            text.push_str(&format!("\n{} {}: {hint}", line.subject, line.name));
        }
    }
    if lines().any(|line| line.hint.is_some()) {
        text.push('\n');
    }
    text
}

fn verdict(line: &DoctorLine) -> &'static str {
    match (line.works, line.picked) {
        (true, true) => "yes, picked",
        (true, false) => "yes",
        (false, _) => "no",
    }
}

/// The subjects none of whose candidates works, each once.
fn lacking(candidates: &[DoctorLine]) -> Vec<&str> {
    let mut subjects: Vec<&str> = Vec::new();
    for line in candidates {
        let subject = line.subject.as_str();
        let works = candidates
            .iter()
            .any(|line| line.subject == subject && line.works);
        if !works && !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    subjects
}
