//! A shard's connections by slot.
//!
//! In:    slots that the ring's table gave out.
//! Out:   connections, by id (stale ids find nobody) or by slot.
//! Never: moves a connection once it is in.
//!
//! # Invariants
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
struct Chunk {
    tenants: usize,
    conns: [Option<Conn>; CHUNK],
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    chunks: Vec<Option<Box<Chunk>>>,
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
        let (chunk, place) = (slot as usize / CHUNK, slot as usize % CHUNK);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk]
            .get_or_insert_with(|| Box::new(Chunk { tenants: 0, conns: [const { None }; CHUNK] }));
        assert!(chunk.conns[place].is_none(), "slot {slot} is taken");
        chunk.conns[place] = Some(conn);
        chunk.tenants += 1;
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
        let chunk = self.chunks.get_mut(slot as usize / CHUNK)?.as_mut()?;
        chunk.conns[slot as usize % CHUNK].as_mut()
    }

    /// Takes a connection out.
    pub fn remove(&mut self, id: ConnId) -> Option<Conn> {
        self.get(id)?;
        let place = self.chunks.get_mut(id.slot as usize / CHUNK)?;
        let chunk = place.as_mut()?;
        let conn = chunk.conns[id.slot as usize % CHUNK].take();
        chunk.tenants -= 1;
        if chunk.tenants == 0 {
            *place = None;
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
        self.chunks.iter_mut().enumerate().flat_map(|(chunk, place)| {
            let conns = place.iter_mut().flat_map(|chunk| chunk.conns.iter_mut().enumerate());
            conns.filter_map(move |(place, conn)| {
                let slot = u32::try_from(chunk * CHUNK + place).ok()?;
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
        assert!(table.is_empty() && table.chunks.iter().all(Option::is_none));
    }
}
