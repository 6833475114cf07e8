//! The broker and everybody's bridge in one: what a server's shards post reaches the others.
//!
//! In:    each server's lanes; whom the seed lets go next.
//! Out:   mail for shards, in the order and with the places that the delivery promises.
//! Never: loses a message of its own accord: what is lost was posted while the breaker was open.
//!
//! Presence is kept as a bridge keeps it: a server is told what changes in rooms that it has open,
//! once it knows where they stand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use ringhall::bridge::envelope::{self, Body};
use ringhall::bridge::{Bridge, Delivery, Inbound, Outbound, Place};
use ringhall::id::{ConnKey, Mode, RoomKey, ShardId};
use ringhall::room::epoch::Epochs;
use ringhall::room::hall::HallId;
use ringhall::shard::shared::Shared;

/// Who is in a room on one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// Users.
    pub users: BTreeSet<String>,
    /// Connections.
    pub members: usize,
}

/// On its way from the broker to a server.
#[derive(Clone, Debug)]
enum Incoming {
    Said { key: RoomKey, envelope: Box<[u8]>, own: bool, place: Option<Place> },
    Crossed { from: usize, key: RoomKey, user: String, joined: bool, whole: bool, members: usize },
}

/// A room that is open on a server.
#[derive(Debug)]
struct Opened {
    hall: HallId,
    /// Its place is on its way: what changes from now on is told behind it.
    answered: bool,
    /// Its place is in the shard's lane.
    placed: bool,
    /// Envelopes told since it was placed: what members who were there all the time have heard.
    told: Vec<Box<[u8]>>,
}

/// One server's end.
#[derive(Debug)]
pub struct End {
    me: usize,
    bridge: Arc<Bridge>,
    shared: Arc<Shared>,
    incoming: VecDeque<Incoming>,
    /// What found the lane full and must not be lost.
    outbox: VecDeque<(ShardId, Inbound)>,
    rooms: BTreeMap<RoomKey, Opened>,
    /// Rooms that wait for their place, in order.
    asking: VecDeque<(RoomKey, HallId)>,
    /// Who is where, as far as this server has heard: its own members among them.
    known: Vec<BTreeMap<RoomKey, Crowd>>,
    gone: bool,
}

/// What the hub has seen happen, for the check that it came to everything.
pub type Sights = BTreeMap<&'static str, u64>;

/// All of them.
#[derive(Debug)]
pub struct Hub {
    delivery: Delivery,
    ends: Vec<End>,
    /// The log: each room's newest place.
    log: BTreeMap<RoomKey, Place>,
    epochs: Epochs,
    /// Joins and leaves of an outage.
    waiting: Vec<(usize, Incoming)>,
    closed: bool,
    is_slow: bool,
    random: Rng,
    /// See [`Sights`].
    pub sights: Sights,
}

impl Hub {
    /// Connects so many servers.
    pub fn new(delivery: Delivery, servers: &[(Arc<Bridge>, Arc<Shared>)], seed: u64) -> Self {
        let end = |(me, (bridge, shared)): (usize, &(Arc<Bridge>, Arc<Shared>))| End {
            me,
            bridge: bridge.clone(),
            shared: shared.clone(),
            incoming: VecDeque::new(),
            outbox: VecDeque::new(),
            rooms: BTreeMap::new(),
            asking: VecDeque::new(),
            known: vec![BTreeMap::new(); servers.len()],
            gone: false,
        };
        let mut hub = Self {
            delivery,
            ends: servers.iter().enumerate().map(end).collect(),
            log: BTreeMap::new(),
            epochs: Epochs::new(seed, u16::MAX),
            waiting: Vec::new(),
            closed: false,
            is_slow: seed.is_multiple_of(2),
            random: Rng::with_seed(seed),
            sights: Sights::new(),
        };
        hub.set_closed(true);
        hub
    }

    fn see(&mut self, what: &'static str) {
        *self.sights.entry(what).or_default() += 1;
    }

    /// The breakers of all servers.
    pub fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
        self.ends.iter().for_each(|end| end.bridge.set_closed(closed));
        if closed {
            for (from, crossed) in std::mem::take(&mut self.waiting) {
                self.spread(from, &crossed);
            }
        } else {
            self.see("outages");
        }
    }

    /// Whether the broker takes its time.
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Whether the breakers let messages through.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The broker comes back empty: its log begins anew.
    pub fn forget(&mut self) {
        self.log.clear();
        self.see("eras");
    }

    /// A server has ended in its own time: the others have heard of every member that left.
    pub fn check_deserted(&self, server: usize) {
        let left = &self.ends[server].known[server];
        assert!(
            left.is_empty(),
            "server {server} has ended without telling of all leaves: {left:?}"
        );
        let open: Vec<_> = self.ends[server].rooms.keys().collect();
        assert!(open.is_empty(), "server {server} has ended, and has not closed {open:?}");
    }

    /// A server says farewell, or is silent for too long.
    pub fn see_off(&mut self, server: usize) {
        let end = &mut self.ends[server];
        end.gone = true;
        end.incoming.clear();
        end.outbox.clear();
        end.asking.clear();
        for (key, crowd) in std::mem::take(&mut self.ends[server].known[server]) {
            for user in crowd.users {
                let key = key.clone();
                let (joined, whole, members) = (false, true, 0);
                let left = Incoming::Crossed { from: server, key, user, joined, whole, members };
                self.spread(server, &left);
            }
        }
    }

    /// What a server's members of a room have been told from elsewhere (or, ordered, from anywhere)
    /// since it was opened.
    pub fn told(&self, server: usize, key: &RoomKey) -> &[Box<[u8]>] {
        self.ends[server].rooms.get(key).map_or(&[], |room| &room.told)
    }

    /// The newest place of a room, once somebody has asked for it.
    pub fn newest(&self, key: &RoomKey) -> Option<&Place> {
        self.log.get(key)
    }

    fn place(&mut self, key: &RoomKey) -> &mut Place {
        let epochs = &mut self.epochs;
        let begin = || Place { epoch: epochs.next_epoch(), offset: 0 };
        self.log.entry(key.clone()).or_insert_with(begin)
    }

    /// Does one thing, if there is one to do; the shard that has to be woken then.
    pub fn step(&mut self) -> Option<(usize, ShardId)> {
        let count = self.ends.len();
        let first = self.random.usize(0..count);
        for server in (first..first + count).map(|at| at % count) {
            // A slow broker delivers when nobody has anything to tell it.
            let kinds = if self.is_slow { 2 } else { self.random.usize(0..4) };
            for kind in (kinds..kinds + 4).map(|kind| kind % 4) {
                let done = match kind {
                    0 => self.push_on(server),
                    1 => self.deliver(server),
                    2 => self.take(server),
                    _ => self.answer(server),
                };
                if let Some(shard) = done {
                    return Some((server, shard));
                }
            }
        }
        None
    }

    /// Takes one thing that a shard has posted.
    fn take(&mut self, server: usize) -> Option<ShardId> {
        let end = &self.ends[server];
        let shards = end.shared.neighbours.len();
        let first = self.random.usize(0..shards);
        let all = (first..first + shards).map(|at| at % shards);
        let ids = all.map(|at| ShardId(u16::try_from(at).expect("shards are few")));
        let (shard, mail) = ids.into_iter().find_map(|id| Some((id, end.bridge.take(id)?)))?;
        match mail {
            Outbound::Said { partition, envelope, speaker, reference } => {
                self.said(server, partition, envelope, speaker, reference);
            }
            Outbound::Crossed { key, user, joined, whole, members } => {
                assert_eq!(key.mode, Mode::Json, "raw rooms have no presence");
                assert!(self.ends[server].rooms.contains_key(&key), "nobody is in a closed room");
                let user = user.into_string();
                let crossed = Incoming::Crossed { from: server, key, user, joined, whole, members };
                self.ends[server].note(&crossed);
                if self.closed {
                    self.spread(server, &crossed);
                } else {
                    self.waiting.push((server, crossed));
                }
            }
            Outbound::Open { key, hall } => {
                let opened = Opened { hall, answered: false, placed: false, told: Vec::new() };
                let before = self.ends[server].rooms.insert(key.clone(), opened);
                assert!(before.is_none(), "{key} is opened twice");
                self.ends[server].asking.push_back((key, hall));
            }
            Outbound::Close { key } => {
                let closed = self.ends[server].rooms.remove(&key);
                assert!(closed.is_some(), "{key} is closed, and was not open");
                let crowd = self.ends[server].known[server].get(&key);
                assert_eq!(crowd, None, "{key} is closed, and has members");
            }
        }
        Some(shard)
    }

    fn said(
        &mut self,
        server: usize,
        partition: usize,
        envelope: Vec<u8>,
        speaker: ConnKey,
        reference: Option<Box<str>>,
    ) {
        let Ok(Body::Said(said)) = envelope::read(&envelope).map(|read| read.body) else {
            panic!("a shard has written no envelope: {envelope:?}");
        };
        assert_eq!(said.speaker, speaker);
        assert_eq!(partition, envelope::partition(said.room));
        let key = said.key();
        let envelope: Box<[u8]> = envelope.into();
        if !self.closed {
            match self.delivery {
                Delivery::LocalFirst => self.ends[server].bridge.count_dropped(),
                Delivery::Ordered => {
                    self.see("refused by the broker");
                    let refused = Inbound::Refused { speaker, reference, for_good: false };
                    self.ends[server].outbox.push_back((speaker.shard, refused));
                }
            }
            return;
        }
        let place = (self.delivery == Delivery::Ordered).then(|| {
            let place = self.place(&key);
            place.offset += 1;
            place.clone()
        });
        for (at, end) in self.ends.iter_mut().enumerate().filter(|(_, end)| !end.gone) {
            let own = at == server;
            if !own || place.is_some() {
                let (key, envelope, place) = (key.clone(), envelope.clone(), place.clone());
                end.incoming.push_back(Incoming::Said { key, envelope, own, place });
            }
        }
    }

    fn spread(&mut self, from: usize, crossed: &Incoming) {
        for (_, end) in self.ends.iter_mut().enumerate().filter(|(at, _)| *at != from) {
            if !end.gone {
                end.incoming.push_back(crossed.clone());
            }
        }
    }

    /// Hands a server the next thing that the broker has for it.
    fn deliver(&mut self, server: usize) -> Option<ShardId> {
        let end = &mut self.ends[server];
        match end.incoming.pop_front()? {
            Incoming::Said { key, envelope, own, place } => {
                let home = end.shared.home(&key);
                let Some(room) = end.rooms.get_mut(&key) else { return Some(home) };
                let (copy, again) = (envelope.clone(), place.clone());
                let mail = Inbound::Said { key: key.clone(), envelope, own, place };
                if end.bridge.tell(home, mail).is_err() {
                    let envelope = copy;
                    let again = Incoming::Said { key, envelope, own, place: again };
                    end.incoming.push_front(again);
                    self.see("lanes full");
                    return None;
                }
                if room.placed {
                    room.told.push(copy);
                } else {
                    self.see("said while opening");
                }
                Some(home)
            }
            crossed @ Incoming::Crossed { .. } => {
                let key = crossed.key().clone();
                let home = end.shared.home(&key);
                let is_open = end.rooms.get(&key).is_some_and(|room| room.answered);
                let mail = end.note(&crossed);
                if is_open {
                    end.outbox.push_back((home, mail));
                }
                Some(home)
            }
        }
    }

    /// Answers for a room that was opened.
    fn answer(&mut self, server: usize) -> Option<ShardId> {
        let (key, hall) = self.ends[server].asking.pop_front()?;
        let has_log = self.delivery == Delivery::Ordered && self.closed;
        let place = has_log.then(|| self.place(&key).clone());
        let end = &mut self.ends[server];
        let home = end.shared.home(&key);
        if let Some(room) = end.rooms.get_mut(&key).filter(|room| room.hall == hall) {
            room.answered = true;
        }
        let others = || (0..end.known.len()).filter(|at| *at != server);
        let crowds: Vec<_> = others().filter_map(|at| end.known[at].get(&key)).collect();
        let users: BTreeSet<_> = crowds.iter().flat_map(|crowd| &crowd.users).cloned().collect();
        let users = users.into_iter().map(String::into_boxed_str).collect();
        let elsewhere = crowds.iter().map(|crowd| crowd.members).sum();
        if elsewhere > 0 {
            self.see("opened with others there");
        }
        let placed = Inbound::Placed { key, hall, users, elsewhere, place };
        self.ends[server].outbox.push_back((home, placed));
        Some(home)
    }

    /// Hands over what must not be lost.
    fn push_on(&mut self, server: usize) -> Option<ShardId> {
        let end = &mut self.ends[server];
        let (shard, mail) = end.outbox.pop_front()?;
        let asked = match &mail {
            Inbound::Placed { key, hall, .. } => Some((key.clone(), *hall)),
            _ => None,
        };
        if let Err(mail) = end.bridge.tell(shard, mail) {
            end.outbox.push_front((shard, mail));
            return None;
        }
        if let Some((key, hall)) = asked
            && let Some(room) = end.rooms.get_mut(&key).filter(|room| room.hall == hall)
        {
            room.placed = true;
        }
        Some(shard)
    }
}

impl Incoming {
    fn key(&self) -> &RoomKey {
        match self {
            Self::Said { key, .. } | Self::Crossed { key, .. } => key,
        }
    }
}

impl End {
    /// Notes a crossing; what the room's home has to be told, if it is another server's.
    fn note(&mut self, crossed: &Incoming) -> Inbound {
        let Incoming::Crossed { from, key, user, joined, whole, members } = crossed else {
            panic!("not a crossing: {crossed:?}");
        };
        let before = self.elsewhere(key, user);
        let crowd = self.known[*from].entry(key.clone()).or_default();
        crowd.members = *members;
        if *whole {
            let changes = match joined {
                true => crowd.users.insert(user.clone()),
                false => crowd.users.remove(user),
            };
            assert!(changes, "{user} joins or leaves {key} on server {from} twice");
        }
        if *crowd == Crowd::default() {
            self.known[*from].remove(key);
        }
        let after = self.elsewhere(key, user);
        let crowds = self.others().filter_map(|rooms| rooms.get(key));
        let elsewhere = crowds.map(|crowd| crowd.members).sum();
        let (key, user) = (key.clone(), user.as_str().into());
        match (before, after) {
            (0, 1..) => Inbound::Entered { key, user, elsewhere },
            (1.., 0) => Inbound::Left { key, user, elsewhere },
            _ => Inbound::Counted { key, elsewhere },
        }
    }

    fn others(&self) -> impl Iterator<Item = &BTreeMap<RoomKey, Crowd>> {
        let others = self.known.iter().enumerate().filter(|(at, _)| *at != self.me);
        others.map(|(_, rooms)| rooms)
    }

    /// Other servers on which a user is in a room.
    fn elsewhere(&self, key: &RoomKey, user: &str) -> usize {
        let has = |rooms: &&BTreeMap<RoomKey, Crowd>| {
            rooms.get(key).is_some_and(|crowd| crowd.users.contains(user))
        };
        self.others().filter(has).count()
    }
}
