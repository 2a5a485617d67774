//! What banger says to a guest's shell, and what it makes of the answers.
//!
//! This crate is pure: no I/O, clock, async or randomness. It turns requests
//! into POSIX shell, and bytes as they arrive into events and state; whoever
//! uses it owns the connections. Everything that comes from a guest is taken
//! for hostile: bounded, checked, and never pasted back into a script.
//!
//! | to do this | use |
//! | --- | --- |
//! | run one command and get its true status | [`exec`] |
//! | start, watch, feed and end a long-lived one | [`session`] |
//! | carry a git repository in, and its changes out | [`workspace`] |
//! | carry three streams and their control over one socket | [`mux`] |
//! | ask for a guest's time, and set it | [`clock`] |
//! | put a word into a script of one's own | [`shell_quote`], [`env_lines`], [`folder_from_home`] |
//! | name a signal | [`Signal`] |
//!
//! # One command
//!
//! ```
//! use banger_session::exec::{Event, ExecRequest, MarkerDecoder, Nonce, exec_script};
//!
//! let nonce = Nonce([7; 16]); // the caller's randomness
//! let request = ExecRequest::new(["grep", "-c", "it's", "notes"]);
//! let script = exec_script(&request, &nonce)?; // for `ssh HOST SCRIPT`
//! assert!(script.ends_with(b"\n"));
//!
//! // One decoder for each of the two streams, fed as bytes arrive.
//! let mut stdout = MarkerDecoder::new(&nonce);
//! let mut events = Vec::new();
//! stdout.push(b"3\n\x1ebanger-", &mut events);
//! stdout.push(b"07070707070707070707070707070707 e 0\x1e", &mut events);
//! assert_eq!(events, [Event::Data(b"3\n".to_vec()), Event::Ended { status: 0 }]);
//! # Ok::<(), banger_session::exec::ExecError>(())
//! ```
//!
//! # A session
//!
//! ```
//! use banger_session::session::{
//!     DEFAULT_STATE_ROOT, Launch, SessionDir, SessionState, SessionStatus, StdinMode,
//!     apply_state_snapshot, launch_command, parse_state, script,
//! };
//!
//! let dir = SessionDir::new(DEFAULT_STATE_ROOT, "5f1e08aa")?;
//! let run_sh = script(&Launch {
//!     dir: dir.clone(),
//!     argv: vec![b"make".to_vec(), b"watch".to_vec()],
//!     env: Vec::new(),
//!     cwd: b"/root/repo".to_vec(),
//!     stdin: StdinMode::Pipe,
//! })?;
//! // Run in the guest with `run_sh` on its standard input.
//! let command = launch_command(&dir, run_sh.len());
//! # assert!(!command.is_empty());
//!
//! // What it printed, brought into the record.
//! let answer = b"banger-session 1\nboot same\nmonitor alive\ncommand alive\n\
//!     pid 71\nstatus running\nend\n";
//! let mut state = SessionState::default();
//! apply_state_snapshot(&mut state, &parse_state(answer)?);
//! assert_eq!(state.status, SessionStatus::Running);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a guest needs
//!
//! For [`exec`] a POSIX login shell (bash, dash and busybox are tested). For
//! [`session`] also `/bin/sh`, `/proc`, and of util-linux and coreutils
//! `setsid --fork`, `flock`, `timeout`, `mkfifo`, `mktemp`, `stat`, `dd`, and
//! a `tail` with `--pid`: what every Debian has.

pub mod clock;
mod command;
pub mod exec;
pub mod mux;
mod power_off;
mod printable;
mod quote;
pub mod session;
mod signal;
pub mod workspace;

/// Where a guest lists what is mounted, as `proc_mounts(5)` has it.
pub const MOUNTS: &str = "/proc/mounts";

pub use command::{CommandError, env_lines, folder_from_home};
pub use power_off::{SwitchOffWord, power_off_script};
pub use printable::{is_unseen, printable, printable_json, printable_lines};
pub use quote::{NulByte, shell_quote, shell_quote_str};
pub use signal::{NotAProcessGroup, ProcessGroup, Signal, UnknownSignal};
