//! A repository of the host's in a guest, and its changes back.
//!
//! Nothing that a repository has configured is ever run on this host: git works in a git dir of ours
//! (a *shadow*) that borrows the repository's objects, with a configuration of ours. The repository's own
//! is only read for a few values, and its index copied.
//!
//! ```text
//!   prepare   open ─▶ shadow ─▶ status ─▶ stage: a repository and what differs, as two archives
//!                                           └─▶ the guest's script ─▶ row: what was carried, and the base
//!   export    the guest's script ─▶ patch, piece by piece
//!   apply     the guest's script ─▶ objects ─▶ shadow: three trees merged ─▶ check every path ─▶ refs/banger ─▶ files
//!                                                       └─▶ row: the base, which is what the guest has now
//! ```
//!
//! Nothing here takes the VM's turn: a stop never waits for a stream, it ends it.

mod apply;
mod error;
mod export;
mod find;
mod git;
mod in_the_way;
mod inspect;
mod odd;
mod open;
mod overlay;
mod prepare;
mod record;
mod script;
mod shadow;
mod stage;
mod take_out;
mod target;
mod too_much;
mod undo;
mod undo_record;
mod undo_ref;

pub use apply::{Applied, ApplyRequest, Effect, TouchedFile};
pub use error::WorkspaceError;
pub use export::{WorkspaceChanges, WorkspaceExport};
pub(crate) use git::{OLDEST_GIT, is_new_enough};
pub use inspect::Inspection;
pub use prepare::{Overwrite, PrepareRequest, Prepared};
pub use record::{Asked, Freshness, Ownership, Source, Untracked, Workspace};
pub use too_much::TooMuch;
