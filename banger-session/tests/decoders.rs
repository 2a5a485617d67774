//! The decoders give the same answer however their input is cut, and none
//! that could panic or grow, whatever it holds.

use banger_session::exec::{Event, MarkerDecoder, Nonce, StreamEnd};
use banger_session::mux::{Control, Decoder, Frame, Stream, encode, encode_control, encode_end};
use banger_session::{is_unseen, printable, printable_json, printable_lines};
use proptest::collection::vec;
use proptest::prelude::*;

const NONCE: Nonce = Nonce([0x5a; 16]);

/// Cuts `bytes` into pieces of these lengths, the last one taking the rest.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for &length in lengths {
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

fn marker(nonce: Nonce, body: &str) -> Vec<u8> {
    format!("\x1ebanger-{nonce} {body}\x1e").into_bytes()
}

/// Bytes among which markers, parts of markers and other calls' markers are
/// frequent.
fn confusing_bytes() -> impl Strategy<Value = Vec<u8>> {
    let own = marker(NONCE, "e 0");
    let own_length = own.len();
    let part = (0..own_length).prop_map(move |length| own[..length].to_vec());
    let other = any::<[u8; 16]>()
        .prop_filter("another nonce", |nonce| *nonce != NONCE.0)
        .prop_map(|nonce| marker(Nonce(nonce), "e 0"));
    let piece = prop_oneof![
        vec(any::<u8>(), 0..40),
        part,
        other,
        Just(marker(NONCE, "e 999")),
        Just(vec![0x1e]),
    ];
    // A byte between two pieces, so that no two parts make one whole.
    vec(piece, 0..12).prop_map(|pieces| pieces.join(&b'\n'))
}

/// Data joined, other events apart.
fn read_marked(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Event>, StreamEnd) {
    let mut decoder = MarkerDecoder::new(&NONCE);
    let (mut data, mut marks) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut events = Vec::new();
        decoder.push(piece, &mut events);
        for event in events {
            match event {
                Event::Data(bytes) => {
                    assert!(!bytes.is_empty());
                    data.extend(bytes);
                }
                mark => marks.push(mark),
            }
        }
    }
    (data, marks, decoder.finish())
}

fn read_frames(pieces: &[&[u8]]) -> (Vec<Frame>, Option<String>) {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }
    (frames, None)
}

fn any_stream() -> impl Strategy<Value = Stream> {
    prop_oneof![
        Just(Stream::Stdin),
        Just(Stream::Stdout),
        Just(Stream::Stderr)
    ]
}

fn any_control() -> impl Strategy<Value = Control> {
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(rows, cols)| Control::Resize { rows, cols }),
        any::<String>().prop_map(|signal| Control::Signal { signal }),
        Just(Control::Eof),
        any::<Option<u32>>().prop_map(|pid| Control::Started { pid }),
        any::<i32>().prop_map(|exit_code| Control::Exit { exit_code }),
        any::<String>().prop_map(|error| Control::Lost { error }),
        any::<(String, String)>().prop_map(|(error, kind)| Control::Error { error, kind }),
        Just(Control::Detached),
        any::<String>().prop_map(|error| Control::Refused { error }),
        (any_stream(), any::<u64>())
            .prop_map(|(stream, offset)| Control::Offset { stream, offset }),
    ]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any_stream(), vec(any::<u8>(), 1..300))
            .prop_map(|(stream, bytes)| Frame::Data { stream, bytes }),
        any_stream().prop_map(|stream| Frame::End { stream }),
        any_control().prop_map(Frame::Control),
    ]
}

proptest! {
    #[test]
    fn fuzz_a_command_s_bytes_survive_any_cutting(
        before in confusing_bytes(),
        after in confusing_bytes(),
        status in 0..=255_i32,
        cuts in vec(0..70_usize, 0..40),
    ) {
        let stream = [
            before.clone(),
            b"\n".to_vec(),
            marker(NONCE, &format!("e {status}")),
            after.clone(),
        ]
        .concat();
        let (data, marks, end) = read_marked(&pieces(&stream, &cuts));
        prop_assert_eq!(data, [before, b"\n".to_vec()].concat());
        prop_assert_eq!(marks, [Event::Ended { status }]);
        prop_assert_eq!(end, StreamEnd::Marked { discarded: after.len() as u64 });
    }

    #[test]
    fn fuzz_a_lost_stream_gives_back_every_byte(
        stream in confusing_bytes(),
        cuts in vec(0..70_usize, 0..40),
    ) {
        let (mut data, marks, end) = read_marked(&pieces(&stream, &cuts));
        prop_assert_eq!(marks, []);
        let StreamEnd::Lost { held } = end else {
            return Err(TestCaseError::fail("an end that nobody wrote"));
        };
        prop_assert!(held.len() <= 57, "{} bytes held back", held.len());
        data.extend(held);
        prop_assert_eq!(data, stream);
    }

    #[test]
    fn fuzz_frames_survive_any_cutting(
        frames in vec(any_frame(), 0..20),
        cuts in vec(0..100_usize, 0..60),
    ) {
        let mut wire = Vec::new();
        for frame in &frames {
            match frame {
                Frame::Data { stream, bytes } => encode(*stream, bytes, &mut wire),
                Frame::End { stream } => encode_end(*stream, &mut wire),
                Frame::Control(control) => encode_control(control, &mut wire).unwrap(),
            }
        }
        let (read, error) = read_frames(&pieces(&wire, &cuts));
        prop_assert_eq!(read, frames);
        prop_assert_eq!(error, None);
    }

    #[test]
    fn fuzz_noise_is_judged_alike_however_it_is_cut(
        noise in vec(prop_oneof![any::<u8>(), 0..5_u8], 0..400),
        cuts in vec(0..30_usize, 0..60),
    ) {
        prop_assert_eq!(read_frames(&pieces(&noise, &cuts)), read_frames(&[&noise]));
    }

    #[test]
    fn fuzz_no_text_speaks_to_a_terminal_and_json_stays_the_same(
        text in "[ -~\\x1b\\x07\\x00\\x7f\\u{9b}\\u{202e}\\u{2066}\\u{feff}\r\n\tä💥]{0,60}",
    ) {
        prop_assert!(!printable(&text).chars().any(is_unseen));
        prop_assert!(!printable_lines(&text).chars().any(|c| c != '\n' && is_unseen(c)));
        let json = serde_json::to_string(&text).unwrap();
        let shown = printable_json(&json);
        prop_assert!(!shown.chars().any(is_unseen));
        prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }
}
