//! Turns bytes into a comparison of an envelope with what it is written back as.

use ringhall::bridge::envelope::{self, Body, Envelope, HEADER_BYTES, VERSION};

/// What is read is written back as the same words, and holds no name that no client could have;
/// what is not read stays within its bounds.
pub fn check(input: &[u8]) {
    // The first byte chooses how others cut their input; an envelope always comes whole.
    let Some((_, input)) = input.split_first() else { return };
    let Ok(Envelope { node, sequence, body }) = envelope::read(input) else { return };
    assert_eq!((input[0], envelope::sender(input)), (VERSION, Ok((node, sequence))));
    assert!(input.len() >= HEADER_BYTES);
    names(&body).into_iter().for_each(assert_name);
    let mut again = write(&body);
    envelope::stamp(&mut again, node, sequence);
    let read = envelope::read(&again).expect("one's own words are readable");
    assert_eq!(read, Envelope { node, sequence, body });
}

fn write(body: &Body<'_>) -> Vec<u8> {
    match body {
        Body::Said(said) => envelope::said(said),
        Body::Crossed(crossed) => envelope::crossed(crossed),
        Body::Snapshot(snapshot) => envelope::snapshot(snapshot),
        Body::Heartbeat(beat) => envelope::heartbeat(beat),
        Body::Ask(node) => envelope::ask(*node),
        Body::Bye => envelope::bye(),
        Body::Probe => envelope::probe(),
    }
}

fn names<'a>(body: &Body<'a>) -> Vec<&'a str> {
    match body {
        Body::Said(said) => vec![said.room, said.user],
        Body::Crossed(crossed) => vec![crossed.room, crossed.user],
        Body::Snapshot(snapshot) if snapshot.room.is_empty() => snapshot.users.clone(),
        Body::Snapshot(snapshot) => [&snapshot.users[..], &[snapshot.room]].concat(),
        _ => Vec::new(),
    }
}

fn assert_name(name: &str) {
    assert!((1..=128).contains(&name.len()) && !name.chars().any(char::is_control), "{name:?}");
}
