//! Files that somebody else made: a repository's, a guest's, an image's.
//!
//! Everything in them is hostile until proven otherwise. A [`Folder`] is a handle on a directory that the
//! user named; what lies beneath it is only ever reached through it, by the kernel's own rule
//! (openat2(2): beneath, no symbolic links, no magic links), and only regular files are opened: a FIFO
//! would block for ever, a device may do anything, a link leads elsewhere. Every read has a limit in
//! bytes, whatever the file's length says, because it may grow while it is read.
//!
//! All calls block. An asynchronous caller makes them on a thread that nobody waits on.

mod folder;
mod guest_link;
mod stream;
mod tree;
mod unpack;
mod write;

pub use folder::{Entry, Folder, ForeignError, Kind, open_named, read_bounded};
pub use guest_link::link_of_a_guest;
pub use rustix::fs::Stat;
pub use tree::TreeLimits;
pub use unpack::{UnpackError, Unpacked};
pub use write::{Look, Settle, make_link};
