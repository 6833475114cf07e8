//! What a shard has done, as numbers.
//!
//! In:    increments by the one shard that owns the block.
//! Out:   relaxed reads by whoever sums (health, metrics).
//! Never: is shared for writing: an increment is a load and a store, not a locked add.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// One number a shard keeps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        #[expect(non_camel_case_types, reason = "a counter is spelled as it is shown to people")]
        pub enum Counter { $($(#[$doc])* $name),+ }

        /// All counters, in order, as they are shown to people.
        pub const NAMES: &[&str] = &[$(stringify!($name)),+];
        /// All counters.
        pub const ALL: &[Counter] = &[$(Counter::$name),+];
    };
}

counters! {
    /// Gauge: sockets in the table.
    connections,
    /// Gauge: sockets whose upgrade is complete.
    websockets,
    /// Gauge: rooms whose home this shard is.
    rooms,
    /// Gauge: memberships of local connections.
    members,
    /// Gauge: bytes queued for slow readers.
    queue_bytes,
    /// Gauge: receive buffers on loan.
    buffers_lent,
    /// Sockets accepted.
    accepted,
    /// Upgrades answered with 101.
    upgraded,
    /// Connections handed to another shard.
    departed,
    /// Connections taken over from another shard.
    arrived,
    /// Departures that the other shard had no room for.
    stayed,
    /// Requests handed to the plain HTTP side.
    http,
    /// Messages received, complete.
    messages_in,
    /// Payload bytes of these.
    message_bytes_in,
    /// Messages given their place in a room.
    said,
    /// Frames put on a socket's way (one a member and message).
    deliveries,
    /// Sends queued to the kernel.
    sends,
    /// Sends that fell short.
    sends_short,
    /// Messages dropped for a slow reader (`drop_oldest`).
    dropped,
    /// Errors answered to a speaker.
    errors,
    /// Receives that found no buffer.
    buffers_exhausted,
    /// Pauses of a speaker because a room, a queue between shards or a budget was full.
    pauses,
    /// Pieces of mail to other shards: joins, leaves, speech, payloads, acknowledgements.
    mesh_messages,
    /// Pings sent by the heartbeat.
    pings,
    /// Turns that did work.
    turns,
    /// Times accepting paused because the table was nearly full.
    accept_paused,
    /// The same, because of `handshake.rate`.
    accept_paused_rate,
    /// The same, for want of memory.
    accept_paused_memory,
    /// The same, for want of descriptors.
    accept_paused_files,
    /// Connections cut at the end of a shutdown's grace.
    shutdown_cut,
}

/// Reasons of one kind (closes, refusals) that a table may have.
pub const REASONS_MAX: usize = 40;

/// One shard's numbers, alone on their cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    values: [AtomicU64; ALL.len()],
    closed: [AtomicU64; REASONS_MAX],
    refused: [AtomicU64; REASONS_MAX],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            values: std::array::from_fn(|_| AtomicU64::new(0)),
            closed: std::array::from_fn(|_| AtomicU64::new(0)),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl Counters {
    /// Adds to a counter. Only the owner calls it.
    #[inline]
    pub fn add(&self, counter: Counter, by: u64) {
        bump(&self.values[counter as usize], by);
    }

    /// Takes from a gauge. Only the owner calls it.
    #[inline]
    pub fn sub(&self, counter: Counter, by: u64) {
        bump(&self.values[counter as usize], by.wrapping_neg());
    }

    /// Sets a gauge. Only the owner calls it.
    pub fn set(&self, counter: Counter, to: u64) {
        self.values[counter as usize].store(to, Ordering::Relaxed);
    }

    /// Reads a counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }

    /// Counts a close by its reason's place in the table of `conn::disconnect`.
    pub fn count_closed(&self, reason: usize) {
        bump(&self.closed[reason], 1);
    }

    /// Closes by reason.
    #[must_use]
    pub fn closed(&self, reason: usize) -> u64 {
        self.closed[reason].load(Ordering::Relaxed)
    }

    /// Counts a refusal by its place in the table of `http::refusal`.
    pub fn count_refused(&self, reason: usize) {
        bump(&self.refused[reason], 1);
    }

    /// Refusals by reason.
    #[must_use]
    pub fn refused(&self, reason: usize) -> u64 {
        self.refused[reason].load(Ordering::Relaxed)
    }
}
