//! Lines of bounded length off a connection.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Reads lines. Cancel-safe: what was read and not yet taken stays in here.
#[derive(Debug)]
pub(crate) struct LineReader<R> {
    reader: R,
    held: Vec<u8>,
    /// How much of `held` is known to hold no end of a line.
    searched: usize,
    limit: usize,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line without its end.
    Whole(Vec<u8>),
    /// More than the limit without an end. The place of the next line is not looked for.
    TooLong,
    /// The connection ended; what followed its last line's end is dropped.
    End,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(crate) fn new(reader: R, limit: usize) -> Self {
        LineReader {
            reader,
            held: Vec::new(),
            searched: 0,
            limit,
        }
    }

    pub(crate) async fn next(&mut self) -> io::Result<Line> {
        loop {
            let fresh = &self.held[self.searched..];
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let end = self.searched + at;
                let rest = self.held.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.truncate(end);
                self.searched = 0;
                return Ok(match line.len() > self.limit {
                    true => Line::TooLong,
                    false => Line::Whole(line),
                });
            }
            self.searched = self.held.len();
            if self.searched > self.limit {
                return Ok(Line::TooLong);
            }
            self.held.reserve(8 << 10);
            if self.reader.read_buf(&mut self.held).await? == 0 {
                return Ok(Line::End);
            }
        }
    }

    /// Gives up the connection and what was read of it beyond the last line.
    #[cfg(any(feature = "server", test))]
    pub(crate) fn into_parts(self) -> (R, Vec<u8>) {
        (self.reader, self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8], limit: usize) -> Vec<Line> {
        let mut reader = LineReader::new(input, limit);
        let mut lines = Vec::new();
        loop {
            let line = reader.next().await.unwrap();
            let over = line == Line::End || line == Line::TooLong;
            lines.push(line);
            if over {
                return lines;
            }
        }
    }

    #[tokio::test]
    async fn lines_end_at_newlines_and_half_a_line_is_none() {
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        assert_eq!(
            lines(b"a\n\nbc\nd", 9).await,
            [whole("a"), whole(""), whole("bc"), Line::End]
        );
    }

    #[tokio::test]
    async fn a_line_over_the_limit_is_refused_whether_or_not_it_ends() {
        assert_eq!(lines(b"1234\n", 4).await.len(), 2);
        assert_eq!(lines(b"12345\n", 4).await, [Line::TooLong]);
        assert_eq!(lines(&[b'x'; 100_000], 4).await, [Line::TooLong]);
    }

    #[tokio::test]
    async fn what_follows_the_last_line_is_handed_on() {
        let mut reader = LineReader::new(&b"open\n\x01\x02"[..], 9);
        reader.next().await.unwrap();
        assert_eq!(reader.into_parts().1, [1, 2]);
    }
}
