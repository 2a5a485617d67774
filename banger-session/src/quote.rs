//! Quoting for a POSIX shell, byte for byte.
//!
//! A program's arguments are bytes without NUL, not text: a file name in any
//! encoding must come through a generated script as it was typed.

use thiserror::Error;

/// Says where a NUL stood that no program's argument can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a NUL byte at offset {offset} cannot be passed to a program")]
pub struct NulByte {
    /// Offset of the first NUL, in bytes.
    pub offset: usize,
}

/// Quotes `word` so that a POSIX shell reads it back as exactly these bytes.
///
/// Everything is put between single quotes, also what needs none, so that a
/// word is never taken for a keyword, an option to the shell or an alias.
///
/// # Errors
///
/// A word with a NUL is refused: the shell would end it there.
pub fn shell_quote(word: &[u8]) -> Result<Vec<u8>, NulByte> {
    let mut quoted = Vec::with_capacity(word.len() + 2);
    quote_into(word, &mut quoted)?;
    Ok(quoted)
}

/// Quotes text as [`shell_quote`] does.
///
/// # Errors
///
/// Text with a NUL is refused.
pub fn shell_quote_str(word: &str) -> Result<String, NulByte> {
    refuse_nul(word.as_bytes())?;
    Ok(format!("'{}'", word.replace('\'', r"'\''")))
}

/// Appends `word`, quoted, to `script`.
pub(crate) fn quote_into(word: &[u8], script: &mut Vec<u8>) -> Result<(), NulByte> {
    refuse_nul(word)?;
    script.push(b'\'');
    for &byte in word {
        match byte {
            b'\'' => script.extend_from_slice(br"'\''"),
            _ => script.push(byte),
        }
    }
    script.push(b'\'');
    Ok(())
}

fn refuse_nul(word: &[u8]) -> Result<(), NulByte> {
    match word.iter().position(|&byte| byte == 0) {
        Some(offset) => Err(NulByte { offset }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_word_stays_a_word() {
        assert_eq!(shell_quote(b"").unwrap(), b"''");
        assert_eq!(shell_quote_str("").unwrap(), "''");
    }

    #[test]
    fn single_quotes_are_stepped_out_of() {
        assert_eq!(shell_quote(b"it's").unwrap(), br"'it'\''s'");
        assert_eq!(shell_quote_str("it's").unwrap(), r"'it'\''s'");
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_kept() {
        assert_eq!(shell_quote(b"\xff\n$x").unwrap(), b"'\xff\n$x'");
    }

    #[test]
    fn a_nul_is_refused_with_its_place() {
        assert_eq!(shell_quote(b"ab\0c"), Err(NulByte { offset: 2 }));
        assert_eq!(shell_quote_str("\0"), Err(NulByte { offset: 0 }));
    }
}
