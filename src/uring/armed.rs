//! Turns what is armed for a connection into the exact operations to cancel.
//!
//! In:    armings, their ends, cancels.
//! Out:   epochs for tags; whether a completion belongs to what is armed now.
//! Never: talks to the kernel.
//!
//! Why it exists: a cancel by descriptor makes the kernel walk every armed poll of the ring, once
//! for each closed connection; a cancel by tag looks into one hash bucket. And a poll that is not
//! cancelled keeps its socket alive after the close: no FIN and no RST would ever be sent.
//!
//! # Invariants
//! - Four bytes a slot of the table, whatever is armed: generation, three epochs, three armed bits.

use crate::id::ConnId;

use super::tag::{Kind, Tag};

/// What can be armed for a connection and stay so beyond a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// Multishot poll for input.
    Read = 0,
    /// One-shot poll for output.
    Write = 1,
    /// A receive that waits, or a standing one.
    Recv = 2,
}

const WATCHES: [Watch; 3] = [Watch::Read, Watch::Write, Watch::Recv];
const EPOCH_SHIFT: u32 = 3;
const GENERATION_SHIFT: u32 = 8;

impl Watch {
    fn armed_bit(self) -> u32 {
        1 << self as u32
    }

    fn epoch_bit(self) -> u32 {
        1 << (EPOCH_SHIFT + self as u32)
    }

    fn kind(self) -> Kind {
        match self {
            Self::Read => Kind::ReadPoll,
            Self::Write => Kind::WritePoll,
            Self::Recv => Kind::Recv,
        }
    }
}

/// What is armed, slot by slot.
#[derive(Debug)]
pub(super) struct Armed(Vec<u32>);

impl Armed {
    /// For a table of so many slots.
    pub(super) fn new(slots: u32) -> Self {
        Self(vec![0; slots as usize])
    }

    /// The state of the slot as this tenant sees it: nothing is armed for a newcomer.
    fn state(&mut self, conn: ConnId) -> &mut u32 {
        let state = &mut self.0[conn.slot as usize];
        if *state >> GENERATION_SHIFT != conn.generation {
            *state = conn.generation << GENERATION_SHIFT;
        }
        state
    }

    /// Notes an arming; its tag differs from that of the arming before it.
    pub(super) fn arm(&mut self, conn: ConnId, watch: Watch) -> Tag {
        let state = self.state(conn);
        *state |= watch.armed_bit();
        *state ^= watch.epoch_bit();
        Tag::armed(watch.kind(), conn, *state & watch.epoch_bit() != 0)
    }

    /// Whether it is armed.
    pub(super) fn is_armed(&self, conn: ConnId, watch: Watch) -> bool {
        let state = self.0.get(conn.slot as usize).copied().unwrap_or(0);
        state >> GENERATION_SHIFT == conn.generation && state & watch.armed_bit() != 0
    }

    /// Forgets one arming; the tag to cancel it by, if it was armed.
    pub(super) fn take(&mut self, conn: ConnId, watch: Watch) -> Option<Tag> {
        let state = self.state(conn);
        let armed = *state & watch.armed_bit() != 0;
        *state &= !watch.armed_bit();
        armed.then(|| Tag::armed(watch.kind(), conn, *state & watch.epoch_bit() != 0))
    }

    /// Forgets all armings of a connection; the tags to cancel them by.
    pub(super) fn take_all(&mut self, conn: ConnId) -> [Option<Tag>; 3] {
        WATCHES.map(|watch| self.take(conn, watch))
    }

    /// Whether a completion with this tag belongs to what is armed now; `last` where the arming
    /// ends with it.
    pub(super) fn completes(&mut self, tag: Tag, watch: Watch, last: bool) -> bool {
        let conn = tag.conn();
        let Some(state) = self.0.get_mut(conn.slot as usize) else { return false };
        let current = *state >> GENERATION_SHIFT == conn.generation
            && *state & watch.armed_bit() != 0
            && (*state & watch.epoch_bit() != 0) == tag.epoch;
        if current && last {
            *state &= !watch.armed_bit();
        }
        current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnId = ConnId { slot: 1, generation: 7 };

    #[test]
    fn a_stale_end_leaves_the_new_arming_armed() {
        let mut armed = Armed::new(2);
        let old = armed.arm(CONN, Watch::Read);
        assert_eq!(armed.take(CONN, Watch::Read), Some(old));
        let new = armed.arm(CONN, Watch::Read);
        assert_ne!(old, new);
        assert!(!armed.completes(old, Watch::Read, true));
        assert!(armed.completes(new, Watch::Read, false));
        assert_eq!(armed.take_all(CONN), [Some(new), None, None]);
    }

    #[test]
    fn a_slots_next_tenant_inherits_nothing() {
        let mut armed = Armed::new(2);
        let old = armed.arm(CONN, Watch::Recv);
        let next = ConnId { generation: 8, ..CONN };
        assert_eq!(armed.take_all(next), [None; 3]);
        assert!(!armed.completes(old, Watch::Recv, true));
    }

    #[test]
    fn an_ended_arming_is_not_cancelled() {
        let mut armed = Armed::new(2);
        let tag = armed.arm(CONN, Watch::Write);
        assert!(armed.completes(tag, Watch::Write, true));
        assert_eq!(armed.take_all(CONN), [None; 3]);
    }
}
