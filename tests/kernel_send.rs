//! Pins: a send without a completion was whole, and one that was not says so before enter returns.
//!
//! Why this test must never be deleted: the fan-out keeps no state at all for a send. A payload is
//! let go as soon as the submitting enter has returned without a completion for it. Were a kernel
//! to park such a send, to report it later, or to report only its error and not its length,
//! readers would get freed memory, or a stream with a hole, and every test of behaviour that does
//! not fill a socket would still pass.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;

use ringhall::id::ConnId;
use ringhall::io::{BufferId, Completion, Errno, Io, Patience, Segments};
use ringhall::payload::Segment;

#[path = "support/ring.rs"]
mod ring;
use ring::{Rig, one, payload};

/// More than any socket buffer here takes at once.
const HUGE: usize = 16 << 20;

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place / 7 % 251) as u8).collect()
}

/// What of a send did not fit, if it is already known: no waiting.
fn fell(rig: &mut Rig, of: ConnId) -> Option<(Vec<Segment>, Option<Errno>)> {
    let place = rig.seen.iter().position(
        |completion| matches!(completion, Completion::Fell { conn, .. } if *conn == of),
    )?;
    match rig.seen.remove(place) {
        Some(Completion::Fell { rest, error, .. }) => Some((rest, error)),
        _ => None,
    }
}

fn read_exactly(client: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_whole_send_is_silent() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.send(conn, one(b"one"));
    rig.turn();
    let two = payload(b"..two..");
    let middle = Segment { start: 2, end: 5, ..two.whole() };
    rig.io.send(conn, Segments::Many(vec![payload(b"|").whole(), middle]));
    rig.turn();
    assert_eq!(read_exactly(&mut client, 7), b"one|two");
    assert!(rig.settled().is_empty(), "{:?}", rig.seen);
}

#[test]
fn a_short_send_says_how_short_before_enter_returns() {
    for segments in [1, 3] {
        let mut rig = Rig::new(4);
        rig.io.accept();
        let (mut client, conn) = rig.connect();
        let bytes = numbered(HUGE);
        let whole = payload(&bytes).whole();
        let third = whole.end / 3;
        let parts = match segments {
            1 => Segments::One(whole),
            _ => Segments::Many(vec![
                Segment { end: third, ..whole.clone() },
                Segment { start: third, end: 2 * third, ..whole.clone() },
                Segment { start: 2 * third, ..whole },
            ]),
        };
        rig.io.send(conn, parts);
        rig.turn();
        let (rest, error) = fell(&mut rig, conn).expect("known as soon as enter has returned");
        assert_eq!(error, None);
        let left: usize = rest.iter().map(Segment::len).sum();
        assert!(0 < left && left < HUGE, "{left}");
        let sent = HUGE - left;
        assert_eq!(rest[0].bytes()[0], bytes[sent]);

        // Nobody reads: the socket takes less each time (the client's kernel still makes room),
        // then nothing, and says that at once too.
        let (mut rest, mut before) = (rest, usize::MAX);
        while rest.iter().map(Segment::len).sum::<usize>() < before {
            before = rest.iter().map(Segment::len).sum();
            rig.io.send(conn, Segments::Many(rest));
            rig.turn();
            let (again, error) = fell(&mut rig, conn).expect("16 MiB never fit");
            assert_eq!(error, None);
            rest = again;
        }

        // The reader reads on, the rest follows, and the stream has no hole.
        let reader = std::thread::spawn(move || read_exactly(&mut client, HUGE));
        while !rest.is_empty() {
            rig.io.poll_writable(conn);
            rig.wait(|completion| matches!(completion, Completion::Writable { .. }).then_some(()));
            rig.io.send(conn, Segments::Many(rest));
            rig.turn();
            rest = fell(&mut rig, conn).map_or(Vec::new(), |(rest, _)| rest);
        }
        assert!(reader.join().unwrap() == bytes, "the stream has a hole");
    }
}

/// Receives once; the buffer and how much is in it.
fn receive(rig: &mut Rig, conn: ConnId) -> (BufferId, usize) {
    rig.io.recv(conn, Patience::Wait);
    let input = rig.received(conn).unwrap();
    (input.buffer.expect("there are bytes"), input.len)
}

#[test]
fn a_buffer_that_was_sent_back_can_be_received_into_at_once() {
    let mut rig = Rig::with(4, 1, 1024);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    for n in 0..100_u8 {
        client.write_all(&[0, n, n, n]).unwrap();
        let (buffer, len) = receive(&mut rig, conn);
        rig.io.send_back(conn, buffer, 1..len);
        assert_eq!(rig.io.buffers_free(), 0, "it is in use until the submit");
        rig.turn();
        assert_eq!(rig.io.buffers_free(), 1, "it is released when enter has returned");
    }
    let wanted: Vec<u8> = (0..100).flat_map(|n| [n; 3]).collect();
    assert_eq!(read_exactly(&mut client, 300), wanted);
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
}

#[test]
fn what_is_left_of_a_buffer_that_was_sent_back_is_kept_without_it() {
    let mut rig = Rig::with(4, 1, 1024);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    client.write_all(b"first").unwrap();
    let (buffer, len) = receive(&mut rig, conn);
    assert_eq!(len, 5);
    // Nobody reads: in the end the socket takes nothing.
    let (mut left, mut before) = (HUGE, usize::MAX);
    while left < before {
        before = left;
        rig.io.send(conn, one(&vec![0; left]));
        rig.turn();
        let (rest, _) = fell(&mut rig, conn).expect("16 MiB never fit");
        left = rest.iter().map(Segment::len).sum();
    }
    rig.io.send_back(conn, buffer, 1..len);
    rig.turn();
    assert_eq!(rig.io.buffers_free(), 1);
    read_exactly(&mut client, HUGE - left);
    client.write_all(b"second").unwrap();
    assert_eq!(rig.take_exactly(conn, 6), b"second");
    let (rest, error) = fell(&mut rig, conn).expect("the socket took nothing");
    assert_eq!((rest.len(), rest[0].bytes(), error), (1, &b"irst"[..], None));
}

#[test]
fn a_dead_socket_is_an_error_and_not_a_signal() {
    let mut rig = Rig::new(4);
    rig.io.accept();
    let (client, conn) = rig.connect();
    rig.io.send(conn, one(b"unread"));
    rig.io.poll_readable(conn);
    rig.turn();
    // Closed with unread bytes: the client's kernel answers RST.
    drop(client);
    assert!(rig.readable(conn).0);
    rig.io.send(conn, one(b"into the void"));
    rig.turn();
    let (rest, error) = fell(&mut rig, conn).unwrap();
    assert!(matches!(error, Some(Errno::PIPE | Errno::CONNRESET)), "{error:?}");
    assert_eq!(rest[0].len(), 13);
}

#[test]
fn thousands_of_sends_pass_a_small_queue_in_order() {
    const CLIENTS: usize = 50;
    const TURNS: usize = 100;
    let mut rig = Rig::new(64);
    rig.io.accept();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| rig.connect()).collect();
    // 5000 sends in 10 submits of 500, through a queue of 256 entries: it is flushed on the way.
    assert!(rig.io.entries().0 < 500);
    let blobs: Vec<_> = (0..TURNS).map(|turn| payload(format!("{turn:04}").as_bytes())).collect();
    for ten in blobs.chunks(10) {
        for blob in ten {
            for (_, conn) in &clients {
                rig.io.send(*conn, Segments::One(blob.whole()));
            }
        }
        rig.turn();
    }
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
    let wanted: Vec<u8> = blobs.iter().flat_map(|blob| blob.bytes().to_vec()).collect();
    for (client, _) in &mut clients {
        assert_eq!(read_exactly(client, wanted.len()), wanted);
    }
}

#[test]
fn what_fell_in_a_flush_on_the_way_is_reported_first() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (_slow, slow) = rig.connect();
    let (mut quick, fast) = rig.connect();
    rig.io.send(slow, one(&numbered(HUGE)));
    rig.io.poll_writable(fast);
    for _ in 0..2 * rig.io.entries().0 {
        rig.io.send(fast, one(b"x"));
    }
    rig.turn();
    assert!(
        matches!(&rig.seen[0], Completion::Fell { conn, error: None, .. } if *conn == slow),
        "{:?}",
        rig.seen
    );
    assert_eq!(rig.seen.len(), 2);
    read_exactly(&mut quick, 2 * rig.io.entries().0 as usize);
}

#[test]
fn many_segments_for_many_members_are_flushed_before_their_room_runs_out() {
    let mut rig = Rig::new(4);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    let (a, b) = (payload(b"a"), payload(b"b"));
    for _ in 0..1000 {
        rig.io.send(conn, Segments::Many(vec![a.whole(), b.whole()]));
    }
    rig.turn();
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
    assert_eq!(read_exactly(&mut client, 2000), b"ab".repeat(1000));
}
