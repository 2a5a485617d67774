//! From bytes as they arrive to whole frames.

use thiserror::Error;

use super::{Channel, Control, HEADER_BYTES, MAX_PAYLOAD_BYTES, Stream};

/// One whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream; never none.
    Data {
        /// Whose.
        stream: Stream,
        /// At most [`MAX_PAYLOAD_BYTES`].
        bytes: Vec<u8>,
    },
    /// The stream is over.
    End {
        /// Which.
        stream: Stream,
    },
    /// A control message.
    Control(Control),
}

/// Why the other end cannot be understood, or a message not be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MuxError {
    /// The header names no channel of `stdio_mux_v1`.
    #[error("frame for the unknown channel {number}")]
    UnknownChannel {
        /// The byte that was read.
        number: u8,
    },
    /// The payload is longer than [`MAX_PAYLOAD_BYTES`].
    #[error("frame of {length} bytes on channel {channel}, the limit is {MAX_PAYLOAD_BYTES}")]
    OversizedPayload {
        /// The channel's number.
        channel: u8,
        /// Bytes announced.
        length: u64,
    },
    /// A control frame does not hold a message.
    #[error("control frame that is no message: {reason}")]
    ReadControl {
        /// The JSON reader's words.
        reason: String,
    },
    /// A message has no form on the wire.
    #[error("control message that cannot be written: {reason}")]
    WriteControl {
        /// The JSON writer's words.
        reason: String,
    },
}

/// Turns bytes as they arrive into frames.
///
/// It holds at most what was pushed and not yet taken: take all frames after
/// each push and that is one frame and one read's worth. After an error the
/// place of the next frame is unknown, so the same error is returned for
/// ever.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
    /// Bytes at the front of `held` that were handed out.
    taken: usize,
    poison: Option<MuxError>,
}

impl Decoder {
    /// Begins at the first byte of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they arrived, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.poison.is_some() {
            return;
        }
        self.held.drain(..self.taken);
        self.taken = 0;
        self.held.extend_from_slice(bytes);
    }

    /// Takes the next whole frame, `None` if more bytes are needed first.
    ///
    /// # Errors
    ///
    /// [`MuxError`] for what no end of `stdio_mux_v1` sends; the connection is
    /// of no further use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, MuxError> {
        if let Some(poison) = &self.poison {
            return Err(poison.clone());
        }
        self.parse().inspect_err(|error| {
            self.poison = Some(error.clone());
            self.held = Vec::new();
            self.taken = 0;
        })
    }

    /// Whether the connection may end here: no frame is cut in two.
    pub fn is_between_frames(&self) -> bool {
        self.poison.is_none() && self.held.len() == self.taken
    }

    fn parse(&mut self) -> Result<Option<Frame>, MuxError> {
        let waiting = &self.held[self.taken..];
        let Some((&number, rest)) = waiting.split_first() else {
            return Ok(None);
        };
        // Refused at the first byte that shows it, not after a payload.
        let channel = Channel::from_number(number).ok_or(MuxError::UnknownChannel { number })?;
        let Some((length, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        let payload_bytes = length as usize;
        if payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(MuxError::OversizedPayload {
                channel: number,
                length: u64::from(length),
            });
        }
        let Some(payload) = rest.get(..payload_bytes) else {
            return Ok(None);
        };
        let frame = read_frame(channel, payload)?;
        self.taken += HEADER_BYTES + payload_bytes;
        Ok(Some(frame))
    }
}

fn read_frame(channel: Channel, payload: &[u8]) -> Result<Frame, MuxError> {
    let stream = match channel {
        Channel::Stdin => Stream::Stdin,
        Channel::Stdout => Stream::Stdout,
        Channel::Stderr => Stream::Stderr,
        Channel::Control => return Control::from_json(payload).map(Frame::Control),
    };
    Ok(if payload.is_empty() {
        Frame::End { stream }
    } else {
        Frame::Data {
            stream,
            bytes: payload.to_vec(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::{CHUNK_BYTES, encode, encode_control, encode_end};
    use super::*;

    fn all_frames(decoder: &mut Decoder) -> Result<Vec<Frame>, MuxError> {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn a_frame_has_the_documented_bytes() {
        let mut wire = Vec::new();
        encode(Stream::Stderr, b"hi", &mut wire);
        encode_end(Stream::Stdin, &mut wire);
        encode_control(&Control::Eof, &mut wire).unwrap();
        assert_eq!(
            wire,
            b"\x03\0\0\0\x02hi\x01\0\0\0\0\x04\0\0\0\x0e{\"type\":\"eof\"}"
        );
    }

    #[test]
    fn an_empty_read_is_not_the_end_of_a_stream() {
        let mut wire = Vec::new();
        encode(Stream::Stdin, b"", &mut wire);
        assert_eq!(wire, b"");
    }

    #[test]
    fn a_long_payload_travels_in_several_frames() {
        let payload: Vec<u8> = (0..CHUNK_BYTES * 2 + 1).map(|i| i as u8).collect();
        let mut wire = Vec::new();
        encode(Stream::Stdout, &payload, &mut wire);
        let mut decoder = Decoder::new();
        decoder.push(&wire);
        let mut lengths = Vec::new();
        let mut joined = Vec::new();
        for frame in all_frames(&mut decoder).unwrap() {
            let Frame::Data { bytes, .. } = frame else {
                panic!("{frame:?} instead of data")
            };
            lengths.push(bytes.len());
            joined.extend(bytes);
        }
        assert_eq!(lengths, [CHUNK_BYTES, CHUNK_BYTES, 1]);
        assert!(joined == payload);
    }

    #[test]
    fn an_unknown_channel_ends_the_conversation_at_its_first_byte() {
        let mut decoder = Decoder::new();
        decoder.push(b"\x09");
        let error = MuxError::UnknownChannel { number: 9 };
        assert_eq!(decoder.next_frame(), Err(error.clone()));
        decoder.push(b"\x01\0\0\0\x01x");
        assert_eq!(decoder.next_frame(), Err(error));
        assert!(!decoder.is_between_frames());
    }

    #[test]
    fn an_oversized_frame_is_refused_before_its_payload_arrives() {
        let mut decoder = Decoder::new();
        decoder.push(b"\x02\xff\xff\xff\xff");
        assert_eq!(
            decoder.next_frame(),
            Err(MuxError::OversizedPayload {
                channel: 2,
                length: u64::from(u32::MAX)
            })
        );
    }

    #[test]
    fn the_longest_allowed_frame_is_read() {
        let mut wire = vec![2];
        wire.extend((MAX_PAYLOAD_BYTES as u32).to_be_bytes());
        wire.extend(vec![b'a'; MAX_PAYLOAD_BYTES]);
        let mut decoder = Decoder::new();
        decoder.push(&wire);
        assert!(matches!(
            decoder.next_frame(),
            Ok(Some(Frame::Data { bytes, .. })) if bytes.len() == MAX_PAYLOAD_BYTES
        ));
    }

    #[test]
    fn a_cut_frame_is_noticed_at_the_end_of_the_connection() {
        let mut decoder = Decoder::new();
        decoder.push(b"\x02\0\0\0\x02h");
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(!decoder.is_between_frames());
        decoder.push(b"i");
        assert!(decoder.next_frame().unwrap().is_some());
        assert!(decoder.is_between_frames());
    }
}
