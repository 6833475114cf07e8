//! Turns a speaker's number and a message's number into a masked frame, and a payload back.
//!
//! In:    lengths, numbers; payloads as they came back.
//! Out:   a client's frame; `Stamp`.
//! Never: looks at more of a payload than its stamp: who receives compares the filler.
//!
//! A payload is its stamp (eight decimal digits of the speaker, eight of the message) and a filler
//! that is the same in all of them. So a frame is one copy of a template and sixteen bytes.

use crate::ws::Opcode;
use crate::ws::mask::unmask;

/// Bytes of a stamp, and of the shortest payload.
pub const STAMP_BYTES: usize = 16;
/// Numbers of a stamp are below this.
pub const NUMBER_END: u32 = 100_000_000;
/// The mask of all our frames: legal, since a mask only has to be there.
const MASK: [u8; 4] = [0x52, 0x9a, 0x3c, 0xe7];

/// Who said it, and which of its messages it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The speaker's connection.
    pub speaker: u32,
    /// Counts its messages from 0, modulo [`NUMBER_END`].
    pub sequence: u32,
}

impl Stamp {
    /// As sixteen digits.
    #[must_use]
    pub fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&digits(self.speaker).to_le_bytes());
        bytes[8..].copy_from_slice(&digits(self.sequence).to_le_bytes());
        bytes
    }

    /// From the first sixteen bytes of a payload.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (speaker, rest) = payload.split_first_chunk::<8>()?;
        let sequence = rest.first_chunk::<8>()?;
        let speaker = number(u64::from_le_bytes(*speaker))?;
        Some(Self { speaker, sequence: number(u64::from_le_bytes(*sequence))? })
    }
}

/// What follows the stamp in a payload of `len` bytes: letters in no pattern that a shift hides.
#[must_use]
pub fn filler(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0x1d_1e);
    (STAMP_BYTES..len).map(|_| random.u8(b'a'..=b'z')).collect()
}

/// A frame that only wants a stamp.
#[derive(Clone, Debug)]
pub struct Template {
    frame: Vec<u8>,
    stamp_at: usize,
    /// The mask as it lies over the stamp.
    key: u64,
}

impl Template {
    /// A text frame of `before`, a stamp, `filler` and `after`.
    #[must_use]
    pub fn new(before: &[u8], filler: &[u8], after: &[u8]) -> Self {
        let len = before.len() + STAMP_BYTES + filler.len() + after.len();
        let mut frame = Vec::with_capacity(len + 14);
        crate::ws::encode::put_header(&mut frame, Opcode::Text, len);
        // RFC 6455 section 5.1: "a client MUST mask all frames that it sends to the server".
        frame[1] |= 0x80;
        frame.extend_from_slice(&MASK);
        let payload_at = frame.len();
        for part in [before, &[0; STAMP_BYTES], filler, after] {
            frame.extend_from_slice(part);
        }
        unmask(&mut frame[payload_at..], MASK, 0);
        let [a, b, c, d] = crate::ws::mask::turn(MASK, before.len());
        let key = u64::from_le_bytes([a, b, c, d, a, b, c, d]);
        Self { frame, stamp_at: payload_at + before.len(), key }
    }

    /// Appends the frame of one message.
    pub fn put(&self, out: &mut Vec<u8>, stamp: Stamp) {
        let at = out.len() + self.stamp_at;
        out.extend_from_slice(&self.frame);
        let (speaker, sequence) = (digits(stamp.speaker), digits(stamp.sequence));
        out[at..at + 8].copy_from_slice(&(speaker ^ self.key).to_le_bytes());
        out[at + 8..at + 16].copy_from_slice(&(sequence ^ self.key).to_le_bytes());
    }
}

/// Appends a client's control frame.
pub fn put_control(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let at = out.len();
    crate::ws::encode::put_header(out, opcode, payload.len());
    out[at + 1] |= 0x80;
    out.extend_from_slice(&MASK);
    let payload_at = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[payload_at..], MASK, 0);
}

/// Eight decimal digits as text, the first in the lowest byte: all of them at once, since this is
/// done for every message.
fn digits(value: u32) -> u64 {
    let value = u64::from(value % NUMBER_END);
    let halves = (value / 10_000) | ((value % 10_000) << 32);
    let hundreds = ((halves * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let pairs = ((halves - 100 * hundreds) << 16) + hundreds;
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = (pairs - 10 * tens) << 8;
    (tens + ones) + 0x3030_3030_3030_3030
}

/// The number that eight digits are.
fn number(text: u64) -> Option<u32> {
    let digits = text ^ 0x3030_3030_3030_3030;
    // A byte above 9 either has its top bit set or gets it by adding 0x76.
    if (digits | digits.wrapping_add(0x7676_7676_7676_7676)) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let high = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let low = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    u32::try_from(high.wrapping_add(low) >> 32).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_sixteen_digits_and_reads_back() {
        let mut random = fastrand::Rng::with_seed(1);
        let edges = [0, 1, 9, 10, 99, 100, 9999, 10_000, 99_999_999];
        let more = (0..10_000).map(|_| random.u32(0..NUMBER_END));
        for value in edges.into_iter().chain(more) {
            let stamp = Stamp { speaker: value, sequence: NUMBER_END - 1 - value };
            let bytes = stamp.to_bytes();
            let expected = format!("{value:08}{:08}", stamp.sequence);
            assert_eq!(str::from_utf8(&bytes).unwrap(), expected);
            assert_eq!(Stamp::read(&bytes), Some(stamp));
        }
    }

    #[test]
    fn what_is_no_digit_is_no_stamp() {
        for at in 0..STAMP_BYTES {
            for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_digit()) {
                let mut bytes = *b"0123456789012345";
                bytes[at] = byte;
                assert_eq!(Stamp::read(&bytes), None, "{byte:#x} at {at}");
            }
        }
        assert_eq!(Stamp::read(b"012345678901234"), None);
    }

    #[test]
    fn a_frame_reads_back_as_what_was_put() {
        for before in [&b""[..], b"{\"content\":\"", b"x", b"xyz"] {
            for len in [16_usize, 17, 64, 125, 126, 70_000] {
                let filler = filler(len);
                let template = Template::new(before, &filler, b"\"}");
                let stamp = Stamp { speaker: 12, sequence: 345_678 };
                let mut out = b"earlier".to_vec();
                template.put(&mut out, stamp);
                let frame = &mut out[7..];
                let (header, at) = crate::ws::frame::parse_header(frame).unwrap().unwrap();
                assert!(header.fin && header.opcode == Opcode::Text);
                assert_eq!(header.len as usize, frame.len() - at);
                unmask(&mut frame[at..], header.mask, 0);
                let expected = [before, &stamp.to_bytes(), &filler, b"\"}"].concat();
                assert_eq!(&frame[at..], expected);
            }
        }
    }
}
