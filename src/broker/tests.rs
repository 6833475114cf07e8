//! What a cluster makes of envelopes and mail, without a thread, a broker or a clock.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, Shards, Taken};
use super::peers::DEAD_AFTER;
use super::status::Status;
use super::{Lane, Parcel};
use crate::bridge::envelope::{self, Body, Crossed, Node, Said};
use crate::bridge::{Delivery, Inbound, Outbound, Place};
use crate::id::{ConnId, ConnKey, Mode, RoomKey, ShardId};
use crate::room::epoch::Epochs;
use crate::room::hall::HallId;
use crate::ws::frame::Opcode;

const SHARD: ShardId = ShardId(0);
const SPEAKER: ConnKey = ConnKey { shard: SHARD, conn: ConnId { slot: 3, generation: 1 } };
const HALL: HallId = HallId { index: 1, generation: 0 };

/// A shard's lane with room for so many.
struct Lanes {
    room: usize,
    mails: RefCell<Vec<Inbound>>,
}

impl Shards for Lanes {
    fn tell(&self, _shard: ShardId, mail: Inbound) -> Result<(), Inbound> {
        let mut mails = self.mails.borrow_mut();
        if mails.len() >= self.room {
            return Err(mail);
        }
        mails.push(mail);
        Ok(())
    }
}

/// A box of a cluster that the test carries envelopes between.
struct One {
    cluster: Cluster,
    status: Arc<Status>,
    lanes: Lanes,
    now: Instant,
}

impl One {
    fn new(id: u64, delivery: Delivery) -> Self {
        let status = Arc::new(Status::new("none"));
        let node = Node { id, incarnation: 1 };
        let cluster = Cluster::new(node, "box", delivery, 1, status.clone());
        let lanes = Lanes { room: usize::MAX, mails: RefCell::default() };
        Self { cluster, status, lanes, now: Instant::now() }
    }

    fn take(&mut self, mail: Outbound) -> Taken {
        self.cluster.take(SHARD, mail, true, &self.lanes)
    }

    fn cross(&mut self, user: &str, joined: bool, members: usize) {
        let (key, user) = (room(), user.into());
        self.take(Outbound::Crossed { key, user, joined, whole: true, members });
    }

    fn control(&mut self) -> Vec<Parcel> {
        std::iter::from_fn(|| self.cluster.next_control(self.now)).collect()
    }

    fn receive(&mut self, parcels: &[Parcel]) {
        for parcel in parcels {
            let read = self.cluster.receive(parcel.lane, &parcel.envelope, self.now, &self.lanes);
            assert_eq!(read, Ok(None));
        }
    }

    fn mails(&self) -> Vec<Inbound> {
        self.lanes.mails.take()
    }

    /// The changes of presence that the shard was told: who came, who went.
    fn changes(&self) -> Vec<String> {
        let change = |mail| match mail {
            Inbound::Entered { user, elsewhere, .. } => Some(format!("+{user} {elsewhere}")),
            Inbound::Left { user, elsewhere, .. } => Some(format!("-{user} {elsewhere}")),
            Inbound::Counted { elsewhere, .. } => Some(format!("{elsewhere}")),
            _ => None,
        };
        self.mails().into_iter().filter_map(change).collect()
    }

    fn gaps(&self) -> u64 {
        self.status.counts.gaps.load(Ordering::Relaxed)
    }
}

fn room() -> RoomKey {
    RoomKey { mode: Mode::Json, name: "r".into() }
}

fn said(content: &str) -> Outbound {
    let envelope = envelope::said(&Said {
        mode: Mode::Json,
        opcode: Opcode::Text,
        speaker: SPEAKER,
        room: "r",
        user: "ann",
        content: content.as_bytes(),
    });
    let partition = envelope::partition("r");
    Outbound::Said { partition, envelope, speaker: SPEAKER, reference: None }
}

/// Carries the control lanes until nobody has anything to tell; what was told.
fn talk(a: &mut One, b: &mut One) -> Vec<Parcel> {
    let mut all = Vec::new();
    loop {
        let (from_a, from_b) = (a.control(), b.control());
        if from_a.is_empty() && from_b.is_empty() {
            return all;
        }
        b.receive(&from_a);
        a.receive(&from_b);
        all.extend(from_a.into_iter().chain(from_b));
    }
}

fn two(delivery: Delivery) -> (One, One) {
    let (mut a, mut b) = (One::new(1, delivery), One::new(2, delivery));
    b.take(Outbound::Open { key: room(), hall: HALL });
    a.cluster.connected();
    talk(&mut a, &mut b);
    b.cluster.place_all(&b.lanes);
    b.mails();
    (a, b)
}

#[test]
fn two_boxes_that_meet_stop_talking() {
    let (mut a, mut b) = two(Delivery::LocalFirst);
    assert!(talk(&mut a, &mut b).is_empty());
    assert_eq!(a.status.counts.peers.load(Ordering::Relaxed), 1);
    assert_eq!(b.status.counts.peers.load(Ordering::Relaxed), 1);
}

#[test]
fn a_lost_join_is_asked_for_and_told_by_a_snapshot() {
    let (mut a, mut b) = two(Delivery::LocalFirst);
    a.cross("ann", true, 1);
    talk(&mut a, &mut b);
    a.cross("bob", true, 2);
    a.control(); // lost
    a.cross("eve", true, 3);
    a.now += Duration::from_secs(1);
    let told = talk(&mut a, &mut b);
    let is_ask =
        |parcel: &&Parcel| matches!(envelope::read(&parcel.envelope).unwrap().body, Body::Ask(_));
    assert_eq!(told.iter().filter(is_ask).count(), 1);
    assert_eq!(b.changes(), ["+ann 1", "+eve 3", "+bob 3"]);
}

#[test]
fn a_heartbeat_tells_of_the_last_join_that_was_lost() {
    let (mut a, mut b) = two(Delivery::LocalFirst);
    a.cross("ann", true, 1);
    a.control(); // lost
    a.now += Duration::from_secs(1);
    a.cluster.tick(a.now, true, &a.lanes);
    talk(&mut a, &mut b);
    assert_eq!(b.changes(), ["+ann 1"]);
}

#[test]
fn a_lost_part_of_a_snapshot_is_no_reason_to_forget_rooms() {
    let (mut a, mut b) = two(Delivery::LocalFirst);
    for (n, name) in ["r", "s", "t"].into_iter().enumerate() {
        let key = RoomKey { mode: Mode::Json, name: name.into() };
        let user = format!("u{n}").into();
        a.take(Outbound::Crossed { key, user, joined: true, whole: true, members: 1 });
    }
    talk(&mut a, &mut b);
    assert_eq!(b.changes(), ["+u0 1"]);
    // Somebody else asks; a part of the answer is lost here.
    let mut ask = envelope::ask(Node { id: 1, incarnation: 1 });
    envelope::stamp(&mut ask, Node { id: 3, incarnation: 1 }, 0);
    a.cross("u9", true, 2);
    a.control(); // lost: so the answer is news
    a.now += Duration::from_secs(1);
    a.receive(&[Parcel { lane: Lane::Control, envelope: ask.into() }]);
    let mut answer = a.control();
    let is_part = |parcel: &Parcel| {
        matches!(envelope::read(&parcel.envelope).unwrap().body, Body::Snapshot(_))
    };
    let second = answer.iter().position(is_part).unwrap() + 1;
    answer.remove(second);
    b.receive(&answer);
    assert_eq!(b.changes(), [""; 0]);
    b.now += Duration::from_secs(2);
    a.now += Duration::from_secs(2);
    a.cluster.tick(a.now, true, &a.lanes);
    talk(&mut a, &mut b);
    assert_eq!(b.changes(), ["+u9 2"]);
}

#[test]
fn who_is_silent_is_dead_and_comes_back_with_its_members() {
    let (mut a, mut b) = two(Delivery::LocalFirst);
    a.cross("ann", true, 1);
    talk(&mut a, &mut b);
    b.cluster.tick(b.now, true, &b.lanes);
    b.now += DEAD_AFTER * 2;
    b.cluster.tick(b.now, true, &b.lanes);
    assert_eq!(b.changes(), ["+ann 1", "-ann 0"]);
    a.now = b.now;
    a.cluster.tick(a.now, true, &a.lanes);
    talk(&mut a, &mut b);
    assert_eq!(b.changes(), ["+ann 1"]);
}

#[test]
fn an_outage_of_ones_own_lets_nobody_die() {
    let (mut a, mut b) = two(Delivery::LocalFirst);
    a.cross("ann", true, 1);
    talk(&mut a, &mut b);
    b.cluster.tick(b.now, true, &b.lanes);
    b.now += DEAD_AFTER * 100;
    b.cluster.tick(b.now, false, &b.lanes);
    b.cluster.resume(b.now);
    b.cluster.tick(b.now + DEAD_AFTER, true, &b.lanes);
    assert_eq!(b.changes(), ["+ann 1"]);
}

#[test]
fn a_farewell_takes_the_members_along() {
    let (mut a, mut b) = two(Delivery::LocalFirst);
    a.cross("ann", true, 1);
    talk(&mut a, &mut b);
    b.receive(&[a.cluster.bye()]);
    assert_eq!(b.changes(), ["+ann 1", "-ann 0"]);
}

#[test]
fn a_skipped_message_is_a_hole_that_the_others_see() {
    let (mut a, mut b) = two(Delivery::LocalFirst);
    let mut say = |content: &str, a: &mut One| {
        let Taken::Message(parcel, _) = a.take(said(content)) else { panic!("it goes") };
        b.receive(&[parcel]);
    };
    say("1", &mut a);
    a.cluster.skip(envelope::partition("r"), 3);
    let dropped = a.cluster.take(SHARD, said("dropped"), false, &a.lanes);
    assert!(matches!(dropped, Taken::Dropped));
    say("2", &mut a);
    assert_eq!((b.gaps(), b.mails().len()), (4, 2));
}

#[test]
fn mail_that_finds_no_room_waits_in_order() {
    let (mut a, mut b) = two(Delivery::LocalFirst);
    b.lanes.room = 1;
    for n in 1..=3 {
        a.cross(&format!("u{n}"), true, n);
    }
    talk(&mut a, &mut b);
    assert!(b.cluster.holds_mail());
    assert_eq!(b.changes(), ["+u1 1"]);
    assert!(b.cluster.deliver(&b.lanes));
    assert_eq!(b.changes(), ["+u2 2"]);
    assert!(!b.cluster.deliver(&b.lanes));
    assert_eq!(b.changes(), ["+u3 3"]);
}

#[test]
fn a_room_hears_of_presence_only_after_its_place() {
    let (mut a, mut b) = two(Delivery::Ordered);
    let key = RoomKey { mode: Mode::Json, name: "r".into() };
    b.take(Outbound::Close { key: key.clone() });
    let hall = HallId { index: 2, generation: 0 };
    assert!(matches!(b.take(Outbound::Open { key: key.clone(), hall }), Taken::Unplaced(..)));
    a.cross("ann", true, 1);
    talk(&mut a, &mut b);
    assert!(b.mails().is_empty());
    let place = Place { epoch: Epochs::new(1, 1).next_epoch(), offset: 7 };
    b.cluster.place(key.clone(), HALL, Some(place.clone()), &b.lanes);
    assert!(b.mails().is_empty(), "an answer for the hall that was there before");
    b.cluster.place(key.clone(), hall, Some(place.clone()), &b.lanes);
    b.cluster.place(key, hall, None, &b.lanes);
    let mails = b.mails();
    let [Inbound::Placed { users, elsewhere, place: told, .. }] = &mails[..] else {
        panic!("one answer: {mails:?}")
    };
    assert_eq!((&**users, *elsewhere, told), (&["ann".into()][..], 1, &Some(place)));
}

#[test]
fn in_the_log_a_refused_message_leaves_no_hole_and_a_repeated_one_is_heard_once() {
    let (mut a, mut b) = two(Delivery::Ordered);
    let Taken::Message(first, _) = a.take(said("1")) else { panic!("it goes") };
    let refused = a.cluster.take(SHARD, said("refused"), false, &a.lanes);
    assert!(matches!(refused, Taken::Refused));
    assert!(matches!(a.mails()[..], [Inbound::Refused { speaker: SPEAKER, .. }]));
    let Taken::Message(second, _) = a.take(said("2")) else { panic!("it goes") };
    let epoch = Epochs::new(1, 1).next_epoch();
    let partition = envelope::partition("r");
    for (offset, parcel) in [&first, &first, &second, &first, &second].into_iter().enumerate() {
        let place = Place { epoch: epoch.clone(), offset: offset as u64 };
        for one in [&mut a, &mut b] {
            let bytes = &parcel.envelope;
            let taken = one.cluster.receive_placed(partition, place.clone(), bytes, &one.lanes);
            assert_eq!(taken, Ok(true));
        }
    }
    assert_eq!((b.mails().len(), b.gaps()), (2, 0));
    assert_eq!(b.status.counts.duplicates.load(Ordering::Relaxed), 3);
}

#[test]
fn in_the_log_what_finds_no_room_is_offered_again_and_not_missed() {
    let (mut a, mut b) = two(Delivery::Ordered);
    let Taken::Message(parcel, _) = a.take(said("1")) else { panic!("it goes") };
    let place = Place { epoch: Epochs::new(1, 1).next_epoch(), offset: 1 };
    let partition = envelope::partition("r");
    b.lanes.room = 0;
    let offer = |b: &mut One| {
        b.cluster.receive_placed(partition, place.clone(), &parcel.envelope, &b.lanes)
    };
    assert_eq!(offer(&mut b), Ok(false));
    b.lanes.room = 1;
    assert_eq!(offer(&mut b), Ok(true));
    assert_eq!((b.mails().len(), b.gaps()), (1, 0));
}

#[test]
fn ones_own_envelopes_are_dropped_but_for_the_probe() {
    let (mut a, _) = two(Delivery::LocalFirst);
    a.cross("ann", true, 1);
    let Taken::Message(message, _) = a.take(said("1")) else { panic!("it goes") };
    let mut own = a.control();
    own.push(message);
    a.receive(&own);
    assert!(a.mails().is_empty());
    let probe = a.cluster.probe(42);
    let read = a.cluster.receive(probe.lane, &probe.envelope, a.now, &a.lanes);
    assert_eq!(read, Ok(Some(42)));
    let crossed = Crossed { joined: true, whole: true, members: 1, room: "r", user: "u" };
    let stranger =
        a.cluster.receive(Lane::Partition(0), &envelope::crossed(&crossed), a.now, &a.lanes);
    assert!(stranger.is_err(), "on the wrong lane");
}
