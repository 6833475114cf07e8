//! Pins: whatever happens to a ring rings the eventfd of a sleeper who went to sleep by the rules.
//!
//! Why this test must never be deleted: a shard has no timer that would rescue it. If one kind of
//! event did not ring (a message from another ring, a socket that came from one, input), the shard
//! would sleep on with work to do until something else woke it. The rules (`prepare_sleep`) are
//! not in any manual: leaving out the enter between enabling and looking hung every time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use ringhall::id::ShardId;
use ringhall::io::{Completion, Io, Parcel};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

#[path = "support/ring.rs"]
#[expect(dead_code, reason = "each kernel test uses a part of it")]
mod ring;
use ring::{DEADLINE, Rig, conn, one};

const SLEEPER: ShardId = ShardId(1);

/// A ring that its owner sleeps on by an eventfd, never in an enter.
struct Sleeper {
    rig: Rig,
    bell: OwnedFd,
}

impl Sleeper {
    fn new() -> Self {
        let mut rig = Rig::new(64);
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        rig.io.register_eventfd(bell.as_fd()).unwrap();
        Self { rig, bell }
    }

    /// Sleeps until something rings; `asleep` is told when nothing but a ring can end the sleep.
    fn sleep(&mut self, asleep: impl FnOnce()) {
        if self.rig.io.prepare_sleep() {
            asleep();
            let deadline = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
            let mut fds = [PollFd::new(&self.bell, PollFlags::IN)];
            assert_eq!(poll(&mut fds, Some(&deadline)), Ok(1), "nothing rang");
            self.rig.io.wakeups(false);
            rustix::io::read(&self.bell, &mut [0; 8]).unwrap();
        }
        self.rig.turn();
    }

    /// Sleeps and turns until there is something new.
    fn next(&mut self, mut asleep: impl FnMut()) -> Completion {
        loop {
            if let Some(completion) = self.rig.seen.pop_front() {
                return completion;
            }
            self.sleep(&mut asleep);
        }
    }
}

/// Runs `other` beside a sleeper, once the sleeper sleeps for the first time.
fn beside(
    mut sleeper: Sleeper,
    other: impl FnOnce(i32) + Send + 'static,
) -> (Sleeper, Completion, thread::JoinHandle<()>) {
    let (tell, told) = mpsc::channel();
    let fd = sleeper.rig.io.ring_fd();
    let thread = thread::spawn(move || {
        told.recv().unwrap();
        other(fd);
    });
    let completion = sleeper.next(|| tell.send(()).unwrap_or_default());
    (sleeper, completion, thread)
}

#[test]
fn a_doorbell_wakes() {
    let (_sleeper, completion, thread) = beside(Sleeper::new(), |fd| {
        let mut rig = Rig::new(2);
        rig.io.set_peers(vec![rig.io.ring_fd(), fd]);
        rig.io.doorbell(SLEEPER);
        rig.turn();
        assert_eq!(rig.io.failures(), 0);
    });
    assert!(matches!(completion, Completion::Doorbell), "{completion:?}");
    thread.join().unwrap();
}

#[test]
fn an_arrival_wakes() {
    let (_sleeper, completion, thread) = beside(Sleeper::new(), |fd| {
        let mut rig = Rig::new(2);
        rig.io.set_peers(vec![rig.io.ring_fd(), fd]);
        rig.io.accept();
        let (_client, here) = rig.connect();
        rig.io.depart(here, SLEEPER, Box::new(Parcel(vec![1])));
        rig.wait(|completion| matches!(completion, Completion::Departed { .. }).then_some(()));
    });
    assert!(matches!(completion, Completion::Arrived { .. }), "{completion:?}");
    thread.join().unwrap();
}

#[test]
fn a_new_connection_and_its_input_wake() {
    let mut sleeper = Sleeper::new();
    sleeper.rig.io.accept();
    sleeper.rig.turn();
    let address = sleeper.rig.address;
    let (go, gone) = mpsc::channel();
    let (mut sleeper, completion, thread) = beside(sleeper, move |_| {
        let mut client = TcpStream::connect(address).unwrap();
        gone.recv().unwrap();
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    });
    let Completion::Accepted { slot } = completion else { panic!("{completion:?}") };
    sleeper.rig.io.poll_readable(conn(slot));
    sleeper.rig.turn();
    let completion = sleeper.next(|| go.send(()).unwrap_or_default());
    assert!(matches!(completion, Completion::Readable { armed: true, .. }), "{completion:?}");
    let bytes = sleeper.rig.take(conn(slot));
    sleeper.rig.io.send(conn(slot), one(&bytes));
    sleeper.rig.turn();
    thread.join().unwrap();
}

#[test]
fn nothing_is_slept_over_in_thousands_of_short_sleeps() {
    const ROUNDS: usize = 3000;
    let mut sleeper = Sleeper::new();
    sleeper.rig.io.accept();
    sleeper.rig.turn();
    let (address, fd) = (sleeper.rig.address, sleeper.rig.io.ring_fd());
    // A client that answers at once and a shard that rings at once: events come while the sleeper
    // is anywhere between awake and asleep.
    let client = thread::spawn(move || {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_nodelay(true).unwrap();
        for _ in 0..ROUNDS {
            client.write_all(b"?").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    });
    let (tell, told) = mpsc::channel::<()>();
    let ringer = thread::spawn(move || {
        let mut rig = Rig::new(2);
        rig.io.set_peers(vec![rig.io.ring_fd(), fd]);
        while told.recv().is_ok() {
            rig.io.doorbell(SLEEPER);
            rig.turn();
        }
        assert_eq!(rig.io.failures(), 0);
    });
    let (mut answers, mut bells) = (0, 0);
    tell.send(()).unwrap();
    while answers < ROUNDS || bells < ROUNDS {
        match sleeper.next(|| ()) {
            Completion::Accepted { slot } => sleeper.rig.io.poll_readable(conn(slot)),
            Completion::Readable { conn: here, hangup: false, .. } => {
                assert_eq!(sleeper.rig.take(here), b"?");
                answers += 1;
                sleeper.rig.io.send(here, one(b"!"));
            }
            Completion::Readable { .. } => {}
            Completion::Doorbell => {
                bells += 1;
                if bells < ROUNDS {
                    tell.send(()).unwrap();
                }
            }
            other => panic!("{other:?}"),
        }
        sleeper.rig.turn();
    }
    drop(tell);
    client.join().unwrap();
    ringer.join().unwrap();
}
