//! Turns masked bytes into plain ones and back (RFC 6455 section 5.3), at memory speed.
//!
//! In:    a piece of a payload, the frame's mask, how many bytes of the payload came before.
//! Out:   the same bytes, in place.
//! Never: allocates.

/// The mask as it applies to a piece that `offset` bytes of the payload precede.
#[must_use]
pub fn turn(mask: [u8; 4], offset: usize) -> [u8; 4] {
    let mut turned = mask;
    turned.rotate_left(offset % 4);
    turned
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
