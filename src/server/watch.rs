//! Judges whether shards move, by what each has written down.
//!
//! In:    the moment of every shard's last turn, a round a second.
//! Out:   whom to wake, so that it proves itself; who is stuck.
//! Never: reads a clock: a process, or a box, that stood still for a minute has missed one round,
//!        not sixty, and calls nobody stuck.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::shard::shared::ENDED;

/// From one round to the next.
pub(super) const ROUND: Duration = Duration::from_secs(1);
/// Rounds in a row without a turn, woken in each, after which a shard is stuck.
const STUCK_ROUNDS: u32 = 5;

/// What is known of one shard.
#[derive(Debug, Default)]
struct Seen {
    moved_at: AtomicU64,
    /// Rounds since it moved.
    still: AtomicU32,
}

/// What is known of all; written by the main thread, read by whoever asks.
#[derive(Debug)]
pub(super) struct Watch(Box<[Seen]>);

impl Watch {
    pub(super) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Seen::default()).collect())
    }

    /// Looks at the moments of the shards' last turns; which shards have not moved since the round
    /// before, and are to be woken.
    pub(super) fn round(&self, moved: impl Iterator<Item = u64>) -> Vec<usize> {
        let still = |(seen, moved): (&Seen, u64)| {
            let has_moved = seen.moved_at.swap(moved, Ordering::Relaxed) != moved;
            let rounds = match has_moved || moved == ENDED {
                true => 0,
                false => seen.still.load(Ordering::Relaxed).saturating_add(1),
            };
            seen.still.store(rounds, Ordering::Relaxed);
            rounds > 0
        };
        let all = self.0.iter().zip(moved).map(still).enumerate();
        all.filter_map(|(shard, still)| still.then_some(shard)).collect()
    }

    /// Whether a shard moves as it should.
    pub(super) fn is_alive(&self, shard: usize) -> bool {
        self.0[shard].still.load(Ordering::Relaxed) < STUCK_ROUNDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sleeps_is_woken_and_who_does_not_wake_is_stuck() {
        let watch = Watch::new(3);
        // The first is busy, the second sleeps and answers each kick, the third hangs.
        let (mut busy, mut sleeper) = (1, 1);
        for round in 1..=20 {
            busy += 1000;
            let woken = watch.round([busy, sleeper, 7].into_iter());
            assert!(!woken.contains(&0));
            assert_eq!(woken.contains(&2), round > 1, "the first round knows nothing yet");
            sleeper += u64::from(woken.contains(&1));
            assert!(watch.is_alive(0) && watch.is_alive(1));
            assert_eq!(watch.is_alive(2), round <= STUCK_ROUNDS, "round {round}");
        }
        watch.round([busy, sleeper, 8].into_iter());
        assert!(watch.is_alive(2), "it turns again");
    }

    #[test]
    fn who_has_ended_is_not_stuck() {
        let watch = Watch::new(1);
        for _ in 0..20 {
            assert!(watch.round([ENDED].into_iter()).is_empty());
            assert!(watch.is_alive(0));
        }
    }
}
