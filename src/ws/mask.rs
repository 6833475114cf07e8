//! Turns masked bytes into plain ones and back (RFC 6455 section 5.3), at memory speed.
//!
//! In:    a piece of a payload, the frame's mask, how many bytes of the payload came before.
//! Out:   the same bytes, in place.
//! Never: allocates.

/// The mask as it applies to a piece that `offset` bytes of the payload precede.
#[must_use]
pub fn turn(mask: [u8; 4], offset: usize) -> [u8; 4] {
    // Little-endian, so that the first byte is the lowest: what comes next moves down to it.
    u32::from_le_bytes(mask).rotate_right(8 * (offset % 4) as u32).to_le_bytes()
}

/// Masks or unmasks `bytes`, which `offset` bytes of the same payload precede.
#[inline]
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let mask = turn(mask, offset);
    let word = u32::from_ne_bytes(mask);
    // Plain loops over fixed chunks: the compiler makes vector instructions of them.
    let (blocks, rest) = bytes.as_chunks_mut::<4>();
    for block in blocks {
        *block = (u32::from_ne_bytes(*block) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x11, 0x22, 0x44, 0x88];

    fn one_by_one(bytes: &[u8], offset: usize) -> Vec<u8> {
        bytes.iter().enumerate().map(|(i, byte)| byte ^ MASK[(i + offset) % 4]).collect()
    }

    #[test]
    fn every_length_and_phase_equals_the_definition() {
        let bytes: Vec<u8> = (0..200_u8).collect();
        for len in 0..bytes.len() {
            for offset in 0..9 {
                let mut piece = bytes[..len].to_vec();
                unmask(&mut piece, MASK, offset);
                assert_eq!(piece, one_by_one(&bytes[..len], offset), "{len} bytes at {offset}");
            }
        }
    }

    #[test]
    fn pieces_together_equal_the_whole() {
        let bytes: Vec<u8> = (0..64_u8).collect();
        let whole = one_by_one(&bytes, 0);
        for cut in 0..=bytes.len() {
            let mut pieces = bytes.clone();
            let (first, second) = pieces.split_at_mut(cut);
            unmask(first, MASK, 0);
            unmask(second, turn(MASK, cut), 0);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }
}
