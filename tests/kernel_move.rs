//! Pins: a connection moves from ring to ring whole, or not at all.
//!
//! Why this test must never be deleted: every room member moves to its room's home. The parcel
//! crosses as a bare address in a completion, so exactly one side may take it back: if a kernel
//! posted both, or the target's without the source's success, a parcel would be freed twice; if
//! neither, it would leak with its connection. And bytes that lie unread in the socket must be
//! read by the new ring, once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;

use ringhall::id::ShardId;
use ringhall::io::{CloseHow, Completion, Errno, Io, Parcel};
use ringhall::uring::{Setup, UringIo};

#[path = "support/ring.rs"]
#[expect(dead_code, reason = "each kernel test uses a part of it")]
mod ring;
use ring::{Rig, conn, one};

const TARGET: ShardId = ShardId(1);

fn departing(rig: &mut Rig) -> Result<(), (Parcel, Errno)> {
    rig.wait(|completion| match completion {
        Completion::Departed { .. } => Some(Ok(())),
        Completion::Stayed { parcel, error, .. } => {
            Some(Err((std::mem::take(&mut **parcel), *error)))
        }
        _ => None,
    })
}

fn arrived(rig: &mut Rig) -> (u32, Parcel) {
    rig.wait(|completion| match completion {
        Completion::Arrived { slot, parcel } => Some((*slot, std::mem::take(&mut **parcel))),
        _ => None,
    })
}

/// A ring on a thread of its own, which does `serve` and returns what that returns.
fn target<T: Send + 'static>(
    table_slots: u32,
    serve: impl FnOnce(Rig) -> T + Send + 'static,
) -> (i32, thread::JoinHandle<T>) {
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        let rig = Rig::new(table_slots);
        tell.send(rig.io.ring_fd()).unwrap();
        serve(rig)
    });
    (told.recv().unwrap(), thread)
}

#[test]
fn bytes_sent_before_during_and_after_a_move_arrive_once() {
    const MOVES: usize = 200;
    let (fd, thread) = target(MOVES as u32, |mut rig| {
        for _ in 0..MOVES {
            let (slot, parcel) = arrived(&mut rig);
            let here = conn(slot);
            rig.io.poll_readable(here);
            assert!(!rig.readable(here).0, "unread bytes are seen by arming");
            let mut bytes = parcel.0;
            bytes.extend(rig.take_exactly(here, 12));
            // The answer carries what crossed in the parcel and what crossed in the socket.
            rig.io.send(here, one(&bytes));
        }
        rig.turn();
        assert_eq!(rig.io.buffers_free(), 16);
        // What came after the move is an edge of its own, already read by then.
        let edge = |seen: &Completion| matches!(seen, Completion::Readable { hangup: false, .. });
        assert!(rig.seen.iter().all(edge));
    });
    let mut rig = Rig::new(8);
    rig.io.set_peers(vec![rig.io.ring_fd(), fd]);
    rig.io.accept();
    let mut clients: Vec<TcpStream> = Vec::new();
    for _ in 0..MOVES {
        let (mut client, here) = rig.connect();
        client.write_all(b"headbody").unwrap();
        let head = rig.take(here);
        client.write_all(b"unread").unwrap();
        rig.io.depart(here, TARGET, Box::new(Parcel(head)));
        rig.turn();
        client.write_all(b" after").unwrap();
        assert_eq!(departing(&mut rig), Ok(()));
        // Closing here drops a reference: the client hears nothing of it.
        rig.io.close(here, CloseHow::Orderly);
        clients.push(client);
    }
    rig.turn();
    for client in &mut clients {
        let mut bytes = [0; 20];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"headbodyunread after");
    }
    thread.join().unwrap();
}

#[test]
fn a_full_table_gives_the_parcel_back() {
    let (done, finish) = mpsc::channel::<()>();
    let (fd, thread) = target(1, move |mut rig| {
        let (slot, parcel) = arrived(&mut rig);
        finish.recv().unwrap();
        rig.turn();
        assert!(rig.seen.is_empty(), "nothing of what stayed: {:?}", rig.seen);
        (slot, parcel.0)
    });
    let mut rig = Rig::new(8);
    rig.io.set_peers(vec![rig.io.ring_fd(), fd]);
    rig.io.accept();
    let (_first, a) = rig.connect();
    rig.io.depart(a, TARGET, Box::new(Parcel(vec![1])));
    assert_eq!(departing(&mut rig), Ok(()));
    let (mut client, b) = rig.connect();
    rig.io.depart(b, TARGET, Box::new(Parcel(vec![2])));
    assert_eq!(departing(&mut rig), Err((Parcel(vec![2]), Errno::NFILE)));
    // It is served here, as if nothing had been.
    client.write_all(b"here").unwrap();
    assert_eq!(rig.take(b), b"here");
    done.send(()).unwrap();
    assert_eq!(thread.join().unwrap(), (0, vec![1]));
}

#[test]
fn an_unknown_shard_gives_the_parcel_back() {
    let mut rig = Rig::new(4);
    rig.io.accept();
    let (_client, here) = rig.connect();
    rig.io.depart(here, TARGET, Box::new(Parcel(vec![3])));
    assert_eq!(departing(&mut rig), Err((Parcel(vec![3]), Errno::NXIO)));
}

#[test]
fn a_shard_that_goes_with_parcels_unread_takes_them_along() {
    let (ready, go) = mpsc::channel::<()>();
    let (fd, thread) = target(8, move |rig| {
        // Arrived here, and never looked at: dropping the ring frees what is in it.
        go.recv().unwrap();
        drop(rig);
    });
    let mut rig = Rig::new(8);
    rig.io.set_peers(vec![rig.io.ring_fd(), fd]);
    rig.io.accept();
    let (mut client, here) = rig.connect();
    rig.io.depart(here, TARGET, Box::new(Parcel(vec![0; 1 << 16])));
    assert_eq!(departing(&mut rig), Ok(()));
    rig.io.close(here, CloseHow::Orderly);
    rig.turn();
    ready.send(()).unwrap();
    thread.join().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_dead_shards_ring_gives_the_parcel_back() {
    let (fd, thread) = target(8, drop);
    thread.join().unwrap();
    let setup = Setup {
        listeners: Vec::new(),
        table_slots: 1,
        buffers: 1,
        buffer_bytes: 64,
        entries: 4096,
        stride: 64,
        send: ringhall::limits::SendMode::Send,
        ring_bytes_max: 0,
        defer_accept: false,
        enters_max: ringhall::uring::ENTERS_MAX,
    };
    let mut io = UringIo::new(setup).unwrap();
    // The number may be some other descriptor's by now; it is no ring of a shard's in any case.
    let nobody = if io.ring_fd() == fd { -1 } else { fd };
    io.set_peers(vec![io.ring_fd(), nobody]);
    let mut rig = Rig { io, address: ([127, 0, 0, 1], 0).into(), seen: Default::default() };
    rig.io.depart(conn(0), TARGET, Box::new(Parcel(vec![4])));
    let (parcel, _) = departing(&mut rig).unwrap_err();
    assert_eq!(parcel.0, [4]);
}
