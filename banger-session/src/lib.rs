//! What banger says to a guest's shell and what it understands of the
//! answers, without I/O, clock, async or randomness.

mod command;
pub mod exec;
pub mod mux;
mod quote;
mod signal;

pub use command::{CommandError, env_lines};
pub use quote::{NulByte, shell_quote, shell_quote_str};
pub use signal::{NotAProcessGroup, ProcessGroup, Signal, UnknownSignal};
