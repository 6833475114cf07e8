//! A shard's end of a room: the members that sit here.
//!
//! In:    members that take and leave seats; at the home, frames for everyone.
//! Out:   a dense list to fan out to; at the home, one batch a turn.
//! Never: sends.
//!
//! # Invariants
//! - A member's `Seat::index` is its place in `members`: whoever is moved by a leave is told.
//! - At the home, `pending` is flushed only while no other shard owes an acknowledgement, so that
//!   every shard has at most one batch of the room under way.

use crate::id::{ConnId, RoomKey, ShardId};
use crate::payload::Batch;
use crate::room::Room;
use crate::room::epoch::Epoch;
use crate::room::users::UserId;
use crate::time::Stamp;

/// Members up to which a hall grows by [`STEP`]: most are small, and doubling would leave half of
/// the memory empty.
const SMALL: usize = 16;
const STEP: usize = 4;

/// A hall by its place in the registry, and which of the place's tenants it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HallId {
    /// Index in the registry.
    pub index: u32,
    /// Counts the tenants of the index.
    pub generation: u32,
}

/// A member that sits on this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The connection's slot; the member leaves before the slot is given away.
    pub slot: u32,
    /// The user, by the home's numbering.
    pub user: UserId,
}

/// A shard's end of a room.
#[derive(Debug)]
pub struct Hall {
    /// Which room.
    pub key: RoomKey,
    /// This place's tenant number.
    pub generation: u32,
    /// Who sits here.
    pub members: Vec<Member>,
    /// Home or not.
    pub role: Role,
}

/// What a hall is to its room.
#[derive(Debug)]
pub enum Role {
    /// The room lives here.
    Home(Box<Home>),
    /// The room lives on another shard.
    Outpost(Outpost),
}

/// The room itself and what has yet to go out.
#[derive(Debug)]
pub struct Home {
    /// The room.
    pub room: Room,
    /// This turn's frames.
    pub pending: Batch,
    /// The hall is on the list of halls to flush.
    pub dirty: bool,
    /// When the turn began that put it there.
    pub since: Stamp,
    /// Other shards with members of the room.
    pub subscribers: Vec<Subscriber>,
    /// The room keeps its home's core busy: newcomers are placed on other shards.
    pub spread: bool,
    /// Deliveries in the present window of the saturation check.
    pub deliveries: u64,
    /// The cluster is being asked about the room: nobody is in it yet.
    pub opening: Option<Box<Opening>>,
}

/// A room that waits for what the cluster knows of it.
#[derive(Debug, Default)]
pub struct Opening {
    /// The newest place of which a message has told meanwhile.
    pub newest: Option<(Epoch, u64)>,
    /// Who wants to join, in order.
    pub parked: Vec<Parked>,
}

/// A join that waits.
#[derive(Debug)]
pub enum Parked {
    /// Of a connection of this shard, which holds the rest.
    Here(ConnId),
    /// Of a connection elsewhere.
    There {
        /// Its shard.
        shard: ShardId,
        /// The hall there.
        hall: HallId,
        /// The connection there.
        who: ConnId,
        /// As whom.
        user: Box<str>,
    },
}

impl Home {
    /// Whether some shard has not yet fanned out the batch before this one.
    #[must_use]
    pub fn owed(&self) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.owes)
    }
}

/// Another shard with members of a room.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber {
    /// Which shard.
    pub shard: ShardId,
    /// Its hall for the room.
    pub hall: HallId,
    /// Its members.
    pub members: usize,
    /// It was sent a batch and has not said yet that it is done.
    pub owes: bool,
}

/// A hall whose room lives elsewhere.
#[derive(Debug)]
pub struct Outpost {
    /// Where.
    pub home: ShardId,
    /// The hall there, once it has answered the first join.
    pub hall: Option<HallId>,
    /// Joins that the home has not answered yet: they keep the hall.
    pub joining: usize,
}

impl Hall {
    /// Gives a member a seat; its index.
    ///
    /// # Panics
    /// Beyond 2^32 members, which no table holds.
    pub fn sit(&mut self, member: Member) -> u32 {
        if self.members.len() < SMALL && self.members.len() == self.members.capacity() {
            self.members.reserve_exact(STEP);
        }
        self.members.push(member);
        u32::try_from(self.members.len() - 1).expect("members are bounded by the tables")
    }

    /// Takes a member's seat; the member that moved into it, if any.
    pub fn stand(&mut self, index: u32) -> (Member, Option<Member>) {
        let gone = self.members.swap_remove(index as usize);
        if self.members.len() > 64 && self.members.len() * 4 < self.members.capacity() {
            self.members.shrink_to(self.members.len() * 2);
        }
        (gone, self.members.get(index as usize).copied())
    }

    /// The home's part of the hall.
    pub fn home_mut(&mut self) -> Option<&mut Home> {
        match &mut self.role {
            Role::Home(home) => Some(home),
            Role::Outpost(_) => None,
        }
    }

    /// Whether nothing keeps the hall.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        match &self.role {
            Role::Home(home) => home.room.members() == 0 && home.opening.is_none(),
            Role::Outpost(outpost) => self.members.is_empty() && outpost.joining == 0,
        }
    }
}
