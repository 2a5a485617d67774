//! The data path of one command in a guest, over an ssh channel without a
//! terminal.
//!
//! A bare ssh command breaks four promises: a signal's number is lost, 255
//! and "connection lost" look alike, a background child that holds stdout
//! holds the caller, and Ctrl-C cannot be sent. So the command runs inside a
//! few generated lines, [`exec_script`], that sshd passes to root's login
//! shell:
//!
//! ```text
//!          exec_script                      what the two streams carry
//!   trap                                stdout            stderr
//!   cd            ── fails ──▶          failed(cwd)       failed(cwd)
//!   ( started, exec command )           data…             started data…
//!   its status                          ended(status)     ended(status)
//! ```
//!
//! A marker is one short write that holds the call's [`Nonce`], so no program
//! prints one by accident, not even one that prints this script. Each stream
//! is read through a [`MarkerDecoder`] up to its last marker, and what comes
//! after that, from children left in the background, is not waited for. A
//! stream that ends without a marker says that the connection, or the whole
//! process group, was lost.
//!
//! sshd makes the shell the leader of a new session (setsid(2)), so the
//! shell's pid is the process group of the command and of all its children
//! that did not leave it. [`signal_script`], run on a second channel, signals
//! that group. The shell in the middle catches the signal and does nothing,
//! the command gets it with its default action. After a signal for which
//! [`Signal::ends_wrapper`](crate::Signal::ends_wrapper) is true both streams
//! end without a marker, and the caller that sent it reports
//! [`Signal::exit_status`](crate::Signal::exit_status).

mod marker;
mod request;
mod script;

pub use marker::{Event, MarkerDecoder, StreamEnd};
pub use request::{ExecRequest, ExecStage, ExecStdin, Nonce};
pub use script::{ExecError, MAX_SCRIPT_BYTES, exec_script, signal_script};
