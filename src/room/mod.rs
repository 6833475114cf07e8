//! Turns joins, leaves and speech into a room's order, and says who has to hear of it.
//!
//! In:    what a member wants (`apply_join`, `apply_leave`, `apply_say`), the turn's `now`.
//! Out:   places in the order (`offset`), and which announcement is due.
//! Never: knows a connection's socket, a frame, JSON, or another shard's memory.
//!
//! A room lives on its home shard. Every shard with members of it, the home included, has a
//! [`hall::Hall`] for it: the local members to fan out to.
//!
//! # Invariants
//! - `offset` grows by one a message and never repeats within an `epoch`.
//! - `members` is the sum over all shards' halls; a room without members is dropped.

pub mod epoch;
pub mod hall;
pub mod registry;
pub mod users;

use crate::limits::Limits;
use crate::time::Now;
use epoch::Epoch;
use users::{UserId, Users};

/// A room, at its home.
#[derive(Debug)]
pub struct Room {
    users: Users,
    members: usize,
    epoch: Epoch,
    offset: u64,
    summary: Summary,
}

/// Joins and leaves of a room that is too large to announce each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Users who joined since the last summary.
    pub joined: u64,
    /// Users who left since the last summary.
    pub left: u64,
    /// When the next summary may be sent; set while one is due.
    due: Option<Now>,
    /// When the last one was sent.
    sent: Option<Now>,
}

/// What everyone in the room has to be told about a join or a leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nothing: another tab of the same user.
    Nothing,
    /// The announcement itself.
    Announce,
    /// A summary, not before [`Room::summary_due`].
    Summarise,
}

/// Why a join was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefused {
    /// `rooms.members_max` is reached.
    RoomFull,
    /// `rooms.max` is reached and the room does not exist yet.
    RoomsFull,
}

impl Room {
    /// An empty room with a new numbering.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self { users: Users::default(), members: 0, epoch, offset: 0, summary: Summary::default() }
    }

    /// Adds a member.
    ///
    /// # Errors
    /// [`JoinRefused::RoomFull`]; the room is unchanged.
    pub fn apply_join(
        &mut self,
        user: &str,
        limits: &Limits,
        now: Now,
    ) -> Result<(UserId, Notice), JoinRefused> {
        if limits.members_max.is_some_and(|max| self.members >= max) {
            return Err(JoinRefused::RoomFull);
        }
        self.members += 1;
        let (id, tabs) = self.users.enter(user);
        if tabs > 1 {
            return Ok((id, Notice::Nothing));
        }
        let notice = self.notice(limits, now);
        if notice == Notice::Summarise {
            self.summary.joined += 1;
        }
        Ok((id, notice))
    }

    /// Takes a member away. The name is given back where it was the user's last connection.
    pub fn apply_leave(
        &mut self,
        user: UserId,
        limits: &Limits,
        now: Now,
    ) -> (Option<Box<str>>, Notice) {
        let large = self.notice(limits, now);
        self.members -= 1;
        let Some(name) = self.users.leave(user) else { return (None, Notice::Nothing) };
        if large == Notice::Summarise {
            self.summary.left += 1;
        }
        (Some(name), large)
    }

    /// Gives a message its place in the order.
    pub fn apply_say(&mut self) -> u64 {
        self.offset += 1;
        self.offset
    }

    /// The newest offset given out; 0 before the first message.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Names this numbering.
    #[must_use]
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Members on all shards.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members
    }

    /// A user's name.
    #[must_use]
    pub fn user(&self, id: UserId) -> &str {
        self.users.name(id)
    }

    /// When a summary of joins and leaves has to be sent; `None` while none is due.
    #[must_use]
    pub fn summary_due(&self) -> Option<Now> {
        self.summary.due
    }

    /// Takes the summary that is due.
    pub fn take_summary(&mut self, now: Now) -> Summary {
        let summary = self.summary;
        self.summary = Summary { sent: Some(now), ..Summary::default() };
        summary
    }

    fn notice(&mut self, limits: &Limits, now: Now) -> Notice {
        if self.members <= limits.announce_max {
            return Notice::Announce;
        }
        if self.summary.due.is_none() {
            let earliest = self.summary.sent.map_or(now, |sent| sent.after(limits.announce_every));
            self.summary.due = Some(earliest.max(now));
        }
        Notice::Summarise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Room {
        Room::new(Epoch::default())
    }

    fn limits(announce_max: usize, members_max: Option<usize>) -> Limits {
        Limits { announce_max, members_max, ..Limits::default() }
    }

    #[test]
    fn only_the_first_and_the_last_connection_of_a_user_are_announced() {
        let (mut room, limits) = (room(), limits(10, None));
        let (ann, notice) = room.apply_join("ann", &limits, Now(0)).unwrap();
        assert_eq!(notice, Notice::Announce);
        let (again, notice) = room.apply_join("ann", &limits, Now(0)).unwrap();
        assert_eq!((again, notice), (ann, Notice::Nothing));
        assert_eq!(room.apply_leave(ann, &limits, Now(0)), (None, Notice::Nothing));
        let (name, notice) = room.apply_leave(ann, &limits, Now(0));
        assert_eq!((name.as_deref(), notice), (Some("ann"), Notice::Announce));
        assert_eq!(room.members(), 0);
    }

    #[test]
    fn offsets_grow_by_one() {
        let mut room = room();
        assert_eq!((room.apply_say(), room.apply_say(), room.offset()), (1, 2, 2));
    }

    #[test]
    fn a_full_room_refuses_and_is_unchanged() {
        let (mut room, limits) = (room(), limits(10, Some(1)));
        room.apply_join("ann", &limits, Now(0)).unwrap();
        assert_eq!(room.apply_join("bob", &limits, Now(0)), Err(JoinRefused::RoomFull));
        assert_eq!(room.members(), 1);
    }

    #[test]
    fn a_large_room_summarises_at_most_every_so_often() {
        let (mut room, limits) = (room(), limits(1, None));
        room.apply_join("a", &limits, Now(0)).unwrap();
        let (_, notice) = room.apply_join("b", &limits, Now(5)).unwrap();
        assert_eq!((notice, room.summary_due()), (Notice::Summarise, Some(Now(5))));
        let first = room.take_summary(Now(5));
        assert_eq!((first.joined, first.left, room.summary_due()), (1, 0, None));
        let (c, _) = room.apply_join("c", &limits, Now(6)).unwrap();
        room.apply_leave(c, &limits, Now(7));
        assert_eq!(room.summary_due(), Some(Now(1005)));
        let second = room.take_summary(Now(1005));
        assert_eq!((second.joined, second.left), (1, 1));
    }
}
