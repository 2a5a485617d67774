//! What a session is, as it is kept and shown.

use std::collections::BTreeMap;

use banger_session::session::{DEFAULT_STATE_ROOT, SessionDir, SessionState, StdinMode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::names::{SessionId, SessionName, VmId};

/// One session: what was asked for, and what was last seen of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSession {
    /// Its id, for life.
    pub id: SessionId,
    /// The VM it runs in.
    pub vm_id: VmId,
    /// Its name, unique in its VM.
    pub name: SessionName,
    /// What was asked for.
    pub spec: SessionSpec,
    /// What was last seen.
    pub state: SessionState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When something new was last seen.
    pub updated_at: Timestamp,
}

/// What was asked for when a session was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// The program and its arguments.
    pub argv: Vec<ByteText>,
    /// Variables set for it.
    pub env: Vec<(String, ByteText)>,
    /// The folder it was started in.
    pub cwd: ByteText,
    /// What it reads.
    pub stdin: StdinMode,
    /// Commands that the guest had to have.
    pub required: Vec<String>,
    /// Words of its owner.
    pub tags: BTreeMap<String, String>,
}

/// A session as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// What it is.
    #[serde(flatten)]
    pub session: GuestSession,
    /// Why its guest could not be asked just now: what is shown is what was seen last.
    pub stale: Option<String>,
}

/// Bytes that are mostly text: kept as a string if they are UTF-8, else as numbers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Form", into = "Form")]
pub struct ByteText(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Raw(Vec<u8>),
}

impl From<Form> for ByteText {
    fn from(form: Form) -> Self {
        ByteText(match form {
            Form::Text(text) => text.into_bytes(),
            Form::Raw(raw) => raw,
        })
    }
}

impl From<ByteText> for Form {
    fn from(bytes: ByteText) -> Self {
        String::from_utf8(bytes.0).map_or_else(|error| Form::Raw(error.into_bytes()), Form::Text)
    }
}

impl std::fmt::Debug for ByteText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl GuestSession {
    /// Returns its folder in the guest.
    pub(crate) fn dir(&self) -> Result<SessionDir, Error> {
        // Cannot fail: the root is a constant, and an id is hexadecimal.
        SessionDir::new(DEFAULT_STATE_ROOT, self.id.as_str()).map_err(|error| Error::DamagedFile {
            path: DEFAULT_STATE_ROOT.into(),
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_whatever_they_are() {
        for bytes in [
            b"plain".to_vec(),
            "ä\n".into(),
            vec![0xff, b'x'],
            Vec::new(),
        ] {
            let json = serde_json::to_string(&ByteText(bytes.clone())).unwrap();
            let back: ByteText = serde_json::from_str(&json).unwrap();
            assert_eq!(back.0, bytes, "{json}");
        }
    }
}
