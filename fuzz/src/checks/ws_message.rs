//! Turns bytes into a comparison of `Assembler` with the reference, cut in several ways.

use ringhall::ws::{Assembler, Event, Kind, Opcode, encode};

use super::cuts;
use super::ws_reference::{self, Seen};

/// Memory that a connection with something incomplete holds beside the message itself.
const HELD_BESIDE_MAX: usize = 512;

/// Longest payload of a script, and where it stops: just beyond the second format of a length.
const SCRIPT_BYTES_MAX: usize = 0x1_0010;

/// Events and codes are those of the reference; memory is bounded.
pub fn check(input: &[u8]) {
    let [choice, shape, rest @ ..] = input else { return };
    let max = [0, 10, 200, 70_000][usize::from(shape >> 1 & 3)];
    let bytes = if shape & 1 == 0 { rest.to_vec() } else { script(rest) };
    let expected = ws_reference::decode(&bytes, max);
    for choice in [*choice, 0, 1] {
        assert_eq!(decode(&bytes, choice, max, false), expected, "{bytes:02x?}");
    }
    assert_eq!(decode(&bytes, *choice, max, true), expected, "written down: {bytes:02x?}");
    for event in &expected {
        check_encoded(event);
    }
}

fn decode(bytes: &[u8], choice: u8, max: usize, written_down: bool) -> Vec<Seen> {
    let mut assembler = Assembler::default();
    let mut seen = Vec::new();
    let mut from = 0;
    for to in cuts(bytes.len(), choice) {
        if !feed(&mut assembler, &bytes[from..to], max, &mut seen) {
            return seen;
        }
        from = to;
        assert_eq!(assembler.is_idle(), assembler.held_bytes() == 0);
        assert!(assembler.held_bytes() <= max + HELD_BESIDE_MAX, "{assembler:?}");
        // Doubling: what is held follows what came.
        assert!(assembler.held_bytes() <= 2 * from + HELD_BESIDE_MAX, "{assembler:?}");
        if written_down {
            let mut state = Vec::new();
            assembler.write(&mut state);
            let mut rest = &*state;
            assembler = Assembler::read(&mut rest).expect("what was written is read");
            assert!(rest.is_empty());
        }
    }
    seen
}

/// Feeds one piece; false once the connection is over.
fn feed(assembler: &mut Assembler, piece: &[u8], max: usize, seen: &mut Vec<Seen>) -> bool {
    let mut input = piece.to_vec();
    let mut at = 0;
    while at < input.len() {
        let step = match assembler.decode(&mut input[at..], max) {
            Ok(step) => step,
            Err(violation) => {
                seen.push(Seen::Failed(violation.code));
                return false;
            }
        };
        assert!(step.consumed > 0, "stands still");
        at += step.consumed;
        let Some(event) = step.event else { break };
        seen.push(match event {
            Event::Message { kind, bytes } => Seen::Message(kind == Kind::Text, bytes.to_vec()),
            Event::Ping(payload) => Seen::Ping(payload.to_vec()),
            Event::Pong(payload) => Seen::Pong(payload.to_vec()),
            Event::Close(said) => Seen::Close(said.map(|(code, reason)| (code, reason.into()))),
        });
        if matches!(seen.last(), Some(Seen::Close(_))) {
            return false;
        }
    }
    assert_eq!(at, input.len(), "no event, and yet something left");
    assembler.settle();
    true
}

/// Makes frames of bytes, most of them legal: opcode, length, that many bytes of payload.
fn script(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [what, len, rest @ ..] = bytes
        && out.len() < SCRIPT_BYTES_MAX
    {
        let opcode = [0, 1, 2, 8, 9, 10, 0, 0][usize::from(what & 7)];
        let fin = if what & 0x08 == 0 || opcode >= 8 { 0x80 } else { 0 };
        // Some are multiplied, so that the longer formats of a length have their turn.
        let scale = match what & 0xf0 {
            0x00 => 300,
            0x10 => 20,
            _ => 1,
        };
        let payload = &rest[..rest.len().min(usize::from(*len))];
        bytes = &rest[payload.len()..];
        let payload = payload.repeat(scale);
        let payload =
            &payload[..payload.len().min(if opcode < 8 { SCRIPT_BYTES_MAX } else { 125 })];
        let mask = [*what, *len, 0x5a, 0xa5];
        out.push(fin | opcode);
        match payload.len() {
            len @ 0..=125 => out.push(0x80 | len as u8),
            len @ 126..=0xffff => {
                out.push(0xfe);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                out.push(0xff);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
    out
}

/// What the server would send of an event reads back the same.
fn check_encoded(event: &Seen) {
    let (opcode, payload) = match event {
        Seen::Message(true, bytes) => (Opcode::Text, bytes),
        Seen::Message(false, bytes) => (Opcode::Binary, bytes),
        Seen::Ping(bytes) => (Opcode::Pong, bytes),
        Seen::Pong(_) | Seen::Close(_) | Seen::Failed(_) => return,
    };
    let mut out = Vec::new();
    encode::put_frame(&mut out, opcode, payload);
    let mut cursor = std::io::Cursor::new(&out);
    let parsed = tungstenite::protocol::frame::FrameHeader::parse(&mut cursor);
    let (header, len) = parsed.expect("a frame").expect("a whole header");
    let payload_at = cursor.position() as usize;
    assert_eq!((len, header.mask, header.is_final), (payload.len() as u64, None, true));
    assert_eq!(u8::from(header.opcode), opcode as u8);
    assert_eq!(&out[payload_at..], payload);
}
