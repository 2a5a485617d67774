//! What a user types and sees: standard output, standard error and exit status together.
//!
//! Most of it runs against a daemon that only answers as it is told, so that every answer, also a bad
//! one, can be shown; `simulator` runs against the real one.

#![allow(
    clippy::unwrap_used,
    reason = "what a test cannot set up is a failure of the test"
)]

mod answers;
mod banger;
mod console_on_a_terminal;
mod copying;
mod fake;
mod help;
mod help_of_reach;
mod images;
mod machines;
mod owners_words;
#[path = "../../../banger-core/tests/images/parts.rs"]
mod parts;
mod reach;
mod rendering;
mod running;
mod session_lives;
mod sessions;
mod simulator;
mod streams;
mod workspaces;
