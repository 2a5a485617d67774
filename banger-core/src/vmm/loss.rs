//! Why a connection to a monitor has become of no use.

use std::fmt;

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
