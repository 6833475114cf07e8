//! Turns payloads into a client's frames, and decoded events into values to compare: for tests.
//!
//! In:    what a client would send.
//! Out:   its bytes, headers by tungstenite, so that encoder and decoder are not of one hand.
//! Never: is compiled into the server.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

use super::{Assembler, Event, Kind, Opcode, Violation};

/// A mask that differs in every byte.
pub(super) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of a client that keeps to the rules, or breaks those of order.
pub(super) fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        is_final: fin,
        opcode: OpCode::from(opcode as u8),
        mask: Some(MASK),
        ..FrameHeader::default()
    };
    let mut out = Vec::new();
    header.format(payload.len() as u64, &mut out).expect("a Vec takes everything");
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// An event that owns what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Failed(Violation),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message { kind: Kind::Text, bytes } => Self::Text(bytes.to_vec()),
            Event::Message { kind: Kind::Binary, bytes } => Self::Binary(bytes.to_vec()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong(payload) => Self::Pong(payload.to_vec()),
            Event::Close(said) => Self::Close(said.map(|(code, reason)| (code, reason.into()))),
        }
    }
}

/// Feeds one received piece, as a connection does; false once the connection is over.
pub(super) fn feed(
    assembler: &mut Assembler,
    piece: &[u8],
    message_bytes_max: usize,
    seen: &mut Vec<Seen>,
) -> bool {
    let mut input = piece.to_vec();
    let mut at = 0;
    while at < input.len() {
        match assembler.decode(&mut input[at..], message_bytes_max) {
            Ok(step) => {
                assert!(step.consumed > 0, "a decoder that stands still");
                at += step.consumed;
                let Some(event) = step.event else {
                    assert_eq!(at, input.len(), "no event, and yet something left");
                    continue;
                };
                seen.push(event.into());
                if matches!(seen.last(), Some(Seen::Close(_))) {
                    return false;
                }
            }
            Err(violation) => {
                seen.push(Seen::Failed(violation));
                return false;
            }
        }
    }
    assembler.settle();
    true
}

/// Feeds an input in pieces that end at `cuts`.
pub(super) fn decode_cut(input: &[u8], cuts: &[usize], message_bytes_max: usize) -> Vec<Seen> {
    let mut assembler = Assembler::default();
    let mut seen = Vec::new();
    let mut from = 0;
    for &to in cuts.iter().chain([&input.len()]) {
        if !feed(&mut assembler, &input[from..to], message_bytes_max, &mut seen) {
            return seen;
        }
        from = to;
    }
    seen
}

/// Decodes an input whole, cut in two everywhere, and byte by byte; all have to agree.
pub(super) fn decode(input: &[u8], message_bytes_max: usize) -> Vec<Seen> {
    let whole = decode_cut(input, &[], message_bytes_max);
    for cut in 0..=input.len() {
        assert_eq!(decode_cut(input, &[cut], message_bytes_max), whole, "cut at {cut}");
    }
    let everywhere: Vec<usize> = (0..input.len()).collect();
    assert_eq!(decode_cut(input, &everywhere, message_bytes_max), whole, "byte by byte");
    whole
}
