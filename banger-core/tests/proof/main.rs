//! Proofs on the simulator: that nothing is leaked, that engines leave each other alone, that a frozen
//! monitor holds nobody up, and that reconcile may run while verbs are at work.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(missing_docs)]

mod at_work;
mod frozen;
mod innocent;
mod inventory;
mod promises;
mod rig;
mod two_engines;
