//! A shard's connections by slot.
//!
//! In:    slots that the ring's table gave out.
//! Out:   connections, by id (stale ids find nobody) or by slot.
//! Never: moves a connection once it is in.
//!
//! # Invariants
//! - A chunk is 16 KiB to the byte: one byte more and the allocator rounds it up to 20.
//! - No two tenants of the table have the same generation within 2^24 of each other.
//! - A chunk without tenants is given back to the allocator.

use crate::conn::Conn;
use crate::id::{ConnId, GENERATION_BITS};

const CHUNK: usize = 128;
/// No neighbour, no bucket.
pub const NOBODY: u32 = u32::MAX;

/// A connection's place in the timer wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    /// Slot of the one before, in the same bucket.
    pub before: u32,
    /// Slot of the one behind.
    pub behind: u32,
    /// The bucket; `NOBODY` while in none.
    pub bucket: u32,
    /// Tick at which the connection is due.
    pub due: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { before: NOBODY, behind: NOBODY, bucket: NOBODY, due: 0 }
    }
}

#[derive(Debug)]
struct Chunk([Option<Conn>; CHUNK]);

const _: () = assert!(size_of::<Chunk>() <= 16 << 10, "the allocator's size class");

/// Where a chunk is while it has tenants.
#[derive(Debug, Default)]
struct Place {
    tenants: usize,
    chunk: Option<Box<Chunk>>,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    places: Vec<Place>,
    generation: u32,
    len: usize,
}

impl Table {
    /// Lets a connection in.
    ///
    /// # Panics
    /// If the slot is taken: the ring and the table disagree, a programming error.
    pub fn insert(&mut self, slot: u32, mut conn: Conn) -> ConnId {
        self.generation = (self.generation + 1) & ((1 << GENERATION_BITS) - 1);
        conn.generation = self.generation;
        let id = conn.id(slot);
        let (at, within) = (slot as usize / CHUNK, slot as usize % CHUNK);
        if self.places.len() <= at {
            self.places.resize_with(at + 1, Place::default);
        }
        let place = &mut self.places[at];
        let chunk = place.chunk.get_or_insert_with(|| Box::new(Chunk([const { None }; CHUNK])));
        assert!(chunk.0[within].is_none(), "slot {slot} is taken");
        chunk.0[within] = Some(conn);
        place.tenants += 1;
        self.len += 1;
        id
    }

    /// The connection, unless it is gone.
    #[inline]
    #[must_use]
    pub fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.at(id.slot).filter(|conn| conn.generation == id.generation)
    }

    /// Whoever has the slot.
    #[inline]
    #[must_use]
    pub fn at(&mut self, slot: u32) -> Option<&mut Conn> {
        let chunk = self.places.get_mut(slot as usize / CHUNK)?.chunk.as_mut()?;
        chunk.0[slot as usize % CHUNK].as_mut()
    }

    /// Takes a connection out.
    pub fn remove(&mut self, id: ConnId) -> Option<Conn> {
        self.get(id)?;
        let place = self.places.get_mut(id.slot as usize / CHUNK)?;
        let conn = place.chunk.as_mut()?.0[id.slot as usize % CHUNK].take();
        place.tenants -= 1;
        if place.tenants == 0 {
            place.chunk = None;
        }
        self.len -= 1;
        conn
    }

    /// Connections in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Everyone, by slot.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut Conn)> {
        self.places.iter_mut().enumerate().flat_map(|(at, place)| {
            let conns = place.chunk.iter_mut().flat_map(|chunk| chunk.0.iter_mut().enumerate());
            conns.filter_map(move |(within, conn)| {
                let slot = u32::try_from(at * CHUNK + within).ok()?;
                conn.as_mut().map(|conn| (conn.id(slot), conn))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nobody() {
        let mut table = Table::default();
        let first = table.insert(500, Conn::new(0));
        assert!(table.get(first).is_some());
        assert!(table.remove(first).is_some());
        assert!(table.remove(first).is_none());
        let second = table.insert(500, Conn::new(0));
        assert!(table.get(first).is_none());
        assert!(table.get(second).is_some());
        assert_eq!(table.iter_mut().map(|(id, _)| id).collect::<Vec<_>>(), [second]);
    }

    #[test]
    fn an_empty_chunk_is_given_back() {
        let mut table = Table::default();
        let ids: Vec<_> = (0..300).map(|slot| table.insert(slot, Conn::new(0))).collect();
        for id in ids {
            table.remove(id);
        }
        assert!(table.is_empty() && table.places.iter().all(|place| place.chunk.is_none()));
    }
}
