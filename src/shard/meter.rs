//! What a turn's end tells of times, and what lies between two looks at a gauge.
//!
//! In:    the host's clock at both ends of a turn; messages and answers that the turn sends.
//! Out:   observations in the shard's block of counters.
//! Never: reads a clock; allocates for a message: what a whole turn has in common is one number.
//!
//! Where nobody tells the time (a simulation), nothing is observed.

use std::time::Duration;

use crate::counters::{Counter, Timer};
use crate::shard::State;
use crate::time::{Now, Stamp};

/// How long a low-water mark is kept apart, in milliseconds: what is shown is of one to two.
const WINDOW_MS: u64 = 60_000;

/// One turn's times.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// When this turn began.
    pub(crate) began: Stamp,
    /// This turn did work.
    pub(crate) worked: bool,
    /// Frames of rooms that this turn took and sends.
    published: u64,
    /// Frames that had to wait for other shards: since when, and how many.
    held: Vec<(Stamp, u64)>,
    /// Connections that this turn answers with 101: when they were accepted.
    answered: Vec<Stamp>,
}

impl Meter {
    /// A turn begins; what nobody asked about is forgotten.
    pub(super) fn begin(&mut self) {
        self.worked = false;
        self.published = 0;
        self.held.clear();
        self.answered.clear();
    }

    /// So many frames go out, the first of which came in the turn that began then.
    pub(super) fn publish(&mut self, since: Stamp, frames: usize) {
        if since == self.began {
            self.published += frames as u64;
        } else {
            self.held.push((since, frames as u64));
        }
    }

    /// A connection that was accepted then is answered.
    pub(super) fn answer(&mut self, accepted: Stamp) {
        self.answered.push(accepted);
    }
}

impl State {
    /// Takes note of the CPU time that the thread has spent so far.
    pub fn note_cpu(&self, spent: Duration) {
        let micros = u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
        self.counters.set(Counter::cpu_us, micros);
    }

    /// The host's clock before a turn.
    pub fn note_beginning(&mut self, at: Stamp) {
        self.meter.began = at;
    }

    /// Whether the host's clock is wanted behind the turn.
    #[must_use]
    pub fn wants_end(&self) -> bool {
        self.meter.worked
    }

    /// The host's clock behind a turn that did work.
    pub fn note_end(&mut self, at: Stamp) {
        let Meter { began, published, held, answered, .. } = &self.meter;
        let spent = at.micros_since(*began);
        self.counters.observe(Timer::Turn, spent, 1);
        if *published > 0 {
            self.counters.observe(Timer::Publish, spent, *published);
        }
        for (since, frames) in held {
            self.counters.observe(Timer::Publish, at.micros_since(*since), *frames);
        }
        for accepted in answered {
            self.counters.observe(Timer::Handshake, at.micros_since(*accepted), 1);
        }
    }
}

/// The least of what was noted in the last one to two minutes.
#[derive(Debug)]
pub(crate) struct LowWater {
    before: usize,
    present: usize,
    until: Now,
}

impl Default for LowWater {
    fn default() -> Self {
        Self { before: usize::MAX, present: usize::MAX, until: Now(WINDOW_MS) }
    }
}

impl LowWater {
    /// Notes a value; the least of late.
    pub(super) fn note(&mut self, now: Now, value: usize) -> usize {
        if now >= self.until {
            self.before = std::mem::replace(&mut self.present, usize::MAX);
            self.until = Now(now.0 + WINDOW_MS);
        }
        self.present = self.present.min(value);
        self.present.min(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_is_shown_for_a_minute_at_least_and_two_at_most() {
        let mut low = LowWater::default();
        assert_eq!(low.note(Now(0), 100), 100);
        assert_eq!(low.note(Now(59_999), 7), 7);
        assert_eq!(low.note(Now(60_000), 100), 7);
        assert_eq!(low.note(Now(119_999), 90), 7);
        assert_eq!(low.note(Now(120_000), 100), 90);
    }
}
