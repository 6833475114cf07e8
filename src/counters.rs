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
    /// Gauge: sockets that were told of their end and are not closed yet.
    closing,
    /// Gauge: rooms whose home this shard is.
    rooms,
    /// Gauge: memberships of local connections.
    members,
    /// Gauge: bytes queued for slow readers.
    queue_bytes,
    /// Gauge: receive buffers of the ring.
    buffers,
    /// Gauge: receive buffers on loan.
    buffers_lent,
    /// Gauge: the fewest receive buffers that were free at once in the last one to two minutes.
    buffers_free_low,
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
    /// Bytes received from clients' sockets.
    received_bytes,
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
    /// Bytes that the kernel took of these.
    sent_bytes,
    /// Sends that fell short.
    sends_short,
    /// Messages dropped for a slow reader (`drop_oldest`).
    dropped,
    /// Messages that went with a slow reader (`disconnect`).
    dropped_disconnect,
    /// Messages that went with a connection that had to pay for `limits.queue_bytes`.
    dropped_overload,
    /// Errors answered to a speaker.
    errors,
    /// Receives that found no buffer.
    buffers_exhausted,
    /// Times that the completion queue was found full.
    completion_overflows,
    /// Pauses of a speaker because a room, a queue between shards or a budget was full.
    pauses,
    /// Pieces of mail to other shards: joins, leaves, speech, payloads, acknowledgements.
    mesh_messages,
    /// Pings sent by the heartbeat.
    pings,
    /// Turns that did work.
    turns,
    /// CPU time of the shard's thread, in microseconds; brought up to date about once a second.
    cpu_us,
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

/// What is measured in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Timer {
    /// Turns that did work.
    Turn,
    /// From the accept to the 101.
    Handshake,
    /// From the start of the turn in which a room took a message to the end of that which sent it.
    Publish,
}

const TIMERS: usize = 3;

/// Upper bounds of the buckets, in microseconds; what is longer falls into one more bucket.
pub const BOUNDS_US: [u64; 16] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// Buckets of a histogram.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Times of one kind, by length.
#[derive(Debug)]
struct Histogram {
    sum_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { sum_us: AtomicU64::new(0), buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
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
    times: [Histogram; TIMERS],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            values: std::array::from_fn(|_| AtomicU64::new(0)),
            closed: std::array::from_fn(|_| AtomicU64::new(0)),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            times: std::array::from_fn(|_| Histogram::default()),
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

    /// Notes that `times` things took so long each. Only the owner calls it.
    pub fn observe(&self, timer: Timer, micros: u64, times: u64) {
        let histogram = &self.times[timer as usize];
        let bucket = BOUNDS_US.partition_point(|bound| *bound < micros);
        bump(&histogram.buckets[bucket], times);
        bump(&histogram.sum_us, micros.wrapping_mul(times));
    }

    /// What was noted: the sum in microseconds, and how many things fell into each bucket.
    #[must_use]
    pub fn observed(&self, timer: Timer) -> (u64, [u64; BUCKETS]) {
        let Histogram { sum_us, buckets } = &self.times[timer as usize];
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        (read(sum_us), std::array::from_fn(|bucket| read(&buckets[bucket])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let counters = Counters::default();
        for (micros, times) in [(0, 1), (25, 2), (26, 4), (10_000_000, 8), (10_000_001, 16)] {
            counters.observe(Timer::Publish, micros, times);
        }
        let (sum, buckets) = counters.observed(Timer::Publish);
        assert_eq!((buckets[0], buckets[1], buckets[15], buckets[16]), (3, 4, 8, 16));
        assert_eq!(sum, 50 + 104 + 80_000_000 + 160_000_016);
        assert_eq!(counters.observed(Timer::Turn), (0, [0; BUCKETS]));
    }
}
