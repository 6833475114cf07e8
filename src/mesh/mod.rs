//! Mail between shards: a bounded queue for each pair, and a bell for those that sleep.
//!
//! In:    mail that a shard posts while its turn lasts.
//! Out:   mail for a shard, per sender in the order posted; whom to wake.
//! Never: spins on a full queue; loses or reorders mail.
//!
//! # Invariants
//! - Mail that does not fit waits in the sender's own outbox, in order, until it does.
//! - A speaker is not read from while its mail would have to wait ([`MeshEnd::may_say`]): the
//!   outbox then holds only what cannot be refused, and little of that.
//! - A shard that sleeps is rung after the mail is visible, at most once a turn.
//! - A pair has two lanes. What members want of a home (`Join`, `Say`, `Leave`) goes up; a home
//!   that cannot take it yet leaves it there. What a home answers, and `Done`, goes down and is
//!   always taken: so a home that waits for a `Done` never waits for ever.

pub mod bell;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::id::{ConnId, RoomKey, ShardId};
use crate::payload::Batch;
use crate::room::JoinRefused;
use crate::room::epoch::Epoch;
use crate::room::hall::HallId;
use crate::room::users::UserId;
use crate::ws::frame::Opcode;
use bell::Bell;

/// What the bell is made of; `tests/loom_bell.rs` puts a model checker's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

/// What one shard has to tell another.
#[derive(Debug)]
pub enum Mail {
    /// To the home: this connection wants to be a member.
    Join {
        /// The room.
        key: RoomKey,
        /// As whom.
        user: Box<str>,
        /// The connection on the sender's shard.
        who: ConnId,
        /// The sender's hall for the room.
        hall: HallId,
    },
    /// From the home: it is.
    Joined {
        /// The connection.
        who: ConnId,
        /// The receiver's hall.
        hall: HallId,
        /// The home's hall.
        home: HallId,
        /// The user, by the home's numbering.
        user: UserId,
        /// The room's numbering.
        epoch: Epoch,
        /// The newest offset at that moment.
        offset: u64,
        /// First byte of the room's next payload that is meant for the newcomer.
        from: u32,
    },
    /// From the home: it is not.
    Refused {
        /// The connection.
        who: ConnId,
        /// The receiver's hall.
        hall: HallId,
        /// Why.
        why: JoinRefused,
    },
    /// To the home: a member is gone.
    Leave {
        /// The home's hall.
        home: HallId,
        /// Which user's connection it was.
        user: UserId,
    },
    /// To the home: a member says something.
    Say {
        /// The home's hall.
        home: HallId,
        /// Who.
        user: UserId,
        /// From which connection.
        who: ConnId,
        /// Text or binary (JSON rooms: always text).
        opcode: Opcode,
        /// The content: JSON, or the raw payload.
        content: Box<[u8]>,
        /// The speaker's `ref`, for [`Mail::Unavailable`]; only where boxes share rooms.
        reference: Option<Box<str>>,
    },
    /// From the home: nobody hears what this connection said.
    Unavailable {
        /// The connection.
        who: ConnId,
        /// Its `ref`.
        reference: Option<Box<str>>,
    },
    /// From the home: what the room said, for all members here.
    Payload {
        /// The home's hall: it waits for `Done` whatever has become of the receiver's.
        home: HallId,
        /// The receiver's hall.
        hall: HallId,
        /// Encoded once, for all shards.
        batch: Arc<Batch>,
    },
    /// To the home: the last payload is fanned out.
    Done {
        /// The home's hall.
        home: HallId,
        /// The sender's hall.
        hall: HallId,
    },
}

/// The two directions of a pair's mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From members to a home.
    Up,
    /// From a home to its members' shards, and their acknowledgements.
    Down,
}

const WAYS: [Way; 2] = [Way::Up, Way::Down];

impl Mail {
    /// Bytes that it keeps alive on its way.
    fn weight(&self) -> usize {
        match self {
            Self::Say { content, .. } => content.len(),
            Self::Payload { batch, .. } => batch.bytes.len(),
            _ => 0,
        }
    }

    fn way(&self) -> Way {
        match self {
            Self::Join { .. } | Self::Leave { .. } | Self::Say { .. } => Way::Up,
            _ => Way::Down,
        }
    }
}

#[derive(Debug)]
struct Lane {
    mails: ArrayQueue<Mail>,
    bytes: AtomicUsize,
}

/// All lanes and bells of the process.
#[derive(Debug)]
pub struct Mesh {
    shards: usize,
    lanes: Box<[OnceLock<Lane>]>,
    bells: Box<[CachePadded<Bell>]>,
    lane_messages: usize,
    lane_bytes: usize,
}

impl Mesh {
    /// Lanes for so many shards, each bounded in mails and bytes; a lane is made when first used.
    #[must_use]
    pub fn new(shards: usize, lane_messages: usize, lane_bytes: usize) -> Self {
        Self {
            shards,
            lanes: (0..2 * shards * shards).map(|_| OnceLock::new()).collect(),
            bells: (0..shards).map(|_| CachePadded::new(Bell::default())).collect(),
            lane_messages,
            lane_bytes,
        }
    }

    /// A shard's bell.
    #[must_use]
    pub fn bell(&self, shard: ShardId) -> &Bell {
        &self.bells[shard.index()]
    }

    fn lane(&self, from: ShardId, to: ShardId, way: Way) -> &OnceLock<Lane> {
        &self.lanes[(from.index() * self.shards + to.index()) * 2 + way as usize]
    }

    /// Mail for a shard that it has not taken yet.
    #[must_use]
    pub fn queued(&self, shard: ShardId) -> usize {
        let lanes = (0..).map(ShardId).take(self.shards).flat_map(|from| {
            WAYS.into_iter().filter_map(move |way| self.lane(from, shard, way).get())
        });
        lanes.map(|lane| lane.mails.len()).sum()
    }

    /// Whether there is mail for a shard.
    #[must_use]
    pub fn has_mail(&self, shard: ShardId) -> bool {
        (0..).map(ShardId).take(self.shards).any(|from| {
            WAYS.into_iter().any(|way| {
                self.lane(from, shard, way).get().is_some_and(|lane| !lane.mails.is_empty())
            })
        })
    }
}

impl Mesh {
    /// Moves mail from an outbox into its lane as far as that has room; how many.
    fn fill(&self, from: ShardId, to: ShardId, way: Way, outbox: &mut VecDeque<Mail>) -> usize {
        let lane = self.lane(from, to, way).get_or_init(|| Lane {
            mails: ArrayQueue::new(self.lane_messages),
            bytes: AtomicUsize::new(0),
        });
        let mut moved = 0;
        while let Some(mail) = outbox.pop_front() {
            let weight = mail.weight();
            lane.bytes.fetch_add(weight, Ordering::Relaxed);
            if let Err(mail) = lane.mails.push(mail) {
                lane.bytes.fetch_sub(weight, Ordering::Relaxed);
                outbox.push_front(mail);
                break;
            }
            moved += 1;
        }
        moved
    }
}

/// One shard's end of the mesh.
#[derive(Debug)]
pub struct MeshEnd {
    mesh: Arc<Mesh>,
    me: ShardId,
    outboxes: Vec<[VecDeque<Mail>; 2]>,
    /// Bytes of requests in each outbox.
    outbox_bytes: Vec<usize>,
    waiting: usize,
}

impl MeshEnd {
    /// The end of `me`.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, me: ShardId) -> Self {
        let outboxes = (0..mesh.shards).map(|_| Default::default()).collect();
        let outbox_bytes = vec![0; mesh.shards];
        Self { mesh, me, outboxes, outbox_bytes, waiting: 0 }
    }

    /// Whether a speaker's message for that shard would be taken without waiting.
    #[must_use]
    pub fn may_say(&self, to: ShardId) -> bool {
        let outbox = &self.outboxes[to.index()][Way::Up as usize];
        let lane = self.mesh.lane(self.me, to, Way::Up).get();
        let (mails, bytes) =
            lane.map_or((0, 0), |lane| (lane.mails.len(), lane.bytes.load(Ordering::Relaxed)));
        let queued = self.outbox_bytes[to.index()];
        mails + outbox.len() < self.mesh.lane_messages && bytes + queued < self.mesh.lane_bytes
    }

    /// Posts mail; it is under way after [`MeshEnd::flush`].
    pub fn post(&mut self, to: ShardId, mail: Mail) {
        if mail.way() == Way::Up {
            self.outbox_bytes[to.index()] += mail.weight();
        }
        self.outboxes[to.index()][mail.way() as usize].push_back(mail);
        self.waiting += 1;
    }

    /// Moves posted mail into the lanes, and says how many pieces; `ring` is called for each shard
    /// that has to be woken.
    pub fn flush(&mut self, mut ring: impl FnMut(ShardId)) -> usize {
        let waiting = self.waiting;
        if waiting == 0 {
            return 0;
        }
        for to in (0..).map(ShardId).take(self.mesh.shards) {
            let mut moved = 0;
            for way in WAYS {
                let outbox = &mut self.outboxes[to.index()][way as usize];
                if !outbox.is_empty() {
                    moved += self.mesh.fill(self.me, to, way, outbox);
                }
            }
            if moved > 0 {
                let left = &self.outboxes[to.index()][Way::Up as usize];
                self.outbox_bytes[to.index()] = left.iter().map(Mail::weight).sum();
            }
            self.waiting -= moved;
            if moved > 0 && self.mesh.bell(to).must_ring() {
                ring(to);
            }
        }
        waiting - self.waiting
    }

    /// Mail that waits for room in a lane.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The next mail from a shard.
    pub fn collect(&mut self, from: ShardId, way: Way) -> Option<Mail> {
        let lane = self.mesh.lane(from, self.me, way).get()?;
        let mail = lane.mails.pop()?;
        lane.bytes.fetch_sub(mail.weight(), Ordering::Relaxed);
        Some(mail)
    }

    /// Mails that were there from a shard when this was asked: a turn takes no more than these.
    #[must_use]
    pub fn arrived(&self, from: ShardId, way: Way) -> usize {
        self.mesh.lane(from, self.me, way).get().map_or(0, |lane| lane.mails.len())
    }

    /// The whole mesh.
    #[must_use]
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    fn say(n: u32, bytes: usize) -> Mail {
        Mail::Say {
            home: HallId { index: n, generation: 0 },
            user: UserId(0),
            who: ConnId { slot: 0, generation: 0 },
            opcode: Opcode::Text,
            content: vec![0; bytes].into(),
            reference: None,
        }
    }

    fn number(mail: &Mail) -> u32 {
        match mail {
            Mail::Say { home, .. } => home.index,
            other => panic!("not a say: {other:?}"),
        }
    }

    #[test]
    fn mail_that_does_not_fit_waits_in_order() {
        let mesh = Arc::new(Mesh::new(2, 4, 1 << 20));
        let (mut a, mut b) = (MeshEnd::new(mesh.clone(), A), MeshEnd::new(mesh, B));
        for n in 0..10 {
            a.post(B, say(n, 1));
        }
        let mut got = Vec::new();
        while got.len() < 10 {
            a.flush(|_| {});
            assert!(b.arrived(A, Way::Up) <= 4);
            while let Some(mail) = b.collect(A, Way::Up) {
                got.push(number(&mail));
            }
        }
        assert_eq!(got, (0..10).collect::<Vec<_>>());
        assert_eq!(a.waiting(), 0);
    }

    #[test]
    fn a_speaker_is_stopped_by_count_and_by_bytes() {
        let mesh = Arc::new(Mesh::new(2, 4, 100));
        let mut a = MeshEnd::new(mesh.clone(), A);
        for n in 0..4 {
            assert!(a.may_say(B), "{n}");
            a.post(B, say(n, 1));
            a.flush(|_| {});
        }
        assert!(!a.may_say(B));
        let mut b = MeshEnd::new(mesh, B);
        while b.collect(A, Way::Up).is_some() {}
        assert!(a.may_say(B));
        a.post(B, say(9, 100));
        a.flush(|_| {});
        assert!(!a.may_say(B));
    }

    #[test]
    fn a_sleeper_is_rung_once() {
        let bell = Bell::default();
        assert!(!bell.must_ring());
        bell.fall_asleep();
        assert!(bell.must_ring());
        assert!(!bell.must_ring());
        bell.fall_asleep();
        bell.wake_up();
        assert!(!bell.must_ring());
    }
}
