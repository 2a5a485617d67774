//! `banger doctor --prove [--fix]`.

use banger_daemon::protocol::{
    DoctorFix, DoctorProve, FixAnswer, FixParams, Nothing, ProveAnswer, ProvenObject,
};
use serde::Serialize;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::table::table;

/// What follows on the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Stop,
    /// Strays are removed: those that were shown, and no other.
    Fix,
}

#[derive(Serialize)]
struct Fixed<'a> {
    proof: &'a ProveAnswer,
    fix: &'a FixAnswer,
}

/// Shows everything with its owner, and then removes strays if that was asked for. Fails if one is left.
pub(super) async fn prove(
    mut daemon: Daemon<'_>,
    then: Then,
    json: bool,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let proof = daemon.call::<DoctorProve>(Nothing {}).await?;
    if !json {
        show(&proof, screen)?;
    }
    let strays: Vec<&ProvenObject> = proof.objects.iter().filter(|object| object.stray).collect();
    if then == Then::Stop || strays.is_empty() {
        if json {
            screen.json(&proof)?;
        }
        return verdict(&strays);
    }
    let params = FixParams {
        strays: strays.iter().map(|stray| stray.key.clone()).collect(),
    };
    let fix = daemon.call::<DoctorFix>(params).await?;
    if json {
        screen.json(&Fixed {
            proof: &proof,
            fix: &fix,
        })?;
    }
    told(&strays, &fix, screen)
}

fn show(proof: &ProveAnswer, screen: &Screen) -> Result<(), CommandError> {
    let rows: Vec<_> = proof
        .objects
        .iter()
        .map(|object| {
            [
                object.kind.clone(),
                object.which.clone(),
                object.owner.clone(),
            ]
        })
        .collect();
    screen.data(&table(["WHAT", "WHICH", "OWNER"], &rows))?;
    screen.say(format!("looked for: {}", proof.kinds.join(", ")));
    for other in &proof.foreign {
        screen.say(format!(
            "engine {}, not this one, has {} running and {} in the runtime folder: left alone",
            other.engine,
            counted(other.monitors, "VM"),
            counted(other.runtime_folders, "folder"),
        ));
    }
    Ok(())
}

fn verdict(strays: &[&ProvenObject]) -> Result<ExitStatus, CommandError> {
    if strays.is_empty() {
        return Ok(ExitStatus::SUCCESS);
    }
    let error = CommandError::new(format!("{} found", counted(strays.len(), "stray")));
    Err(match strays.iter().any(|stray| stray.removable) {
        true => error.hint("banger doctor --prove --fix removes what may be removed"),
        false => error.hint("these are left to you: they may be somebody's only copy"),
    })
}

/// Says what became of each stray.
fn told(
    strays: &[&ProvenObject],
    fix: &FixAnswer,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut outcome = Ok(ExitStatus::SUCCESS);
    for stray in strays {
        let name = format!("{} {}", stray.kind, stray.which);
        let line = fix.lines.iter().find(|line| line.key == stray.key);
        match line.map(|line| line.outcome.as_str()) {
            Some("removed") => screen.say(format!("{name}: removed")),
            Some("no_stray_any_more") => screen.say(format!("{name}: not a stray any more")),
            Some("left_to_you") => {
                let error = CommandError::new(format!("{name}: left to you"));
                screen.error(&error.hint("it may be somebody's only copy"));
                outcome = Err(CommandError::already_told());
            }
            _ => {
                let mut error = CommandError::new(format!("{name}: not removed"));
                if let Some(why) = line.and_then(|line| line.error.clone()) {
                    error = error.because(why);
                }
                screen.error(&error);
                outcome = Err(CommandError::already_told());
            }
        }
    }
    outcome
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}
