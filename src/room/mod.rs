//! Turns joins, leaves and speech into a room's order, and says who has to hear of it.
//!
//! In:    what a member wants (`apply_join`, `apply_leave`, `apply_say`), what the cluster tells of
//!        other boxes, the turn's `now`.
//! Out:   places in the order (`offset`), and which announcement is due.
//! Never: knows a connection's socket, a frame, JSON, or another shard's memory.
//!
//! A room lives on its home shard. Every shard with members of it, the home included, has a
//! [`hall::Hall`] for it: the local members to fan out to.
//!
//! # Invariants
//! - `offset` grows by one a message and never repeats within an `epoch`.
//! - `members` is the sum over all shards' halls; a room without members is dropped.
//! - What is announced, and counted against limits, are the users and members of the whole cluster;
//!   without a broker nobody is elsewhere.

pub mod elsewhere;
pub mod epoch;
pub mod hall;
pub mod registry;
pub mod users;

use crate::limits::Limits;
use crate::time::Now;
use elsewhere::Elsewhere;
use epoch::Epoch;
use users::{UserId, Users};

/// A room, at its home.
#[derive(Debug)]
pub struct Room {
    users: Users,
    members: usize,
    elsewhere: Elsewhere,
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

/// A new member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The user, by the room's numbering.
    pub user: UserId,
    /// It is the user's first connection on this box.
    pub is_first: bool,
    /// What the members are told.
    pub notice: Notice,
}

/// Why a join was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefused {
    /// `rooms.members_max` is reached.
    RoomFull,
    /// `rooms.max` is reached and the room does not exist yet.
    RoomsFull,
    /// A shutdown began while the room was being made.
    ShuttingDown,
}

impl Room {
    /// An empty room with a new numbering.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self {
            users: Users::default(),
            members: 0,
            elsewhere: Elsewhere::default(),
            epoch,
            offset: 0,
            summary: Summary::default(),
        }
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
    ) -> Result<Joined, JoinRefused> {
        if limits.members_max.is_some_and(|max| self.members_everywhere() >= max) {
            return Err(JoinRefused::RoomFull);
        }
        self.members += 1;
        let (id, tabs) = self.users.enter(user);
        let is_first = tabs == 1;
        if !is_first || self.elsewhere.contains(user) {
            return Ok(Joined { user: id, is_first, notice: Notice::Nothing });
        }
        let notice = self.notice_join(limits, now);
        Ok(Joined { user: id, is_first, notice })
    }

    /// Takes a member away. The name is given back where it was the user's last connection on this
    /// box.
    pub fn apply_leave(
        &mut self,
        user: UserId,
        limits: &Limits,
        now: Now,
    ) -> (Option<Box<str>>, Notice) {
        let large = self.notice(limits, now);
        self.members -= 1;
        let Some(name) = self.users.leave(user) else { return (None, Notice::Nothing) };
        if self.elsewhere.contains(&name) {
            return (Some(name), Notice::Nothing);
        }
        if large == Notice::Summarise {
            self.summary.left += 1;
        }
        (Some(name), large)
    }

    /// What the cluster knows of other boxes, in place of what was known. Nobody is told: it comes
    /// before the first member.
    pub fn set_elsewhere(&mut self, users: Vec<Box<str>>, members: usize) {
        self.elsewhere = Elsewhere::new(users, members);
    }

    /// Other boxes have so many members now.
    pub fn count_elsewhere(&mut self, members: usize) {
        self.elsewhere.set_members(members);
    }

    /// A user is on another box now, where so many members are.
    pub fn enter_elsewhere(
        &mut self,
        user: &str,
        members: usize,
        limits: &Limits,
        now: Now,
    ) -> Notice {
        let is_here = self.users.contains(user);
        let is_new = self.elsewhere.enter(user);
        self.elsewhere.set_members(members);
        if is_here || !is_new {
            return Notice::Nothing;
        }
        self.notice_join(limits, now)
    }

    /// A user is on no other box any more; so many members are.
    pub fn leave_elsewhere(
        &mut self,
        user: &str,
        members: usize,
        limits: &Limits,
        now: Now,
    ) -> Notice {
        let is_told = self.elsewhere.contains(user) && !self.users.contains(user);
        let notice = if is_told { self.notice(limits, now) } else { Notice::Nothing };
        self.elsewhere.leave(user);
        self.elsewhere.set_members(members);
        if notice == Notice::Summarise {
            self.summary.left += 1;
        }
        notice
    }

    fn notice_join(&mut self, limits: &Limits, now: Now) -> Notice {
        let notice = self.notice(limits, now);
        if notice == Notice::Summarise {
            self.summary.joined += 1;
        }
        notice
    }

    /// Gives a message its place in the order.
    pub fn apply_say(&mut self) -> u64 {
        self.offset += 1;
        self.offset
    }

    /// Gives a message the place that somebody else has given it. Whether it is news: what was
    /// said before the newest offset was told already, or to nobody who is here.
    pub fn apply_placed(&mut self, offset: u64) -> bool {
        let is_news = offset > self.offset;
        self.offset = self.offset.max(offset);
        is_news
    }

    /// From now on the room's numbering is this one, whose newest offset is `offset`.
    pub fn renumber(&mut self, epoch: Epoch, offset: u64) {
        self.epoch = epoch;
        self.offset = offset;
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

    /// Members on all boxes.
    #[must_use]
    pub fn members_everywhere(&self) -> usize {
        self.members + self.elsewhere.members()
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
        if self.members_everywhere() <= limits.announce_max {
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
        let Joined { user: ann, is_first, notice } =
            room.apply_join("ann", &limits, Now(0)).unwrap();
        assert!(is_first && notice == Notice::Announce);
        let again = room.apply_join("ann", &limits, Now(0)).unwrap();
        assert_eq!(again, Joined { user: ann, is_first: false, notice: Notice::Nothing });
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
        let b = room.apply_join("b", &limits, Now(5)).unwrap();
        assert_eq!((b.notice, room.summary_due()), (Notice::Summarise, Some(Now(5))));
        let first = room.take_summary(Now(5));
        assert_eq!((first.joined, first.left, room.summary_due()), (1, 0, None));
        let c = room.apply_join("c", &limits, Now(6)).unwrap();
        room.apply_leave(c.user, &limits, Now(7));
        assert_eq!(room.summary_due(), Some(Now(1005)));
        let second = room.take_summary(Now(1005));
        assert_eq!((second.joined, second.left), (1, 1));
    }

    #[test]
    fn a_user_is_announced_once_in_the_cluster() {
        let (mut room, limits) = (room(), limits(10, None));
        room.set_elsewhere(vec!["ann".into()], 2);
        let ann = room.apply_join("ann", &limits, Now(0)).unwrap();
        assert!(ann.is_first && ann.notice == Notice::Nothing);
        assert_eq!(room.leave_elsewhere("ann", 0, &limits, Now(0)), Notice::Nothing);
        assert_eq!(room.leave_elsewhere("ann", 0, &limits, Now(0)), Notice::Nothing, "again");
        assert_eq!(room.enter_elsewhere("ann", 1, &limits, Now(0)), Notice::Nothing);
        let (name, notice) = room.apply_leave(ann.user, &limits, Now(0));
        assert_eq!((name.as_deref(), notice), (Some("ann"), Notice::Nothing));
        assert_eq!(room.leave_elsewhere("ann", 0, &limits, Now(0)), Notice::Announce);
        assert_eq!(room.enter_elsewhere("bob", 1, &limits, Now(0)), Notice::Announce);
        assert_eq!(room.enter_elsewhere("bob", 1, &limits, Now(0)), Notice::Nothing);
        assert_eq!((room.members(), room.members_everywhere()), (0, 1));
    }

    #[test]
    fn members_elsewhere_count_for_limits_and_summaries() {
        let (mut room, limits) = (room(), limits(2, Some(4)));
        room.count_elsewhere(2);
        let ann = room.apply_join("ann", &limits, Now(0)).unwrap();
        assert_eq!(ann.notice, Notice::Summarise, "three are more than two");
        assert_eq!(room.enter_elsewhere("bob", 3, &limits, Now(0)), Notice::Summarise);
        assert_eq!(room.apply_join("cem", &limits, Now(0)), Err(JoinRefused::RoomFull));
        assert_eq!(room.leave_elsewhere("bob", 2, &limits, Now(0)), Notice::Summarise);
        let summary = room.take_summary(Now(0));
        assert_eq!((summary.joined, summary.left), (2, 1));
        assert!(room.apply_join("cem", &limits, Now(0)).is_ok());
    }

    #[test]
    fn a_place_is_taken_once_and_a_numbering_may_begin_anew() {
        let mut room = room();
        room.renumber(Epoch::default(), 7);
        assert!(!room.apply_placed(7) && room.apply_placed(9) && !room.apply_placed(8));
        assert_eq!(room.offset(), 9);
        room.renumber(Epoch::default(), 0);
        assert!(room.apply_placed(1));
    }
}
