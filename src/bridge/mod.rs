//! Mail between the shards and the bridge: the one thread that talks to the broker.
//!
//! In:    what members of rooms here say and do; what the cluster says and knows of these rooms.
//! Out:   the same, at the other end, in order; whom to wake.
//! Never: knows a broker; waits for room in a queue.
//!
//! Every shard has a lane to the bridge and one from it, each bounded in messages and bytes.
//!
//! # Invariants
//! - A shard asks [`BridgeEnd::may_say`] before it posts what somebody said: only presence and
//!   places, which cannot be refused, ever wait in its outbox.
//! - What the bridge cannot put into a shard's lane stays with the bridge ([`Bridge::tell`] gives
//!   it back): it drops or waits, as the delivery demands.
//! - Whoever sleeps is woken after the mail is visible.

pub mod envelope;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use tokio::sync::Notify;

use crate::id::{ConnKey, RoomKey, ShardId};
use crate::limits::PARTITIONS;
use crate::mesh::bell::Bell;
use crate::room::epoch::Epoch;
use crate::room::hall::HallId;

/// Who gives a message its place in a room (`broker.delivery`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// This box, for its members, at once; the other boxes hear of it through the broker.
    LocalFirst,
    /// The broker's log, for all boxes.
    Ordered,
}

/// What happens to a message for which the lane to the bridge has no room (`broker.overflow`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The speaker is told `unavailable`; nobody hears the message.
    Reject,
    /// Members here hear it, other boxes do not; it is counted.
    Drop,
}

/// What a shard tells the bridge.
#[derive(Debug)]
pub enum Outbound {
    /// A member of a room whose home the shard is said something.
    Said {
        /// The room's partition.
        partition: usize,
        /// [`envelope::said`], not yet stamped.
        envelope: Vec<u8>,
        /// Who, for the answer where the broker refuses it.
        speaker: ConnKey,
        /// The speaker's `ref`, for the same.
        reference: Option<Box<str>>,
    },
    /// A member came or went (JSON rooms alone).
    Crossed {
        /// The room.
        key: RoomKey,
        /// The user.
        user: Box<str>,
        /// Came; else went.
        joined: bool,
        /// The user's first connection here, or the last.
        whole: bool,
        /// Members that the room has here now.
        members: usize,
    },
    /// The room has been made here; [`Inbound::Placed`] answers, unless `Close` comes first.
    Open {
        /// The room.
        key: RoomKey,
        /// The hall that waits, on the shard that asks.
        hall: HallId,
    },
    /// The room is no more, here.
    Close {
        /// The room.
        key: RoomKey,
    },
}

/// A message's place in the broker's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Names the log, or the room's numbering in it.
    pub epoch: Epoch,
    /// Grows from message to message of a room.
    pub offset: u64,
}

/// What the bridge tells a room's home.
#[derive(Debug)]
pub enum Inbound {
    /// Somebody said something: on another box, or (ordered) anywhere.
    Said {
        /// The room, open here.
        key: RoomKey,
        /// [`envelope::Body::Said`], for certain.
        envelope: Box<[u8]>,
        /// It was said on this box: the speaker is one of this process's connections.
        own: bool,
        /// Where the delivery is ordered.
        place: Option<Place>,
    },
    /// A user who was on no other box is on one now.
    Entered {
        /// The room.
        key: RoomKey,
        /// The user.
        user: Box<str>,
        /// Members on other boxes now.
        elsewhere: usize,
    },
    /// A user is on no other box any more.
    Left {
        /// The room.
        key: RoomKey,
        /// The user.
        user: Box<str>,
        /// Members on other boxes now.
        elsewhere: usize,
    },
    /// Further connections of users who were there anyway came or went.
    Counted {
        /// The room.
        key: RoomKey,
        /// Members on other boxes now.
        elsewhere: usize,
    },
    /// What the cluster knows of a room that has just been made here: its joins may go on.
    Placed {
        /// The room.
        key: RoomKey,
        /// The hall that asked.
        hall: HallId,
        /// Users on other boxes.
        users: Vec<Box<str>>,
        /// Members on other boxes.
        elsewhere: usize,
        /// The room's newest place; `None` where the delivery is not ordered, or the broker does
        /// not answer: the room then numbers for itself until a message tells better.
        place: Option<Place>,
    },
    /// The broker has not taken what this connection said, and nobody will hear it.
    Refused {
        /// The speaker, on the shard that is told.
        speaker: ConnKey,
        /// Its `ref`.
        reference: Option<Box<str>>,
        /// It would not take it later either: it is the message that is wrong, too long mostly.
        for_good: bool,
    },
}

impl Outbound {
    fn weight(&self) -> usize {
        match self {
            Self::Said { envelope, .. } => envelope.len(),
            _ => 0,
        }
    }
}

impl Inbound {
    fn weight(&self) -> usize {
        match self {
            Self::Said { envelope, .. } => envelope.len(),
            _ => 0,
        }
    }
}

/// A queue of one direction.
#[derive(Debug)]
struct Lane<T> {
    mails: ArrayQueue<T>,
    bytes: AtomicUsize,
}

impl<T> Lane<T> {
    fn new(messages: usize) -> CachePadded<Self> {
        CachePadded::new(Self { mails: ArrayQueue::new(messages), bytes: AtomicUsize::new(0) })
    }

    fn push(&self, mail: T, weight: usize) -> Result<(), T> {
        self.bytes.fetch_add(weight, Ordering::Relaxed);
        self.mails.push(mail).inspect_err(|_| {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
        })
    }

    fn pop(&self, weight: impl FnOnce(&T) -> usize) -> Option<T> {
        let mail = self.mails.pop()?;
        self.bytes.fetch_sub(weight(&mail), Ordering::Relaxed);
        Some(mail)
    }

    /// Whether there is room behind what still waits to be put in.
    fn has_room(&self, waiting: usize, waiting_bytes: usize, bytes_max: usize) -> bool {
        self.mails.len() + waiting < self.mails.capacity()
            && self.bytes.load(Ordering::Relaxed) + waiting_bytes < bytes_max
    }
}

/// What the lanes are made with.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Shards of the process.
    pub shards: usize,
    /// `broker.queue_messages`: messages in one lane.
    pub messages: usize,
    /// `broker.queue_bytes`: bytes in one lane, beyond which nothing is added.
    pub bytes: usize,
}

/// All lanes, and what both ends have to know of each other.
#[derive(Debug)]
pub struct Bridge {
    /// Who gives a message its place.
    pub delivery: Delivery,
    /// What becomes of a message that the lane has no room for.
    pub overflow: Overflow,
    outward: Box<[CachePadded<Lane<Outbound>>]>,
    inward: Box<[CachePadded<Lane<Inbound>>]>,
    bytes_max: usize,
    /// The bridge's own.
    bell: CachePadded<Bell>,
    wake: Notify,
    /// The breaker lets messages through.
    closed: AtomicBool,
    /// Messages by partition that were not handed over: each still takes its sequence.
    skipped: [AtomicU64; PARTITIONS],
    /// The same, since the start.
    dropped: AtomicU64,
    /// Messages refused for want of room in a lane or of a broker.
    rejected: AtomicU64,
}

impl Bridge {
    /// Lanes for so many shards. Nothing goes through before [`Bridge::set_closed`].
    #[must_use]
    pub fn new(delivery: Delivery, overflow: Overflow, bounds: Bounds) -> Self {
        Self {
            delivery,
            overflow,
            outward: (0..bounds.shards).map(|_| Lane::new(bounds.messages)).collect(),
            inward: (0..bounds.shards).map(|_| Lane::new(bounds.messages)).collect(),
            bytes_max: bounds.bytes,
            bell: CachePadded::default(),
            wake: Notify::new(),
            closed: AtomicBool::new(false),
            skipped: std::array::from_fn(|_| AtomicU64::new(0)),
            dropped: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        }
    }

    // --- the bridge's thread ---------------------------------------------------------------------

    /// The next mail of a shard.
    #[must_use]
    pub fn take(&self, from: ShardId) -> Option<Outbound> {
        self.outward[from.index()].pop(Outbound::weight)
    }

    /// Whether a shard has mail for the bridge.
    #[must_use]
    pub fn has_outbound(&self) -> bool {
        self.outward.iter().any(|lane| !lane.mails.is_empty())
    }

    /// Puts mail into a shard's lane; the caller rings the shard ([`crate::mesh::Mesh::bell`]).
    ///
    /// # Errors
    /// The mail, where the lane has no room.
    pub fn tell(&self, to: ShardId, mail: Inbound) -> Result<(), Inbound> {
        let lane = &self.inward[to.index()];
        if matches!(mail, Inbound::Said { .. }) && !lane.has_room(0, 0, self.bytes_max) {
            return Err(mail);
        }
        let weight = mail.weight();
        lane.push(mail, weight)
    }

    /// Says whether the breaker lets messages through.
    pub fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    /// Waits until a shard has mail; at once where it has. May be cancelled.
    pub async fn mail(&self) {
        loop {
            self.bell.fall_asleep();
            if self.has_outbound() {
                self.bell.wake_up();
                return;
            }
            self.wake.notified().await;
            self.bell.wake_up();
            if self.has_outbound() {
                return;
            }
        }
    }

    /// Messages of a partition that were never handed over since this was last asked: their
    /// sequences are used up.
    #[must_use]
    pub fn take_skipped(&self, partition: usize) -> u64 {
        let skipped = &self.skipped[partition];
        // Nearly always none: a load is cheaper than an exchange.
        if skipped.load(Ordering::Relaxed) == 0 { 0 } else { skipped.swap(0, Ordering::Relaxed) }
    }

    /// Counts a message that no other box will hear.
    pub fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that was taken and then refused.
    pub fn count_rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    // --- anybody ---------------------------------------------------------------------------------

    /// Whether the breaker lets messages through.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Messages from here that other boxes did not hear, since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Messages answered with `unavailable` since the start.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Mail on its way to the bridge.
    #[must_use]
    pub fn outbound(&self) -> usize {
        self.outward.iter().map(|lane| lane.mails.len()).sum()
    }

    /// Mail on its way to the shards.
    #[must_use]
    pub fn inbound(&self) -> usize {
        self.inward.iter().map(|lane| lane.mails.len()).sum()
    }

    /// Shards that have lanes.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.outward.len()
    }

    /// Mails that one lane holds.
    #[must_use]
    pub fn lane_messages(&self) -> usize {
        self.outward.first().map_or(0, |lane| lane.mails.capacity())
    }

    /// Whether there is mail for a shard.
    #[must_use]
    pub fn has_mail(&self, shard: ShardId) -> bool {
        !self.inward[shard.index()].mails.is_empty()
    }
}

/// What becomes of something that somebody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the bridge.
    Goes,
    /// Members here hear it; [`BridgeEnd::skip`] counts it for the others.
    StaysHere,
    /// The speaker is told `unavailable`.
    Refused,
}

/// One shard's end.
#[derive(Debug)]
pub struct BridgeEnd {
    bridge: Arc<Bridge>,
    me: ShardId,
    outbox: VecDeque<Outbound>,
    outbox_bytes: usize,
    /// Mail was put into the lane since the last flush.
    news: bool,
}

impl BridgeEnd {
    /// The end of `me`.
    #[must_use]
    pub fn new(bridge: Arc<Bridge>, me: ShardId) -> Self {
        Self { bridge, me, outbox: VecDeque::new(), outbox_bytes: 0, news: false }
    }

    /// The lanes and what is known of the other end.
    #[must_use]
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// What becomes of the next thing that is said, given the breaker, the lane and the delivery.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let has_room = || {
            let lane = &self.bridge.outward[self.me.index()];
            lane.has_room(self.outbox.len(), self.outbox_bytes, self.bridge.bytes_max)
        };
        match (self.bridge.delivery, self.bridge.overflow) {
            (Delivery::Ordered, _) if !self.bridge.is_closed() || !has_room() => Verdict::Refused,
            (Delivery::Ordered, _) => Verdict::Goes,
            // "An outage isolates boxes and nothing more."
            (Delivery::LocalFirst, _) if !self.bridge.is_closed() => Verdict::StaysHere,
            (Delivery::LocalFirst, _) if has_room() => Verdict::Goes,
            (Delivery::LocalFirst, Overflow::Drop) => Verdict::StaysHere,
            (Delivery::LocalFirst, Overflow::Reject) => Verdict::Refused,
        }
    }

    /// Posts mail; the bridge knows of it after [`BridgeEnd::flush`].
    pub fn post(&mut self, mail: Outbound) {
        self.outbox_bytes += mail.weight();
        self.outbox.push_back(mail);
    }

    /// Counts a message of a partition that stays here.
    pub fn skip(&self, partition: usize) {
        self.bridge.skipped[partition].fetch_add(1, Ordering::Relaxed);
        self.bridge.count_dropped();
    }

    /// Counts a message that was refused.
    pub fn reject(&self) {
        self.bridge.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Moves posted mail into the lane and wakes the bridge; how many pieces.
    pub fn flush(&mut self) -> usize {
        let lane = &self.bridge.outward[self.me.index()];
        let before = self.outbox.len();
        while let Some(mail) = self.outbox.pop_front() {
            let weight = mail.weight();
            if let Err(mail) = lane.push(mail, weight) {
                self.outbox.push_front(mail);
                break;
            }
            self.outbox_bytes -= weight;
            self.news = true;
        }
        if std::mem::take(&mut self.news) && self.bridge.bell.must_ring() {
            self.bridge.wake.notify_one();
        }
        before - self.outbox.len()
    }

    /// Mail that waits for room in the lane.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outbox.len()
    }

    /// The next mail from the bridge.
    pub fn collect(&mut self) -> Option<Inbound> {
        self.bridge.inward[self.me.index()].pop(Inbound::weight)
    }

    /// Mails from the bridge that were there when this was asked: a turn takes no more than these.
    #[must_use]
    pub fn arrived(&self) -> usize {
        self.bridge.inward[self.me.index()].mails.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ConnId;

    const SHARD: ShardId = ShardId(0);

    fn bridge(delivery: Delivery, overflow: Overflow) -> Arc<Bridge> {
        let bounds = Bounds { shards: 1, messages: 4, bytes: 100 };
        Arc::new(Bridge::new(delivery, overflow, bounds))
    }

    fn said(bytes: usize) -> Outbound {
        let speaker = ConnKey { shard: SHARD, conn: ConnId { slot: 0, generation: 0 } };
        Outbound::Said { partition: 0, envelope: vec![0; bytes], speaker, reference: None }
    }

    #[test]
    fn an_outage_keeps_messages_here_or_refuses_them() {
        let verdict =
            |delivery| BridgeEnd::new(bridge(delivery, Overflow::Reject), SHARD).verdict();
        assert_eq!(verdict(Delivery::LocalFirst), Verdict::StaysHere);
        assert_eq!(verdict(Delivery::Ordered), Verdict::Refused);
    }

    #[test]
    fn a_full_lane_follows_the_overflow() {
        for (overflow, then) in
            [(Overflow::Reject, Verdict::Refused), (Overflow::Drop, Verdict::StaysHere)]
        {
            for (messages, bytes) in [(4, 1), (1, 100)] {
                let bridge = bridge(Delivery::LocalFirst, overflow);
                bridge.set_closed(true);
                let mut end = BridgeEnd::new(bridge.clone(), SHARD);
                for _ in 0..messages {
                    assert_eq!(end.verdict(), Verdict::Goes);
                    end.post(said(bytes));
                }
                assert_eq!(end.verdict(), then, "posted already, under way or not");
                end.flush();
                assert_eq!(end.verdict(), then);
                while bridge.take(SHARD).is_some() {}
                assert_eq!(end.verdict(), Verdict::Goes);
            }
        }
    }

    #[test]
    fn what_cannot_be_refused_waits_in_order() {
        let bridge = bridge(Delivery::LocalFirst, Overflow::Reject);
        let mut end = BridgeEnd::new(bridge.clone(), SHARD);
        let hall = |index| HallId { index, generation: 0 };
        let key = RoomKey { mode: crate::id::Mode::Json, name: "r".into() };
        for index in 0..10 {
            end.post(Outbound::Open { key: key.clone(), hall: hall(index) });
        }
        let mut got = Vec::new();
        while got.len() < 10 {
            end.flush();
            while let Some(Outbound::Open { hall, .. }) = bridge.take(SHARD) {
                got.push(hall.index);
            }
        }
        assert_eq!(got, (0..10).collect::<Vec<_>>());
        assert_eq!(end.waiting(), 0);
    }

    #[test]
    fn a_full_lane_gives_the_mail_back() {
        let bridge = bridge(Delivery::LocalFirst, Overflow::Reject);
        let key = RoomKey { mode: crate::id::Mode::Json, name: "r".into() };
        let say = |bytes: usize| Inbound::Said {
            key: key.clone(),
            envelope: vec![0; bytes].into(),
            own: false,
            place: None,
        };
        assert!(bridge.tell(SHARD, say(100)).is_ok());
        assert!(bridge.tell(SHARD, say(1)).is_err(), "bytes");
        assert!(bridge.has_mail(SHARD));
        let counted = || Inbound::Counted { key: key.clone(), elsewhere: 1 };
        assert!(bridge.tell(SHARD, counted()).is_ok(), "presence has no bytes");
    }
}
