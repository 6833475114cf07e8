//! One budget for all that clients make the process hold, paid by those who hold the most.
//!
//! In:    a connection's weight when it changes: queue, half a message, stashed input.
//! Out:   the process's sum; ends of the heaviest when it is exceeded.
//! Never: is touched for a connection that holds nothing.
//!
//! # Invariants
//! - The budget's sum is the sum of `held` over all connections of all shards.
//! - Who ends holds at least the average of all holders: so a shard whose connections are light
//!   leaves the paying to the shard that has the heavy ones.

use std::sync::atomic::Ordering;

use crate::conn::disconnect::Disconnect;
use crate::conn::{Conn, Flags};
use crate::counters::Counter;
use crate::id::ConnId;
use crate::shard::State;

impl State {
    /// Brings the sum up to date with one connection's weight.
    pub(super) fn weigh(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let weight = conn.weight();
        if weight == conn.held {
            return;
        }
        let held = std::mem::replace(&mut conn.held, weight);
        let budget = &self.shared.budget;
        if weight > held {
            budget.bytes.fetch_add(weight - held, Ordering::Relaxed);
            self.counters.add(Counter::queue_bytes, (weight - held) as u64);
        } else {
            budget.bytes.fetch_sub(held - weight, Ordering::Relaxed);
            self.counters.sub(Counter::queue_bytes, (held - weight) as u64);
        }
        if held == 0 {
            conn.flags.set(Flags::HOLDING);
            budget.holders.fetch_add(1, Ordering::Relaxed);
        } else if weight == 0 && conn.flags.take(Flags::HOLDING) {
            budget.holders.fetch_sub(1, Ordering::Relaxed);
        }
        if weight > held && budget.bytes.load(Ordering::Relaxed) > self.limits.queue_bytes_total {
            self.over_budget = true;
        }
    }

    /// A connection is gone: so is its weight.
    pub(super) fn unweigh(&mut self, conn: &Conn) {
        let budget = &self.shared.budget;
        budget.bytes.fetch_sub(conn.held, Ordering::Relaxed);
        self.counters.sub(Counter::queue_bytes, conn.held as u64);
        if conn.flags.has(Flags::HOLDING) {
            budget.holders.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Ends the heaviest connections of this shard until the process is within its budget, or none
    /// is left here that holds more than the average.
    pub(super) fn collect_dues(&mut self) -> Vec<ConnId> {
        let limit = self.limits.queue_bytes_total;
        let budget = &self.shared.budget;
        let sum = budget.bytes.load(Ordering::Relaxed);
        if sum <= limit {
            return Vec::new();
        }
        let average = sum / budget.holders.load(Ordering::Relaxed).max(1);
        let holders = self.conns.iter_mut().filter(|(_, conn)| conn.held >= average.max(1));
        let mut heavy: Vec<_> = holders.map(|(id, conn)| (conn.held, id)).collect();
        heavy.sort_unstable_by(|a, b| b.cmp(a));
        let mut excess = sum - limit;
        let mut ended = Vec::new();
        for (held, id) in heavy {
            self.end(id, Disconnect::Overloaded);
            ended.push(id);
            excess = excess.saturating_sub(held);
            if excess == 0 {
                break;
            }
        }
        ended
    }
}
