//! Workspaces on the simulator: the real engine, git on this host, and the real scripts in a guest.

// clippy.toml allows it in `#[test]` functions only, not in what they share.
#![allow(clippy::unwrap_used)]

#[path = "workspaces/rig.rs"]
mod rig;

#[path = "workspaces/applying.rs"]
mod applying;
#[path = "workspaces/bad_days.rs"]
mod bad_days;
#[path = "workspaces/exporting.rs"]
mod exporting;
#[path = "workspaces/hostile.rs"]
mod hostile;
#[path = "workspaces/preparing.rs"]
mod preparing;
#[path = "workspaces/within.rs"]
mod within;
