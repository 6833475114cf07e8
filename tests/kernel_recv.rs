//! Pins: what a receive from the buffer ring and a multishot poll say, and what they do not say.
//!
//! Why this test must never be deleted: idle connections hold no buffer and no receive, so the
//! server hears of input from the poll alone. A poll is an edge: data and FIN that come together
//! are one event. If the receive did not say that more is there, the FIN would never be read and
//! the connection would stay for ever; if a dry buffer ring were an error of the connection, a
//! burst would close innocent clients.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::Shutdown;

use ringhall::io::{Completion, Errno, Io, Patience};

#[path = "support/ring.rs"]
#[expect(dead_code, reason = "each kernel test uses a part of it")]
mod ring;
use ring::Rig;

#[test]
fn a_dry_buffer_ring_is_a_pause() {
    let mut rig = Rig::with(8, 2, 64);
    rig.io.accept();
    let mut clients: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    for (client, _) in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    let (a, b, c) = (clients[0].1, clients[1].1, clients[2].1);
    let mut lent = Vec::new();
    for conn in [a, b] {
        rig.io.recv(conn, Patience::Wait);
        lent.push(rig.received(conn).unwrap().buffer.unwrap());
    }
    assert_eq!(rig.io.buffers_free(), 0);
    for patience in [Patience::Wait, Patience::DontWait] {
        rig.io.recv(c, patience);
        assert_eq!(rig.received(c), Err(Errno::NOBUFS));
    }
    rig.io.release(lent[0]);
    assert_eq!(rig.io.buffers_free(), 1);
    assert_eq!(rig.take(c), b"hello");
    // What was lent all the while is still what was received.
    assert_eq!(rig.io.buffer(lent[1], 5), b"hello");
    rig.io.release(lent[1]);
    assert_eq!(rig.io.buffers_free(), 2);
}

#[test]
fn a_receive_that_will_not_wait_says_so_and_keeps_no_buffer() {
    let mut rig = Rig::new(4);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.recv(conn, Patience::DontWait);
    assert_eq!(rig.received(conn), Err(Errno::AGAIN));
    assert_eq!(rig.io.buffers_free(), 16);
    rig.io.recv(conn, Patience::Wait);
    rig.turn();
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
    client.write_all(b"late").unwrap();
    let input = rig.received(conn).unwrap();
    assert_eq!(input.len, 4);
    rig.io.release(input.buffer.unwrap());
}

#[test]
fn data_and_fin_together_are_one_event_and_never_another() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    // Both are there before the poll looks: arming sees the level.
    rig.io.poll_readable(conn);
    assert_eq!(rig.readable(conn), (true, true));
    assert_eq!(rig.take(conn), b"last words");
    // The FIN is still unread, and nobody will say so: only the hangup of that one event did.
    assert!(rig.settled().is_empty(), "{:?}", rig.seen);
    rig.io.recv(conn, Patience::DontWait);
    let end = rig.received(conn).unwrap();
    assert_eq!((end.len, end.buffer), (0, None));
    assert_eq!(rig.io.buffers_free(), 16);
}

#[test]
fn a_receive_says_whether_the_socket_holds_more() {
    let mut rig = Rig::with(4, 4, 8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.poll_readable(conn);
    client.write_all(b"0123456789ab").unwrap();
    assert_eq!(rig.readable(conn), (false, true));
    rig.io.recv(conn, Patience::DontWait);
    let first = rig.received(conn).unwrap();
    assert_eq!((first.len, first.more), (8, true));
    rig.io.recv(conn, Patience::DontWait);
    let second = rig.received(conn).unwrap();
    assert_eq!((second.len, second.more), (4, false));
    // The poll is still armed: what comes next is a new edge.
    client.write_all(b"c").unwrap();
    assert_eq!(rig.readable(conn), (false, true));
}

#[test]
fn arming_again_reports_what_is_there_already() {
    let mut rig = Rig::new(4);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    client.write_all(b"unread").unwrap();
    for _ in 0..3 {
        rig.io.poll_readable(conn);
        assert_eq!(rig.readable(conn), (false, true));
    }
    assert!(rig.settled().is_empty(), "polls that were replaced say nothing: {:?}", rig.seen);
}

#[test]
fn a_disarmed_connection_is_silent_and_an_armed_receive_ends() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.poll_readable(conn);
    rig.io.recv(conn, Patience::Wait);
    rig.turn();
    rig.io.disarm(conn);
    assert_eq!(rig.received(conn), Err(Errno::CANCELED));
    client.write_all(b"unheard").unwrap();
    assert!(rig.settled().is_empty(), "{:?}", rig.seen);
    assert_eq!(rig.io.failures(), 0, "both were there to be cancelled");
    assert_eq!(rig.take(conn), b"unheard");
}

#[test]
fn writability_is_reported_once() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (_client, of) = rig.connect();
    rig.io.poll_writable(of);
    rig.wait(|completion| {
        matches!(completion, Completion::Writable { conn } if *conn == of).then_some(())
    });
    assert!(rig.settled().is_empty(), "{:?}", rig.seen);
}

#[test]
fn one_submit_reports_everything_that_has_happened() {
    // The kernel runs twenty pieces of deferred work an enter unless it is asked for more.
    const CLIENTS: usize = 300;
    let mut rig = Rig::new(512);
    rig.io.accept();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| rig.connect()).collect();
    for (_, conn) in &clients {
        rig.io.poll_readable(*conn);
    }
    rig.turn();
    for (client, _) in &mut clients {
        client.write_all(b"x").unwrap();
    }
    rig.turn();
    assert_eq!(rig.seen.len(), CLIENTS);
}
