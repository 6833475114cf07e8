//! Turns the first bytes of a frame into a `Header`.
//!
//! In:    bytes from a client, from the first byte of a frame on.
//! Out:   `Header` and its length, or the violation, as soon as the offending byte is there.
//! Never: looks at the payload; knows what frames came before.
//!
//! # Invariants
//! - Faults are found in the order of the bytes: how the input is cut changes nothing.

use super::Violation;
use crate::limits;

/// Longest header of a client: 2 bytes, 8 of length, 4 of mask.
pub const HEADER_BYTES_MAX: usize = 14;
/// Shortest header of a client: 2 bytes, 4 of mask.
pub const SHORT_HEADER_BYTES: usize = 6;

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
        Some(match bits & 0x0f {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
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

/// The header of an unfragmented message of at most 125 bytes, the frame that chat is made of,
/// which `bytes` start with and hold whole; `None` for everything else.
///
/// It decides nothing that [`parse_header`] would not: it is the same header, found in two looks.
#[inline]
#[must_use]
pub fn short_message(bytes: &[u8]) -> Option<Header> {
    let (&[first, second, ref mask @ ..], _) = bytes.split_first_chunk::<SHORT_HEADER_BYTES>()?;
    let opcode = match first {
        0x81 => Opcode::Text,
        0x82 => Opcode::Binary,
        _ => return None,
    };
    // Masked, and no longer than one byte can say.
    let is_short = (0x80..=0xfd).contains(&second);
    let len = usize::from(second & 0x7f);
    let is_whole = SHORT_HEADER_BYTES + len <= bytes.len();
    (is_short && is_whole).then_some(Header { fin: true, opcode, mask: *mask, len: len as u64 })
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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::protocol::frame::FrameHeader;

    use super::super::client::{MASK, frame};
    use super::*;

    const FAILED: Result<Option<(Header, usize)>, u16> = Err(1002);

    fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, u16> {
        parse_header(bytes).map_err(|violation| violation.code)
    }

    /// The first length at which parsing fails; everything shorter has to be incomplete.
    fn fails_at(bytes: &[u8]) -> usize {
        let mut incomplete = (0..=bytes.len()).take_while(|len| parse(&bytes[..*len]) == Ok(None));
        let last = incomplete.by_ref().last().expect("nothing is always incomplete");
        assert_eq!(parse(&bytes[..=last]), FAILED);
        last + 1
    }

    #[test]
    fn a_header_is_incomplete_up_to_its_last_byte() {
        for len in [0_usize, 1, 125, 126, 127, 0xffff, 0x1_0000] {
            let bytes = frame(true, Opcode::Binary, &vec![0; len]);
            let header_len = bytes.len() - len;
            for cut in 0..header_len {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{len} cut at {cut}");
            }
            let header = Header { fin: true, opcode: Opcode::Binary, mask: MASK, len: len as u64 };
            assert_eq!(parse(&bytes[..header_len]), Ok(Some((header, header_len))));
            assert_eq!(parse(&bytes), Ok(Some((header, header_len))));
        }
    }

    #[test]
    fn every_pair_of_first_bytes_is_judged_as_the_rfc_says() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                let known = matches!(first & 0x0f, 0 | 1 | 2 | 8 | 9 | 10);
                let control = first & 0x08 != 0;
                let whole_control = first & 0x80 != 0 && second & 0x7f <= 125;
                let legal =
                    first & 0x70 == 0 && known && second & 0x80 != 0 && (!control || whole_control);
                assert_eq!(parse(&[first, second]).is_ok(), legal, "{first:02x} {second:02x}");
                let mut frame = [0; 200];
                (frame[0], frame[1]) = (first, second);
                if let Some(short) = short_message(&frame) {
                    assert_eq!(parse(&frame), Ok(Some((short, 6))), "{first:02x} {second:02x}");
                }
            }
        }
    }

    #[test]
    fn faults_are_found_with_the_byte_that_holds_them() {
        // Reserved bits, a reserved opcode, a fragmented control frame: the first byte.
        for first in [0xc1, 0xa1, 0x91, 0x83, 0x87, 0x8b, 0x8f, 0x08, 0x09, 0x0a] {
            assert_eq!(fails_at(&[first, 0x80, 0, 0, 0, 0]), 1, "{first:02x}");
        }
        // No mask, a long control frame: the second.
        assert_eq!(fails_at(&[0x81, 0x05]), 2);
        assert_eq!(fails_at(&[0x89, 0xfe]), 2);
        assert_eq!(fails_at(&[0x88, 0xff]), 2);
        // The top bit of a long length.
        assert_eq!(fails_at(&[0x82, 0xff, 0x80]), 3);
    }

    #[test]
    fn lengths_that_are_not_minimal_are_refused() {
        assert_eq!(fails_at(&[0x82, 0xfe, 0, 0]), 4);
        assert_eq!(fails_at(&[0x82, 0xfe, 0, 125]), 4);
        assert!(parse(&[0x82, 0xfe, 0, 126]).is_ok());
        assert_eq!(fails_at(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), 8);
        assert!(parse(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]).is_ok());
    }

    #[test]
    fn the_longest_length_is_read_without_overflow() {
        let mut bytes = vec![0x82, 0xff, 0x7f];
        bytes.extend_from_slice(&[0xff; 7]);
        bytes.extend_from_slice(&MASK);
        let (header, len) = parse(&bytes).unwrap().unwrap();
        assert_eq!((header.len, len), (i64::MAX as u64, HEADER_BYTES_MAX));
    }

    #[test]
    fn what_is_accepted_is_what_tungstenite_reads() {
        for opcode in [
            Opcode::Continuation,
            Opcode::Text,
            Opcode::Binary,
            Opcode::Close,
            Opcode::Ping,
            Opcode::Pong,
        ] {
            for len in [0_usize, 7, 125, 300, 70_000] {
                if opcode.is_control() && len > 125 {
                    continue;
                }
                let bytes = frame(true, opcode, &vec![b'x'; len]);
                let (ours, header_len) = parse(&bytes).unwrap().unwrap();
                let mut cursor = Cursor::new(&bytes);
                let (theirs, their_len) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
                assert_eq!(header_len as u64, cursor.position());
                assert_eq!(ours.len, their_len);
                assert_eq!(Some(ours.mask), theirs.mask);
                assert_eq!(ours.opcode as u8, u8::from(theirs.opcode));
                let is_short = len <= 125 && matches!(opcode, Opcode::Text | Opcode::Binary);
                assert_eq!(short_message(&bytes), is_short.then_some(ours));
                assert_eq!(short_message(&bytes[..bytes.len() - 1]), None);
            }
        }
    }
}
