//! Why a connection to a monitor has become of no use.

use std::fmt;
use std::io;

use super::VmmError;
use crate::vm::VmmKind;

/// What the other end did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It closed the connection.
    HungUp,
    /// It said something that is no answer.
    Nonsense(String),
    /// Anything else.
    Broken(String),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::HungUp => f.write_str("it hung up"),
            Loss::Nonsense(said) => write!(f, "it said {said}"),
            Loss::Broken(why) => f.write_str(why),
        }
    }
}

/// Says whether an error is the other end's hanging up: one that ends before it has read all that was said
/// to it resets the connection instead of closing it.
pub(super) fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}

impl From<io::Error> for Loss {
    fn from(error: io::Error) -> Self {
        match hung_up(&error) {
            true => Loss::HungUp,
            false => Loss::Broken(error.to_string()),
        }
    }
}

impl Loss {
    /// Makes the error of a command that met it.
    pub(super) fn told(self, vmm: VmmKind, command: &'static str) -> VmmError {
        match self {
            Loss::Nonsense(said) => VmmError::Nonsense { vmm, command, said },
            other => VmmError::Refused {
                vmm,
                command,
                message: other.to_string(),
            },
        }
    }
}

/// The beginning of what was said, for a message.
pub(super) fn shown(said: &[u8]) -> String {
    const ENOUGH: usize = 60;
    let text = String::from_utf8_lossy(&said[..said.len().min(ENOUGH)]);
    let more = if said.len() > ENOUGH { "…" } else { "" };
    format!("{:?}{more}", text.trim_end())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn one_that_ends_with_words_unread_has_hung_up() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"unread").unwrap();
        drop(theirs);
        let read = ours.read(&mut [0; 8]).unwrap_err();
        assert_eq!(Loss::from(read), Loss::HungUp);
        let written = ours.write_all(b"more").unwrap_err();
        assert_eq!(Loss::from(written), Loss::HungUp);
    }
}
