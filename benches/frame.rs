//! Decoding: frames that lie whole in their input, and the same cut at every size.

use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::ws::Assembler;

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const RAW: &[u8] = include_bytes!("recorded/raw.frames");
const JSON: &[u8] = include_bytes!("recorded/json.frames");
/// Frames of a recording.
const FRAMES: usize = 16;
/// Longest message taken.
const MESSAGE_BYTES: usize = 64 << 10;

/// Feeds one piece; events in it.
fn feed(assembler: &mut Assembler, piece: &mut [u8]) -> usize {
    let (mut at, mut events) = (0, 0);
    while at < piece.len() {
        let step = assembler.decode(&mut piece[at..], MESSAGE_BYTES).expect("a correct frame");
        at += step.consumed;
        events += usize::from(black_box(step.event).is_some());
    }
    assembler.settle();
    events
}

/// A recording by its name, which is what a line of the table shows.
fn recording(name: &str) -> &'static [u8] {
    match name {
        "raw" => RAW,
        _ => JSON,
    }
}

/// Sixteen frames in one receive.
#[divan::bench(args = ["raw", "json"])]
fn whole(bencher: Bencher<'_, '_>, name: &str) {
    let recording = recording(name);
    let mut assembler = Assembler::default();
    bencher
        .counter(ItemsCount::new(FRAMES))
        .counter(BytesCount::new(recording.len()))
        .with_inputs(|| recording.to_vec())
        .bench_local_refs(|input| {
            assert_eq!(feed(&mut assembler, input), FRAMES);
        });
}

/// One frame in two pieces, once for each place where it can be cut.
#[divan::bench(args = ["raw", "json"])]
fn cut_at_every_size(bencher: Bencher<'_, '_>, name: &str) {
    let recording = recording(name);
    let frame = &recording[..6 + usize::from(recording[1] & 0x7f)];
    let mut assembler = Assembler::default();
    bencher
        .counter(ItemsCount::new(frame.len() - 1))
        .with_inputs(|| vec![frame.to_vec(); frame.len()])
        .bench_local_refs(|inputs| {
            for (cut, input) in inputs.iter_mut().enumerate().skip(1) {
                let (first, second) = input.split_at_mut(cut);
                assert_eq!(feed(&mut assembler, first) + feed(&mut assembler, second), 1);
            }
        });
}

/// A long message that comes in receives of a buffer each.
#[divan::bench(args = [16 << 10, 64 << 10])]
fn long_message(bencher: Bencher<'_, '_>, len: usize) {
    let mut frame = vec![0x82, 0xff];
    frame.extend_from_slice(&(len as u64).to_be_bytes());
    if len <= 0xffff {
        frame.truncate(1);
        frame.push(0xfe);
        frame.extend_from_slice(&(len as u16).to_be_bytes());
    }
    frame.extend_from_slice(&[1, 2, 3, 4]);
    frame.resize(frame.len() + len, 7);
    let mut assembler = Assembler::default();
    bencher.counter(BytesCount::new(len)).with_inputs(|| frame.clone()).bench_local_refs(|input| {
        let pieces = input.chunks_mut(8 << 10);
        let events: usize = pieces.map(|piece| feed(&mut assembler, piece)).sum();
        assert_eq!(events, 1);
    });
}
