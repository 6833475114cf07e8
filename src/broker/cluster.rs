//! What one box knows of the others, and what it tells them and its shards.
//!
//! In:    mail of shards; envelopes from the broker, whoever wrote them; time.
//! Out:   envelopes for the broker; mail for shards.
//! Never: does I/O, reads a clock, waits.
//!
//! # Invariants
//! - A message's sequence is used up once it is taken: published, dropped or lost. Where the
//!   broker's log gives the order, a refused message uses none: a hole there is a loss.
//! - Mail for a shard other than what was said keeps its order and is never dropped.
//! - A shard hears of a room's presence after `Placed`, and nothing before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::peers::{Arrival, Peers, Track};
use super::presence::{Assembled, Assembly, Change, Here, Presence, What, assemble};
use super::status::Status;
use super::{Lane, Parcel};
use crate::bridge::envelope::{self, Body, Crossed, Envelope, Heartbeat, Node, Snapshot};
use crate::bridge::envelope::{Said, Unreadable};
use crate::bridge::{Delivery, Inbound, Outbound, Place};
use crate::id::{ConnKey, Mode, RoomKey, ShardId};
use crate::limits::PARTITIONS;
use crate::room::hall::HallId;

/// Pause between two signs of life.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Pause before a box is asked for its snapshot again, or gives it again.
const ASK_EVERY: Duration = Duration::from_secs(1);
const SNAPSHOT_EVERY: Duration = Duration::from_millis(500);

/// Where mail for shards goes.
pub trait Shards {
    /// Puts mail into a shard's lane and wakes it.
    ///
    /// # Errors
    /// The mail, where there is no room.
    fn tell(&self, shard: ShardId, mail: Inbound) -> Result<(), Inbound>;
}

/// A room that is open here.
#[derive(Debug)]
struct Open {
    shard: ShardId,
    hall: HallId,
    /// `Placed` has been sent.
    is_placed: bool,
}

/// Who said something, for the answer where it is refused.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// The connection.
    pub key: ConnKey,
    /// Its `ref`.
    pub reference: Option<Box<str>>,
}

/// What has become of a shard's mail.
#[derive(Debug)]
pub enum Taken {
    /// It is a message for the broker, and this is who said it.
    Message(Parcel, Speaker),
    /// It was a message that other boxes will not hear.
    Dropped,
    /// It was a message that is refused; the speaker is told.
    Refused,
    /// A room wants to know its newest place: [`Cluster::place`] takes the answer.
    Unplaced(RoomKey, HallId),
    /// It is done.
    Noted,
}

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    me: Node,
    name: Box<str>,
    delivery: Delivery,
    status: Arc<Status>,
    /// The last sequences used: of what was said here by partition, of joins and leaves.
    said: [u64; PARTITIONS],
    crossed: u64,
    /// JSON and raw rooms that are open here.
    open: [HashMap<Box<str>, Open>; 2],
    here: Here,
    peers: Peers,
    presence: Presence,
    assemblies: HashMap<Node, Assembly>,
    /// One's own messages, as the log gives them back.
    own: Box<[Track; PARTITIONS]>,
    /// Envelopes for the control lane, stamped.
    control: VecDeque<Vec<u8>>,
    heartbeat_due: bool,
    heartbeat_at: Option<Instant>,
    snapshot_due: bool,
    snapshot_at: Option<Instant>,
    /// Mail that its shard's lane had no room for.
    outboxes: Vec<VecDeque<Inbound>>,
}

fn index(mode: Mode) -> usize {
    match mode {
        Mode::Json => 0,
        Mode::Raw => 1,
    }
}

impl Cluster {
    /// Of the box `me`, which people call `name`, with so many shards.
    #[must_use]
    pub fn new(
        me: Node,
        name: &str,
        delivery: Delivery,
        shards: usize,
        status: Arc<Status>,
    ) -> Self {
        Self {
            me,
            name: name.into(),
            delivery,
            status,
            said: [0; PARTITIONS],
            crossed: 0,
            open: Default::default(),
            here: Here::default(),
            peers: Peers::default(),
            presence: Presence::default(),
            assemblies: HashMap::new(),
            own: Box::new([Track::default(); PARTITIONS]),
            control: VecDeque::new(),
            heartbeat_due: false,
            heartbeat_at: None,
            snapshot_due: false,
            snapshot_at: None,
            outboxes: (0..shards).map(|_| VecDeque::new()).collect(),
        }
    }

    // --- from the shards -------------------------------------------------------------------------

    /// Messages of a partition stayed here: others shall see what they miss.
    pub fn skip(&mut self, partition: usize, messages: u64) {
        self.said[partition] += messages;
    }

    /// Takes a shard's mail; `goes`: the broker takes messages.
    pub fn take(
        &mut self,
        from: ShardId,
        mail: Outbound,
        goes: bool,
        shards: &dyn Shards,
    ) -> Taken {
        match mail {
            Outbound::Said { partition, mut envelope, speaker, reference } => {
                let speaker = Speaker { key: speaker, reference };
                if !goes && self.delivery == Delivery::Ordered {
                    self.refuse(speaker, false, shards);
                    return Taken::Refused;
                }
                self.said[partition] += 1;
                if !goes {
                    return Taken::Dropped;
                }
                envelope::stamp(&mut envelope, self.me, self.said[partition]);
                let lane = Lane::Partition(partition);
                Taken::Message(Parcel { lane, envelope: envelope.into() }, speaker)
            }
            Outbound::Crossed { key, user, joined, whole, members } => {
                let members = members as u64;
                let crossed = Crossed { joined, whole, members, room: &key.name, user: &user };
                self.here.crossed(&crossed);
                self.crossed += 1;
                self.control(envelope::crossed(&crossed), self.crossed);
                Taken::Noted
            }
            Outbound::Open { key, hall } => self.opened(from, key, hall, goes, shards),
            Outbound::Close { key } => {
                self.open[index(key.mode)].remove(&key.name);
                Taken::Noted
            }
        }
    }

    fn opened(
        &mut self,
        shard: ShardId,
        key: RoomKey,
        hall: HallId,
        goes: bool,
        shards: &dyn Shards,
    ) -> Taken {
        let open = Open { shard, hall, is_placed: false };
        self.open[index(key.mode)].insert(key.name.clone(), open);
        if goes && self.delivery == Delivery::Ordered {
            return Taken::Unplaced(key, hall);
        }
        self.place(key, hall, None, shards);
        Taken::Noted
    }

    /// Answers a room that waits for its place; one that no longer does is left alone.
    pub fn place(&mut self, key: RoomKey, hall: HallId, place: Option<Place>, to: &dyn Shards) {
        let Some(open) = self.open[index(key.mode)].get_mut(&key.name) else { return };
        if open.hall != hall || std::mem::replace(&mut open.is_placed, true) {
            return;
        }
        let shard = open.shard;
        let (users, elsewhere) = match key.mode {
            Mode::Json => self.presence.of(&key.name),
            Mode::Raw => (Vec::new(), 0),
        };
        let elsewhere = count(elsewhere);
        self.post(shard, Inbound::Placed { key, hall, users, elsewhere, place }, to);
    }

    /// The broker does not answer: every room that waits for its place goes on without.
    pub fn place_all(&mut self, shards: &dyn Shards) {
        let mut waiting = Vec::new();
        for (mode, rooms) in [Mode::Json, Mode::Raw].into_iter().zip(&self.open) {
            let unplaced = rooms.iter().filter(|(_, open)| !open.is_placed);
            let key = |name: &str| RoomKey { mode, name: name.into() };
            waiting.extend(unplaced.map(|(name, open)| (key(name), open.hall)));
        }
        for (key, hall) in waiting {
            self.place(key, hall, None, shards);
        }
    }

    /// Tells a speaker that the broker has not taken what he said; `for_good`: nor ever will.
    pub fn refuse(&mut self, speaker: Speaker, for_good: bool, shards: &dyn Shards) {
        let Speaker { key, reference } = speaker;
        self.post(key.shard, Inbound::Refused { speaker: key, reference, for_good }, shards);
    }

    // --- to the shards ---------------------------------------------------------------------------

    fn post(&mut self, shard: ShardId, mail: Inbound, shards: &dyn Shards) {
        let Some(outbox) = self.outboxes.get_mut(shard.index()) else { return };
        let left = if outbox.is_empty() { shards.tell(shard, mail) } else { Err(mail) };
        if let Err(mail) = left {
            outbox.push_back(mail);
        }
    }

    /// Offers what waits for room in shards' lanes; whether anything still does.
    pub fn deliver(&mut self, shards: &dyn Shards) -> bool {
        for (shard, outbox) in (0..).map(ShardId).zip(&mut self.outboxes) {
            while let Some(mail) = outbox.pop_front() {
                if let Err(mail) = shards.tell(shard, mail) {
                    outbox.push_front(mail);
                    break;
                }
            }
        }
        self.holds_mail()
    }

    /// Whether mail waits for room in a shard's lane.
    #[must_use]
    pub fn holds_mail(&self) -> bool {
        self.outboxes.iter().any(|outbox| !outbox.is_empty())
    }

    fn announce(&mut self, changes: Vec<Change>, shards: &dyn Shards) {
        for Change { room, what, elsewhere } in changes {
            let Some(open) = self.open[index(Mode::Json)].get(&room) else { continue };
            if !open.is_placed {
                continue;
            }
            let (shard, elsewhere) = (open.shard, count(elsewhere));
            let key = RoomKey { mode: Mode::Json, name: room };
            let mail = match what {
                What::Entered(user) => Inbound::Entered { key, user, elsewhere },
                What::Left(user) => Inbound::Left { key, user, elsewhere },
                What::Counted => Inbound::Counted { key, elsewhere },
            };
            self.post(shard, mail, shards);
        }
    }

    // --- from the broker -------------------------------------------------------------------------

    /// Takes an envelope that came by pub/sub; the number of one's own probe, where it is one.
    ///
    /// # Errors
    /// Why it was passed over.
    pub fn receive(
        &mut self,
        lane: Lane,
        bytes: &[u8],
        now: Instant,
        shards: &dyn Shards,
    ) -> Result<Option<u64>, Unreadable> {
        let (node, sequence) = envelope::sender(bytes)?;
        if node == self.me {
            let is_probe = lane == Lane::Control && envelope::read(bytes)?.body == Body::Probe;
            return Ok(is_probe.then_some(sequence));
        }
        let Envelope { body, .. } = envelope::read(bytes)?;
        match (lane, body) {
            (Lane::Partition(partition), Body::Said(said))
                if partition < PARTITIONS && self.delivery == Delivery::LocalFirst =>
            {
                self.said(node, partition, sequence, &said, bytes, shards);
            }
            (Lane::Control, Body::Crossed(crossed)) => {
                self.crossed(node, sequence, &crossed, now, shards);
            }
            (Lane::Control, Body::Snapshot(part)) => {
                self.snapshot_part(node, sequence, &part, now, shards);
            }
            (Lane::Control, Body::Heartbeat(beat)) => self.heartbeat(node, &beat, now),
            (Lane::Control, Body::Ask(who)) => self.snapshot_due |= who == self.me,
            (Lane::Control, Body::Bye) => self.lost(node, shards),
            (Lane::Control, Body::Probe) => {}
            _ => return Err(Unreadable::Malformed),
        }
        Ok(None)
    }

    fn said(
        &mut self,
        node: Node,
        partition: usize,
        sequence: u64,
        said: &Said<'_>,
        bytes: &[u8],
        shards: &dyn Shards,
    ) {
        let track = self.peers.track(node, partition);
        let counts = &self.status.counts;
        let Arrival::New { missed } = track.judge(sequence) else {
            counts.duplicates.fetch_add(1, Ordering::Relaxed);
            return;
        };
        track.take(sequence);
        if missed > 0 {
            counts.miss(missed);
        }
        let Some(open) = self.open[index(said.mode)].get(said.room) else { return };
        let (key, envelope) = (said.key(), bytes.into());
        let mail = Inbound::Said { key, envelope, own: false, place: None };
        if shards.tell(open.shard, mail).is_err() {
            counts.miss(1);
        }
    }

    /// Takes an envelope of a partition's log; `false` where its shard has no room for it.
    ///
    /// # Errors
    /// Why it was passed over.
    pub fn receive_placed(
        &mut self,
        partition: usize,
        place: Place,
        bytes: &[u8],
        shards: &dyn Shards,
    ) -> Result<bool, Unreadable> {
        let Envelope { node, sequence, body: Body::Said(said) } = envelope::read(bytes)? else {
            return Err(Unreadable::Malformed);
        };
        let own = node == self.me;
        let track = match own {
            true => &mut self.own[partition],
            false => self.peers.track(node, partition),
        };
        let Arrival::New { missed } = track.judge(sequence) else {
            self.status.counts.duplicates.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        };
        if let Some(open) = self.open[index(said.mode)].get(said.room) {
            let (key, envelope) = (said.key(), bytes.into());
            let mail = Inbound::Said { key, envelope, own, place: Some(place) };
            if shards.tell(open.shard, mail).is_err() {
                return Ok(false);
            }
        }
        track.take(sequence);
        self.status.counts.miss(missed);
        Ok(true)
    }

    fn heard(&mut self, node: Node) {
        if self.peers.heard(node) {
            // It may know as little of this box.
            self.heartbeat_due = true;
            self.count_peers();
        }
    }

    fn heartbeat(&mut self, node: Node, beat: &Heartbeat<'_>, now: Instant) {
        let is_new = !self.peers.peer(node).is_alive;
        self.heard(node);
        if is_new {
            tracing::info!(box_name = beat.name, "another box has joined");
        }
        let ordered = self.delivery == Delivery::Ordered;
        if is_new && beat.ordered != ordered {
            tracing::warn!(
                box_name = beat.name,
                its_delivery = if beat.ordered { "ordered" } else { "local_first" },
                "this box and that one do not hear each other: give both the same broker.delivery"
            );
        }
        if self.delivery == Delivery::LocalFirst {
            self.status.counts.miss(self.peers.claims(node, &beat.sequences, now));
        }
        let peer = self.peers.peer(node);
        if *peer.name != *beat.name {
            peer.name = beat.name.into();
        }
        let replica = &mut peer.presence;
        if !replica.is_complete && replica.last == 0 && beat.presence == 0 {
            replica.is_complete = true;
        }
        if !replica.is_complete || beat.presence > replica.last {
            self.ask(node, now);
        }
    }

    fn crossed(
        &mut self,
        node: Node,
        sequence: u64,
        crossed: &Crossed<'_>,
        now: Instant,
        shards: &dyn Shards,
    ) {
        self.heard(node);
        let replica = &mut self.peers.peer(node).presence;
        if replica.is_complete && sequence <= replica.last {
            return;
        }
        // A snapshot in parts that are still coming would tell less than this.
        self.assemblies.remove(&node);
        let follows =
            replica.last.checked_add(1) == Some(sequence) && (replica.is_complete || sequence == 1);
        replica.is_complete = follows;
        replica.last = replica.last.max(sequence);
        if !follows {
            self.ask(node, now);
        }
        // What it tells is true whatever came before it.
        let changes = self.presence.crossed(node, crossed);
        self.announce(changes, shards);
    }

    fn ask(&mut self, node: Node, now: Instant) {
        let replica = &mut self.peers.peer(node).presence;
        let asked = replica.asked_at;
        if asked.is_some_and(|at| now.saturating_duration_since(at) < ASK_EVERY) {
            return;
        }
        replica.asked_at = Some(now);
        self.control(envelope::ask(node), 0);
    }

    fn snapshot_part(
        &mut self,
        node: Node,
        sequence: u64,
        part: &Snapshot<'_>,
        now: Instant,
        shards: &dyn Shards,
    ) {
        self.heard(node);
        let replica = &mut self.peers.peer(node).presence;
        if replica.is_complete && sequence <= replica.last {
            return;
        }
        replica.asked_at = Some(now);
        match assemble(self.assemblies.remove(&node), sequence, part) {
            Assembled::Partly(so_far) => {
                self.assemblies.insert(node, so_far);
            }
            Assembled::Broken => {}
            Assembled::Whole(rooms) => {
                (replica.last, replica.is_complete) = (sequence, true);
                let changes = self.presence.replace(node, rooms);
                self.announce(changes, shards);
            }
        }
    }

    fn lost(&mut self, node: Node, shards: &dyn Shards) {
        self.assemblies.remove(&node);
        if !self.peers.lost(node) {
            return;
        }
        self.count_peers();
        let name = &self.peers.peer(node).name;
        tracing::info!(box_name = &**name, "another box has left: so have its members");
        let changes = self.presence.replace(node, HashMap::new());
        self.announce(changes, shards);
    }

    fn count_peers(&self) {
        self.status.counts.peers.store(self.peers.alive().count(), Ordering::Relaxed);
    }

    // --- to the broker ---------------------------------------------------------------------------

    fn control(&mut self, mut envelope: Vec<u8>, sequence: u64) {
        envelope::stamp(&mut envelope, self.me, sequence);
        self.control.push_back(envelope);
    }

    /// An envelope that only this box will understand.
    #[must_use]
    pub fn probe(&self, number: u64) -> Parcel {
        let mut envelope = envelope::probe();
        envelope::stamp(&mut envelope, self.me, number);
        Parcel { lane: Lane::Control, envelope: envelope.into() }
    }

    /// An envelope that says farewell.
    #[must_use]
    pub fn bye(&self) -> Parcel {
        let mut envelope = envelope::bye();
        envelope::stamp(&mut envelope, self.me, 0);
        Parcel { lane: Lane::Control, envelope: envelope.into() }
    }

    /// The next envelope for the control lane.
    pub fn next_control(&mut self, now: Instant) -> Option<Parcel> {
        let snapshot_again =
            self.snapshot_at.is_none_or(|at| now.saturating_duration_since(at) >= SNAPSHOT_EVERY);
        if self.snapshot_due && snapshot_again {
            (self.snapshot_due, self.snapshot_at) = (false, Some(now));
            for part in self.here.snapshot() {
                self.control(part, self.crossed);
            }
        }
        if std::mem::take(&mut self.heartbeat_due) {
            self.heartbeat_at = Some(now);
            let (sequences, presence, name) = (self.said, self.crossed, &*self.name);
            let ordered = self.delivery == Delivery::Ordered;
            let beat = envelope::heartbeat(&Heartbeat { sequences, presence, ordered, name });
            self.control(beat, 0);
        }
        let envelope = self.control.pop_front()?.into();
        Some(Parcel { lane: Lane::Control, envelope })
    }

    /// Whether there is something for the control lane.
    #[must_use]
    pub fn has_control(&self) -> bool {
        self.heartbeat_due || !self.control.is_empty()
    }

    /// There is nobody to take envelopes of the control lane: others will ask for what they miss.
    pub fn drop_control(&mut self) {
        self.control.clear();
    }

    // --- time ------------------------------------------------------------------------------------

    /// Time has passed; `hears`: the broker carries messages.
    pub fn tick(&mut self, now: Instant, hears: bool, shards: &dyn Shards) {
        for dead in self.peers.tick(now, hears) {
            self.lost(dead, shards);
        }
        let beat = |at: Instant| now.saturating_duration_since(at) >= HEARTBEAT_EVERY;
        self.heartbeat_due |= self.heartbeat_at.is_none_or(beat);
    }

    /// A session has begun: the others shall know at once.
    pub fn connected(&mut self) {
        self.heartbeat_due = true;
    }

    /// The broker carries messages again.
    pub fn resume(&mut self, now: Instant) {
        self.peers.resume(now);
    }
}

/// Members, as shards count them.
fn count(members: u64) -> usize {
    usize::try_from(members).unwrap_or(usize::MAX)
}
