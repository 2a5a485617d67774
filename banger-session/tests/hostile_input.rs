//! Long deterministic runs over input that a guest, or a broken client, could
//! send: no decoder panics, grows, or changes its mind.

use banger_session::ProcessGroup;
use banger_session::exec::{Event, ExecStage, MarkerDecoder, Nonce, StreamEnd};
use banger_session::mux::{Decoder, Frame, MAX_PAYLOAD_BYTES};
use banger_session::session::{
    MAX_STATE_BYTES, ParseStateError, SessionState, apply_state_snapshot, parse_command_preflight,
    parse_log_offset, parse_state, state_changed, state_from_dir,
};

/// Rounds of each run; together some seconds in a debug build.
const ROUNDS: u64 = 20_000;

/// A small generator with a fixed start: a failure can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit as u64) as usize
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        (0..self.below(longest + 1))
            .map(|_| self.roll() as u8)
            .collect()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Cuts, repeats, swaps and overwrites a little.
    fn spoil(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] = self.roll() as u8,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, *self.pick(b"\n \0\x1e\xff0e")),
                3 => {
                    let copy = bytes[at..].to_vec();
                    bytes.extend(copy);
                }
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    }

    /// Hands `bytes` on in pieces of its own choosing.
    fn in_pieces(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + self.below(rest.len().min(97)));
            take(piece);
            rest = after;
        }
    }
}

/// What a stream holds, found by trying every marker at every byte: data,
/// marks, and how much followed the last one.
fn read_slowly(stream: &[u8], nonce: &Nonce) -> (Vec<u8>, Vec<Event>, Option<u64>) {
    let (mut data, mut marks) = (Vec::new(), Vec::new());
    let mut rest = stream;
    while let Some(&first) = rest.first() {
        match marker_slowly(rest, nonce) {
            Some((mark, length)) => {
                rest = &rest[length..];
                let last = !matches!(mark, Event::Started { .. });
                marks.push(mark);
                if last {
                    return (data, marks, Some(rest.len() as u64));
                }
            }
            None => {
                data.push(first);
                rest = &rest[1..];
            }
        }
    }
    (data, marks, None)
}

fn marker_slowly(bytes: &[u8], nonce: &Nonce) -> Option<(Event, usize)> {
    let prefix = format!("\x1ebanger-{nonce} ");
    let rest = bytes.strip_prefix(prefix.as_bytes())?;
    let length = rest.iter().position(|&byte| byte == 0x1e)?;
    let body = std::str::from_utf8(&rest[..length]).ok()?;
    let (kind, value) = body.split_once(' ')?;
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    // 16 bytes are the limit; leading zeros reach it.
    let number: Option<u32> = (digits && length <= 16)
        .then(|| value.parse().ok())
        .flatten();
    let mark = match kind {
        "p" => Event::Started {
            group: ProcessGroup::new(number?).ok()?,
        },
        "e" => Event::Ended {
            status: number.filter(|&status| status <= 255)? as i32,
        },
        "f" if value == "cwd" => Event::Failed {
            stage: ExecStage::Cwd,
        },
        _ => return None,
    };
    Some((mark, prefix.len() + length + 1))
}

#[test]
fn spoiled_frames_end_in_one_answer_and_stay_there() {
    let mut dice = Dice(1);
    let controls: [&[u8]; 6] = [
        br#"{"type":"exit","exit_code":3}"#,
        br#"{"type":"resize","rows":24,"cols":80}"#,
        br#"{"type":"teleport"}"#,
        br#"{"type":7}"#,
        b"[[[[[[[[",
        b"",
    ];
    let mut refused = 0;
    for _ in 0..ROUNDS {
        let mut wire = Vec::new();
        for _ in 0..dice.below(5) {
            let channel = 1 + dice.below(4) as u8;
            let payload = match channel {
                4 => dice.pick(&controls).to_vec(),
                _ => dice.bytes(60),
            };
            wire.push(channel);
            wire.extend((payload.len() as u32).to_be_bytes());
            wire.extend(payload);
        }
        let wire = dice.spoil(wire);
        let mut decoder = Decoder::new();
        let mut error = None;
        let mut payload_bytes = 0;
        dice.in_pieces(&wire, |piece| {
            decoder.push(piece);
            loop {
                match decoder.next_frame() {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        assert_eq!(error, None, "a frame after an error");
                        if let Frame::Data { bytes, .. } = frame {
                            assert!(!bytes.is_empty() && bytes.len() <= MAX_PAYLOAD_BYTES);
                            payload_bytes += bytes.len();
                        }
                    }
                    Err(now) => {
                        assert!(error.is_none() || error.as_ref() == Some(&now));
                        error = Some(now);
                        break;
                    }
                }
            }
        });
        assert!(payload_bytes <= wire.len());
        refused += u64::from(error.is_some());
    }
    // The run would prove little if spoiling never hit anything.
    assert!(
        (ROUNDS / 10..ROUNDS).contains(&refused),
        "{refused} refused"
    );
}

#[test]
fn spoiled_markers_never_lose_or_invent_a_byte() {
    let mut dice = Dice(2);
    let nonce = Nonce([0xa5; 16]);
    let bodies = [
        "p 4711", "e 0", "e 255", "f cwd", "e 256", "", "p 1", "e -1",
    ];
    let mut ended = 0;
    for _ in 0..ROUNDS {
        let mut stream = Vec::new();
        for _ in 0..dice.below(5) {
            let body = *dice.pick(&bodies);
            stream.extend(dice.bytes(30));
            stream.extend(dice.spoil(format!("\x1ebanger-{nonce} {body}\x1e").into_bytes()));
        }
        let mut decoder = MarkerDecoder::new(&nonce);
        let mut events = Vec::new();
        dice.in_pieces(&stream, |piece| decoder.push(piece, &mut events));
        let (mut data, mut marks) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Data(bytes) => data.extend(bytes),
                mark => marks.push(mark),
            }
        }
        let (expected_data, expected_marks, after) = read_slowly(&stream, &nonce);
        match decoder.finish() {
            StreamEnd::Lost { held } => {
                assert_eq!(after, None);
                assert!(held.len() <= 57);
                data.extend(held);
            }
            StreamEnd::Marked { discarded } => {
                assert_eq!(after, Some(discarded));
                ended += 1;
            }
        }
        assert_eq!(data, expected_data);
        assert_eq!(marks, expected_marks);
    }
    assert!((ROUNDS / 10..ROUNDS).contains(&ended), "{ended} ended");
}

#[test]
fn spoiled_answers_leave_a_record_that_makes_sense() {
    const ANSWER: &str = "banger-session 1\nboot same\nmonitor_pid 70\nmonitor gone\n\
        start_time 123456\npid 71\ncommand gone\ngroup alive\nstatus running\nexit_code 143\n\
        error launch: no\nboot_id 0b5c7dd3-6c6f-4a0e-9a05-5d1f0c8d9f11\nstdin open\n\
        stdout.log 12\nstderr.log 0\nend\n";
    let mut dice = Dice(3);
    let mut read = 0;
    for _ in 0..ROUNDS {
        let mut lines: Vec<&str> = ANSWER.split_inclusive('\n').collect();
        for _ in 0..dice.below(4) {
            let at = dice.below(lines.len());
            lines.remove(at);
        }
        let answer = dice.spoil(lines.concat().into_bytes());
        let Ok(seen) = parse_state(&answer) else {
            continue;
        };
        read += 1;
        let mut state = SessionState::default();
        apply_state_snapshot(&mut state, &seen);
        let status = state.status.name();
        assert_eq!(state.exit_code.is_some(), status == "exited", "{state:?}");
        assert_eq!(state.failure.is_some(), status == "failed", "{state:?}");
        if let Some(failure) = &state.failure {
            assert!(!failure.message.contains(char::is_control));
        }
        // Seeing the same again changes nothing.
        let before = state.clone();
        apply_state_snapshot(&mut state, &seen);
        assert!(!state_changed(&before, &state));
        // What is stored is read back as it was.
        let stored = serde_json::to_string(&state).unwrap();
        assert_eq!(
            serde_json::from_str::<SessionState>(&stored).unwrap(),
            state
        );
    }
    assert!((ROUNDS / 10..ROUNDS).contains(&read), "{read} read");
}

#[test]
fn noise_is_no_answer() {
    let mut dice = Dice(4);
    let commands = [b"git".to_vec(), b"make".to_vec()];
    for _ in 0..ROUNDS {
        let noise = dice.bytes(200);
        assert!(parse_state(&noise).is_err());
        if let Ok(missing) = parse_command_preflight(&noise, &commands) {
            assert!(missing.0.len() <= commands.len());
        }
        let _ = parse_log_offset(&noise);
        let from_disk = state_from_dir(|_| Ok::<_, ParseStateError>(Some(noise.clone())));
        if let Ok(seen) = from_disk {
            assert!(seen.error.is_none_or(|text| text.len() <= MAX_STATE_BYTES));
        }
    }
}
