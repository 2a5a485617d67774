//! core
pub mod names;
pub mod vm;
pub mod host;
pub mod liveness;
pub mod handles;
pub mod store;
pub mod places;
pub mod choice;
pub mod disk;
pub mod network;
pub mod vmm;
