//! Turns any input into a pass or a panic: one property a decoder.
//!
//! In:    bytes; the first of them choose limits and cuts.
//! Out:   nothing, or a panic that says what differs.
//! Never: depends on anything but the input.

pub mod bridge_envelope;
pub mod http_head;
pub mod proxy_header;
pub mod utf8_stream;
pub mod ws_message;
mod ws_reference;

/// Where an input of `len` bytes is cut: ends of pieces, ascending, the last one `len`.
///
/// Choice 0 is one piece, 1 single bytes, anything else a random cut; long inputs are cut into
/// 300 pieces at most, for the sake of speed.
fn cuts(len: usize, choice: u8) -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(u64::from(choice));
    let longest = match choice {
        0 => len,
        1 => 1,
        _ => 1 << random.u32(1..=9),
    };
    let shortest = if choice == 0 { len } else { 1 + len / 300 };
    let mut ends = Vec::new();
    let mut end = 0;
    while end < len {
        end = (end + random.usize(shortest..=longest.max(shortest))).min(len);
        ends.push(end);
    }
    ends
}
