//! The daemon as its clients see it, over the simulator.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, and not in what they share"
)]

mod ephemeral;
mod exec;
mod image;
#[path = "../../../banger-core/tests/images/parts.rs"]
mod parts;
mod process;
mod reach;
mod rig;
mod rpc;
mod session;
