//! A room that boxes share, at its home: what its members hear, what the bridge is told.
//!
//! One shard over an `Io` that counts; the test is the bridge.

use std::rc::Rc;
use std::sync::Arc;

use ringhall::bridge::envelope::{self, Body, Said};
use ringhall::bridge::{Bounds, Bridge, Delivery, Inbound, Outbound, Overflow, Place};
use ringhall::conn::Phase;
use ringhall::id::{ConnId, ConnKey, Mode, RoomKey, ShardId};
use ringhall::limits::Limits;
use ringhall::room::epoch::{Epoch, Epochs};
use ringhall::room::hall::HallId;
use ringhall::shard::shared::{Farewell, Order};
use ringhall::shard::tick::Next;
use ringhall::ws::frame::Opcode;

#[path = "support/counting_io.rs"]
#[expect(dead_code, reason = "the test of fairness uses the rest")]
mod counting_io;
#[path = "support/scene.rs"]
#[expect(dead_code, reason = "the benches use the rest")]
mod scene;
use scene::{Route, Scene};

const SHARD: ShardId = ShardId(0);

/// A server with a bridge that nobody but the test serves.
struct Stage {
    scene: Scene,
    bridge: Arc<Bridge>,
}

fn bridge(delivery: Delivery, overflow: Overflow, messages: usize) -> Arc<Bridge> {
    let bounds = Bounds { shards: 1, messages, bytes: 1 << 20 };
    let bridge = Bridge::new(delivery, overflow, bounds);
    bridge.set_closed(true);
    Arc::new(bridge)
}

fn key(mode: Mode) -> RoomKey {
    RoomKey { mode, name: "r0".into() }
}

fn epoch(number: u16) -> Epoch {
    Epochs::new(0, number).next_epoch()
}

impl Stage {
    fn new(delivery: Delivery) -> Self {
        Self::with(delivery, Overflow::Reject, 64, Limits::default())
    }

    fn with(delivery: Delivery, overflow: Overflow, messages: usize, limits: Limits) -> Self {
        let bridge = bridge(delivery, overflow, messages);
        Self { scene: Scene::with_bridge(limits, bridge.clone()), bridge }
    }

    fn take(&self) -> Option<Outbound> {
        self.bridge.take(SHARD)
    }

    fn tell(&mut self, mail: Inbound) {
        self.bridge.tell(SHARD, mail).expect("the lane has room");
        self.scene.settle();
    }

    /// Answers for the room that is being made.
    fn place(&mut self, users: &[&str], elsewhere: usize, place: Option<Place>) {
        let Some(Outbound::Open { key, hall }) = self.take() else { panic!("nothing is opened") };
        let users = users.iter().map(|user| Box::from(*user)).collect();
        self.tell(Inbound::Placed { key, hall, users, elsewhere, place });
    }

    /// A member of room `r0`, which nobody else is in; its ears.
    fn join(&mut self, route: fn(usize) -> Route) -> ConnId {
        let id = self.scene.open(route(0));
        self.place(&[], 0, None);
        self.scene.shard.io.listen_at = Some(id.slot);
        self.drain();
        id
    }

    fn drain(&mut self) {
        while self.take().is_some() {}
    }

    fn say(&mut self, who: ConnId, opcode: u8, bytes: &[u8]) {
        let mut frame =
            vec![0x80 | opcode, 0x80 | u8::try_from(bytes.len()).expect("short"), 0, 0, 0, 0];
        frame.extend_from_slice(bytes);
        self.scene.say(who, &Rc::from(frame));
        self.scene.settle();
    }

    /// What the listener was sent since this was last asked.
    fn heard(&mut self) -> String {
        let heard = std::mem::take(&mut self.scene.shard.io.heard);
        String::from_utf8_lossy(&heard).into_owned()
    }

    fn phase(&mut self, id: ConnId) -> Option<Phase> {
        self.scene.shard.state.conns().get(id).map(|conn| conn.phase)
    }

    /// Something said on another box, or (`own`) here.
    fn said(mode: Mode, content: &str, own: Option<ConnId>, place: Option<Place>) -> Inbound {
        let conn = own.unwrap_or(ConnId { slot: 0, generation: 0 });
        let envelope = envelope::said(&Said {
            mode,
            opcode: Opcode::Text,
            speaker: ConnKey { shard: SHARD, conn },
            room: "r0",
            user: "eve",
            content: content.as_bytes(),
        });
        let envelope = envelope.into();
        Inbound::Said { key: key(mode), envelope, own: own.is_some(), place }
    }
}

fn placed(number: u16, offset: u64) -> Option<Place> {
    Some(Place { epoch: epoch(number), offset })
}

/// The content of what was posted.
fn content(mail: Option<Outbound>) -> String {
    let Some(Outbound::Said { envelope, .. }) = mail else { panic!("nothing was said: {mail:?}") };
    match envelope::read(&envelope).expect("an envelope").body {
        Body::Said(said) => String::from_utf8(said.content.to_vec()).expect("text"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_is_in_a_room_before_the_cluster_has_answered() {
    let mut stage = Stage::new(Delivery::Ordered);
    let (ann, bob) = (stage.scene.open(Route::Json(0)), stage.scene.open(Route::Json(0)));
    stage.scene.shard.io.listen_at = Some(bob.slot);
    assert_eq!(stage.phase(ann), Some(Phase::Joining));
    // What is said meanwhile is over when they come in.
    stage.bridge.tell(SHARD, Stage::said(Mode::Json, "1", None, placed(1, 8))).unwrap();
    stage.scene.settle();
    stage.place(&["eve"], 2, placed(1, 7));
    assert_eq!((stage.phase(ann), stage.phase(bob)), (Some(Phase::Open), Some(Phase::Open)));
    let heard = stage.heard();
    assert!(heard.contains("101 Switching"), "{heard}");
    let joined = format!("\"epoch\":\"{}\",\"offset\":8,", epoch(1).as_str());
    assert!(heard.contains(&joined), "{heard}");
    let crossed = |mail| match mail {
        Some(Outbound::Crossed { user, joined, whole, members, .. }) => {
            (user.into_string(), joined, whole, members)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(crossed(stage.take()), ("u0".to_owned(), true, true, 1));
    assert_eq!(crossed(stage.take()), ("u1".to_owned(), true, true, 2));
    assert!(stage.take().is_none(), "the room is opened once");
}

#[test]
fn a_room_that_everybody_has_left_is_closed_and_opened_anew() {
    let mut stage = Stage::new(Delivery::LocalFirst);
    let ann = stage.join(Route::Json);
    stage.say(ann, 8, &[3, 232]);
    let left = stage.take();
    let fits =
        matches!(left, Some(Outbound::Crossed { joined: false, whole: true, members: 0, .. }));
    assert!(fits, "{left:?}");
    assert!(matches!(stage.take(), Some(Outbound::Close { .. })));
    // An answer that comes late is nobody's.
    let hall = HallId { index: 0, generation: 1 };
    let late = |hall| Inbound::Placed {
        key: key(Mode::Json),
        hall,
        users: vec!["eve".into()],
        elsewhere: 1,
        place: None,
    };
    stage.tell(late(hall));
    let bob = stage.scene.open(Route::Json(0));
    stage.tell(late(hall));
    assert_eq!(stage.phase(bob), Some(Phase::Joining), "that was another hall's");
    stage.place(&[], 0, None);
    assert_eq!(stage.phase(bob), Some(Phase::Open));
}

#[test]
fn local_members_hear_at_once_and_other_boxes_through_the_bridge() {
    let mut stage = Stage::new(Delivery::LocalFirst);
    let ann = stage.join(Route::Json);
    stage.heard();
    stage.say(ann, 1, b"{\"content\":[1]}");
    assert!(stage.heard().contains("\"sender\":\"u0\",\"content\":[1],\"offset\":1}"));
    assert_eq!(content(stage.take()), "[1]");
    stage.tell(Stage::said(Mode::Json, "[2]", None, None));
    assert!(stage.heard().contains("\"sender\":\"eve\",\"content\":[2],\"offset\":2}"));
    assert!(stage.take().is_none(), "what came from the bridge does not go back");
}

#[test]
fn an_outage_leaves_local_rooms_alone() {
    let mut stage = Stage::new(Delivery::LocalFirst);
    let ann = stage.join(Route::Json);
    stage.bridge.set_closed(false);
    stage.heard();
    stage.say(ann, 1, b"{\"content\":[1],\"ref\":5}");
    let heard = stage.heard();
    assert!(heard.contains("[1],\"offset\":1}") && !heard.contains("error"), "{heard}");
    assert!(stage.take().is_none());
    assert_eq!(stage.bridge.dropped(), 1);
    assert_eq!(stage.bridge.take_skipped(envelope::partition("r0")), 1);
}

#[test]
fn a_full_lane_refuses_or_drops_as_it_is_configured() {
    for overflow in [Overflow::Reject, Overflow::Drop] {
        let mut stage = Stage::with(Delivery::LocalFirst, overflow, 1, Limits::default());
        let ann = stage.join(Route::Json);
        stage.say(ann, 1, b"{\"content\":[1]}");
        stage.heard();
        stage.say(ann, 1, b"{\"content\":[2],\"ref\":\"x\"}");
        let heard = stage.heard();
        match overflow {
            Overflow::Reject => {
                let error = "{\"type\":\"error\",\"code\":\"unavailable\"";
                assert!(heard.contains(error) && heard.contains("\"ref\":\"x\"}"), "{heard}");
                assert!(!heard.contains("offset"), "nobody hears it: {heard}");
                assert_eq!((stage.bridge.rejected(), stage.bridge.dropped()), (1, 0));
            }
            Overflow::Drop => {
                assert!(heard.contains("[2],\"offset\":2}"), "{heard}");
                assert_eq!((stage.bridge.rejected(), stage.bridge.dropped()), (0, 1));
            }
        }
        assert_eq!(content(stage.take()), "[1]");
        assert!(stage.take().is_none());
    }
}

#[test]
fn ordered_is_heard_when_it_comes_back_with_its_place() {
    let mut stage = Stage::new(Delivery::Ordered);
    let ann = stage.scene.open(Route::Json(0));
    stage.place(&[], 0, placed(1, 3));
    stage.scene.shard.io.listen_at = Some(ann.slot);
    stage.drain();
    stage.say(ann, 1, b"{\"content\":[1],\"ref\":7}");
    assert_eq!(stage.heard(), "", "nobody hears it yet");
    let mail = stage.take();
    let kept = |mail: &Option<Outbound>| match mail {
        Some(Outbound::Said { reference, .. }) => reference.clone(),
        _ => None,
    };
    assert_eq!(kept(&mail).as_deref(), Some("7"));
    stage.tell(Stage::said(Mode::Json, "[1]", Some(ann), placed(1, 4)));
    assert!(stage.heard().contains("\"content\":[1],\"offset\":4}"));
    stage.tell(Stage::said(Mode::Json, "[0]", None, placed(1, 4)));
    assert_eq!(stage.heard(), "", "once");
    // The broker has lost its log.
    stage.tell(Stage::said(Mode::Json, "[2]", None, placed(2, 1)));
    let heard = stage.heard();
    let joined = format!("\"epoch\":\"{}\",\"offset\":0,\"recovered\":false}}", epoch(2).as_str());
    let (at, then) = (heard.find(&joined), heard.find("\"content\":[2],\"offset\":1}"));
    assert!(at.is_some() && at < then, "{heard}");
    // And cannot take this one.
    for (for_good, code) in [(false, "unavailable"), (true, "bad_message")] {
        stage.tell(Inbound::Refused {
            speaker: ConnKey { shard: SHARD, conn: ann },
            reference: Some("8".into()),
            for_good,
        });
        let heard = stage.heard();
        let code = format!("\"code\":\"{code}\"");
        assert!(heard.contains(&code) && heard.contains("\"ref\":8}"), "{heard}");
    }
}

#[test]
fn ordered_refuses_in_an_outage_and_a_raw_room_has_no_words_for_it() {
    for (route, mode) in [(Route::Json as fn(usize) -> Route, Mode::Json), (Route::Raw, Mode::Raw)]
    {
        let mut stage = Stage::new(Delivery::Ordered);
        let ann = stage.join(route);
        stage.bridge.set_closed(false);
        stage.heard();
        stage.say(ann, 1, b"{\"content\":[1]}");
        let heard = stage.heard();
        assert_eq!(heard.contains("\"code\":\"unavailable\""), mode == Mode::Json, "{heard}");
        assert_eq!(heard.is_empty(), mode == Mode::Raw, "{heard}");
        assert_eq!(stage.bridge.rejected(), 1);
        assert!(stage.take().is_none());
    }
}

#[test]
fn who_does_not_want_to_hear_itself_does_not_when_it_comes_back() {
    let mut stage = Stage::new(Delivery::Ordered);
    let head = String::from_utf8(Scene::head(Route::Json(0), 0).to_vec()).unwrap();
    let deaf = head.replace("/ws/r0/u0", "/ws/r0/u0?echo=false");
    let ann = stage.scene.open_at(900, &deaf.into_bytes().into());
    stage.place(&[], 0, placed(1, 0));
    stage.scene.shard.io.listen_at = Some(ann.slot);
    stage.tell(Stage::said(Mode::Json, "[1]", Some(ann), placed(1, 1)));
    assert_eq!(stage.heard(), "");
    // Another box's connection may have the same number.
    let Inbound::Said { key, envelope, place, .. } =
        Stage::said(Mode::Json, "[2]", Some(ann), placed(1, 2))
    else {
        panic!()
    };
    stage.tell(Inbound::Said { key, envelope, own: false, place });
    assert!(stage.heard().contains("[2],\"offset\":2}"));
}

#[test]
fn a_turn_takes_no_more_of_a_room_from_the_bridge_than_from_anybody() {
    let limits = Limits { room_tick_bytes: 1000, ..Limits::default() };
    let mut stage = Stage::with(Delivery::LocalFirst, Overflow::Reject, 256, limits);
    stage.join(Route::Raw);
    let content = |number: usize| format!("{number:03}{}", "x".repeat(97));
    for number in 0..100 {
        let mail = Stage::said(Mode::Raw, &content(number), None, None);
        stage.bridge.tell(SHARD, mail).unwrap();
    }
    let mut turns = 0;
    let mut all = String::new();
    while stage.bridge.has_mail(SHARD) || turns == 0 || all.len() < 100 * 102 {
        stage.scene.turn();
        turns += 1;
        let heard = stage.heard();
        assert!(heard.len() <= 1000 + 102, "{} bytes in one turn", heard.len());
        all.push_str(&heard);
        assert!(turns < 100, "they never come");
    }
    let places: Vec<_> = (0..100).map(|number| all.find(&content(number))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
}

#[test]
fn users_of_other_boxes_come_and_go_like_anybody() {
    let limits = Limits { members_max: Some(3), ..Limits::default() };
    let mut stage = Stage::with(Delivery::LocalFirst, Overflow::Reject, 64, limits);
    let ann = stage.join(Route::Json);
    stage.heard();
    let room = || key(Mode::Json);
    stage.tell(Inbound::Entered { key: room(), user: "eve".into(), elsewhere: 1 });
    assert!(stage.heard().contains("eve has joined the room"));
    stage.tell(Inbound::Entered { key: room(), user: "u0".into(), elsewhere: 2 });
    assert_eq!(stage.heard(), "", "u0 is here");
    let second = stage.scene.open(Route::Json(0));
    assert_ne!(stage.phase(second), Some(Phase::Open), "three are in");
    stage.tell(Inbound::Left { key: room(), user: "eve".into(), elsewhere: 1 });
    assert!(stage.heard().contains("eve has left the room"));
    let second = stage.scene.open(Route::Json(0));
    assert_eq!(stage.phase(second), Some(Phase::Open));
    stage.heard();
    stage.say(ann, 8, &[3, 232]);
    stage.scene.shard.io.listen_at = Some(second.slot);
    stage.heard();
    stage.tell(Inbound::Left { key: room(), user: "u0".into(), elsewhere: 0 });
    assert!(stage.heard().contains("u0 has left the room"), "of the last box now");
}

#[test]
fn a_shutdown_refuses_who_waits_and_tells_of_all_who_leave() {
    let mut stage = Stage::with(Delivery::LocalFirst, Overflow::Reject, 2, Limits::default());
    let ann = stage.join(Route::Json);
    let waits = stage.scene.open(Route::Json(1));
    assert_eq!(stage.phase(waits), Some(Phase::Joining));
    stage.scene.shard.io.listen_at = Some(waits.slot);
    let orders = &stage.scene.shard.state.shared().neighbour(SHARD).orders;
    orders.push(Order::Drain(Farewell::ComeBack));
    let mut posted = Vec::new();
    let mut now = 0;
    loop {
        now += 1;
        match stage.scene.shard.turn(ringhall::time::Now(1000 + now)) {
            Next::End => break,
            _ if now > 10_000 => panic!("it does not end: {posted:?}"),
            // The lane holds two; one is taken a turn.
            _ => posted.extend(stage.take()),
        }
        for id in [ann, waits] {
            if matches!(stage.phase(id), Some(Phase::Closing(_))) && now > 100 {
                // The peer's own end.
                let empty: Rc<[u8]> = Rc::from([]);
                stage.scene.say(id, &empty);
            }
        }
    }
    assert!(stage.heard().contains("503"), "told to come back");
    posted.extend(stage.take());
    let names: Vec<_> = posted
        .iter()
        .map(|mail| match mail {
            Outbound::Open { .. } => "open",
            Outbound::Close { key } if &*key.name == "r1" => "close r1",
            Outbound::Close { .. } => "close",
            Outbound::Crossed { joined: false, .. } => "left",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["open", "close r1", "left", "close"]);
}
