//! Guest sessions on the simulator: the real engine, and the real scripts in guests that outlive it.

// clippy.toml allows it in `#[test]` functions only, not in what they share.
#![allow(clippy::unwrap_used)]

#[path = "guest_sessions/rig.rs"]
mod rig;

#[path = "guest_sessions/attaching.rs"]
mod attaching;
#[path = "guest_sessions/ending.rs"]
mod ending;
#[path = "guest_sessions/feeding.rs"]
mod feeding;
#[path = "guest_sessions/reading.rs"]
mod reading;
#[path = "guest_sessions/starting.rs"]
mod starting;
