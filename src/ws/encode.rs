//! Turns payloads into a server's frames: final, without a mask.
//!
//! In:    opcode and payload.
//! Out:   bytes behind whatever the buffer held.
//! Never: fragments, masks, or looks at the payload.

use super::Opcode;
use crate::limits;

/// Longest header of a server's frame.
pub const HEADER_BYTES_MAX: usize = 10;

/// Bytes of the header of a frame with a payload of `len` bytes.
#[must_use]
pub const fn header_len(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// Appends the header of a frame whose payload of `len` bytes follows.
#[inline]
pub fn put_header(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    let first = 0x80 | opcode as u8;
    match len {
        0..=125 => out.extend_from_slice(&[first, len as u8]),
        126..=0xffff => {
            let [high, low] = (len as u16).to_be_bytes();
            out.extend_from_slice(&[first, 126, high, low]);
        }
        _ => {
            out.extend_from_slice(&[first, 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Makes a client's frame that lies in `bytes`, its unmasked payload from `payload_at` to the end,
/// a server's; where that begins.
///
/// RFC 6455 section 5.2: both use "the minimal number of bytes" for the length, and a client's
/// header has a mask besides: so there is room for ours in front of the payload.
///
/// # Panics
/// If there is not: the frame was no client's.
#[inline]
pub fn reframe(bytes: &mut [u8], payload_at: usize, opcode: Opcode) -> usize {
    let len = bytes.len() - payload_at;
    let first = 0x80 | opcode as u8;
    let start = payload_at - header_len(len);
    let header = &mut bytes[start..payload_at];
    match len {
        0..=125 => header.copy_from_slice(&[first, len as u8]),
        126..=0xffff => {
            let [high, low] = (len as u16).to_be_bytes();
            header.copy_from_slice(&[first, 126, high, low]);
        }
        _ => {
            header[..2].copy_from_slice(&[first, 127]);
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
        }
    }
    start
}

/// Appends a whole frame.
#[inline]
pub fn put_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.reserve(HEADER_BYTES_MAX + payload.len());
    put_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// A close frame; a reason that is too long for it is cut between two characters.
#[must_use]
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    // RFC 6455 section 5.5: 125 bytes or less, two of them the code.
    let reason = &reason[..reason.floor_char_boundary(limits::CONTROL_BYTES_MAX - 2)];
    let len = 2 + reason.len();
    let mut out = Vec::with_capacity(header_len(len) + len);
    put_header(&mut out, Opcode::Close, len);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::protocol::frame::FrameHeader;

    use super::*;
    use crate::ws::close::parse_close;

    #[test]
    fn frames_read_back_as_they_were_put_at_every_change_of_format() {
        for len in [0_usize, 1, 125, 126, 127, 0xffff, 0x1_0000, 0x1_0001] {
            for opcode in [Opcode::Text, Opcode::Binary, Opcode::Pong] {
                let payload = vec![b'p'; len];
                let mut out = b"before".to_vec();
                put_frame(&mut out, opcode, &payload);
                let frame = out.strip_prefix(b"before").unwrap();
                let mut cursor = Cursor::new(frame);
                let (header, read) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
                assert_eq!(read, len as u64);
                assert_eq!(cursor.position() as usize, header_len(len));
                assert_eq!(u8::from(header.opcode), opcode as u8);
                assert!(header.is_final && header.mask.is_none());
                assert_eq!(&frame[header_len(len)..], payload);
                assert!(header_len(len) <= HEADER_BYTES_MAX);
            }
        }
    }

    #[test]
    fn a_clients_frame_becomes_the_same_frame_of_a_server_where_it_lies() {
        for len in [0_usize, 1, 125, 126, 0xffff, 0x1_0000] {
            let payload = vec![b'p'; len];
            let mut frame = crate::ws::client::frame(true, Opcode::Binary, &payload);
            let payload_at = frame.len() - len;
            frame[payload_at..].copy_from_slice(&payload);
            let mut wanted = Vec::new();
            put_frame(&mut wanted, Opcode::Text, &payload);
            let start = reframe(&mut frame, payload_at, Opcode::Text);
            assert_eq!((start, &frame[start..]), (4, &*wanted), "{len}");
        }
    }

    #[test]
    fn a_close_reason_is_cut_between_characters_to_fit_a_control_frame() {
        for (reason, kept) in [
            ("", 0),
            ("slow consumer", 13),
            (&*"x".repeat(123), 123),
            (&*"x".repeat(124), 123),
            (&*"\u{20ac}".repeat(42), 123),
            (&*format!("x{}", "\u{20ac}".repeat(41)), 121),
        ] {
            let frame = close_frame(1013, reason);
            assert_eq!(frame[..2], [0x88, 2 + kept as u8]);
            assert_eq!(frame.len(), 4 + kept);
            assert_eq!(parse_close(&frame[2..]), Ok(Some((1013, &reason[..kept]))));
        }
    }
}
