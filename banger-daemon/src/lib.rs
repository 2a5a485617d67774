//! bangerd.
pub mod protocol;
