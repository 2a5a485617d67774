//! Guest sessions: long-lived commands in a VM that outlive the engine, its connections and its clients.
//!
//! The guest's own folder of a session is the truth (see [`banger_session::session`]); the row here says
//! what was asked for and what was last seen. So a session needs nobody: an engine that comes later looks
//! and goes on.
//!
//! ```text
//!   session_start ─▶ row: starting ─▶ preflight ─▶ launch ─▶ row: what the guest answered
//!   session_show, _list        ask the guest; the row is written only if it says something new
//!   session_logs, _attach      follow the logs by byte offset: a lost connection is made again and goes
//!                              on at the next byte; when the VM has stopped the rest is read from its disk
//!   session_send, _stop, _kill one script each
//!   the VM stops               its sessions get the status they have on its disk, or fail: nobody is left
//! ```
//!
//! Nothing here takes the VM's turn: no verb on the VM ever waits for a session.

mod ask;
mod attach;
mod desk;
mod disk;
mod follow;
mod logs;
mod record;
mod refresh;
mod send;
mod start;
mod stop;

pub use attach::{AttachEnd, AttachEvent, AttachInput, AttachRequest, SessionAttach};
pub(crate) use desk::SessionDesk;
pub use logs::{Follow, LogEnd, LogEvent, LogRequest, LogStart, SessionLogs};
pub use record::{ByteText, GuestSession, SessionSpec, SessionView};
pub use start::SessionRequest;
pub use stop::{SessionDeleteOutcome, SessionFolder, SessionStopOutcome};
