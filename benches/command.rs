//! JSON messages of members: the search for their content.

use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::protocol::command::parse;
use ringhall::ws::{Assembler, Event};

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const JSON: &[u8] = include_bytes!("recorded/json.frames");

/// The recorded messages, unmasked.
fn messages() -> Vec<String> {
    let (mut input, mut assembler) = (JSON.to_vec(), Assembler::default());
    let (mut at, mut messages) = (0, Vec::new());
    while at < input.len() {
        let step = assembler.decode(&mut input[at..], JSON.len()).expect("a correct frame");
        at += step.consumed;
        if let Some(Event::Message { bytes, .. }) = step.event {
            messages.push(String::from_utf8(bytes.to_vec()).expect("it is text"));
        }
    }
    messages
}

#[divan::bench]
fn recorded(bencher: Bencher<'_, '_>) {
    let messages = messages();
    let bytes: usize = messages.iter().map(String::len).sum();
    let counted = bencher.counter(ItemsCount::new(messages.len())).counter(BytesCount::new(bytes));
    counted.bench_local(|| {
        for message in &messages {
            assert!(parse(black_box(message), "lobby", "ann").is_ok());
        }
    });
}

/// Content of so many bytes.
#[divan::bench(args = [64, 1024, 16384])]
fn long_content(bencher: Bencher<'_, '_>, len: usize) {
    let message = format!("{{\"content\":\"{}\"}}", "x".repeat(len));
    bencher.counter(BytesCount::new(message.len())).bench_local(|| {
        assert!(parse(black_box(&message), "lobby", "ann").is_ok());
    });
}

/// What careless clients send: an error with words, and two more passes.
#[divan::bench]
fn malformed(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        assert!(parse(black_box("{\"content\": nonsense}"), "lobby", "ann").is_err());
    });
}
