//! One budget for all that clients make the process hold, paid by those who hold the most.
//!
//! In:    a connection's weight when it changes: queue, half a message, stashed input.
//! Out:   the process's sum; ends of the heaviest when it is exceeded.
//! Never: is touched for a connection that holds nothing.
//!
//! # Invariants
//! - The budget's sum is the sum of `held` over all connections of all shards.
//! - Who ends holds at least the average of all holders: so a shard whose connections are light
//!   leaves the paying to the shard that has the heavy ones. And it has paid (`Budget::pay`) while
//!   the sum was too much: what one shard has paid, no other pays again.

use std::sync::atomic::Ordering;

use crate::conn::disconnect::Disconnect;
use crate::conn::{Conn, Flags};
use crate::counters::Counter;
use crate::id::{ConnId, ShardId};
use crate::io::{CloseHow, Io};
use crate::shard::{Shard, State};

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

    /// Takes a connection's weight from the sum, if that is still too much; then it has to go.
    fn pay(&mut self, id: ConnId) -> bool {
        let limit = self.limits.queue_bytes_total;
        let Some(conn) = self.conns.get(id) else { return true };
        if !self.shared.budget.pay(conn.held, limit) {
            return false;
        }
        self.counters.sub(Counter::queue_bytes, conn.held as u64);
        conn.held = 0;
        conn.flags.clear(Flags::HOLDING);
        true
    }

    /// The heaviest connections of this shard, as many as bring the process back into its budget;
    /// none that holds less than the average.
    fn debtors(&mut self, excess: usize, average: usize) -> Vec<ConnId> {
        let holders = self.conns.iter_mut().filter(|(_, conn)| conn.held >= average.max(1));
        let mut heavy: Vec<_> = holders.map(|(id, conn)| (conn.held, id)).collect();
        heavy.sort_unstable_by(|a, b| b.cmp(a));
        let mut paid = 0;
        let still_due = |(held, _): &(usize, ConnId)| {
            let due = paid < excess;
            paid += held;
            due
        };
        heavy.into_iter().take_while(still_due).map(|(_, id)| id).collect()
    }
}

impl<I: Io> Shard<I> {
    /// Brings the process back into its budget, as far as this shard's connections are to blame.
    pub(super) fn keep_budget(&mut self) {
        let limit = self.state.limits.queue_bytes_total;
        let budget = &self.state.shared.budget;
        let sum = budget.bytes.load(Ordering::Relaxed);
        if sum <= limit {
            return;
        }
        let average = sum / budget.holders.load(Ordering::Relaxed).max(1);
        for id in self.state.debtors(sum - limit, average) {
            if !self.state.pay(id) {
                break;
            }
            if let Some(egress) = self.state.conns.get(id).and_then(|conn| conn.egress.as_mut()) {
                let dropped = egress.drop_oldest(0);
                self.state.counters.add(Counter::dropped_overload, dropped);
            }
            // By reset: what it holds, in the kernel too, has to go now.
            self.vacate(id, Disconnect::Overloaded, CloseHow::Reset);
        }
        if let Some(suppressed) = self.state.warnings.allow(self.state.now) {
            tracing::warn!(
                shard = self.state.id.0,
                bytes = sum,
                limit,
                suppressed,
                "clients' queues exceed limits.queue_bytes: the slowest are cut"
            );
        }
        // Another shard may have heavier ones, and sleep.
        let mesh = self.state.shared.mesh.clone();
        for other in (0..).map(ShardId).take(self.state.shared.neighbours.len()) {
            if other != self.state.id && mesh.bell(other).must_ring() {
                self.io.doorbell(other);
            }
        }
    }
}
