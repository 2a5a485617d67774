//! Runs the generated scripts for real, under every shell a guest may have.

// clippy.toml allows it in `#[test]` functions only, not in what they share.
#![allow(clippy::unwrap_used)]

mod clock;
mod exec;
mod guest;
mod power_off;
mod session;
mod shell;
mod stdin_and_logs;
mod workspace;
