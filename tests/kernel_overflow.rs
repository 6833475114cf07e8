//! Pins: a completion queue that overflows loses nothing.
//!
//! Why this test must never be deleted: sockets that come from another ring complete by
//! themselves, whether this ring's owner looks or not, so a busy shard's queue can fill. What does
//! not fit waits in the kernel, and comes only to who asks for it after making room: a submit that
//! stopped at the end of the queue would lose connections with their parcels, and, were it among
//! sends, take a short send for a whole one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::sync::mpsc;
use std::thread;

use ringhall::id::ShardId;
use ringhall::io::{Completion, Io, Parcel};

#[path = "support/ring.rs"]
#[expect(dead_code, reason = "each kernel test uses a part of it")]
mod ring;
use ring::{Rig, conn, one};

#[test]
fn arrivals_beyond_the_queue_all_arrive() {
    let (tell_fd, fd) = mpsc::channel();
    let (tell_sent, sent) = mpsc::channel::<()>();
    let target = thread::spawn(move || {
        let mut rig = Rig::with(8192, 4, 64);
        rig.io.accept();
        let (_client, here) = rig.connect();
        let room = rig.io.entries().1 as usize;
        tell_fd.send((rig.io.ring_fd(), room)).unwrap();
        // Not looking: the arrivals pile up.
        sent.recv().unwrap();
        // A send that falls short in the submit that meets the overflow is still told apart.
        rig.io.send(here, one(&vec![0; 16 << 20]));
        rig.turn();
        assert!(matches!(rig.seen.pop_front(), Some(Completion::Fell { .. })));
        assert!(rig.io.overflows() > 0, "and it is counted");
        let mut numbers = HashSet::new();
        let mut slots = HashSet::new();
        for completion in rig.seen.drain(..) {
            let Completion::Arrived { slot, parcel } = completion else { panic!("{completion:?}") };
            slots.insert(slot);
            numbers.insert(u32::from_le_bytes(*parcel.0.first_chunk().unwrap()));
        }
        assert_eq!(slots.len(), numbers.len(), "one slot each");
        (room, numbers.len())
    });
    let (fd, room) = fd.recv().unwrap();
    let all = room + room / 2;
    let mut rig = Rig::new(8);
    rig.io.set_peers(vec![rig.io.ring_fd(), fd]);
    rig.io.accept();
    let (_client, here) = rig.connect();
    assert_eq!(here, conn(0));
    // One socket, sent many times: each arrival is a reference of its own.
    let mut left = 0;
    for number in 0..all as u32 {
        let parcel = Box::new(Parcel(number.to_le_bytes().to_vec()));
        rig.io.depart(here, ShardId(1), parcel);
        // A few at a time: this ring's queue is not the one that shall overflow.
        if number % 64 == 63 || number as usize == all - 1 {
            while left <= number {
                rig.wait(|completion| {
                    matches!(completion, Completion::Departed { .. }).then_some(())
                });
                left += 1;
            }
        }
    }
    tell_sent.send(()).unwrap();
    assert_eq!(target.join().unwrap(), (room, all));
}
