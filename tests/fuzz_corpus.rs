//! The decoders' fuzz checks as an ordinary test: the committed seeds, and 20 000 inputs a target
//! that are made from them, the same on every run. `fuzz/README.md` tells the rest.

use std::panic::catch_unwind;
use std::path::Path;

#[path = "../fuzz/src/checks/mod.rs"]
mod checks;

const INPUTS: u64 = 20_000;
/// Longest input made from seeds: the checks also feed inputs byte by byte.
const INPUT_BYTES_MAX: usize = 2000;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(&folder)
        .expect("the seeds are committed")
        .map(|entry| {
            let path = entry.expect("a readable folder").path();
            (path.display().to_string(), std::fs::read(&path).expect("a readable seed"))
        })
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "{target} has only {} seeds", seeds.len());
    seeds
}

/// Changes a seed a little, often with a part of another one.
fn mutate(seeds: &[(String, Vec<u8>)], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = seeds[random.usize(..seeds.len())].1.clone();
    for _ in 0..random.usize(..6) {
        let at = random.usize(..=input.len());
        let other = &seeds[random.usize(..seeds.len())].1;
        let from = random.usize(..=other.len());
        let len = random.usize(..=16).min(other.len() - from);
        let until = (at + random.usize(..8)).min(input.len());
        match random.u8(..6) {
            0 => input.insert(at, random.u8(..)),
            1 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            2 if at < input.len() => {
                input[at] = *random.choice(b"\r\n :,%/\0\x7f\x80\xff").expect("some")
            }
            3 => drop(input.drain(at..until)),
            4 => drop(input.splice(at..until, other[from..from + len].iter().copied())),
            _ => drop(input.splice(at..at, other[from..].iter().copied())),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    // The first byte chooses the cuts: let every choice have its turn.
    if let Some(first) = input.first_mut() {
        *first = random.u8(..);
    }
    input
}

fn run(target: &str, check: fn(&[u8])) {
    let seeds = seeds(target);
    for (name, input) in &seeds {
        assert!(catch_unwind(|| check(input)).is_ok(), "{name}");
    }
    for number in 0..INPUTS {
        let input = mutate(&seeds, &mut fastrand::Rng::with_seed(number));
        let passes = catch_unwind(|| check(&input)).is_ok();
        assert!(passes, "{target}, input {number}: {:?}", input.escape_ascii().to_string());
    }
}

#[test]
fn the_verdict_on_a_request_head_does_not_depend_on_the_cuts() {
    run("http_head", checks::http_head::check);
}

#[test]
fn the_verdict_on_a_proxy_header_does_not_depend_on_the_cuts() {
    run("proxy_header", checks::proxy_header::check);
}

#[test]
fn messages_are_those_of_the_reference_however_they_are_cut() {
    run("ws_message", checks::ws_message::check);
}

#[test]
fn utf8_is_judged_as_the_standard_library_does() {
    run("utf8_stream", checks::utf8_stream::check);
}

#[test]
fn an_envelope_is_written_back_as_it_was_read() {
    run("bridge_envelope", checks::bridge_envelope::check);
}
