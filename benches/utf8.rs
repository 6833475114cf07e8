//! The check of text that comes in pieces, and of text that comes whole.

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::ws::utf8::Utf8Stream;

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Letters of one, two, three and four bytes.
const LETTERS: [char; 4] = ['a', '\u{fc}', '\u{20ac}', '\u{1f600}'];

fn text(letters: &[char], len: usize) -> Vec<u8> {
    let mut text = String::new();
    for letter in letters.iter().cycle() {
        if text.len() + letter.len_utf8() > len {
            return text.into_bytes();
        }
        text.push(*letter);
    }
    text.into_bytes()
}

fn check(bencher: Bencher<'_, '_>, text: &[u8], piece: usize) {
    bencher.counter(BytesCount::new(text.len())).bench_local(|| {
        let mut stream = Utf8Stream::default();
        for piece in black_box(text).chunks(piece) {
            assert!(stream.push(piece).is_ok());
        }
        assert!(stream.finish().is_ok());
    });
}

#[divan::bench(args = [64, 1024, 8192])]
fn ascii(bencher: Bencher<'_, '_>, len: usize) {
    check(bencher, &text(&LETTERS[..1], len), len);
}

#[divan::bench(args = [64, 1024, 8192])]
fn all_lengths(bencher: Bencher<'_, '_>, len: usize) {
    check(bencher, &text(&LETTERS, len), len);
}

/// Pieces that cut characters.
#[divan::bench(args = [1, 7, 100])]
fn all_lengths_in_pieces(bencher: Bencher<'_, '_>, piece: usize) {
    check(bencher, &text(&LETTERS, 1024), piece);
}
