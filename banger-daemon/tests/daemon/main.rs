//! The daemon as its clients see it, over the simulator.

mod ephemeral;
mod exec;
mod process;
mod rig;
mod rpc;
