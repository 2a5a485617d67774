//! core
#[allow(missing_docs)]
pub mod names;
pub mod vm;
pub mod host;
pub mod liveness;
pub mod handles;
