//! What the two ends tell each other beside the bytes.

use serde::{Deserialize, Serialize};

use super::{MuxError, Stream};

/// A control message: a JSON object whose `type` says which.
///
/// A `type` this release does not know reads as [`Control::Unknown`], and
/// unknown fields are ignored, so that either end may be the newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// Client: the terminal has a new size.
    Resize {
        /// Lines of text.
        rows: u16,
        /// Characters a line.
        cols: u16,
    },
    /// Client: send this signal to the program's process group.
    Signal {
        /// A name as [`crate::Signal`] reads it, such as `INT`.
        signal: String,
    },
    /// Client: nothing more will come on stdin.
    Eof,
    /// Server: the program is about to run.
    Started {
        /// Its process group in the guest, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
    },
    /// Server: the program ended; nothing follows.
    Exit {
        /// Its status; 128 + n when signal n ended it.
        exit_code: i32,
    },
    /// Server: the connection to the guest ended before the program did, so
    /// its status is unknown; nothing follows.
    Lost {
        /// What was seen last.
        error: String,
    },
    /// Server: the request failed before or outside of the program; nothing
    /// follows.
    Error {
        /// What went wrong, for people.
        error: String,
        /// What went wrong, for programs.
        kind: String,
    },
    /// Server: the attach was left; the session runs on; nothing follows.
    Detached,
    /// Server: the attach was not granted; nothing follows.
    Refused {
        /// Why, and where it applies who holds the session.
        error: String,
    },
    /// Server: what the client wrote last did not reach the session; its
    /// output goes on.
    InputRefused {
        /// Why not.
        error: String,
    },
    /// Server: the machine stands still, for this reason; with none it goes
    /// on. Nothing comes of the program in between.
    Paused {
        /// Why it stands still, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Server: the next data frame of `stream` begins at this byte of its log.
    Offset {
        /// Which log.
        stream: Stream,
        /// Bytes before it.
        offset: u64,
    },
    /// A message of a newer release.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl Control {
    /// Reads the payload of a control frame.
    ///
    /// # Errors
    ///
    /// [`MuxError::ReadControl`] if it is not a JSON object with a `type` and
    /// that type's fields.
    pub fn from_json(payload: &[u8]) -> Result<Self, MuxError> {
        serde_json::from_slice(payload).map_err(|source| MuxError::ReadControl {
            reason: source.to_string(),
        })
    }

    /// Writes the payload of a control frame.
    ///
    /// # Errors
    ///
    /// [`MuxError::WriteControl`] for [`Control::Unknown`].
    pub fn to_json(&self) -> Result<Vec<u8>, MuxError> {
        serde_json::to_vec(self).map_err(|source| MuxError::WriteControl {
            reason: source.to_string(),
        })
    }

    /// Whether this ends the conversation: no frame follows it.
    pub fn is_last(&self) -> bool {
        matches!(
            self,
            Self::Exit { .. }
                | Self::Lost { .. }
                | Self::Error { .. }
                | Self::Detached
                | Self::Refused { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn same_on_the_wire(control: Control, json: &str) {
        let written = String::from_utf8(control.to_json().unwrap()).unwrap();
        assert_eq!(written, json);
        assert_eq!(Control::from_json(json.as_bytes()).unwrap(), control);
    }

    #[test]
    fn every_message_has_the_form_other_programs_rely_on() {
        same_on_the_wire(
            Control::Paused {
                reason: Some("full".to_owned()),
            },
            r#"{"type":"paused","reason":"full"}"#,
        );
        same_on_the_wire(Control::Paused { reason: None }, r#"{"type":"paused"}"#);
        same_on_the_wire(
            Control::Resize { rows: 24, cols: 80 },
            r#"{"type":"resize","rows":24,"cols":80}"#,
        );
        same_on_the_wire(
            Control::Signal {
                signal: "INT".to_owned(),
            },
            r#"{"type":"signal","signal":"INT"}"#,
        );
        same_on_the_wire(Control::Eof, r#"{"type":"eof"}"#);
        same_on_the_wire(
            Control::Started { pid: Some(7) },
            r#"{"type":"started","pid":7}"#,
        );
        same_on_the_wire(Control::Started { pid: None }, r#"{"type":"started"}"#);
        same_on_the_wire(
            Control::Exit { exit_code: 143 },
            r#"{"type":"exit","exit_code":143}"#,
        );
        same_on_the_wire(
            Control::Lost {
                error: "gone".to_owned(),
            },
            r#"{"type":"lost","error":"gone"}"#,
        );
        same_on_the_wire(
            Control::Error {
                error: "no such VM".to_owned(),
                kind: "not_found".to_owned(),
            },
            r#"{"type":"error","error":"no such VM","kind":"not_found"}"#,
        );
        same_on_the_wire(Control::Detached, r#"{"type":"detached"}"#);
        same_on_the_wire(
            Control::Refused {
                error: "held".to_owned(),
            },
            r#"{"type":"refused","error":"held"}"#,
        );
        same_on_the_wire(
            Control::InputRefused {
                error: "closed".to_owned(),
            },
            r#"{"type":"input_refused","error":"closed"}"#,
        );
        same_on_the_wire(
            Control::Offset {
                stream: Stream::Stdout,
                offset: u64::MAX,
            },
            r#"{"type":"offset","stream":"stdout","offset":18446744073709551615}"#,
        );
    }

    #[test]
    fn a_newer_message_is_told_apart_instead_of_failing() {
        let newer = br#"{"type":"teleport","where":{"x":[1,2]}}"#;
        assert_eq!(Control::from_json(newer).unwrap(), Control::Unknown);
        let more = br#"{"type":"exit","exit_code":3,"core":true}"#;
        assert_eq!(
            Control::from_json(more).unwrap(),
            Control::Exit { exit_code: 3 }
        );
        assert!(Control::Unknown.to_json().is_err());
    }

    #[test]
    fn what_is_not_a_message_is_an_error() {
        let deep = vec![b'['; 100_000];
        for bad in [
            b"".as_slice(),
            b"[]",
            b"{}",
            b"\xff",
            br#"{"type":"exit"}"#,
            br#"{"type":"exit","exit_code":99999999999}"#,
            &deep,
        ] {
            assert!(Control::from_json(bad).is_err(), "{bad:?}");
        }
    }
}
