//! What a user types and sees: standard output, standard error and exit status together.
//!
//! Most of it runs against a daemon that only answers as it is told, so that every answer, also a bad
//! one, can be shown; `simulator` runs against the real one.

mod answers;
mod banger;
mod fake;
mod help;
mod rendering;
mod running;
mod streams;
