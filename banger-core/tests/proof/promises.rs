//! The page of promises names tests that exist.
