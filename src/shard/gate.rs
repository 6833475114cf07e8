//! How fast connections come in: freely, some at a time, or not at all.
//!
//! In:    what was accepted, `handshake.rate`, free slots, how much memory is left.
//! Out:   orders to accept; when to look again.
//! Never: refuses anybody: whoever is not let in yet waits in the kernel's listen queue.
//!
//! Without a rate the gate stands open, which costs nothing a connection. When more have come in
//! one turn than a stride, only a stride is let in a turn until the rush is over: so the queue
//! waits and not the rooms, who have what they need of each turn, and newcomers have the rest.
//!
//! # Invariants
//! - With a rate, at each listener no more connections are waited for than there are tokens.

use std::time::Duration;

use crate::counters::Counter;
use crate::io::{Errno, Io};
use crate::limits::{ACCEPT_STRIDE, accept_reserve};
use crate::shard::shared::MemoryLeft;
use crate::shard::{Shard, State};
use crate::time::Now;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Milliseconds whose tokens a bucket holds: what may come at once after a silence.
const BURST_MS: i64 = 20;
/// Units of a token, a shard: so that a millisecond brings as many units as `handshake.rate` is.
const TOKEN_UNITS: i64 = 1000;
/// A turn that lets in less than this part of a stride is no rush any more.
const LULL_PART: usize = 8;

/// What one shard knows about its gate.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Some at a time, and not freely.
    is_narrow: bool,
    /// Accepted since the gate was last looked after.
    came: usize,
    bucket: Bucket,
    /// There were no tokens when it was last looked.
    is_dry: bool,
}

/// Tokens of one shard: its share of `handshake.rate`.
#[derive(Debug)]
struct Bucket {
    /// Less than none where several listeners brought one each for the last token.
    units: i64,
    filled_at: Now,
}

impl Default for Bucket {
    /// Full.
    fn default() -> Self {
        Self { units: i64::MAX, filled_at: Now::default() }
    }
}

impl Bucket {
    /// Adds what the time since the last filling has brought.
    fn fill(&mut self, now: Now, rate: i64, shards: i64) {
        let passed = i64::try_from(now.0.saturating_sub(self.filled_at.0)).unwrap_or(i64::MAX);
        let most = rate.saturating_mul(BURST_MS).max(TOKEN_UNITS * shards);
        let units = self.units.saturating_add(rate.saturating_mul(passed));
        self.units = units.min(most);
        self.filled_at = now;
    }

    fn tokens(&self, shards: i64) -> usize {
        usize::try_from(self.units / (TOKEN_UNITS * shards)).unwrap_or(0)
    }

    fn take(&mut self, shards: i64) {
        self.units = self.units.saturating_sub(TOKEN_UNITS * shards);
    }

    /// When there is a token, where there is none.
    fn due(&self, rate: i64, shards: i64) -> Now {
        let lacking = (TOKEN_UNITS * shards).saturating_sub(self.units).max(1);
        let wait = lacking.saturating_add(rate - 1) / rate;
        Now(self.filled_at.0.saturating_add(u64::try_from(wait).unwrap_or(1)))
    }
}

impl State {
    /// The rate that is in force, and among how many shards it is divided.
    fn rate(&self) -> Option<(i64, i64)> {
        let rate = i64::try_from(self.limits.handshake_rate?).unwrap_or(i64::MAX);
        let shards = i64::try_from(self.shared.neighbours.len()).unwrap_or(i64::MAX);
        Some((rate.max(1), shards))
    }

    /// One has come in.
    pub(super) fn note_accepted(&mut self) {
        self.gate.came += 1;
        if let Some((_, shards)) = self.rate() {
            self.gate.bucket.take(shards);
        }
    }

    /// When to look after the gate again, where nothing else wakes the shard.
    pub(super) fn gate_due(&self) -> Option<Now> {
        if self.accept_after > self.now {
            return Some(self.accept_after);
        }
        let is_dry = self.accepting && self.gate.is_dry && self.drain.is_none();
        let (rate, shards) = self.rate().filter(|_| is_dry)?;
        Some(self.gate.bucket.due(rate, shards))
    }
}

impl<I: Io> Shard<I> {
    /// Begins to accept connections.
    pub fn start(&mut self) {
        self.open(self.state.limits.handshake_rate.is_some());
    }

    fn open(&mut self, is_narrow: bool) {
        let state = &mut self.state;
        state.accepting = true;
        state.gate.is_narrow = is_narrow;
        state.gate.is_dry = false;
        match is_narrow {
            true => self.let_some_in(),
            false => self.io.accept(),
        }
    }

    fn let_some_in(&mut self) {
        let state = &mut self.state;
        let count = match state.rate() {
            None => ACCEPT_STRIDE,
            Some((rate, shards)) => {
                state.gate.bucket.fill(state.now, rate, shards);
                state.gate.bucket.tokens(shards).min(ACCEPT_STRIDE)
            }
        };
        let was_dry = std::mem::replace(&mut state.gate.is_dry, count == 0);
        if count > 0 {
            self.io.accept_some(count);
        } else if !was_dry {
            state.count(Counter::accept_paused_rate);
        }
    }

    /// At the end of each turn: goes on accepting, as fast as may be.
    pub(super) fn look_after_gate(&mut self) {
        let state = &mut self.state;
        let came = std::mem::take(&mut state.gate.came);
        if state.drain.is_some() {
            return;
        }
        if state.accepting {
            let was_narrow = state.gate.is_narrow;
            let is_narrow = match (state.limits.handshake_rate, was_narrow) {
                (Some(_), _) => true,
                (None, false) => came > ACCEPT_STRIDE,
                (None, true) => came * LULL_PART >= ACCEPT_STRIDE,
            };
            if is_narrow != was_narrow {
                self.io.stop_accepting();
                self.open(is_narrow);
            } else if is_narrow {
                self.let_some_in();
            }
            return;
        }
        if state.now < state.accept_after {
            return;
        }
        if state.shared.memory_left() == MemoryLeft::Dire {
            state.accept_after = state.now.after(ACCEPT_PAUSE);
        } else if state.free_slots() > 2 * accept_reserve(state.table_slots) {
            self.start();
        }
    }

    /// A full table drops what the kernel accepts for it: stop before it is full. And where there
    /// is hardly any memory left, refusing takes more of it than a place in the listen queue.
    pub(super) fn pause_accepting(&mut self) {
        let state = &mut self.state;
        let is_full = state.free_slots() <= accept_reserve(state.table_slots);
        let is_dire = state.shared.memory_left() == MemoryLeft::Dire;
        if !state.accepting || !(is_full || is_dire) {
            return;
        }
        state.accepting = false;
        state.count(match is_full {
            true => Counter::accept_paused,
            false => Counter::accept_paused_memory,
        });
        self.io.stop_accepting();
        if let Some(suppressed) = state.warnings.allow(state.now) {
            let why = if is_full { "the table is full" } else { "hardly any memory is left" };
            tracing::warn!(shard = state.id.0, suppressed, "{why}: not accepting");
        }
    }

    pub(super) fn accept_stopped(&mut self, error: Errno) {
        let state = &mut self.state;
        if error == Errno::CANCELED {
            // We asked for it; where we accept, that was begun anew since.
            return;
        }
        if state.drain.is_some() || !state.accepting {
            state.accepting = false;
            return;
        }
        let full = matches!(error, Errno::NFILE | Errno::MFILE | Errno::NOMEM | Errno::NOBUFS);
        if full {
            // Accepting again at once would spin.
            state.accepting = false;
            state.accept_after = state.now.after(ACCEPT_PAUSE);
            state.count(match error {
                Errno::NFILE | Errno::MFILE => Counter::accept_paused_files,
                _ => Counter::accept_paused_memory,
            });
            if state.gate.is_narrow {
                self.io.stop_accepting();
            }
        } else if !state.gate.is_narrow {
            self.io.accept();
        }
        if error != Errno::AGAIN
            && let Some(suppressed) = state.warnings.allow(state.now)
        {
            tracing::warn!(shard = state.id.0, %error, suppressed, "accepting was interrupted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections let in within so long, by whoever takes each token as soon as there is one.
    fn let_in(bucket: &mut Bucket, from: u64, millis: u64, rate: i64, shards: i64) -> u64 {
        let mut count = 0;
        let mut now = Now(from);
        while now.0 < from + millis {
            bucket.fill(now, rate, shards);
            while bucket.tokens(shards) > 0 {
                bucket.take(shards);
                count += 1;
            }
            let due = bucket.due(rate, shards);
            assert!(due > now, "never now again");
            now = due;
        }
        count
    }

    #[test]
    fn in_a_second_there_are_as_many_tokens_as_the_rate_says_divided_by_the_shards() {
        for (rate, shards) in [(1, 1), (7, 1), (100, 1), (100, 2), (1000, 3), (40_000, 2)] {
            let mut bucket = Bucket::default();
            let share = (rate / shards) as u64;
            let count = let_in(&mut bucket, 0, 1000, rate, shards);
            let most = share + share / 50 + 1;
            assert!(count >= share && count <= most, "{rate}: {count} in the first");
            let count = let_in(&mut bucket, 1000, 9000, rate, shards);
            let share = (9 * rate / shards) as u64;
            assert!(count >= share - 1 && count <= share + 1, "{rate}: {count} in nine seconds");
        }
    }

    #[test]
    fn a_silence_saves_up_a_fiftieth_of_a_second_and_one_connection_at_least() {
        let after_an_hour = |rate| {
            let mut bucket = Bucket::default();
            bucket.fill(Now(3_600_000), rate, 2);
            bucket.tokens(2)
        };
        assert_eq!((after_an_hour(1), after_an_hour(100)), (1, 1));
        assert_eq!(after_an_hour(10_000), 100);
        assert_eq!(after_an_hour(i64::MAX), usize::try_from(i64::MAX / 2000).unwrap());
    }

    #[test]
    fn who_came_without_a_token_is_paid_for_by_the_next() {
        let mut bucket = Bucket::default();
        bucket.fill(Now(1000), 10, 1);
        (0..3).for_each(|_| bucket.take(1));
        assert_eq!(bucket.tokens(1), 0);
        assert_eq!(bucket.due(10, 1), Now(1300), "two owed, and one to come");
    }
}
