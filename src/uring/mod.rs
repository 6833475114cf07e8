//! Turns operations of a shard into entries of an io_uring, and its completions back.
//!
//! In:    `Io`'s operations, queued while a turn lasts.
//! Out:   `Io`'s completions; a descriptor to sleep on.
//! Never: decides anything about a connection; outlives its thread.
//!
//! # Who owns what
//! The kernel works on our memory while an operation is under way, so that memory has one owner
//! each, which boxes or maps it, and frees it when the operation's completion has been read:
//! receive buffers (`buffers`), payloads, headers and lists of sends (`sends`), addresses and
//! descriptors (`sockets`), parcels on their way to another ring (`parcels`). A send never
//! outlives the enter that submits it. Dropping a `UringIo` cancels everything, reads what still
//! completes, and only then closes the ring and frees the memory.
//!
//! # Invariants
//! - All unsafe code of the house is in this module.
//! - A ring is made, used and dropped on one thread; `UringIo` is not `Send`.
//! - Idle connections cost four bytes here (`armed`), whatever they wait for.

mod acceptings;
mod armed;
mod buffers;
mod completions;
mod error;
mod half_closes;
mod operations;
mod pages;
mod parcels;
mod ring;
mod sends;
mod slots;
mod sockets;
mod tag;

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::types::CancelBuilder;

use crate::io::Wait;
use crate::limits::SendMode;

use self::acceptings::Acceptings;
use self::armed::Armed;
use self::buffers::Buffers;
use self::completions::Ledger;
use self::half_closes::HalfCloses;
use self::parcels::Departs;
use self::ring::{Linger, Ring};
use self::sends::Sends;
use self::sockets::{Adoptions, Asks};

pub use self::error::{KERNEL_MIN, SetupError};
pub use self::pages::small_pages;

/// What [`Setup::enters_max`] is for a shard: all that a thousand connections have to say, and a
/// flood of events still cannot keep a turn from beginning.
pub const ENTERS_MAX: usize = 64;
/// How long a ring that is dropped waits for its departures.
const FAREWELL: Duration = Duration::from_secs(1);

/// Bytes that the smallest ring with so many receive buffers (a power of two) locks.
#[must_use]
pub fn ring_bytes_least(buffers: u16) -> usize {
    ring::ring_bytes_least() + buffers::ring_bytes(buffers)
}

/// What a shard's ring is made of.
#[derive(Debug)]
pub struct Setup {
    /// Where connections come from; none for a shard that only takes over.
    pub listeners: Vec<TcpListener>,
    /// Sockets that the table holds; at most the limit on open files and `TABLE_SLOTS_MAX`.
    pub table_slots: u32,
    /// Most entries of the submission queue; a power of two from 256 to 8192.
    pub entries: u32,
    /// Receive buffers; a power of two up to 32768.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: usize,
    /// Buffers that receives use up at a time: twice as many are offered to the kernel.
    pub stride: usize,
    /// Operation of a send of one piece.
    pub send: SendMode,
    /// Bytes of locked memory that the ring may cost, with the ring of its buffers (16 bytes a
    /// buffer). Less than the smallest ring needs is taken for that.
    pub ring_bytes_max: usize,
    /// Whether a connection is accepted only when its first bytes are there, or after a second or
    /// so without (`TCP_DEFER_ACCEPT`).
    pub defer_accept: bool,
    /// Enters that one submit repeats while the kernel has more to do: each runs at least 20 pieces
    /// of task work.
    pub enters_max: usize,
}

/// A shard's end of the kernel.
///
/// It must be made on the thread that uses it. [`Io`](crate::io::Io) says what it does.
pub struct UringIo {
    // Dropped first: the kernel lets go before the memory below is freed.
    ring: Ring,
    ledger: Ledger,
    listeners: Vec<TcpListener>,
    peers: Vec<RawFd>,
    enters_max: usize,
    /// Enters after which completions waited in the kernel.
    overflows: u64,
}

impl UringIo {
    /// Sets a ring up, with its table and its buffers.
    ///
    /// # Errors
    /// See [`SetupError`]; each says what to do.
    ///
    /// # Panics
    /// If `buffers` is not a power of two up to 32768.
    pub fn new(setup: Setup) -> Result<Self, SetupError> {
        let slots = setup.table_slots;
        let buffers = Buffers::new(setup.buffers, setup.buffer_bytes, setup.stride)
            .map_err(|error| SetupError::Other { step: "the receive buffers", error })?;
        let room = setup.ring_bytes_max.saturating_sub(buffers.ring_bytes());
        let ring = Ring::new(setup.entries, room, |ring| {
            buffers.register(&ring.submitter()).map_err(|error| {
                SetupError::sort("the ring of receive buffers", buffers.ring_bytes(), error)
            })
        })?;
        ring.submitter().register_files_sparse(slots).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EMFILE) => SetupError::Table { slots },
                _ => SetupError::Other { step: "the table of direct descriptors", error },
            }
        })?;
        if setup.defer_accept {
            for listener in &setup.listeners {
                let deferred = sockets::defer_accept(listener.as_fd());
                tracing::debug!(?deferred, "accepting those who have something to say");
            }
        }
        let ledger = Ledger {
            buffers,
            armed: Armed::new(slots),
            sends: Sends::new(setup.send),
            asks: Asks::new(),
            departs: Departs::new(),
            adoptions: Adoptions::new(),
            acceptings: Acceptings::new(setup.listeners.len()),
            half_closes: HalfCloses::new(),
            fell: VecDeque::new(),
            done: VecDeque::new(),
            failures: 0,
        };
        Ok(Self {
            ring,
            ledger,
            listeners: setup.listeners,
            peers: Vec::new(),
            enters_max: setup.enters_max,
            overflows: 0,
        })
    }

    /// The ring's descriptor, for the `set_peers` of other shards. Valid while this lives.
    #[must_use]
    pub fn ring_fd(&self) -> RawFd {
        self.ring.fd()
    }

    /// The rings of all shards, by [`ShardId`](crate::id::ShardId), this one's included.
    pub fn set_peers(&mut self, peers: Vec<RawFd>) {
        self.peers = peers;
    }

    /// Closes the listening sockets, so that clients are refused instead of kept waiting: for a
    /// shutdown, after `stop_accepting`. Whoever waits to be accepted then is reset.
    pub fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    /// Entries of the submission queue and of the completion queue.
    #[must_use]
    pub fn entries(&self) -> (u32, u32) {
        self.ring.entries()
    }

    /// Bytes of locked memory that the ring costs, with the ring of its buffers.
    #[must_use]
    pub fn ring_bytes(&self) -> usize {
        let (sq, cq) = self.ring.entries();
        ring::ring_bytes(sq, cq) + self.ledger.buffers.ring_bytes()
    }

    /// Cancels, closes and the like that failed: nearly always because what they were meant for
    /// had ended by itself.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.ledger.failures
    }

    /// Names the eventfd that a sleeper waits on. Wake-ups are off at first.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn register_eventfd(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.ring.register_eventfd(fd)
    }

    /// Lets what happens ring the eventfd, or not. Off while a shard runs, for a ring costs.
    pub fn wakeups(&mut self, on: bool) {
        self.ring.ring_eventfd(on);
    }

    /// Turns wake-ups on and says whether there is nothing to do: then sleep until the eventfd is
    /// readable, and turn wake-ups off. Where there is something to do they are off already.
    ///
    /// The order is what makes it safe: wake-ups on, then the kernel's deferred work run, then a
    /// look. What happened before the look is seen by it; what happens after it rings, since the
    /// kernel's list of work was emptied and the first piece of new work rings.
    pub fn prepare_sleep(&mut self) -> bool {
        if !self.ledger.idle() || self.ring.queued() > 0 {
            return false;
        }
        self.ring.ring_eventfd(true);
        self.enter(Linger::No, 0);
        self.collect();
        let asleep = self.ledger.idle() && self.ring.queued() == 0 && !self.ring.behind();
        if !asleep {
            self.ring.ring_eventfd(false);
        }
        asleep
    }

    /// Queues an entry, submitting the ones before it where the queue is full.
    fn push(&mut self, entry: &Entry) {
        if self.ring.full() {
            self.carry_out(Linger::No);
        }
        self.ring.push(entry);
    }

    /// Makes the kernel consume everything queued, and takes over what it has to say.
    fn carry_out(&mut self, mut linger: Linger) {
        for tries in 0.. {
            let busy = self.ring.queued() > 0 || matches!(linger, Linger::For(..));
            let behind = self.ring.behind() && (tries < self.enters_max || self.ring.overflown());
            if !busy && !behind {
                break;
            }
            self.enter(linger, tries);
            self.overflows += u64::from(self.ring.overflown());
            self.collect();
            linger = Linger::No;
        }
        self.collect();
        self.ledger.settle();
    }

    /// # Panics
    /// Where the ring is lost, and with it every connection: the process ends, and its supervisor
    /// starts it anew.
    fn enter(&mut self, linger: Linger, tries: usize) {
        if let Err(error) = self.ring.enter(linger, tries) {
            panic!("this shard's ring is lost (io_uring_enter, try {tries}): {error}");
        }
    }

    /// Takes over the completions that are there.
    fn collect(&mut self) {
        for completion in self.ring.completions() {
            self.ledger.record(&completion);
        }
        while let Some(entry) = self.ledger.asks.again() {
            // Asked again for the room that the answer needs. Should the queue be full, it is
            // being emptied by the loop that called this.
            if self.ring.full() {
                self.enter(Linger::No, 0);
            }
            self.ring.push(&entry);
        }
    }

    fn linger(&self, wait: Wait) -> Linger {
        match wait {
            Wait::Gather { count, at_most } if count > 0 && self.ledger.idle() => {
                Linger::For(count.min(self.ring.entries().1 as usize), at_most)
            }
            Wait::Gather { .. } | Wait::No => Linger::No,
        }
    }
}

impl Drop for UringIo {
    fn drop(&mut self) {
        // Ends what is armed, so that no receive can still be given a buffer. An error says that
        // there was nothing, or that the thread is being torn down, and then the kernel has
        // cancelled everything already.
        let limit = io_uring::types::Timespec::from(FAREWELL);
        let cancelled =
            self.ring.submitter().register_sync_cancel(Some(limit), CancelBuilder::any());
        tracing::trace!(?cancelled, "closing a ring");
        // Takes ownership of what has arrived: parcels, descriptors. And waits for departures,
        // whose parcels belong to nobody until their completion says to whom.
        let since = Instant::now();
        while self.ring.enter(Linger::No, 0).is_ok() {
            self.collect();
            self.ledger.forget();
            let waiting = self.ring.queued() > 0 || self.ledger.departs.len() > 0;
            let behind = self.ring.behind();
            if since.elapsed() >= FAREWELL || (!waiting && !behind) {
                break;
            }
            if !behind && self.ring.enter(Linger::For(1, FAREWELL), 0).is_err() {
                break;
            }
        }
    }
}
