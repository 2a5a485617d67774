//! The headers of a tar stream and what follows each.
//!
//! The blocks are read here rather than by the crate, whose raw reading leaves no way to those that hold the map of
//! a file with holes, and whose other reading takes names of any length into memory.

use std::io::{self, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::unpack::UnpackError;

const BLOCK: u64 = 512;

/// The most pieces that one file may come in: each is remembered until the file is written.
const MOST_PIECES: usize = 1 << 20;

/// A tar stream that stands at a header, or within the content that follows one. Read, it gives that content.
pub(crate) struct Stream<R> {
    inner: R,
    /// What is left of the content.
    left: u64,
    /// What follows it up to a whole block.
    padding: u64,
}

/// Where the pieces of a file with holes lie.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Map {
    /// Offset and length of each, in bytes: in order, apart from each other, as long together as what was sent.
    pub(crate) pieces: Vec<(u64, u64)>,
    /// The length of the file, its holes among it.
    pub(crate) length: u64,
}

impl<R: Read> Stream<R> {
    pub(crate) fn new(inner: R) -> Self {
        Stream {
            inner,
            left: 0,
            padding: 0,
        }
    }

    /// Goes to the next header, past what was not read; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Header>, UnpackError> {
        for rest in [self.left, self.padding] {
            let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink());
            if skipped.map_err(broken)? < rest {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        (self.left, self.padding) = (0, 0);
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? || header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        // The sum is taken with blanks in its own place.
        let sum = bytes[..148].iter().chain(&bytes[156..]);
        let sum = sum.fold(8 * u32::from(b' '), |sum, byte| sum + u32::from(*byte));
        if header.cksum().map_err(broken)? != sum {
            return Err(wrong("the sum of a header does not match"));
        }
        self.left = header.entry_size().map_err(broken)?;
        self.padding = (BLOCK - self.left % BLOCK) % BLOCK;
        Ok(Some(header))
    }

    /// Reads the map of a file with holes, which lies in its header and in blocks between it and the content.
    pub(crate) fn map(&mut self, header: &Header) -> Result<Map, UnpackError> {
        let gnu = header.as_gnu();
        let gnu = gnu.ok_or_else(|| wrong("a file with holes was sent that has no map"))?;
        let length = gnu.real_size().map_err(broken)?;
        let mut pieces = Vec::new();
        take_pieces(&gnu.sparse, &mut pieces)?;
        let mut more = gnu.is_extended();
        let mut places = gnu.sparse.len();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if !self.block(block.as_mut_bytes())? {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            // Empty ones count as well: a map has an end.
            places += block.sparse().len();
            if places > MOST_PIECES {
                return Err(wrong("a file was sent in more pieces than are remembered"));
            }
            take_pieces(block.sparse(), &mut pieces)?;
            more = block.is_extended();
        }
        let mut end = 0_u64;
        let mut sent = 0_u64;
        for (offset, bytes) in &pieces {
            let next = offset.checked_add(*bytes);
            match next.filter(|next| *offset >= end && *next <= length) {
                Some(next) => end = next,
                None => return Err(wrong("the map of a file with holes contradicts itself")),
            }
            sent += bytes;
        }
        if sent != self.left || i64::try_from(length).is_err() {
            return Err(wrong(
                "the map of a file with holes is not that of what was sent",
            ));
        }
        Ok(Map { pieces, length })
    }

    /// Reads a block; nothing at the end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK as usize]) -> Result<bool, UnpackError> {
        let mut read = 0;
        while read < block.len() {
            match self.inner.read(&mut block[read..]) {
                Ok(0) if read == 0 => return Ok(false),
                Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(true)
    }
}

impl<R: Read> Read for Stream<R> {
    /// Reads what is left of the content; a stream that ends before it does is an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.inner.read(&mut buffer[..most])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.left -= read as u64;
                Ok(read)
            }
        }
    }
}

fn take_pieces(
    places: &[GnuSparseHeader],
    pieces: &mut Vec<(u64, u64)>,
) -> Result<(), UnpackError> {
    for place in places.iter().filter(|place| !place.is_empty()) {
        let offset = place.offset().map_err(broken)?;
        pieces.push((offset, place.length().map_err(broken)?));
    }
    Ok(())
}

pub(crate) fn broken(source: io::Error) -> UnpackError {
    UnpackError::Stream { source }
}

fn wrong(what: &str) -> UnpackError {
    broken(io::Error::other(what.to_owned()))
}
