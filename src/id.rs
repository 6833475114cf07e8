//! Names for shards, connections, rooms and seats.
//!
//! In:    numbers that the kernel or a table gave out.
//! Out:   small `Copy` identifiers that cannot be mixed up.
//! Never: owns or looks up what it names.
//!
//! # Invariants
//! - `slot < 2^SLOT_BITS`, `generation < 2^GENERATION_BITS`: both fit the tag of an operation.

use std::fmt;

/// Bits of a slot: a ring's table holds at most 2^20 sockets (`IORING_MAX_FIXED_FILES`).
pub const SLOT_BITS: u32 = 24;
/// Bits of a generation: a stale completion would need 2^24 reuses of one slot to be mistaken.
pub const GENERATION_BITS: u32 = 24;

/// A shard: its thread, its ring and everything that lives on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard's place in tables of shards.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A connection of one shard: its slot in the table, and which of the slot's tenants it is.
///
/// The slot is also the index of the socket's direct descriptor. The generation drops completions
/// that were meant for an earlier tenant (ABA guard).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Index of the direct descriptor, and of the connection in its shard's table.
    pub slot: u32,
    /// Counts the slot's tenants, modulo 2^`GENERATION_BITS`.
    pub generation: u32,
}

impl ConnId {
    /// Packs into the low 48 bits of a `u64`.
    #[must_use]
    pub fn pack(self) -> u64 {
        u64::from(self.slot) | (u64::from(self.generation) << SLOT_BITS)
    }

    /// Reads what [`ConnId::pack`] wrote; bits above 48 are ignored.
    #[must_use]
    pub fn unpack(bits: u64) -> Self {
        let slot = (bits & ((1 << SLOT_BITS) - 1)) as u32;
        let generation = ((bits >> SLOT_BITS) & ((1 << GENERATION_BITS) - 1)) as u32;
        Self { slot, generation }
    }
}

/// A connection of the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnKey {
    /// The shard on which the connection lives.
    pub shard: ShardId,
    /// The connection there.
    pub conn: ConnId,
}

/// What travels in a room's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// JSON envelopes, offsets, announcements (subprotocol `ringhall.json`, or none).
    Json,
    /// Payloads byte for byte, nothing of the server's own (subprotocol `ringhall.raw`).
    Raw,
}

/// A room's name in the whole process: a raw room and a JSON room of one name are two rooms.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomKey {
    /// What travels in the room.
    pub mode: Mode,
    /// 1 to 128 bytes of UTF-8, no control characters.
    pub name: Box<str>,
}

impl fmt::Display for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::Json => write!(f, "{}", self.name),
            Mode::Raw => write!(f, "{} (raw)", self.name),
        }
    }
}

/// Where a connection sits: a room of its shard and the place in that room's member list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Index of the hall (a shard's end of a room) in the shard's registry.
    pub hall: u32,
    /// Index in the hall's dense member list.
    pub index: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conn_id_survives_packing_at_its_bounds() {
        for slot in [0, 1, (1 << 20) - 1, (1 << SLOT_BITS) - 1] {
            for generation in [0, 1, (1 << GENERATION_BITS) - 1] {
                let id = ConnId { slot, generation };
                assert_eq!(ConnId::unpack(id.pack() | (0xab << 56)), id);
            }
        }
    }
}
