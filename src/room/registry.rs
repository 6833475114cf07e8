//! Finds a shard's halls by room and by place.
//!
//! In:    room keys.
//! Out:   halls; made at the first join, dropped when deserted.
//! Never: is shared: each shard has its own.
//!
//! # Invariants
//! - `by_key` and `halls` name the same halls.
//! - A place's generation differs from tenant to tenant, so stale mail finds nobody.

use std::collections::HashMap;

use crate::id::RoomKey;
use crate::room::hall::{Hall, HallId, Role};

/// A shard's halls.
#[derive(Debug, Default)]
pub struct Registry {
    by_key: HashMap<RoomKey, u32>,
    halls: Vec<Option<Hall>>,
    free: Vec<u32>,
    generation: u32,
}

impl Registry {
    /// The hall for a room, if there is one.
    #[must_use]
    pub fn find(&self, key: &RoomKey) -> Option<HallId> {
        let index = *self.by_key.get(key)?;
        let generation = self.halls[index as usize].as_ref()?.generation;
        Some(HallId { index, generation })
    }

    /// Makes the hall for a room that has none here.
    ///
    /// # Panics
    /// Beyond 2^32 halls, which no table's connections need.
    pub fn insert(&mut self, key: RoomKey, role: Role) -> HallId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let hall = Hall { key: key.clone(), generation, members: Vec::new(), role };
        let index = if let Some(index) = self.free.pop() {
            self.halls[index as usize] = Some(hall);
            index
        } else {
            self.halls.push(Some(hall));
            u32::try_from(self.halls.len() - 1).expect("halls are bounded by connections")
        };
        self.by_key.insert(key, index);
        HallId { index, generation }
    }

    /// The hall at a place, whoever its tenant is.
    #[inline]
    #[must_use]
    pub fn at(&mut self, index: u32) -> Option<&mut Hall> {
        self.halls.get_mut(index as usize)?.as_mut()
    }

    /// The hall, unless it was dropped since.
    #[inline]
    #[must_use]
    pub fn get(&mut self, id: HallId) -> Option<&mut Hall> {
        self.at(id.index).filter(|hall| hall.generation == id.generation)
    }

    /// Drops the hall if nothing keeps it, and gives it back.
    pub fn drop_if_deserted(&mut self, index: u32) -> Option<Hall> {
        let place = self.halls.get_mut(index as usize)?;
        if !place.as_ref()?.is_deserted() {
            return None;
        }
        let hall = place.take()?;
        self.by_key.remove(&hall.key);
        self.free.push(index);
        if self.by_key.is_empty() {
            *self = Self { generation: self.generation, ..Self::default() };
        }
        Some(hall)
    }

    /// The hall for a room, to look at.
    #[must_use]
    pub fn peek(&self, key: &RoomKey) -> Option<&Hall> {
        self.halls[*self.by_key.get(key)? as usize].as_ref()
    }

    /// The places that have tenants.
    #[must_use]
    pub fn indexes(&self) -> Vec<u32> {
        self.by_key.values().copied().collect()
    }

    /// Halls of this shard.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether the shard has no hall.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}
