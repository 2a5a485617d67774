//! What to do about one VM. Pure and total.

use crate::liveness::{Monitor, Standing};
use crate::vm::{Lifetime, VMRecord};

/// What was seen of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its row's lifetime; none without a row.
    pub(super) row: Option<Lifetime>,
    pub(super) folder: Folder,
    pub(super) standing: Standing,
    pub(super) leftovers: Leftovers,
    /// Its handles are of an earlier boot of the host.
    pub(super) rebooted: bool,
    /// This engine watches it already.
    pub(super) watched: bool,
    /// The engine is just being opened: no client is connected to it.
    pub(super) opening: bool,
    /// Its row says already that its files are gone.
    pub(super) files_gone_noted: bool,
}

impl Facts {
    /// A VM of which nothing may be concluded.
    pub(super) fn unknowable(row: Option<&VMRecord>, folder: Folder, reason: String) -> Self {
        Facts {
            row: row.map(|row| row.spec.lifetime),
            folder,
            standing: Standing::CannotTell(reason),
            leftovers: Leftovers::None,
            rebooted: false,
            watched: false,
            opening: false,
            files_gone_noted: false,
        }
    }
}

/// How far its folder has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folder {
    Complete,
    New,
    Trash,
    None,
}

/// Whether a run has left a handles file, a runtime folder, or something in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftovers {
    Some,
    None,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// At rest, as recorded, or watched already.
    Nothing,
    /// It runs, as recorded: watch it.
    Keep(Monitor),
    /// Nothing may be touched.
    LeaveAlone(String),
    /// It was to run and does not: release what it held.
    MarkStopped(String),
    /// A start that nobody acknowledged: end it, release what it held; its state stays.
    UndoStart(Monitor),
    /// A run's leftovers.
    CleanUp,
    /// The row is there: the folder only lacks its name.
    FinishCreate,
    /// No row: it was never created.
    RemoveUnborn,
    /// A delete that was begun.
    FinishDelete(Option<Monitor>),
    /// Its client is gone, and it was to live no longer.
    DeleteEphemeral,
    /// A row without a folder.
    FilesGone,
    /// A complete folder without a row: somebody's disks. Never removed.
    Orphan,
    /// A monitor of ours without a row or a folder.
    EndStray(Monitor),
    /// What a VM that is no more holds in the kernel.
    RemoveHeld,
}

/// Decides. Every combination has an answer.
pub(super) fn decide(facts: &Facts) -> Action {
    if let Standing::CannotTell(reason) = &facts.standing {
        return Action::LeaveAlone(reason.clone());
    }
    let alive = match &facts.standing {
        Standing::Runs(monitor) | Standing::HalfStarted(monitor) => Some(monitor.clone()),
        _ => None,
    };
    match (facts.row, facts.folder) {
        (_, Folder::Trash) => Action::FinishDelete(alive),
        // Whoever asked for it is gone, and it was to live no longer.
        (Some(Lifetime::Ephemeral), Folder::New) if facts.opening => Action::DeleteEphemeral,
        (Some(_), Folder::New) => Action::FinishCreate,
        (None, Folder::New) => Action::RemoveUnborn,
        (None, Folder::Complete) => Action::Orphan,
        (None, Folder::None) => match (alive, facts.leftovers) {
            (Some(monitor), _) => Action::EndStray(monitor),
            (None, Leftovers::Some) => Action::RemoveHeld,
            (None, Leftovers::None) => Action::Nothing,
        },
        (Some(_), Folder::None) => match alive {
            Some(_) => Action::LeaveAlone("it runs, but its folder is gone".to_owned()),
            None if facts.files_gone_noted => Action::Nothing,
            None => Action::FilesGone,
        },
        (Some(lifetime), Folder::Complete) => decide_complete(facts, lifetime),
    }
}

fn decide_complete(facts: &Facts, lifetime: Lifetime) -> Action {
    // A client that holds an ephemeral VM is connected to an engine that is open.
    if lifetime == Lifetime::Ephemeral && facts.opening {
        return Action::DeleteEphemeral;
    }
    match &facts.standing {
        Standing::Runs(_) if facts.watched => Action::Nothing,
        Standing::Runs(monitor) => Action::Keep(monitor.clone()),
        Standing::Ended if facts.rebooted => {
            Action::MarkStopped("the host was restarted".to_owned())
        }
        Standing::Ended => Action::MarkStopped("it ended while no engine was watching".to_owned()),
        Standing::HalfStarted(monitor) => Action::UndoStart(monitor.clone()),
        Standing::Rests if facts.leftovers == Leftovers::Some => Action::CleanUp,
        Standing::Rests => Action::Nothing,
        Standing::CannotTell(reason) => Action::LeaveAlone(reason.clone()),
    }
}

impl Action {
    /// Returns the stable word and the reason to tell; none where there is nothing to tell.
    pub(super) fn told(&self) -> Option<(&'static str, String)> {
        let told = match self {
            Action::Nothing => return None,
            Action::Keep(_) => ("kept", "it runs".to_owned()),
            Action::LeaveAlone(reason) => ("left alone", reason.clone()),
            Action::MarkStopped(reason) => ("stopped", reason.clone()),
            Action::UndoStart(_) => ("undone", "its start was never acknowledged".to_owned()),
            Action::CleanUp => (
                "cleaned",
                "a run that is over had left something".to_owned(),
            ),
            Action::FinishCreate => ("created", "its creation had been interrupted".to_owned()),
            Action::RemoveUnborn => ("removed", "its creation had been interrupted".to_owned()),
            Action::FinishDelete(_) => ("deleted", "its deletion had been interrupted".to_owned()),
            Action::DeleteEphemeral => ("deleted", "its client is gone".to_owned()),
            Action::FilesGone => ("error", "its files are gone".to_owned()),
            Action::Orphan => (
                "orphan",
                "a VM's folder without a record; it is never removed by itself".to_owned(),
            ),
            Action::RemoveHeld => (
                "cleaned",
                "devices or a network of a VM that is no more".to_owned(),
            ),
            Action::EndStray(_) => (
                "ended",
                "a monitor of ours that belongs to no VM".to_owned(),
            ),
        };
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ProcessIdentity;
    use crate::liveness::just_started;
    use crate::names::RunId;

    fn monitor() -> Monitor {
        let process = ProcessIdentity {
            pid: 7,
            start_time: 7,
        };
        just_started(process, RunId::from_random([7; 8]))
    }

    fn standings() -> [Standing; 5] {
        [
            Standing::Runs(monitor()),
            Standing::Ended,
            Standing::HalfStarted(monitor()),
            Standing::Rests,
            Standing::CannotTell("why".to_owned()),
        ]
    }

    fn all() -> Vec<Facts> {
        let mut all = Vec::new();
        for row in [None, Some(Lifetime::Kept), Some(Lifetime::Ephemeral)] {
            for folder in [Folder::Complete, Folder::New, Folder::Trash, Folder::None] {
                for standing in standings() {
                    for leftovers in [Leftovers::Some, Leftovers::None] {
                        for bits in 0..16 {
                            all.push(Facts {
                                row,
                                folder,
                                standing: standing.clone(),
                                leftovers,
                                rebooted: bits & 1 != 0,
                                watched: bits & 2 != 0,
                                files_gone_noted: bits & 4 != 0,
                                opening: bits & 8 != 0,
                            });
                        }
                    }
                }
            }
        }
        all
    }

    #[test]
    fn what_cannot_be_told_is_never_touched() {
        for facts in all() {
            if matches!(facts.standing, Standing::CannotTell(_)) {
                assert!(matches!(decide(&facts), Action::LeaveAlone(_)), "{facts:?}");
            }
        }
    }

    #[test]
    fn an_acknowledged_run_of_a_kept_vm_is_never_ended() {
        for facts in all() {
            let kept = facts.row == Some(Lifetime::Kept) && facts.folder == Folder::Complete;
            if kept && matches!(facts.standing, Standing::Runs(_)) {
                let action = decide(&facts);
                assert!(
                    matches!(action, Action::Keep(_) | Action::Nothing),
                    "{facts:?}: {action:?}"
                );
            }
        }
    }

    #[test]
    fn a_complete_folder_without_a_row_is_never_removed() {
        for facts in all() {
            if facts.row.is_none() && facts.folder == Folder::Complete {
                let action = decide(&facts);
                assert!(
                    matches!(action, Action::Orphan | Action::LeaveAlone(_)),
                    "{facts:?}: {action:?}"
                );
            }
        }
    }

    #[test]
    fn an_action_that_needs_a_row_is_decided_only_with_one() {
        for facts in all() {
            let needs_row = !matches!(
                decide(&facts),
                Action::Nothing
                    | Action::LeaveAlone(_)
                    | Action::Orphan
                    | Action::RemoveUnborn
                    | Action::FinishDelete(_)
                    | Action::EndStray(_)
                    | Action::RemoveHeld
            );
            assert!(!needs_row || facts.row.is_some(), "{facts:?}");
        }
    }

    #[test]
    fn each_crash_has_its_answer() {
        let facts = |row, folder, standing, leftovers| Facts {
            row,
            folder,
            standing,
            leftovers,
            rebooted: false,
            watched: false,
            opening: false,
            files_gone_noted: false,
        };
        let kept = Some(Lifetime::Kept);
        let (some, none) = (Leftovers::Some, Leftovers::None);
        let half = Standing::HalfStarted(monitor());
        let table = [
            (facts(None, Folder::New, Standing::Rests, none), "removed"),
            (facts(kept, Folder::New, Standing::Rests, none), "created"),
            (facts(kept, Folder::Complete, half, some), "undone"),
            (
                facts(kept, Folder::Complete, Standing::Rests, some),
                "cleaned",
            ),
            (
                facts(kept, Folder::Complete, Standing::Ended, some),
                "stopped",
            ),
            (facts(kept, Folder::Trash, Standing::Rests, none), "deleted"),
            (facts(None, Folder::Trash, Standing::Rests, none), "deleted"),
            (facts(kept, Folder::None, Standing::Rests, none), "error"),
        ];
        for (facts, word) in table {
            let told = decide(&facts).told();
            assert_eq!(told.map(|(word, _)| word), Some(word), "{facts:?}");
        }
    }
}
