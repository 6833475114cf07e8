//! Unmasking: what every received byte costs first.

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::ws::mask::unmask;

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Payloads as they lie behind a header of six or eight bytes.
#[divan::bench(args = [16, 64, 125, 1024, 8192])]
fn payload(bencher: Bencher<'_, '_>, len: usize) {
    let mut bytes = vec![0x5a; len + 6];
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        unmask(black_box(&mut bytes[6..]), [1, 2, 3, 4], 0);
    });
}

/// A payload that came in two pieces: the mask is turned for the second.
#[divan::bench(args = [64, 1024])]
fn two_pieces(bencher: Bencher<'_, '_>, len: usize) {
    let mut bytes = vec![0x5a; len];
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        let (first, second) = black_box(&mut bytes).split_at_mut(len / 3);
        unmask(first, [1, 2, 3, 4], 0);
        unmask(second, [1, 2, 3, 4], len / 3);
    });
}
