//! Finding the markers in a stream that may hold anything.

use std::borrow::Cow;

use super::request::{ExecStage, Nonce};
use crate::signal::ProcessGroup;

/// First and last byte of a marker (ASCII record separator): not in text, and
/// rare enough in binary data to be found quickly.
const EDGE: u8 = 0x1e;

/// Longest text between the nonce and the closing byte, in bytes.
const MAX_BODY_BYTES: usize = 16;

/// What a stream turned out to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes of the command; never none.
    Data(Vec<u8>),
    /// The command is about to run (stderr only).
    Started {
        /// Whom to signal.
        group: ProcessGroup,
    },
    /// The command was not run; the stream is over.
    Failed {
        /// What failed.
        stage: ExecStage,
    },
    /// The command ended; the stream is over.
    Ended {
        /// Its status, 0 to 255.
        status: i32,
    },
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// At its marker.
    Marked {
        /// Bytes that came after the marker, from processes left in the
        /// background, and were dropped.
        discarded: u64,
    },
    /// Without one: the connection or the whole process group was lost.
    Lost {
        /// Last bytes of the command, not yet handed out as [`Event::Data`].
        held: Vec<u8>,
    },
}

/// Separates one stream's data from its markers, without I/O.
///
/// Data is handed out as it arrives; only what may be the beginning of a
/// marker waits, at most 57 bytes.
#[derive(Debug)]
pub struct MarkerDecoder {
    prefix: Vec<u8>,
    held: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    Reading,
    Over { discarded: u64 },
}

impl MarkerDecoder {
    /// Begins at the first byte of a stream of the call that `nonce` was
    /// drawn for.
    pub fn new(nonce: &Nonce) -> Self {
        let mut prefix = vec![EDGE];
        prefix.extend_from_slice(format!("banger-{nonce} ").as_bytes());
        Self {
            prefix,
            held: Vec::new(),
            state: State::Reading,
        }
    }

    /// Reads bytes as they arrived, cut anywhere, and appends what they hold
    /// to `events`. Nothing follows [`Event::Failed`] and [`Event::Ended`].
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        if let State::Over { discarded } = &mut self.state {
            *discarded += bytes.len() as u64;
            return;
        }
        let joined = if self.held.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(bytes);
            Cow::Owned(joined)
        };
        self.scan(&joined, events);
    }

    /// Whether the stream's last marker was read: no need to read on.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over { .. })
    }

    /// Ends the stream.
    pub fn finish(self) -> StreamEnd {
        match self.state {
            State::Reading => StreamEnd::Lost { held: self.held },
            State::Over { discarded } => StreamEnd::Marked { discarded },
        }
    }

    fn scan(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        let mut data_from = 0;
        let mut look_from = 0;
        while let Some(edge) = find_edge(bytes, look_from) {
            match self.marker_at(&bytes[edge..]) {
                Found::No => look_from = edge + 1,
                Found::Perhaps => {
                    push_data(&bytes[data_from..edge], events);
                    self.held = bytes[edge..].to_vec();
                    return;
                }
                Found::Marker { event, length } => {
                    push_data(&bytes[data_from..edge], events);
                    let after = edge + length;
                    let over = !matches!(event, Event::Started { .. });
                    events.push(event);
                    if over {
                        self.state = State::Over {
                            discarded: (bytes.len() - after) as u64,
                        };
                        return;
                    }
                    data_from = after;
                    look_from = after;
                }
            }
        }
        push_data(&bytes[data_from..], events);
    }

    /// Looks at bytes that begin with [`EDGE`].
    fn marker_at(&self, bytes: &[u8]) -> Found {
        let known = bytes.len().min(self.prefix.len());
        if bytes[..known] != self.prefix[..known] {
            return Found::No;
        }
        let Some(rest) = bytes.get(self.prefix.len()..) else {
            return Found::Perhaps;
        };
        let rest = &rest[..rest.len().min(MAX_BODY_BYTES + 1)];
        match rest.iter().position(|&byte| byte == EDGE) {
            Some(end) => match read_body(&rest[..end]) {
                Some(event) => Found::Marker {
                    event,
                    length: self.prefix.len() + end + 1,
                },
                None => Found::No,
            },
            None if rest.len() > MAX_BODY_BYTES => Found::No,
            None => Found::Perhaps,
        }
    }
}

enum Found {
    No,
    Perhaps,
    Marker { event: Event, length: usize },
}

fn read_body(body: &[u8]) -> Option<Event> {
    let (kind, value) = body.split_first_chunk::<2>()?;
    match kind {
        b"p " => {
            let group = ProcessGroup::new(read_number(value)?).ok()?;
            Some(Event::Started { group })
        }
        b"f " => {
            let stage = ExecStage::from_name(value)?;
            Some(Event::Failed { stage })
        }
        b"e " => {
            let status = u8::try_from(read_number(value)?).ok()?;
            Some(Event::Ended {
                status: status.into(),
            })
        }
        _ => None,
    }
}

/// Digits only: `str::parse` would take a sign too.
fn read_number(digits: &[u8]) -> Option<u32> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn find_edge(bytes: &[u8], from: usize) -> Option<usize> {
    let found = bytes[from..].iter().position(|&byte| byte == EDGE)?;
    Some(from + found)
}

fn push_data(data: &[u8], events: &mut Vec<Event>) {
    if !data.is_empty() {
        events.push(Event::Data(data.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce([7; 16]);

    fn marker(nonce: Nonce, body: &str) -> Vec<u8> {
        format!("\x1ebanger-{nonce} {body}\x1e").into_bytes()
    }

    fn read(stream: &[u8]) -> (Vec<Event>, StreamEnd) {
        let mut decoder = MarkerDecoder::new(&NONCE);
        let mut events = Vec::new();
        decoder.push(stream, &mut events);
        (events, decoder.finish())
    }

    #[test]
    fn a_command_is_read_from_its_start_to_its_end() {
        let stream = [
            b"motd".to_vec(),
            marker(NONCE, "p 4711"),
            b"out".to_vec(),
            marker(NONCE, "e 143"),
            b"late".to_vec(),
        ]
        .concat();
        let (events, end) = read(&stream);
        assert_eq!(
            events,
            [
                Event::Data(b"motd".to_vec()),
                Event::Started {
                    group: ProcessGroup::new(4711).unwrap()
                },
                Event::Data(b"out".to_vec()),
                Event::Ended { status: 143 },
            ]
        );
        assert_eq!(end, StreamEnd::Marked { discarded: 4 });
    }

    #[test]
    fn a_missing_folder_is_not_a_status() {
        let (events, _) = read(&marker(NONCE, "f cwd"));
        let stage = ExecStage::Cwd;
        assert_eq!(events, [Event::Failed { stage }]);
    }

    #[test]
    fn what_only_resembles_a_marker_is_data() {
        let other = Nonce([8; 16]);
        for stream in [
            marker(other, "e 0"),
            marker(NONCE, ""),
            marker(NONCE, "e"),
            marker(NONCE, "e "),
            marker(NONCE, "e 256"),
            marker(NONCE, "e +1"),
            marker(NONCE, "p 0"),
            marker(NONCE, "p 1"),
            marker(NONCE, "p 4294967295"),
            marker(NONCE, "p 00000000000000000000001"),
            marker(NONCE, "f nowhere"),
            marker(NONCE, "z 1"),
            b"\x1e\x1e\x1ebanger-\n".to_vec(),
        ] {
            let (events, end) = read(&stream);
            let mut data: Vec<u8> = events
                .into_iter()
                .flat_map(|event| match event {
                    Event::Data(data) => data,
                    event => panic!("{event:?} in {stream:?}"),
                })
                .collect();
            let StreamEnd::Lost { held } = end else {
                panic!("{end:?} in {stream:?}")
            };
            data.extend(held);
            assert_eq!(data, stream);
        }
    }

    #[test]
    fn only_a_possible_marker_waits() {
        let mut decoder = MarkerDecoder::new(&NONCE);
        let mut events = Vec::new();
        decoder.push(b"prompt> \x1ebang", &mut events);
        assert_eq!(events, [Event::Data(b"prompt> ".to_vec())]);
        decoder.push(b"!", &mut events);
        assert_eq!(events[1], Event::Data(b"\x1ebang!".to_vec()));
        let cut = &marker(NONCE, "e 0")[..43];
        decoder.push(cut, &mut events);
        assert_eq!(events.len(), 2);
        let held = cut.to_vec();
        assert_eq!(decoder.finish(), StreamEnd::Lost { held });
    }
}
