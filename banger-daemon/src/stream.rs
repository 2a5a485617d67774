//! `stdio_mux_v1` over the two halves of a connection; both sides use it.

use std::io;

use banger_session::mux::{
    Control, Decoder, Frame, MuxError, Stream, encode, encode_control, encode_end,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Why a stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection broke.
    #[error("the stream's connection broke")]
    Broken(#[source] io::Error),
    /// It ended within a frame.
    #[error("the stream ended in the middle of a frame")]
    Cut,
    /// The other side does not speak `stdio_mux_v1`.
    #[error("the other side of the stream is not understood")]
    Mux(#[source] MuxError),
}

/// The half of a stream that is read.
#[derive(Debug)]
pub struct StreamReader {
    half: OwnedReadHalf,
    decoder: Decoder,
    buffer: Vec<u8>,
}

/// The half of a stream that is written. Dropping it tells the other side that nothing more comes.
#[derive(Debug)]
pub struct StreamWriter {
    half: OwnedWriteHalf,
    wire: Vec<u8>,
}

impl StreamReader {
    /// Reads frames, beginning with what was read of the connection already.
    pub(crate) fn new(half: OwnedReadHalf, already: &[u8]) -> Self {
        let mut decoder = Decoder::new();
        decoder.push(already);
        StreamReader {
            half,
            decoder,
            buffer: vec![0; 64 << 10],
        }
    }

    /// Returns the next frame; `None` when the other side has ended the stream. Cancel-safe.
    pub async fn next_frame(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(StreamError::Mux)? {
                return Ok(Some(frame));
            }
            let read = self.half.read(&mut self.buffer).await;
            match read.map_err(StreamError::Broken)? {
                0 if self.decoder.is_between_frames() => return Ok(None),
                0 => return Err(StreamError::Cut),
                read => self.decoder.push(&self.buffer[..read]),
            }
        }
    }
}

impl StreamWriter {
    pub(crate) fn new(half: OwnedWriteHalf) -> Self {
        StreamWriter {
            half,
            wire: Vec::new(),
        }
    }

    /// Sends bytes of a stream; none are sent for an empty slice. Waits while the other side does not
    /// read. Not cancel-safe: a frame may be cut, and the stream is then of no further use.
    pub async fn send_data(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), StreamError> {
        self.put_data(stream, bytes);
        self.flush().await
    }

    /// Ends a stream. Not cancel-safe.
    pub async fn send_end(&mut self, stream: Stream) -> Result<(), StreamError> {
        self.put_end(stream);
        self.flush().await
    }

    /// Sends a control message. Not cancel-safe.
    pub async fn send_control(&mut self, control: &Control) -> Result<(), StreamError> {
        self.put_control(control)?;
        self.flush().await
    }

    /// Passes a descriptor instead of frames; nothing may have been sent before. Cancel-safe.
    #[cfg(feature = "server")]
    pub(crate) async fn send_descriptor(
        &self,
        descriptor: std::os::fd::BorrowedFd<'_>,
    ) -> Result<(), StreamError> {
        let sent = crate::descriptor::send(self.half.as_ref(), descriptor).await;
        sent.map_err(StreamError::Broken)
    }

    /// Queues bytes of a stream.
    pub(crate) fn put_data(&mut self, stream: Stream, bytes: &[u8]) {
        encode(stream, bytes, &mut self.wire);
    }

    /// Queues the end of a stream.
    pub(crate) fn put_end(&mut self, stream: Stream) {
        encode_end(stream, &mut self.wire);
    }

    /// Queues a control message.
    pub(crate) fn put_control(&mut self, control: &Control) -> Result<(), StreamError> {
        encode_control(control, &mut self.wire).map_err(StreamError::Mux)
    }

    /// Returns the number of queued bytes.
    #[cfg(feature = "server")]
    pub(crate) fn queued(&self) -> usize {
        self.wire.len()
    }

    /// Writes what is queued, in one go.
    pub(crate) async fn flush(&mut self) -> Result<(), StreamError> {
        let written = self.half.write_all(&self.wire).await;
        self.wire.clear();
        written.map_err(StreamError::Broken)
    }
}
