//! Pins: what a close needs so that the peer hears of it.
//!
//! Why this test must never be deleted: closing a direct descriptor drops one reference, and an
//! armed poll holds another. Without the cancel that comes with each close, neither FIN nor RST is
//! ever sent: the client hangs, and the socket lives until the ring dies. Nothing else would show
//! it, for the slot is free and the server's counts are right.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use ringhall::id::ConnId;
use ringhall::io::{CloseHow, Completion, Io, Patience};

#[path = "support/ring.rs"]
#[expect(dead_code, reason = "each kernel test uses a part of it")]
mod ring;
use ring::{Rig, one};

/// The tenant that the library has never heard of: what it does for the slot's connection, and so
/// the cancel of what is armed, is not done for this one.
fn stranger(conn: ConnId) -> ConnId {
    ConnId { generation: conn.generation + 1, ..conn }
}

fn ends(client: &mut impl Read) -> Result<usize, ErrorKind> {
    client.read(&mut [0; 16]).map_err(|error| error.kind())
}

#[test]
fn an_armed_poll_keeps_the_socket_until_it_is_cancelled() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.poll_readable(conn);
    rig.turn();
    // A close without the cancel, as a stranger's: the slot is free at once, the socket lives on.
    rig.io.close(stranger(conn), CloseHow::Orderly);
    assert!(rig.settled().is_empty(), "{:?}", rig.seen);
    client.set_nonblocking(true).unwrap();
    assert_eq!(ends(&mut client), Err(ErrorKind::WouldBlock), "nobody has told the client");

    // What ends the poll ends the socket: here, the end of the ring.
    client.set_nonblocking(false).unwrap();
    drop(rig);
    assert_eq!(ends(&mut client), Ok(0));
}

#[test]
fn an_orderly_close_ends_what_is_armed_and_sends_fin_after_the_data() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.poll_readable(conn);
    rig.io.poll_writable(conn);
    rig.turn();
    rig.wait(|completion| matches!(completion, Completion::Writable { .. }).then_some(()));
    rig.io.send(conn, one(b"goodbye"));
    rig.io.close(conn, CloseHow::Orderly);
    rig.turn();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"goodbye");
    assert!(rig.settled().is_empty(), "{:?}", rig.seen);
    assert_eq!(rig.io.failures(), 0);
}

#[test]
fn last_words_wait_for_the_end_that_follows_and_then_all_of_it_goes() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.send_last(conn, one(b"good"));
    rig.turn();
    client.set_nonblocking(true).unwrap();
    assert_eq!(ends(&mut client), Err(ErrorKind::WouldBlock), "it went without its end");
    client.set_nonblocking(false).unwrap();
    rig.io.close(conn, CloseHow::Orderly);
    rig.turn();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"good");

    let (mut client, conn) = rig.connect();
    rig.io.send_last(conn, one(b"bye"));
    rig.turn();
    rig.io.shutdown(conn);
    rig.turn();
    all.clear();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"bye");
}

#[test]
fn a_waiting_receive_ends_with_the_close_and_keeps_no_buffer() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.recv(conn, Patience::Wait);
    rig.turn();
    rig.io.close(conn, CloseHow::Orderly);
    assert!(rig.received(conn).is_err());
    assert_eq!(ends(&mut client), Ok(0));
    assert_eq!(rig.io.buffers_free(), 16);
}

#[test]
fn a_reset_drops_what_is_unsent() {
    for armed in [false, true] {
        let mut rig = Rig::new(8);
        rig.io.accept();
        let (mut client, conn) = rig.connect();
        if armed {
            rig.io.poll_readable(conn);
        }
        // Far more than the client has room for: most of it stays on this side.
        rig.io.send(conn, one(&vec![7; 16 << 20]));
        rig.turn();
        assert!(matches!(rig.seen.pop_front(), Some(Completion::Fell { .. })));
        rig.io.close(conn, CloseHow::Reset);
        rig.turn();
        let error = client.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "armed: {armed}");
        assert_eq!(rig.io.failures(), 0);
    }
}

#[test]
fn a_half_close_sends_fin_and_still_receives() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.send(conn, one(b"done"));
    rig.io.shutdown(conn);
    rig.turn();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"done");
    client.write_all(b"not yet").unwrap();
    assert_eq!(rig.take(conn), b"not yet");
}

#[test]
fn a_half_close_and_a_close_in_one_turn_lose_nothing() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.send(conn, one(b"done"));
    rig.io.shutdown(conn);
    rig.io.close(conn, CloseHow::Orderly);
    rig.turn();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"done");
}

#[test]
fn a_slots_next_tenant_hears_nothing_of_the_last() {
    let mut rig = Rig::new(1);
    rig.io.accept();
    let (first, old) = rig.connect();
    rig.io.poll_readable(old);
    rig.turn();
    // Input, its event and the close cross.
    (&first).write_all(b"late").unwrap();
    rig.io.close(old, CloseHow::Orderly);
    rig.turn();
    let mut client = TcpStream::connect(rig.address).unwrap();
    let new = ConnId { generation: 2, ..rig.accepted() };
    assert_eq!(new.slot, old.slot);
    rig.io.poll_readable(new);
    client.write_all(b"mine").unwrap();
    assert_eq!(rig.readable(new), (false, true));
    assert_eq!(rig.take(new), b"mine");
    let stale: Vec<_> =
        rig.seen.iter().filter(|seen| !format!("{seen:?}").contains("generation: 1")).collect();
    assert!(stale.is_empty(), "{stale:?}");
}

#[test]
fn a_half_close_never_reaches_the_slots_next_tenant() {
    // The kernel looks a half-close's slot up only when its worker gets to it: were the slot closed
    // by then, and taken by somebody else, that one would lose its stream.
    const CONNS: u32 = 64;
    let mut rig = Rig::new(2 * CONNS);
    rig.io.accept();
    for round in 0..20 {
        let old: Vec<_> = (0..CONNS).map(|_| rig.connect()).collect();
        // The slot freed last is given out first: backwards, so that all of these are.
        for (_, conn) in old.iter().rev() {
            rig.io.shutdown(*conn);
            rig.io.close(*conn, CloseHow::Orderly);
        }
        rig.turn();
        let new: Vec<_> = (0..CONNS).map(|_| rig.connect()).collect();
        for (client, _) in &old {
            assert_eq!(ends(&mut &*client), Ok(0));
        }
        for (n, (client, conn)) in new.iter().enumerate() {
            rig.io.send(*conn, one(b"!"));
            rig.turn();
            let mut bytes = [0];
            (&mut &*client)
                .read_exact(&mut bytes)
                .unwrap_or_else(|error| panic!("{error}: tenant {n} of {CONNS} in round {round}"));
            rig.io.close(*conn, CloseHow::Reset);
        }
        rig.turn();
    }
}
