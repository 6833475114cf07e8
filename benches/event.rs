//! JSON frames to members: one encoding, however many hear it.

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::protocol::event::{Crossing, put_announcement, put_said};

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// A message into a batch that has room, as the second of a turn finds it.
#[divan::bench(args = [2, 64, 1024, 16384])]
fn said(bencher: Bencher<'_, '_>, len: usize) {
    let content = format!("\"{}\"", "x".repeat(len - 2));
    let mut batch = Vec::with_capacity(2 * len + 256);
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        batch.clear();
        put_said(&mut batch, black_box("lobby"), black_box("ann"), content.as_bytes(), 1_234_567);
        black_box(&batch);
    });
}

/// The first message of a turn: its batch is made for it.
#[divan::bench]
fn said_first(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let mut batch = Vec::new();
        put_said(&mut batch, black_box("lobby"), black_box("ann"), b"\"hello\"", 7);
        batch
    });
}

/// A name that JSON has to escape.
#[divan::bench]
fn said_with_quotes(bencher: Bencher<'_, '_>) {
    let mut batch = Vec::with_capacity(256);
    bencher.bench_local(|| {
        batch.clear();
        put_said(&mut batch, black_box("the \"lobby\""), black_box("ann"), b"1", 7);
        black_box(&batch);
    });
}

#[divan::bench]
fn announcement(bencher: Bencher<'_, '_>) {
    let mut batch = Vec::with_capacity(256);
    bencher.bench_local(|| {
        batch.clear();
        put_announcement(&mut batch, black_box("lobby"), black_box("ann"), Crossing::Joined);
        black_box(&batch);
    });
}
