//! core
pub mod choice;
pub mod disk;
pub mod handles;
pub mod host;
pub mod liveness;
pub mod names;
pub mod network;
pub mod places;
pub mod store;
pub mod transport;
pub mod vm;
pub mod vmm;
