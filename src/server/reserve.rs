//! Keeps memory back: says when less is left than `limits.memory_reserve`.
//!
//! In:    what the box and the control group have left, many times a second while it is little.
//! Out:   `MemoryLeft` for the shards and for `/ready`; a line in the log when it changes.
//! Never: refuses anybody (shards do), or frees anything.
//!
//! # Why it is watched
//! A control group is charged a third of what a socket costs, nobody but the box knows what its
//! other processes take, and where the clients are on this box each costs twice: what was reckoned
//! at start bounds the number of connections, but only a look keeps the kernel from killing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::host::Clock;
use crate::probe::{Memory, memory_reserve};
use crate::shard::shared::{MemoryLeft, Shared};
use crate::time::Now;
use crate::warn::Quiet;

/// Pause between two looks where memory is short, and where there is plenty.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Bytes a second that may be gone when it is looked next: ten times what 40 000 newcomers a second
/// take, with clients on this box; a process that fills memory is about as fast.
const BYTES_PER_SECOND: u64 = 4 << 30;
/// One part in so many of the reserve has to come back on top of it before newcomers are let in:
/// else some would be with every connection that closes.
const RETURN_PART: u64 = 8;
/// Less than one part in so many of the reserve is hardly anything,
const DIRE_PART: u64 = 4;
/// if it is less than this, too: where there is more, a refusal is to be had.
const DIRE_BYTES_MOST: u64 = 128 << 20;

/// Watches for as long as the process lives.
pub(super) async fn watch(shared: Arc<Shared>, clock: Clock) {
    let mut told = Told::default();
    loop {
        let mut pause = PAUSE.0;
        // Where nothing can be read (no descriptor is left), what was known goes on.
        if let Some(memory) = Memory::now() {
            let (available, reserve) =
                (memory.available(), memory_reserve(&memory, &shared.limits()));
            let before = shared.memory_left();
            let left = judge(before, available, reserve);
            pause = pause_for(available, reserve);
            if left != before {
                shared.set_memory_left(left);
            }
            if let Some(suppressed) = told.hear(left, clock.now()) {
                tell(&shared, left, available, reserve, suppressed);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// What the log says is left. A change that came too soon after the last is told later: whoever
/// reads that newcomers are refused must not believe it when they are let in again.
#[derive(Debug)]
struct Told {
    last: MemoryLeft,
    heard: MemoryLeft,
    /// Changes that have not been told.
    changes: u64,
    quiet: Quiet,
}

impl Default for Told {
    fn default() -> Self {
        let (last, heard) = (MemoryLeft::Enough, MemoryLeft::Enough);
        Self { last, heard, changes: 0, quiet: Quiet::default() }
    }
}

impl Told {
    /// Whether to tell it now: `Some` of how many changes before it were not told.
    fn hear(&mut self, left: MemoryLeft, now: Now) -> Option<u64> {
        if left != self.heard {
            self.heard = left;
            self.changes += 1;
        }
        if left == self.last {
            return None;
        }
        self.quiet.allow(now)?;
        self.last = left;
        Some(std::mem::take(&mut self.changes) - 1)
    }
}

/// What is left, given what was said last.
fn judge(before: MemoryLeft, available: u64, reserve: u64) -> MemoryLeft {
    let hardly_any = (reserve / DIRE_PART).min(DIRE_BYTES_MOST);
    let dire = if before == MemoryLeft::Dire { 2 * hardly_any } else { hardly_any };
    let short = match before {
        MemoryLeft::Enough => reserve,
        _ => reserve.saturating_add(reserve / RETURN_PART),
    };
    match available {
        _ if available < dire => MemoryLeft::Dire,
        _ if available < short => MemoryLeft::Short,
        _ => MemoryLeft::Enough,
    }
}

/// How long what is left lasts at the least.
fn pause_for(available: u64, reserve: u64) -> Duration {
    let spare_ms = available.saturating_sub(reserve) / (BYTES_PER_SECOND / 1000);
    Duration::from_millis(spare_ms).clamp(PAUSE.0, PAUSE.1)
}

fn tell(shared: &Shared, left: MemoryLeft, available: u64, reserve: u64, suppressed: u64) {
    let connections = shared.connections.load(Ordering::Relaxed);
    match left {
        MemoryLeft::Enough => tracing::info!(
            available,
            reserve,
            connections,
            suppressed,
            "memory is free again: newcomers are let in"
        ),
        MemoryLeft::Short => tracing::warn!(
            available,
            reserve,
            connections,
            suppressed,
            "memory is short: newcomers are refused until more of it is free \
             (limits.memory_reserve)"
        ),
        MemoryLeft::Dire => tracing::error!(
            available,
            reserve,
            connections,
            suppressed,
            "hardly any memory is left: nobody is accepted until more of it is free"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryLeft::{Dire, Enough, Short};

    #[test]
    fn newcomers_are_refused_below_the_reserve_and_let_in_well_above_it() {
        assert_eq!(judge(Enough, 1000, 1000), Enough);
        assert_eq!(judge(Enough, 999, 1000), Short);
        assert_eq!(judge(Short, 1124, 1000), Short, "what was freed is not given away at once");
        assert_eq!(judge(Short, 1125, 1000), Enough);
        assert_eq!(judge(Enough, 249, 1000), Dire);
        assert_eq!(judge(Dire, 499, 1000), Dire);
        assert_eq!(judge(Dire, 500, 1000), Short);
        assert_eq!(judge(Dire, 2000, 1000), Enough);
        assert_eq!(judge(Enough, 8 << 30, 1 << 40), Short, "much is left, and more is wanted");
    }

    #[test]
    fn a_change_that_came_too_soon_is_told_later() {
        let mut told = Told::default();
        assert_eq!(told.hear(Enough, Now(0)), None);
        assert_eq!(told.hear(Short, Now(10)), Some(0));
        assert_eq!(told.hear(Enough, Now(20)), None, "one line a second");
        assert_eq!(told.hear(Short, Now(30)), None);
        assert_eq!(told.hear(Short, Now(1040)), None, "it is what was told last");
        assert_eq!(told.hear(Enough, Now(1050)), Some(2));
        assert_eq!(told.hear(Dire, Now(1060)), None);
        assert_eq!(told.hear(Dire, Now(2050)), Some(0), "though nothing has changed since");
    }

    #[test]
    fn the_less_is_left_the_sooner_it_is_looked_again() {
        let gib = 1 << 30;
        assert_eq!(pause_for(gib, 2 * gib), PAUSE.0);
        assert_eq!(pause_for(gib + 1, gib), PAUSE.0);
        assert_eq!(pause_for(2 * gib, gib), Duration::from_millis(250));
        assert_eq!(pause_for(u64::MAX, gib), PAUSE.1);
    }
}
