//! The daemon, as a library over an engine.
