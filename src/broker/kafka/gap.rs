//! Offsets that a partition's log passes over: not shown yet, or not there at all.
//!
//! In:    the offset that has to come next, and the one that came.
//! Out:   whether to read again from the missing one, and after which pause.
//! Never: waits for ever; reads a clock.
//!
//! There are brokers that give an offset to a batch first and show the batch later, so that of two
//! writers' batches the later one is seen alone for a moment (Tansu, 4 of 60 runs under load). Read
//! on from there, the earlier one would never be heard. In other logs offsets are missing for good:
//! compaction, marks of transactions, a start that was cleared away.
//!
//! # Invariants
//! - Who waits to the end waits longer than [`REQUEST_TIMEOUT`]: by then the missing record's
//!   writer has had its answer, or offers it again.
//! - A log whose offsets turn out to be missing for good is waited for half as long the next time.

use std::time::Duration;

use super::REQUEST_TIMEOUT;

/// Pause before the log is read again; it doubles each time.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a log is read again for what is missing: 2.6 s in all.
const READS_MAX: u32 = 9;

const _: () = assert!(PAUSE.as_millis() * ((1 << READS_MAX) - 1) > REQUEST_TIMEOUT.as_millis());

/// What is missing in one partition.
#[derive(Debug, Default)]
pub(super) struct Gap {
    /// The offset that has to come.
    next: u64,
    /// How often it was read for again.
    reads: u32,
    /// How many gaps in a row have stayed.
    stayed: u32,
}

impl Gap {
    /// A session begins: it waits anew.
    pub(super) fn begin(&mut self) {
        self.reads = 0;
    }

    /// `next` has to come, and `offset` is there: how long to wait before reading again from
    /// `next`. `None`: take it.
    pub(super) fn judge(&mut self, next: u64, offset: u64) -> Option<Duration> {
        if self.next != next {
            (self.next, self.reads) = (next, 0);
        }
        if offset <= next || self.reads >= self.reads_max() {
            return None;
        }
        let pause = PAUSE * (1 << self.reads);
        self.reads += 1;
        Some(pause)
    }

    /// `offset` was taken where `next` had to come; whether some in between are given up.
    pub(super) fn settle(&mut self, next: u64, offset: u64) -> bool {
        let stays = offset > next;
        if stays {
            self.stayed = self.stayed.saturating_add(1);
        } else if self.reads > 0 && self.next == next {
            self.stayed = 0;
        }
        stays
    }

    /// Never none: one look costs a fetch.
    fn reads_max(&self) -> u32 {
        READS_MAX.saturating_sub(self.stayed).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often and how long a gap is waited for, until it is taken for one that stays.
    fn wait_out(gap: &mut Gap, next: u64) -> (u32, Duration) {
        let (mut reads, mut waited) = (0, Duration::ZERO);
        while let Some(pause) = gap.judge(next, next + 1) {
            (reads, waited) = (reads + 1, waited + pause);
        }
        // What has no room yet is judged again, and nothing is read for it again.
        assert_eq!(gap.judge(next, next + 1), None);
        assert!(gap.settle(next, next + 1));
        (reads, waited)
    }

    #[test]
    fn without_a_gap_nothing_is_read_again() {
        let mut gap = Gap::default();
        for next in 5..500 {
            assert_eq!(gap.judge(next, next), None);
            assert!(!gap.settle(next, next));
        }
    }

    #[test]
    fn what_is_shown_late_is_read_again_from_the_first_that_is_missing() {
        let mut gap = Gap::default();
        assert_eq!(gap.judge(5, 9), Some(PAUSE));
        assert_eq!(gap.judge(5, 9), Some(PAUSE * 2));
        assert_eq!(gap.judge(5, 5), None);
        assert!(!gap.settle(5, 5));
        // The next one missing is another gap, with all the patience.
        assert_eq!(gap.judge(6, 9), Some(PAUSE));
    }

    #[test]
    fn a_gap_that_stays_is_waited_for_longer_than_a_request_and_then_taken() {
        let (reads, waited) = wait_out(&mut Gap::default(), 5);
        assert_eq!(reads, READS_MAX);
        assert!(waited > REQUEST_TIMEOUT && waited < 2 * REQUEST_TIMEOUT, "{waited:?}");
    }

    #[test]
    fn a_log_full_of_gaps_is_waited_for_less_and_less_until_one_is_filled() {
        let mut gap = Gap::default();
        let waits: Vec<_> = (0..20).map(|at| wait_out(&mut gap, at * 2).1).collect();
        assert!(waits.is_sorted_by(|one, next| one >= next), "{waits:?}");
        assert_eq!(waits[19], PAUSE);
        assert!(waits.iter().sum::<Duration>() < 4 * REQUEST_TIMEOUT, "{waits:?}");
        // One that is filled.
        assert_eq!(gap.judge(50, 51), Some(PAUSE));
        assert!(!gap.settle(50, 50));
        assert_eq!(wait_out(&mut gap, 60).0, READS_MAX);
    }

    #[test]
    fn the_next_session_waits_anew() {
        let mut gap = Gap::default();
        assert_eq!(gap.judge(5, 9), Some(PAUSE));
        gap.begin();
        assert_eq!(gap.judge(5, 9), Some(PAUSE));
    }
}
