//! What the shards of a process know of each other, and what the main thread tells them.
//!
//! In:    each shard's own numbers, written by it alone; orders from the main thread.
//! Out:   the same, for all others.
//! Never: is touched for a message: only when connections come and go, or queues grow.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::queue::SegQueue;
use crossbeam::utils::CachePadded;

use crate::conn::Origin;
use crate::counters::Counters;
use crate::http::RefusalKind;
use crate::id::{RoomKey, ShardId};
use crate::limits::Limits;
use crate::mesh::Mesh;
use crate::proxy::Front;

/// What the main thread tells a shard.
#[derive(Clone, Debug)]
pub enum Order {
    /// New limits (SIGHUP).
    Limits(Arc<Limits>),
    /// Stop accepting, tell everyone, close.
    Drain(Farewell),
    /// Cut whoever is still there, and end.
    Cut,
}

/// How a shutdown is put to the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// 1001: for good (SIGINT).
    ForGood,
    /// 1012: come back (SIGTERM: a supervisor's stop and its restart look alike).
    ComeBack,
}

/// What [`Neighbour::moved_at`] says of a shard that is done and turns no more.
pub const ENDED: u64 = u64::MAX;

/// One shard, as the others see it.
#[derive(Debug, Default)]
pub struct Neighbour {
    /// Its numbers.
    pub counters: Arc<Counters>,
    /// Slots of its table that are free. Accepts and arrivals both draw on them.
    pub free_slots: AtomicUsize,
    /// Milliseconds since start at its last turn; [`ENDED`] behind the very last.
    pub moved_at: AtomicU64,
    /// How busy it was in the last second, in percent.
    pub busy_percent: AtomicUsize,
    /// In a shutdown: it has no connection, no mail to send and none that waits, and starts nothing
    /// any more.
    pub vacant: std::sync::atomic::AtomicBool,
    /// Orders it has not read yet.
    pub orders: SegQueue<Order>,
}

/// How much memory the box has left, measured by what is kept back (`limits.memory_reserve`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryLeft {
    /// More than is kept back.
    #[default]
    Enough,
    /// Less: newcomers are refused.
    Short,
    /// A small part of it: nobody is accepted, for a refusal takes memory, too.
    Dire,
}

/// All bytes that clients make the process hold.
#[derive(Debug, Default)]
pub struct Budget {
    /// Bytes held.
    pub bytes: CachePadded<AtomicUsize>,
    /// Connections that hold some.
    pub holders: CachePadded<AtomicUsize>,
}

impl Budget {
    /// Gives up what one connection holds, unless the sum is within `limit` by now: of the shards
    /// that see one excess at once, each pays only for what the others have not paid yet.
    #[must_use]
    pub fn pay(&self, held: usize, limit: usize) -> bool {
        let less = |sum: usize| (sum > limit).then(|| sum - held);
        let paid = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        if paid {
            self.holders.fetch_sub(1, Ordering::Relaxed);
        }
        paid
    }
}

/// What the shards of a process share.
#[derive(Debug)]
pub struct Shared {
    /// Their queues.
    pub mesh: Arc<Mesh>,
    /// Themselves.
    pub neighbours: Box<[CachePadded<Neighbour>]>,
    /// Connections that count against `limits.connections_max`.
    pub connections: CachePadded<AtomicUsize>,
    /// See [`MemoryLeft`]: written by the main thread.
    memory: CachePadded<AtomicU8>,
    /// Rooms of the process.
    pub rooms: CachePadded<AtomicUsize>,
    /// Plain HTTP connections of the process.
    pub http_connections: CachePadded<AtomicUsize>,
    /// See [`Budget`].
    pub budget: Budget,
    /// Connections by remote address, where they are counted.
    pub addresses: Addresses,
    /// The proxies whose word on a client's address is taken.
    pub front: Front,
    hasher: RandomState,
    /// The limits in force, for whoever is no shard; shards are given theirs by order.
    limits: Mutex<Arc<Limits>>,
    /// Random, the same for all shards: the start of every epoch's name.
    pub seed: u64,
}

impl Shared {
    /// For so many shards.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, shards: usize, seed: u64, limits: Arc<Limits>) -> Self {
        Self {
            mesh,
            neighbours: (0..shards).map(|_| CachePadded::new(Neighbour::default())).collect(),
            connections: CachePadded::default(),
            memory: CachePadded::default(),
            rooms: CachePadded::default(),
            http_connections: CachePadded::default(),
            budget: Budget::default(),
            addresses: Addresses::default(),
            front: Front::default(),
            hasher: RandomState::new(),
            limits: Mutex::new(limits),
            seed,
        }
    }

    /// With proxies in front; else none is trusted.
    #[must_use]
    pub fn behind(mut self, front: Front) -> Self {
        self.front = front;
        self
    }

    /// Counts one connection of this client, where connections are counted by address (`limit`);
    /// `None` where it has `limit` already.
    #[must_use]
    pub fn enter(&self, address: IpAddr, limit: Option<usize>) -> Option<Origin> {
        if limit.is_some_and(|limit| !self.addresses.enter(address, limit)) {
            return None;
        }
        Some(Origin { address, is_counted: limit.is_some() })
    }

    /// Takes such a count back.
    pub fn leave(&self, origin: Option<Origin>) {
        if let Some(Origin { address, is_counted: true }) = origin {
            self.addresses.leave(address);
        }
    }

    /// The limits in force: for a plain HTTP request, or the main thread; never for a message.
    #[must_use]
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other limits in force.
    pub fn set_limits(&self, limits: Arc<Limits>) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// The shard that owns a room.
    #[must_use]
    pub fn home(&self, key: &RoomKey) -> ShardId {
        let shards = self.neighbours.len() as u64;
        ShardId(u16::try_from(self.hasher.hash_one(key) % shards).unwrap_or(0))
    }

    /// One shard's public face.
    #[must_use]
    pub fn neighbour(&self, shard: ShardId) -> &Neighbour {
        &self.neighbours[shard.index()]
    }

    /// Counts a connection, of at most `limit`.
    ///
    /// # Errors
    /// Why there is no place for it: the refusal's kind and message.
    pub fn admit(&self, limit: usize) -> Result<(), (RefusalKind, &'static str)> {
        if self.memory_left() != MemoryLeft::Enough {
            let message = "the server's box has less memory left than limits.memory_reserve keeps \
                           back; try again later";
            return Err((RefusalKind::LowMemory, message));
        }
        if !take_one(&self.connections, limit) {
            let message = "the server holds as many connections as limits.connections_max allows; \
                           try again later";
            return Err((RefusalKind::Full, message));
        }
        Ok(())
    }

    /// How much memory the box has left, as the main thread has seen last.
    #[must_use]
    pub fn memory_left(&self) -> MemoryLeft {
        match self.memory.load(Ordering::Relaxed) {
            0 => MemoryLeft::Enough,
            1 => MemoryLeft::Short,
            _ => MemoryLeft::Dire,
        }
    }

    /// Tells the shards. Only the main thread calls it.
    pub fn set_memory_left(&self, left: MemoryLeft) {
        self.memory.store(left as u8, Ordering::Relaxed);
    }

    /// Counts a room; `false` where there are too many.
    #[must_use]
    pub fn admit_room(&self, limit: Option<usize>) -> bool {
        take_one(&self.rooms, limit.unwrap_or(usize::MAX))
    }
}

/// Adds one to a count unless it has reached `limit`.
#[must_use]
pub fn take_one(count: &AtomicUsize, limit: usize) -> bool {
    let more = |count: usize| (count < limit).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

/// Connections by remote address. Locked: it is asked once when a connection comes and once when it
/// goes, and only where `limits.connections_per_address` is set.
#[derive(Debug, Default)]
pub struct Addresses(Mutex<HashMap<IpAddr, usize>>);

impl Addresses {
    /// Counts one more of this address; `false` where it has `limit` already.
    #[must_use]
    pub fn enter(&self, address: IpAddr, limit: usize) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= limit {
            return false;
        }
        *count += 1;
        true
    }

    /// Counts one less.
    pub fn leave(&self, address: IpAddr) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
        if counts.is_empty() {
            counts.shrink_to_fit();
        }
    }

    /// Addresses that have connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no address has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_excess_is_paid_once_whoever_sees_it() {
        let budget = Budget::default();
        budget.bytes.store(150, Ordering::Relaxed);
        budget.holders.store(3, Ordering::Relaxed);
        let paid: usize = std::thread::scope(|scope| {
            let shards: Vec<_> = (0..3).map(|_| scope.spawn(|| budget.pay(50, 100))).collect();
            shards.into_iter().map(|shard| usize::from(shard.join().unwrap())).sum()
        });
        assert_eq!((paid, budget.bytes.load(Ordering::Relaxed)), (1, 100));
        assert_eq!(budget.holders.load(Ordering::Relaxed), 2);
    }
}
