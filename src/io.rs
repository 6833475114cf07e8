//! The seam: operations out, completions in. Nothing else in the house knows a kernel.
//!
//! In:    operations that a shard queues while a turn lasts.
//! Out:   completions, all of them, before the next turn queues anything.
//! Never: decides anything; an implementation only carries out.
//!
//! Two implementations: `uring::UringIo` (the kernel) and the seeded simulator of `tests/sim.rs`.
//!
//! # Invariants an implementation keeps
//! - Everything that was queued is carried out by the next `submit`, in order, once.
//! - A send that fell short is reported as [`Completion::Fell`] before anything is reported that
//!   happened after the `submit` which carried it out. A send that is not reported was whole.
//! - A buffer that came with [`Completion::Received`] belongs to the shard until it is released or
//!   sent back, whatever becomes of the connection. What is left of one that was sent back is
//!   reported as a copy, so that a slow reader keeps none.
//!
//! # Invariants a shard keeps
//! - At most one send a connection between two `submit`s, and none while an earlier one's rest has
//!   not been handed to [`Io::send`] again.
//! - At most one receive in flight a connection, a standing one included; none in flight, and
//!   nothing armed, when the connection departs or is detached.

use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub use rustix::io::Errno;

use crate::id::{ConnId, ShardId};
use crate::payload::Segment;

/// A received buffer on loan from the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub u16);

/// How a receive behaves where nothing has arrived yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Stays armed until something arrives (the head phase: nothing else is armed there).
    Wait,
    /// Fails with [`Errno::AGAIN`].
    DontWait,
}

/// How a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHow {
    /// What is unsent is still sent by the kernel, then FIN.
    Orderly,
    /// What is unsent is dropped at once, with RST: for the slow and the dead.
    Reset,
}

/// What to do when nothing has happened yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Return at once.
    No,
    /// Wait until `count` completions are there, `at_most` so long: a busy shard gathers.
    Gather {
        /// Completions to wait for.
        count: usize,
        /// Longest wait.
        at_most: Duration,
    },
}

/// The written form of a connection, on its way to another shard (or another process).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parcel(pub Vec<u8>);

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where the bytes lie; `None` with `len == 0` where the end of the stream brought no buffer.
    pub buffer: Option<BufferId>,
    /// Bytes received; 0 is the peer's FIN.
    pub len: usize,
    /// The socket holds more.
    pub more: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Completion {
    /// A connection was accepted into this slot.
    Accepted {
        /// Its direct descriptor.
        slot: u32,
    },
    /// Accepting has stopped: asked to, or failed. It has to be started again.
    AcceptStopped {
        /// Why; [`Errno::CANCELED`] where [`Io::stop_accepting`] asked for it.
        error: Errno,
    },
    /// The answer to [`Io::ask_peer`]; `None` where the peer is gone or has no address.
    Peer {
        /// Of whom.
        conn: ConnId,
        /// The remote address.
        address: Option<IpAddr>,
    },
    /// There is something to receive, or the peer is gone.
    Readable {
        /// Whose.
        conn: ConnId,
        /// The peer has hung up or the socket failed: receive until that shows.
        hangup: bool,
        /// The poll is still armed.
        armed: bool,
    },
    /// The socket takes bytes again. The poll is spent.
    Writable {
        /// Whose.
        conn: ConnId,
    },
    /// A receive has ended, or a standing one has brought something.
    Received {
        /// Whose.
        conn: ConnId,
        /// What it brought. [`Errno::NOBUFS`] is a pause, never a close.
        outcome: Result<Input, Errno>,
        /// A standing receive goes on; where this is false, none is armed any more.
        armed: bool,
    },
    /// A send fell short: the socket was full, or dead.
    Fell {
        /// Whose.
        conn: ConnId,
        /// What was not sent, in order.
        rest: Vec<Segment>,
        /// `None` where the socket was merely full.
        error: Option<Errno>,
    },
    /// A connection came from another shard, or from [`Io::adopt`], into this slot.
    Arrived {
        /// Its direct descriptor here.
        slot: u32,
        /// Its state.
        parcel: Box<Parcel>,
    },
    /// A departing connection now belongs to the other shard; close the slot here.
    Departed {
        /// Which.
        conn: ConnId,
    },
    /// A departing connection could not be placed there (its table is full).
    Stayed {
        /// Which.
        conn: ConnId,
        /// Its state, given back.
        parcel: Box<Parcel>,
        /// Why.
        error: Errno,
    },
    /// The answer to [`Io::detach`].
    Detached {
        /// Which.
        conn: ConnId,
        /// An ordinary descriptor of the same socket.
        fd: Result<OwnedFd, Errno>,
    },
    /// [`Io::adopt`] found no room in the table.
    AdoptFailed {
        /// The socket, given back.
        fd: OwnedFd,
        /// The state that came with it.
        parcel: Box<Parcel>,
        /// Why.
        error: Errno,
    },
    /// Another shard rang: there is mail.
    Doorbell,
}

/// Carries out what a shard wants done with sockets.
pub trait Io {
    /// Starts accepting. Ends with [`Completion::AcceptStopped`].
    fn accept(&mut self);
    /// Sees to it that at each listener so many connections are accepted, those included that an
    /// earlier call has asked for and that have not come; then no more are. An error, reported as
    /// [`Completion::AcceptStopped`], has used up one. Not while [`Io::accept`] goes on.
    fn accept_some(&mut self, count: usize);
    /// Asks accepting to stop. What was accepted before is still reported.
    fn stop_accepting(&mut self);
    /// Asks for the peer's address.
    fn ask_peer(&mut self, conn: ConnId);
    /// Receives into a buffer of the ring, once.
    fn recv(&mut self, conn: ConnId, patience: Patience);
    /// Receives into buffers of the ring, again and again, until [`Completion::Received`] says that
    /// this is no longer armed: after an error (a dry buffer ring is one), the end of the stream,
    /// [`Io::disarm`], or whenever an implementation likes. One that has none receives once.
    fn recv_standing(&mut self, conn: ConnId) {
        self.recv(conn, Patience::Wait);
    }
    /// Reports readability, edge by edge, until the connection is closed or polling stopped.
    fn poll_readable(&mut self, conn: ConnId);
    /// Reports once that the socket takes bytes.
    fn poll_writable(&mut self, conn: ConnId);
    /// Stops a standing receive, and nothing else. What it has read already still comes;
    /// [`Completion::Received`] says when none is armed any more.
    fn stop_receiving(&mut self, conn: ConnId);
    /// Stops whatever is armed for the connection; stale completions may still come.
    fn disarm(&mut self, conn: ConnId);
    /// Sends the segments, in order, as far as the socket takes them at once.
    fn send(&mut self, conn: ConnId, segments: Segments);
    /// As [`Io::send`], where FIN follows as soon as it is known that the kernel took all: the last
    /// bytes may wait for it, so that both fit one packet.
    fn send_last(&mut self, conn: ConnId, segments: Segments) {
        self.send(conn, segments);
    }
    /// Sends a part of a received buffer, as [`Io::send`] does, and then releases the buffer.
    fn send_back(&mut self, conn: ConnId, buffer: BufferId, part: Range<usize>);
    /// Sends FIN; receiving goes on.
    fn shutdown(&mut self, conn: ConnId);
    /// Closes the socket and frees the slot. Whatever is armed ends.
    fn close(&mut self, conn: ConnId, how: CloseHow);
    /// Hands the socket and the connection's state to another shard.
    fn depart(&mut self, conn: ConnId, to: ShardId, parcel: Box<Parcel>);
    /// Wakes another shard that sleeps.
    fn doorbell(&mut self, to: ShardId);
    /// Makes an ordinary descriptor of the socket; the slot stays to be closed.
    fn detach(&mut self, conn: ConnId);
    /// Takes an ordinary socket into the table.
    fn adopt(&mut self, fd: OwnedFd, parcel: Box<Parcel>);
    /// The bytes of a received buffer, to be decoded in place.
    fn buffer(&mut self, id: BufferId, len: usize) -> &mut [u8];
    /// Gives a buffer back.
    fn release(&mut self, id: BufferId);
    /// Buffers that receives can still be given.
    fn buffers_free(&self) -> usize;
    /// The fewest of these at any moment since this was last asked.
    fn buffers_free_low(&mut self) -> usize {
        self.buffers_free()
    }
    /// How often completions had to wait in the kernel since there was no room for them.
    fn overflows(&self) -> u64 {
        0
    }
    /// Carries out what was queued.
    fn submit(&mut self, wait: Wait);
    /// The next completion; `None` when all are taken.
    fn reap(&mut self) -> Option<Completion>;
}

/// What one send carries: nearly always one segment, which needs no list.
#[derive(Debug)]
pub enum Segments {
    /// One contiguous range.
    One(Segment),
    /// Several, in order; at most `limits::SEND_SEGMENTS_MAX`.
    Many(Vec<Segment>),
}

impl Segments {
    /// The segments as a slice.
    #[must_use]
    pub fn as_slice(&self) -> &[Segment] {
        match self {
            Self::One(segment) => std::slice::from_ref(segment),
            Self::Many(segments) => segments,
        }
    }

    /// How many bytes they have together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.as_slice().iter().map(|segment| segment.len() as u64).sum()
    }

    /// What is left when the first `sent` bytes are gone.
    #[must_use]
    pub fn rest(self, mut sent: usize) -> Vec<Segment> {
        let segments = match self {
            Self::One(segment) => vec![segment],
            Self::Many(segments) => segments,
        };
        let mut rest = Vec::with_capacity(segments.len());
        for mut segment in segments {
            let gone = sent.min(segment.len());
            sent -= gone;
            segment.start += u32::try_from(gone).unwrap_or(u32::MAX);
            if !segment.is_empty() {
                rest.push(segment);
            }
        }
        rest
    }
}
