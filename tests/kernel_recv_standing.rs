//! Pins: what a standing receive (multishot, from the buffer ring) brings, and how it ends.
//!
//! Why this test must never be deleted: whoever relies on a standing receive hears nothing more
//! once it has ended. The kernel ends it for reasons of its own (a dry buffer ring, a full
//! completion queue), and says so in one flag of its last completion; a connection whose end of it
//! is missed would stay deaf for ever. And what a cancelled one has read already is read: those
//! bytes would be missing from the stream if a stale completion were dropped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::Shutdown;

use ringhall::id::{ConnId, ShardId};
use ringhall::io::{Completion, Errno, Input, Io, Parcel};

#[path = "support/ring.rs"]
#[expect(dead_code, reason = "each kernel test uses a part of it")]
mod ring;
use ring::Rig;

/// The next thing that a receive of the connection says, and whether it still stands.
fn received(rig: &mut Rig, of: ConnId) -> (Result<Input, Errno>, bool) {
    rig.wait(|completion| match completion {
        Completion::Received { conn, outcome, armed } if *conn == of => Some((*outcome, *armed)),
        _ => None,
    })
}

/// The bytes of the next one that brings any; its buffer is given back.
fn bytes(rig: &mut Rig, of: ConnId) -> (Vec<u8>, bool) {
    let (outcome, armed) = received(rig, of);
    let input = outcome.unwrap();
    let id = input.buffer.unwrap();
    let bytes = rig.io.buffer(id, input.len).to_vec();
    rig.io.release(id);
    (bytes, armed)
}

#[test]
fn one_arming_brings_whatever_comes_until_the_end_of_the_stream() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.recv_standing(conn);
    for word in [&b"one"[..], b"two", b"three"] {
        client.write_all(word).unwrap();
        assert_eq!(bytes(&mut rig, conn), (word.to_vec(), true));
    }
    client.shutdown(Shutdown::Write).unwrap();
    let (outcome, armed) = received(&mut rig, conn);
    assert_eq!((outcome.unwrap().len, armed), (0, false));
    assert_eq!(rig.io.buffers_free(), 16);
}

#[test]
fn more_than_a_buffer_comes_in_several_and_in_order() {
    let mut rig = Rig::with(8, 8, 4);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    client.write_all(b"0123456789").unwrap();
    rig.io.recv_standing(conn);
    let mut stream = Vec::new();
    while stream.len() < 10 {
        stream.extend(bytes(&mut rig, conn).0);
    }
    assert_eq!(stream, b"0123456789");
}

#[test]
fn a_dry_buffer_ring_ends_it_and_arming_again_goes_on() {
    let mut rig = Rig::with(8, 1, 4);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    client.write_all(b"abcdefgh").unwrap();
    rig.io.recv_standing(conn);
    let (first, _) = received(&mut rig, conn);
    let id = first.unwrap().buffer.unwrap();
    // The second half found no buffer.
    assert_eq!(received(&mut rig, conn), (Err(Errno::NOBUFS), false));
    assert_eq!(rig.io.buffer(id, 4), b"abcd");
    rig.io.release(id);
    rig.io.recv_standing(conn);
    assert_eq!(bytes(&mut rig, conn).0, b"efgh");
}

#[test]
fn arming_an_armed_one_changes_nothing() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    for _ in 0..3 {
        rig.io.recv_standing(conn);
        rig.turn();
    }
    client.write_all(b"once").unwrap();
    assert_eq!(bytes(&mut rig, conn), (b"once".to_vec(), true));
    assert!(rig.settled().is_empty(), "{:?}", rig.seen);
}

#[test]
fn a_disarmed_one_ends_and_what_comes_later_waits() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.recv_standing(conn);
    rig.turn();
    rig.io.disarm(conn);
    assert_eq!(received(&mut rig, conn), (Err(Errno::CANCELED), false));
    client.write_all(b"later").unwrap();
    assert!(rig.settled().is_empty(), "{:?}", rig.seen);
    rig.io.recv_standing(conn);
    assert_eq!(bytes(&mut rig, conn), (b"later".to_vec(), true));
    assert_eq!(rig.io.failures(), 0, "it was there to be cancelled");
}

#[test]
fn the_end_of_a_cancelled_one_does_not_speak_for_its_successor() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.recv_standing(conn);
    rig.turn();
    rig.io.disarm(conn);
    rig.io.recv_standing(conn);
    assert_eq!(received(&mut rig, conn), (Err(Errno::CANCELED), true), "another one stands");
    client.write_all(b"heard").unwrap();
    assert_eq!(bytes(&mut rig, conn), (b"heard".to_vec(), true));
}

#[test]
fn a_slots_next_tenant_is_not_told_of_the_last_ones_end() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (_client, old) = rig.connect();
    rig.io.recv_standing(old);
    rig.turn();
    rig.io.close(old, ringhall::io::CloseHow::Orderly);
    rig.turn();
    let (mut client, next) = rig.connect();
    let next = ConnId { generation: old.generation + 1, ..next };
    assert_eq!(next.slot, old.slot, "the slot is free again");
    rig.io.recv_standing(next);
    client.write_all(b"mine").unwrap();
    assert_eq!(bytes(&mut rig, next), (b"mine".to_vec(), true));
}

#[test]
fn a_full_completion_queue_ends_it_without_losing_a_byte() {
    let mut rig = Rig::with(8192, 16, 64);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.recv_standing(conn);
    rig.turn();
    // Sockets from another ring fill the queue, whether its owner looks or not.
    let room = rig.io.entries().1;
    let mut other = Rig::new(8);
    other.io.set_peers(vec![other.io.ring_fd(), rig.io.ring_fd()]);
    other.io.accept();
    let (_client, here) = other.connect();
    for _ in 0..room {
        other.io.depart(here, ShardId(1), Box::new(Parcel(Vec::new())));
        other.wait(|completion| matches!(completion, Completion::Departed { .. }).then_some(()));
    }
    client.write_all(b"no room").unwrap();
    assert_eq!(bytes(&mut rig, conn), (b"no room".to_vec(), false), "it ended, and says so");
    rig.io.recv_standing(conn);
    client.write_all(b"room again").unwrap();
    assert_eq!(bytes(&mut rig, conn), (b"room again".to_vec(), true));
}

#[test]
fn a_stopped_one_ends_alone_and_can_stand_again() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, conn) = rig.connect();
    rig.io.recv_standing(conn);
    rig.turn();
    rig.io.stop_receiving(conn);
    assert_eq!(received(&mut rig, conn), (Err(Errno::CANCELED), false));
    rig.io.poll_readable(conn);
    rig.io.stop_receiving(conn);
    client.write_all(b"later").unwrap();
    // The poll is none of its business.
    rig.wait(|completion| matches!(completion, Completion::Readable { .. }).then_some(()));
    rig.io.recv_standing(conn);
    assert_eq!(bytes(&mut rig, conn), (b"later".to_vec(), true));
    assert_eq!(rig.io.failures(), 0, "it was there to be cancelled");
}
