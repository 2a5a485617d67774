//! The verbs: create, start, stop, kill, restart, delete, set.
//!
//! The order of writes is what makes them safe to kill at any instant. On the way up the row is last,
//! on the way down the row is first and the handles file last:
//!
//! ```text
//! create   name reserved → .new-<id>/ built, synced → row (created) → renamed to <id>/
//! start    handles file (all planned names) → disk, network → monitor, paused → handles file (pid, port)
//!          → guest resumed → row (running, run id): the start is acknowledged
//! stop     guest powered off → the monitor is gone → everything released → row (stopped) → handles file removed
//! set      disk grown → row
//! delete   stop → renamed to .trash-<id>/ → row deleted → folder removed
//! ```

mod create;
mod delete;
mod release;
mod set;
mod start;
mod stop;

pub use create::CreateRequest;
pub use delete::{DeleteOutcome, PruneOutcome};
pub use set::{SetOutcome, SetRequest};
pub use start::StartOutcome;
pub use stop::{StopOutcome, StopRung};
