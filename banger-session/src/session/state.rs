//! What the host's record says of a session, and how an answer of the guest
//! changes it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::snapshot::{Folder, Liveness, Process, StateSnapshot};
use crate::signal::{ProcessGroup, Signal};

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// Asked for; its command does not run yet.
    Starting,
    /// Its command runs.
    Running,
    /// Its command ended, with a status.
    Exited,
    /// Its command was never run, or how it ended cannot be known.
    Failed,
    /// It was told to stop and has not ended yet. Known to the host only.
    Stopping,
}

impl SessionStatus {
    /// The word in records, in the guest's file and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
        }
    }

    /// Whether nothing can change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Exited | Self::Failed)
    }

    /// Reads the guest's file, which never says `stopping`.
    pub(super) fn from_guest(word: &str) -> Option<Self> {
        [Self::Starting, Self::Running, Self::Exited, Self::Failed]
            .into_iter()
            .find(|status| status.name() == word)
    }
}

impl fmt::Display for SessionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a session's command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdinMode {
    /// End of file at once.
    #[default]
    Closed,
    /// What `send` and attach write.
    Pipe,
}

/// The step at which a session failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The working folder.
    PreflightCwd,
    /// The command, or one that is required.
    PreflightCommand,
    /// Writing and starting the monitor.
    Launch,
    /// The monitor was killed: nobody saw how the command ended.
    Monitor,
    /// The guest was rebooted or stopped, or lost the session's files.
    Guest,
}

impl Stage {
    const ALL: [Self; 5] = [
        Self::PreflightCwd,
        Self::PreflightCommand,
        Self::Launch,
        Self::Monitor,
        Self::Guest,
    ];

    /// The word in records and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreflightCwd => "preflight_cwd",
            Self::PreflightCommand => "preflight_command",
            Self::Launch => "launch",
            Self::Monitor => "monitor",
            Self::Guest => "guest",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a session failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// At which step.
    pub stage: Stage,
    /// What was wrong, naming what is missing.
    pub message: String,
}

impl Failure {
    /// Reads what [`format_step_error`] wrote; text without a stage is taken
    /// for one of [`Stage::Launch`].
    pub(super) fn from_text(text: &str) -> Self {
        let parts = text.split_once(": ").and_then(|(stage, message)| {
            let stage = Stage::ALL.into_iter().find(|known| known.name() == stage)?;
            Some((stage, message))
        });
        let (stage, message) = parts.unwrap_or((Stage::Launch, text));
        Self {
            stage,
            message: message.to_owned(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_step_error(self.stage, &self.message))
    }
}

/// The part of a session's record that follows the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Where it stands.
    pub status: SessionStatus,
    /// The command's process group in the guest, once it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<ProcessGroup>,
    /// When the command began, in clock ticks after the guest's boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
    /// The guest's boot the session belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Its status, if it exited; 128 + n after signal n.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl Default for SessionState {
    /// A session that was asked for and of which nothing is known yet.
    fn default() -> Self {
        Self {
            status: SessionStatus::Starting,
            pid: None,
            start_time: None,
            boot_id: None,
            exit_code: None,
            failure: None,
        }
    }
}

/// Brings a record up to what was seen in the guest.
///
/// Total and deterministic. A final status stays as it is, and
/// [`SessionStatus::Stopping`] stays until the session is final.
pub fn apply_state_snapshot(state: &mut SessionState, seen: &StateSnapshot) {
    if state.status.is_final() {
        return;
    }
    if seen.folder == Folder::Missing {
        let lost = "the session's files are gone from the guest";
        return fail_launch(state, Stage::Guest, lost);
    }
    state.pid = seen.pid.or(state.pid);
    state.start_time = seen.start_time.or(state.start_time);
    if seen.boot_id.is_some() {
        state.boot_id.clone_from(&seen.boot_id);
    }
    match (seen.status, seen.exit_code) {
        // Written before the status that goes with it; `running` beside it is
        // a monitor that was killed between the two.
        (Some(SessionStatus::Exited | SessionStatus::Running), Some(exit_code)) => {
            state.status = SessionStatus::Exited;
            state.exit_code = Some(exit_code);
        }
        (Some(SessionStatus::Exited), None) => {
            let lost = "the command ended, and its status was lost";
            fail_launch(state, Stage::Monitor, lost);
        }
        (Some(SessionStatus::Failed), _) => apply_failure(state, seen),
        _ => apply_unfinished(state, seen),
    }
}

/// Whether a record has to be stored again.
pub fn state_changed(before: &SessionState, after: &SessionState) -> bool {
    before != after
}

/// Marks a session failed, unless it has ended already.
pub fn fail_launch(state: &mut SessionState, stage: Stage, message: &str) {
    if state.status.is_final() {
        return;
    }
    state.status = SessionStatus::Failed;
    state.failure = Some(Failure {
        stage,
        message: message.to_owned(),
    });
}

/// Writes a failure as people and the guest's `error` file have it:
/// `preflight_cwd: cannot enter …`.
pub fn format_step_error(stage: Stage, detail: &str) -> String {
    format!("{stage}: {detail}")
}

/// Writes a status for people: `status 3`, `status 143 (TERM)`.
pub fn describe_exit(exit_code: i32) -> String {
    let signal = exit_code
        .checked_sub(128)
        .and_then(|number| u32::try_from(number).ok())
        .and_then(Signal::from_number);
    match signal {
        Some(signal) => format!("status {exit_code} ({signal})"),
        None => format!("status {exit_code}"),
    }
}

/// What the guest's files call starting or running, or nothing yet.
fn apply_unfinished(state: &mut SessionState, seen: &StateSnapshot) {
    if seen.error.is_some() {
        return apply_failure(state, seen);
    }
    let was_running = seen.status == Some(SessionStatus::Running);
    match seen.liveness {
        Liveness::Rebooted => fail_launch(
            state,
            Stage::Guest,
            "the guest was rebooted while the session ran",
        ),
        Liveness::Offline => {
            fail_launch(state, Stage::Guest, "the VM stopped while the session ran")
        }
        // The monitor is about to write what comes next; a command whose
        // monitor was killed runs on all the same.
        Liveness::Seen {
            monitor: Process::Alive,
            ..
        }
        | Liveness::Seen {
            command: Process::Alive,
            ..
        } => {
            if was_running && state.status == SessionStatus::Starting {
                state.status = SessionStatus::Running;
            }
        }
        Liveness::Seen { .. } if was_running => fail_launch(
            state,
            Stage::Monitor,
            "the session's monitor was killed; how its command ended is not known",
        ),
        Liveness::Seen { .. } => fail_launch(
            state,
            Stage::Launch,
            "the session's monitor ended before the command ran",
        ),
    }
}

fn apply_failure(state: &mut SessionState, seen: &StateSnapshot) {
    let failure = match &seen.error {
        Some(text) => Failure::from_text(text),
        None => Failure::from_text("the guest gave no reason"),
    };
    fail_launch(state, failure.stage, &failure.message);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIVE: Liveness = Liveness::Seen {
        monitor: Process::Alive,
        command: Process::Alive,
        group: Process::Alive,
    };
    const GONE: Liveness = Liveness::Seen {
        monitor: Process::Gone,
        command: Process::Gone,
        group: Process::Gone,
    };

    fn seen(status: SessionStatus, liveness: Liveness) -> StateSnapshot {
        StateSnapshot {
            status: Some(status),
            liveness,
            ..StateSnapshot::missing()
        }
        .with_folder()
    }

    fn after(before: SessionStatus, seen: &StateSnapshot) -> SessionState {
        let mut state = SessionState {
            status: before,
            ..SessionState::default()
        };
        apply_state_snapshot(&mut state, seen);
        state
    }

    fn failed_at(state: &SessionState) -> Option<Stage> {
        assert_eq!(
            state.status == SessionStatus::Failed,
            state.failure.is_some()
        );
        state.failure.as_ref().map(|failure| failure.stage)
    }

    #[test]
    fn a_session_runs_once_its_command_does() {
        use SessionStatus::{Running, Starting, Stopping};
        assert_eq!(after(Starting, &seen(Starting, ALIVE)).status, Starting);
        assert_eq!(after(Starting, &seen(Running, ALIVE)).status, Running);
        assert_eq!(after(Stopping, &seen(Running, ALIVE)).status, Stopping);
    }

    #[test]
    fn an_end_is_taken_with_its_status() {
        let ended = StateSnapshot {
            exit_code: Some(143),
            ..seen(SessionStatus::Exited, GONE)
        };
        for before in [
            SessionStatus::Starting,
            SessionStatus::Running,
            SessionStatus::Stopping,
        ] {
            let state = after(before, &ended);
            assert_eq!(state.status, SessionStatus::Exited);
            assert_eq!(state.exit_code, Some(143));
        }
    }

    #[test]
    fn a_reboot_a_stop_and_a_dead_monitor_are_told_apart() {
        use SessionStatus::Running;
        for (liveness, stage, word) in [
            (Liveness::Rebooted, Stage::Guest, "rebooted"),
            (Liveness::Offline, Stage::Guest, "stopped"),
            (GONE, Stage::Monitor, "monitor"),
        ] {
            let state = after(Running, &seen(Running, liveness));
            assert_eq!(failed_at(&state), Some(stage));
            assert!(state.failure.unwrap().message.contains(word));
        }
        let state = after(Running, &StateSnapshot::missing());
        assert_eq!(failed_at(&state), Some(Stage::Guest));
    }

    #[test]
    fn a_command_outlives_its_monitor() {
        let orphan = Liveness::Seen {
            monitor: Process::Gone,
            command: Process::Alive,
            group: Process::Alive,
        };
        let state = after(
            SessionStatus::Running,
            &seen(SessionStatus::Running, orphan),
        );
        assert_eq!(state.status, SessionStatus::Running);
    }

    #[test]
    fn an_end_written_by_a_monitor_that_died_over_it_still_counts() {
        let cut = StateSnapshot {
            exit_code: Some(0),
            ..seen(SessionStatus::Running, GONE)
        };
        let state = after(SessionStatus::Running, &cut);
        assert_eq!(state.status, SessionStatus::Exited);
    }

    #[test]
    fn what_ended_stays_ended() {
        for end in [SessionStatus::Exited, SessionStatus::Failed] {
            let mut state = SessionState {
                status: end,
                exit_code: Some(3),
                ..SessionState::default()
            };
            let before = state.clone();
            apply_state_snapshot(&mut state, &seen(SessionStatus::Running, ALIVE));
            fail_launch(&mut state, Stage::Launch, "late");
            assert!(!state_changed(&before, &state));
        }
    }

    #[test]
    fn a_failure_keeps_the_stage_the_guest_named() {
        let failed = StateSnapshot {
            error: Some("preflight_cwd: cannot enter \"/x: y\"".to_owned()),
            ..seen(SessionStatus::Failed, GONE)
        };
        let state = after(SessionStatus::Starting, &failed);
        assert_eq!(failed_at(&state), Some(Stage::PreflightCwd));
        assert_eq!(
            state.failure.unwrap().to_string(),
            "preflight_cwd: cannot enter \"/x: y\""
        );
        assert_eq!(Failure::from_text("odd: text").stage, Stage::Launch);
    }

    #[test]
    fn a_status_is_described_with_its_signal() {
        assert_eq!(describe_exit(0), "status 0");
        assert_eq!(describe_exit(143), "status 143 (TERM)");
        assert_eq!(describe_exit(255), "status 255");
        assert_eq!(describe_exit(i32::MIN), "status -2147483648");
    }
}
