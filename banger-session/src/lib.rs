//! Pure.
mod quote;
pub use quote::{NulByte, shell_quote, shell_quote_str};
