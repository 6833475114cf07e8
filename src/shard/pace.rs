//! Turns the time of a shutdown into how many connections to close by now.
//!
//! In:    how many there are, and what is left of the grace; then the time, and who has not
//!        answered yet.
//! Out:   how many are to be closed in this turn.
//! Never: lets those who do not answer hold up the others beyond three quarters of the grace.
//!
//! # Why it waits for answers
//! A close costs more when its answer comes than when it goes. A core that closes faster than it
//! hears answers puts them off until `client.close_timeout` has passed, and calls clients cut that
//! did nothing wrong.

use std::time::Duration;

use crate::limits::{DRAIN_PER_SECOND_MIN, DRAIN_UNANSWERED_MAX};
use crate::time::{Now, millis};

/// Connections that a turn closes at least, while it keeps the pace: fifty shards that turned every
/// millisecond for one or two each spent more on turns than on closes.
const CLOSED_PER_TURN: u64 = 16;
/// Longest pause between two such turns, in milliseconds.
const PAUSE_MS_MAX: u64 = 20;
/// A shard has at least so many unanswered, whatever its share is.
const UNANSWERED_MIN: u64 = 64;

/// A shard's pace.
#[derive(Debug)]
pub(super) struct Pace {
    began: Now,
    closed: u64,
    /// Connections a second, while answers come.
    aim: u64,
    /// Milliseconds in which all are closed, whether answers come or not.
    last_ms: u64,
    count: u64,
    unanswered_max: u64,
}

impl Pace {
    /// Of `count` connections on one of so many shards.
    pub(super) fn new(began: Now, count: usize, grace: Duration, shards: usize) -> Self {
        let (count, shards) = (count as u64, shards.max(1) as u64);
        let half_ms = (millis(grace) / 2).max(1);
        let least = (DRAIN_PER_SECOND_MIN / shards).max(1);
        Self {
            began,
            closed: 0,
            aim: (count * 1000 / half_ms).max(least),
            last_ms: (millis(grace) / 4 * 3).max(1),
            count,
            unanswered_max: (DRAIN_UNANSWERED_MAX / shards).max(UNANSWERED_MIN),
        }
    }

    /// Milliseconds until the next few.
    pub(super) fn pause_ms(&self) -> u64 {
        (CLOSED_PER_TURN * 1000 / self.aim).clamp(1, PAUSE_MS_MAX)
    }

    /// How many to close now, where so many of those who were closed are still here.
    pub(super) fn due(&self, now: Now, unanswered: u64) -> u64 {
        let ms = millis(now.since(self.began)) + self.pause_ms();
        let wanted = (ms * self.aim / 1000 + 1).saturating_sub(self.closed);
        let answered_for = self.unanswered_max.saturating_sub(unanswered);
        let must = (ms * self.count / self.last_ms).saturating_sub(self.closed);
        wanted.min(answered_for).max(must)
    }

    /// One was closed.
    pub(super) fn note_closed(&mut self) {
        self.closed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(40);

    /// Milliseconds until all are closed, where a tenth of those who may answer does so in a turn.
    fn closes(count: usize, shards: usize, answers: bool) -> u64 {
        let mut pace = Pace::new(Now(0), count, GRACE, shards);
        let (mut now, mut left, mut unanswered) = (0, count as u64, 0);
        while left > 0 {
            let due = pace.due(Now(now), unanswered).min(left);
            (left, unanswered) = (left - due, unanswered + due);
            (0..due).for_each(|_| pace.note_closed());
            if answers {
                unanswered -= unanswered.div_ceil(10);
            }
            now += pace.pause_ms();
        }
        now
    }

    #[test]
    fn all_are_closed_in_half_the_grace_where_they_answer() {
        assert!((19_000..=20_100).contains(&closes(100_000, 1, true)));
        assert!((19_000..=20_100).contains(&closes(20_000, 50, true)));
    }

    #[test]
    fn few_are_closed_at_once() {
        assert!(closes(1000, 1, true) <= 600, "at 2000 a second");
        assert!(closes(10, 8, false) <= 100);
    }

    #[test]
    fn who_does_not_answer_holds_the_others_up_for_no_more_than_three_quarters_of_it() {
        let last = closes(100_000, 1, false);
        assert!((29_000..=30_000).contains(&last), "{last}");
    }

    #[test]
    fn while_answers_are_awaited_no_more_are_closed_than_must_be() {
        let pace = Pace::new(Now(0), 100_000, GRACE, 1);
        let must = pace.due(Now(1000), DRAIN_UNANSWERED_MAX);
        assert!(must < pace.due(Now(1000), 0), "{must}");
        assert_eq!(must, (1000 + pace.pause_ms()) * 100_000 / 30_000);
    }
}
