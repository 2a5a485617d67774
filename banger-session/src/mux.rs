//! `stdio_mux_v1`: a program's three streams and their control on one byte
//! stream, without I/O.
//!
//! A frame is one byte of channel, four bytes of big-endian length and that
//! many bytes of payload:
//!
//! | channel | number | payload |
//! | --- | --- | --- |
//! | stdin | 1 | bytes; none = end of the stream |
//! | stdout | 2 | bytes; none = end of the stream |
//! | stderr | 3 | bytes; none = end of the stream |
//! | control | 4 | one JSON object, see [`Control`] |
//!
//! [`encode`], [`encode_end`] and [`encode_control`] append frames to a
//! buffer; a [`Decoder`] is fed whatever arrived and hands out whole frames.
//!
//! ```
//! use banger_session::mux::{Decoder, Frame, Stream, encode, encode_end};
//!
//! let mut wire = Vec::new();
//! encode(Stream::Stdout, b"hello", &mut wire);
//! encode_end(Stream::Stdout, &mut wire);
//!
//! let mut decoder = Decoder::new();
//! decoder.push(&wire);
//! assert_eq!(
//!     decoder.next_frame()?,
//!     Some(Frame::Data { stream: Stream::Stdout, bytes: b"hello".to_vec() })
//! );
//! assert_eq!(decoder.next_frame()?, Some(Frame::End { stream: Stream::Stdout }));
//! assert_eq!(decoder.next_frame()?, None);
//! # Ok::<(), banger_session::mux::MuxError>(())
//! ```

mod control;
mod decode;

pub use control::Control;
pub use decode::{Decoder, Frame, MuxError};

use serde::{Deserialize, Serialize};

/// Bytes of the header before each payload.
pub const HEADER_BYTES: usize = 5;

/// Longest payload a decoder accepts, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// Longest payload [`encode`] puts into one frame, in bytes: a signal or a
/// resize never waits behind more than this.
pub const CHUNK_BYTES: usize = 64 << 10;

/// The number a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Input of the program.
    Stdin = 1,
    /// Output of the program.
    Stdout = 2,
    /// Diagnostics of the program.
    Stderr = 3,
    /// One JSON object a frame.
    Control = 4,
}

impl Channel {
    /// The byte on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Reads the byte on the wire.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Stdin),
            2 => Some(Self::Stdout),
            3 => Some(Self::Stderr),
            4 => Some(Self::Control),
            _ => None,
        }
    }
}

/// One of the three streams that carry bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Input of the program.
    Stdin,
    /// Output of the program.
    Stdout,
    /// Diagnostics of the program.
    Stderr,
}

impl Stream {
    /// The channel that carries this stream.
    pub fn channel(self) -> Channel {
        match self {
            Self::Stdin => Channel::Stdin,
            Self::Stdout => Channel::Stdout,
            Self::Stderr => Channel::Stderr,
        }
    }
}

/// Appends `payload` to `wire`, in as many frames of at most [`CHUNK_BYTES`]
/// as it takes.
///
/// Nothing is appended for an empty payload: an empty read must not become
/// the end of the stream by accident; that is [`encode_end`].
pub fn encode(stream: Stream, payload: &[u8], wire: &mut Vec<u8>) {
    wire.reserve(payload.len() + HEADER_BYTES * payload.len().div_ceil(CHUNK_BYTES));
    for chunk in payload.chunks(CHUNK_BYTES) {
        put_frame(stream.channel(), chunk, wire);
    }
}

/// Appends the frame that ends `stream`.
pub fn encode_end(stream: Stream, wire: &mut Vec<u8>) {
    put_frame(stream.channel(), &[], wire);
}

/// Appends a control frame.
///
/// # Errors
///
/// [`MuxError::OversizedPayload`] if its text alone exceeds
/// [`MAX_PAYLOAD_BYTES`], as an error quoted from a guest might;
/// [`MuxError::WriteControl`] for [`Control::Unknown`], which has no form on
/// the wire. Nothing is appended then.
pub fn encode_control(control: &Control, wire: &mut Vec<u8>) -> Result<(), MuxError> {
    let payload = control.to_json()?;
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(MuxError::OversizedPayload {
            channel: Channel::Control.number(),
            length: payload.len() as u64,
        });
    }
    put_frame(Channel::Control, &payload, wire);
    Ok(())
}

/// The caller keeps `payload` within [`MAX_PAYLOAD_BYTES`], hence within u32.
fn put_frame(channel: Channel, payload: &[u8], wire: &mut Vec<u8>) {
    debug_assert!(payload.len() <= MAX_PAYLOAD_BYTES);
    wire.push(channel.number());
    wire.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    wire.extend_from_slice(payload);
}
