//! Turns the first bytes of a frame into a `Header`.
//!
//! In:    bytes from a client, from the first byte of a frame on.
//! Out:   `Header` and its length, or the violation, as soon as the offending byte is there.
//! Never: looks at the payload; knows what frames came before.
//!
//! # Invariants
//! - Faults are found in the order of the bytes: how the input is cut changes nothing.

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::Violation;
use crate::limits;

/// Longest header of a client: 2 bytes, 8 of length, 4 of mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// What a frame is (RFC 6455 section 5.2), one byte and without the reserved values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment.
    Continuation = 0,
    /// Text: a whole message or its first fragment.
    Text = 1,
    /// Binary: a whole message or its first fragment.
    Binary = 2,
    /// The closing handshake.
    Close = 8,
    /// To be answered by a pong.
    Ping = 9,
    /// The answer to a ping, or unasked for.
    Pong = 10,
}

impl Opcode {
    /// Reads the low four bits of a frame's first byte; `None` for reserved values.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match OpCode::from(bits & 0x0f) {
            OpCode::Data(Data::Continue) => Self::Continuation,
            OpCode::Data(Data::Text) => Self::Text,
            OpCode::Data(Data::Binary) => Self::Binary,
            OpCode::Control(Control::Close) => Self::Close,
            OpCode::Control(Control::Ping) => Self::Ping,
            OpCode::Control(Control::Pong) => Self::Pong,
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => return None,
        })
    }

    /// Close, ping and pong.
    #[must_use]
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The last fragment of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The mask; a client's frame always has one.
    pub mask: [u8; 4],
    /// Bytes of the payload, below 2^63.
    pub len: u64,
}

/// Reads the header at the start of `bytes`; `None` where it is not complete yet.
///
/// # Errors
/// 1002 for whatever RFC 6455 section 5 forbids in a client's header.
pub fn parse_header(bytes: &[u8]) -> Result<Option<(Header, usize)>, Violation> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    // RFC 6455 section 5.2: RSV1 to RSV3 "MUST be 0 unless an extension is negotiated".
    if first & 0x70 != 0 {
        return Err(Violation::protocol("a reserved bit is set: no extension was negotiated"));
    }
    // RFC 6455 section 5.2: "If an unknown opcode is received, the receiving endpoint MUST _Fail
    // the WebSocket Connection_".
    let Some(opcode) = Opcode::from_bits(first) else {
        return Err(Violation::protocol("a reserved opcode"));
    };
    let fin = first & 0x80 != 0;
    // RFC 6455 section 5.5: control frames "MUST NOT be fragmented".
    if opcode.is_control() && !fin {
        return Err(Violation::protocol("a control frame in fragments"));
    }
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    // RFC 6455 section 5.1: "The server MUST close the connection upon receiving a frame that is
    // not masked."
    if second & 0x80 == 0 {
        return Err(Violation::protocol("a frame without a mask"));
    }
    let short = second & 0x7f;
    // RFC 6455 section 5.5: "All control frames MUST have a payload length of 125 bytes or less".
    if opcode.is_control() && usize::from(short) > limits::CONTROL_BYTES_MAX {
        return Err(Violation::protocol("a control frame of more than 125 bytes"));
    }
    let Some((len, mask_at)) = parse_len(short, &bytes[2..])? else { return Ok(None) };
    let Some(&mask) = bytes[mask_at..].first_chunk::<4>() else { return Ok(None) };
    Ok(Some((Header { fin, opcode, mask, len }, mask_at + 4)))
}

/// The payload's length and where the mask begins. `rest` is what follows the first two bytes.
fn parse_len(short: u8, rest: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    // RFC 6455 section 5.2: "the minimal number of bytes MUST be used to encode the length".
    const NOT_MINIMAL: Violation = Violation::protocol("a length in more bytes than it needs");
    match short {
        126 => {
            let Some(len) = rest.first_chunk::<2>() else { return Ok(None) };
            match u16::from_be_bytes(*len) {
                0..=125 => Err(NOT_MINIMAL),
                len => Ok(Some((u64::from(len), 4))),
            }
        }
        127 => {
            // RFC 6455 section 5.2: "the most significant bit MUST be 0".
            if rest.first().is_some_and(|first| first & 0x80 != 0) {
                return Err(Violation::protocol("a length of 2^63 or more"));
            }
            if rest.starts_with(&[0; 6]) {
                return Err(NOT_MINIMAL);
            }
            Ok(rest.first_chunk::<8>().map(|len| (u64::from_be_bytes(*len), 10)))
        }
        _ => Ok(Some((u64::from(short), 2))),
    }
}
