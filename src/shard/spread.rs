//! When one room keeps its home's core busy for seconds, newcomers are placed on other shards.
//!
//! In:    how busy the shard's thread was, once a second; deliveries a room.
//! Out:   rooms marked as spread; the shard that has the most to spare.
//! Never: moves a member that sits.
//!
//! Two shards give a coalescing room 1.1 times one core's deliveries at best, so this waits until
//! the core is full and one room is why (DESIGN D8).

use std::sync::atomic::Ordering;

use crate::id::{RoomKey, ShardId};
use crate::limits::moves_reserve;
use crate::shard::State;

/// Busy beyond this is saturated, in percent.
const BUSY_PERCENT: usize = 85;
/// Seconds in a row before a room is spread.
const SECONDS: u32 = 3;
/// Seconds in a row below [`CALM_PERCENT`] before newcomers are placed at home again.
const CALM_SECONDS: u32 = 30;
/// Below this the shard has room again, in percent.
const CALM_PERCENT: usize = 60;

/// How long the shard has been saturated, or calm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Saturation {
    busy: u32,
    calm: u32,
    deliveries: u64,
}

impl State {
    /// Takes note of how busy the thread was in the last second.
    pub fn note_busy(&mut self, percent: usize) {
        self.shared.neighbour(self.id).busy_percent.store(percent, Ordering::Relaxed);
        self.saturation.busy = if percent >= BUSY_PERCENT { self.saturation.busy + 1 } else { 0 };
        self.saturation.calm = if percent < CALM_PERCENT { self.saturation.calm + 1 } else { 0 };
        let (mut sum, mut largest) = (0, (0, 0));
        for index in self.halls.indexes() {
            let Some(home) = self.halls.at(index).and_then(|hall| hall.home_mut()) else {
                continue;
            };
            if self.saturation.calm >= CALM_SECONDS {
                home.spread = false;
            }
            let deliveries = std::mem::take(&mut home.deliveries);
            sum += deliveries;
            largest = largest.max((deliveries, index));
        }
        self.saturation.deliveries = sum;
        if self.saturation.busy >= SECONDS
            && largest.0 * 2 > sum
            && let Some(home) = self.halls.at(largest.1).and_then(|hall| hall.home_mut())
            && !home.spread
        {
            home.spread = true;
            let members = home.room.members();
            tracing::info!(
                shard = self.id.0,
                members,
                "a room keeps its core busy: newcomers are placed on other shards"
            );
        }
    }

    pub(super) fn is_spread(&mut self, room: &RoomKey) -> bool {
        let hall = self.halls.find(room).and_then(|id| self.halls.at(id.index));
        hall.and_then(|hall| hall.home_mut()).is_some_and(|home| home.spread)
    }

    /// The shard with the most to spare that has slots for newcomers; this one if there is none.
    pub(super) fn idlest(&self) -> ShardId {
        let reserve = moves_reserve(self.table_slots);
        let all = (0..).map(ShardId).zip(self.shared.neighbours.iter());
        let roomy = all.filter(|(_, other)| other.free_slots.load(Ordering::Relaxed) > reserve);
        let idlest = roomy.min_by_key(|(_, other)| other.busy_percent.load(Ordering::Relaxed));
        idlest.map_or(self.id, |(id, _)| id)
    }
}
