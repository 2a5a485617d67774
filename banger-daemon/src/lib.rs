//! The banger engine behind JSON-RPC on a Unix socket: `bangerd`, and how to talk to it.
//!
//! - [`protocol`]: what the two sides say to each other; the whole contract.
//! - [`client`]: calls a daemon, and starts one where none answers.
//! - [`folders`]: where the two find each other.
//! - `server` (feature of the same name): the daemon as a library over an engine; `settings`: its
//!   configuration file; `program`: all of `bangerd`.
//!
//! Without the feature `server` this crate does not contain the engine.

pub mod client;
pub mod folders;
#[cfg(feature = "server")]
pub mod program;
pub mod protocol;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod settings;
pub mod stream;

mod descriptor;
mod line;
mod log_file;
