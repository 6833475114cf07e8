//! Deadlines: one a connection, in a wheel of lists that run through the connections themselves.
//!
//! In:    the moment at which a connection is due; the turn's `now`.
//! Out:   pings, timeouts, resets; how long the host may sleep.
//! Never: allocates a timer, or looks at more than `DEADLINES_PER_TURN` connections a turn.
//!
//! A byte that arrives moves nothing in the wheel: it is looked at when the deadline passes, and
//! the connection is put behind a new one.
//!
//! # Invariants
//! - A connection is in exactly one bucket while it has a deadline: `links.bucket`.
//! - `occupied` has a bit for each bucket that holds somebody.

use crate::conn::disconnect::Disconnect;
use crate::conn::table::{NOBODY, Table};
use crate::conn::{Flags, Kind, Phase};
use crate::counters::Counter;
use crate::http::{Refusal, RefusalKind};
use crate::id::ConnId;
use crate::io::{CloseHow, Io};
use crate::limits::DEADLINES_PER_TURN;
use crate::shard::Shard;
use crate::time::{Now, millis};
use crate::ws::Opcode;
use crate::ws::encode::put_frame;

/// Milliseconds of a bucket.
const TICK_MS: u64 = 32;
/// Buckets: a horizon of 65 seconds; what is due later is looked at once more on the way.
const BUCKETS: u32 = 2048;

/// The wheel.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    occupied: Box<[u64]>,
    /// The bucket that is looked at next, as a tick.
    hand: u32,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            heads: vec![NOBODY; BUCKETS as usize].into(),
            occupied: vec![0; BUCKETS as usize / 64].into(),
            hand: 0,
        }
    }
}

impl Wheel {
    /// The tick that a moment lies in.
    #[must_use]
    pub fn tick_at(&self, now: Now) -> u32 {
        u32::try_from(now.0 / TICK_MS).unwrap_or(u32::MAX)
    }

    /// Gives a connection its next deadline, in place of the one it had.
    pub fn set(&mut self, conns: &mut Table, slot: u32, due: Now) {
        self.take(conns, slot);
        // Never early: the deadline's own tick has to be over.
        let due = self.tick_at(due).saturating_add(1);
        let bucket = due.clamp(self.hand, self.hand.saturating_add(BUCKETS - 1)) % BUCKETS;
        let Some(conn) = conns.at(slot) else { return };
        conn.links.due = due;
        conn.links.bucket = bucket;
        conn.links.before = NOBODY;
        conn.links.behind = self.heads[bucket as usize];
        if let Some(next) = conns.at(self.heads[bucket as usize]) {
            next.links.before = slot;
        }
        self.heads[bucket as usize] = slot;
        self.occupied[bucket as usize / 64] |= 1 << (bucket % 64);
    }

    /// Takes a connection out.
    pub fn take(&mut self, conns: &mut Table, slot: u32) {
        let Some(conn) = conns.at(slot) else { return };
        let links = std::mem::take(&mut conn.links);
        if links.bucket == NOBODY {
            return;
        }
        if let Some(next) = conns.at(links.behind) {
            next.links.before = links.before;
        }
        if let Some(previous) = conns.at(links.before) {
            previous.links.behind = links.behind;
        } else {
            self.heads[links.bucket as usize] = links.behind;
            if links.behind == NOBODY {
                self.occupied[links.bucket as usize / 64] &= !(1 << (links.bucket % 64));
            }
        }
    }

    /// The next connection whose bucket has come up, taken out; with it, the tick it is due at.
    pub fn pop(&mut self, conns: &mut Table, now: Now) -> Option<(u32, u32)> {
        let current = self.tick_at(now);
        loop {
            let slot = self.heads[(self.hand % BUCKETS) as usize];
            if slot != NOBODY {
                let due = conns.at(slot).map_or(0, |conn| conn.links.due);
                self.take(conns, slot);
                return Some((slot, due));
            }
            if self.hand >= current {
                return None;
            }
            let skipped = self.empty_ahead().min(current - self.hand);
            self.hand += skipped.max(1);
        }
    }

    /// Buckets behind the hand up to the next one that holds somebody.
    fn empty_ahead(&self) -> u32 {
        let mut ahead = 1;
        while ahead < BUCKETS {
            let bucket = (self.hand + ahead) % BUCKETS;
            let word = self.occupied[bucket as usize / 64] >> (bucket % 64);
            if word != 0 {
                return ahead + word.trailing_zeros();
            }
            ahead += 64 - bucket % 64;
        }
        BUCKETS
    }

    /// When the next bucket with somebody comes up.
    #[must_use]
    pub fn next_due(&self) -> Option<Now> {
        let ahead = if self.heads[(self.hand % BUCKETS) as usize] == NOBODY {
            self.empty_ahead()
        } else {
            0
        };
        (ahead < BUCKETS).then(|| Now(u64::from(self.hand + ahead) * TICK_MS))
    }
}

impl<I: Io> Shard<I> {
    /// Looks at the connections whose deadline has passed, and at due summaries; how many.
    pub(super) fn timers(&mut self) -> usize {
        let mut seen = self.state.summarise();
        for _ in 0..DEADLINES_PER_TURN {
            let state = &mut self.state;
            let Some((slot, due)) = state.wheel.pop(&mut state.conns, state.now) else { break };
            seen += 1;
            let Some(conn) = state.conns.at(slot) else { continue };
            let id = conn.id(slot);
            if due > state.wheel.tick_at(state.now) {
                // Beyond the wheel's horizon when it was set.
                let due = Now(u64::from(due - 1) * TICK_MS);
                state.wheel.set(&mut state.conns, slot, due);
                continue;
            }
            match conn.phase {
                Phase::Head => self.handshake_late(id),
                Phase::Parting | Phase::Joining => {
                    // Another shard has it in hand and answers in its own time.
                    let due = state.now.after(state.limits.handshake_timeout);
                    state.wheel.set(&mut state.conns, slot, due);
                }
                Phase::Open => self.heartbeat(id),
                // Closed or not, the peer has had its time.
                Phase::Closing(_) => {
                    if state.drain.is_some() {
                        state.count(Counter::shutdown_cut);
                    }
                    self.vacate(id, Disconnect::PeerGone, CloseHow::Reset);
                }
            }
        }
        seen
    }

    fn handshake_late(&mut self, id: ConnId) {
        let message = "the request head did not arrive within handshake.timeout";
        self.state.refuse(id, Refusal::new(RefusalKind::HandshakeTimeout, message));
    }

    fn heartbeat(&mut self, id: ConnId) {
        let state = &mut self.state;
        if state.drain.is_some() {
            // Everyone is told to go, and slow to answer for it; the grace is what ends it.
            let due = state.now.after(state.limits.ping_after);
            state.wheel.set(&mut state.conns, id.slot, due);
            return;
        }
        let now = state.wheel.tick_at(state.now);
        let (ping_after, timeout) = (state.limits.ping_after, state.limits.heartbeat_timeout);
        let Some(conn) = state.conns.get(id) else { return };
        let waits_for_us = match conn.kind {
            // There we do not read because the peer does not: it is heard when it takes bytes.
            Kind::Echo => conn.egress.is_none() && conn.flags.has(Flags::READY),
            _ => conn.flags.has(Flags::PAUSED.with(Flags::READY)),
        };
        if waits_for_us {
            // We are the ones who do not read: the clock stands still.
            conn.heard = now;
        }
        let silence = Now(u64::from(now - conn.heard) * TICK_MS);
        let heard = Now(u64::from(conn.heard) * TICK_MS);
        let overdue = silence.0 >= millis(timeout);
        if overdue && conn.flags.has(Flags::PINGED) {
            return state.end(id, Disconnect::HeartbeatTimeout);
        }
        // A little late by lot, so that those who came together are not pinged together.
        let slack = millis(timeout).saturating_sub(millis(ping_after)).min(millis(ping_after)) / 4;
        let lot = state.random.u64(0..=slack);
        if silence.0 < millis(ping_after) {
            let due = Now(heard.after(ping_after).0 + lot);
            state.wheel.set(&mut state.conns, id.slot, due);
            return;
        }
        if !conn.flags.has(Flags::PINGED) {
            conn.flags.set(Flags::PINGED);
            let mut ping = Vec::with_capacity(2);
            put_frame(&mut ping, Opcode::Ping, &[]);
            state.count(Counter::pings);
            state.push_own(id, ping);
        }
        // An answer moves nothing in the wheel: looked at no later than the next ping may be due.
        // And where nobody looked for that long (the process was stopped, say), whoever was not
        // pinged in time has as much time to answer as others have.
        let due = if overdue {
            state.now.after(timeout.saturating_sub(ping_after))
        } else {
            heard.after(timeout).min(state.now.after(ping_after))
        };
        state.wheel.set(&mut state.conns, id.slot, due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::Conn;

    #[test]
    fn everyone_comes_up_once_in_time_and_never_early() {
        let (mut wheel, mut conns) = (Wheel::default(), Table::default());
        let mut random = fastrand::Rng::with_seed(5);
        let mut due = Vec::new();
        for slot in 0..500 {
            conns.insert(slot, Conn::new(0));
            let at = random.u64(0..60_000);
            wheel.set(&mut conns, slot, Now(at));
            due.push(at);
        }
        for slot in (0..500).step_by(3) {
            wheel.take(&mut conns, slot);
            due[slot as usize] = u64::MAX;
        }
        let mut now = Now(0);
        while due.iter().any(|&at| at != u64::MAX) {
            while let Some((slot, _)) = wheel.pop(&mut conns, now) {
                let at = std::mem::replace(&mut due[slot as usize], u64::MAX);
                assert!(at <= now.0, "{slot} came up at {now:?}, {} early", at - now.0);
                assert!(now.0 - at <= 3 * TICK_MS, "{slot} came up {} late", now.0 - at);
            }
            let next = wheel.next_due();
            assert_eq!(next.is_none(), due.iter().all(|&at| at == u64::MAX));
            now = next.unwrap_or(now);
        }
    }

    #[test]
    fn a_deadline_beyond_the_horizon_is_kept() {
        let (mut wheel, mut conns) = (Wheel::default(), Table::default());
        conns.insert(0, Conn::new(0));
        wheel.set(&mut conns, 0, Now(600_000));
        let first = wheel.next_due().unwrap();
        assert!(first.0 < 70_000);
        let (slot, due) = wheel.pop(&mut conns, first).unwrap();
        assert_eq!((slot, due), (0, u32::try_from(600_000 / TICK_MS).unwrap() + 1));
    }
}
