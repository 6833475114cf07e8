//! What a turn allocates: nothing a receiver, a fixed little a room, nothing an echo.

use std::rc::Rc;
use std::sync::Arc;

use allocation_counter::measure;
use ringhall::bridge::{Bounds, Bridge, Delivery, Inbound, Outbound, Overflow};
use ringhall::id::{ConnId, ShardId};
use ringhall::limits::Limits;

#[path = "support/counting_io.rs"]
#[expect(dead_code, reason = "the test of fairness uses the rest")]
mod counting_io;
#[path = "support/scene.rs"]
#[expect(dead_code, reason = "the benches use the rest")]
mod scene;
use scene::{JSON, RAW, Route, Scene, frames};

/// Allocations of a room in one turn: its bytes, its marks, the count that its members share; and
/// the shard's list of such rooms.
const ALLOCATIONS_A_ROOM: u64 = 4;
/// More of them where a turn's messages outgrow the first: lists double.
const GROWTH: u64 = 6;
const SHARD: ShardId = ShardId(0);
/// Turns after which lists have grown to what they need.
const WARM_TURNS: usize = 20;

/// Allocations of the turns in which these say something; nothing else happens in them.
fn allocations(scene: &mut Scene, lines: &[(ConnId, Rc<[u8]>)]) -> u64 {
    let mut counts = Vec::new();
    for _ in 0..WARM_TURNS {
        for (who, speech) in lines {
            scene.say(*who, speech);
        }
        let before = scene.shard.io.asked;
        let made = measure(|| {
            scene.turn();
            scene.turn();
        });
        assert!(scene.shard.io.asked.sends > before.sends, "something was sent");
        counts.push(made.count_total);
    }
    counts.pop().unwrap_or_default()
}

/// A room of so many, of whom so many speak in one turn.
fn room(members: usize, speakers: usize, route: fn(usize) -> Route, recording: &[u8]) -> u64 {
    let mut scene = Scene::new(Limits::default());
    let hall = scene.rooms(1, members, route).remove(0);
    let lines: Vec<_> = hall[..speakers].iter().copied().zip(frames(recording)).collect();
    let before = scene.shard.io.asked.sends;
    let made = allocations(&mut scene, &lines);
    let sends = scene.shard.io.asked.sends - before;
    assert_eq!(sends, (WARM_TURNS * members) as u64, "one send a member and turn");
    made
}

#[test]
fn a_turn_allocates_nothing_a_receiver_and_little_a_room() {
    for (route, recording) in [(Route::Raw as fn(usize) -> Route, RAW), (Route::Json, JSON)] {
        let small = room(10, 1, route, recording);
        assert_eq!(room(1000, 1, route, recording), small, "a receiver costs none");
        assert!(small <= ALLOCATIONS_A_ROOM, "{small} a room and turn");
        // Eight messages in one payload.
        let more = room(10, 8, route, recording);
        assert_eq!(room(1000, 8, route, recording), more, "a receiver costs none");
        assert!(more <= ALLOCATIONS_A_ROOM + GROWTH, "{more} a room and turn of eight messages");
    }
}

/// The same of a room that boxes share: what it takes more than the room alone.
fn shared_room(
    members: usize,
    speakers: usize,
    recording: &[u8],
    route: fn(usize) -> Route,
) -> u64 {
    let bounds = Bounds { shards: 1, messages: 64, bytes: 1 << 20 };
    let bridge = Arc::new(Bridge::new(Delivery::LocalFirst, Overflow::Reject, bounds));
    bridge.set_closed(true);
    let mut scene = Scene::with_bridge(Limits::default(), bridge.clone());
    let hall: Vec<_> = (0..members).map(|_| scene.open(route(0))).collect();
    let Some(Outbound::Open { key, hall: asks }) = bridge.take(SHARD) else { panic!("no room") };
    let placed = Inbound::Placed { key, hall: asks, users: Vec::new(), elsewhere: 0, place: None };
    bridge.tell(SHARD, placed).expect("the lane has room");
    scene.settle();
    let lines: Vec<_> = hall[..speakers].iter().copied().zip(frames(recording)).collect();
    let mut made = 0;
    for _ in 0..WARM_TURNS {
        while bridge.take(SHARD).is_some() {}
        lines.iter().for_each(|(who, speech)| scene.say(*who, speech));
        let turns = measure(|| {
            scene.turn();
            scene.turn();
        });
        made = turns.count_total;
    }
    assert_eq!(bridge.outbound(), speakers, "every message goes to the bridge");
    made
}

#[test]
fn a_message_to_other_boxes_allocates_its_envelope() {
    for (route, recording) in [(Route::Raw as fn(usize) -> Route, RAW), (Route::Json, JSON)] {
        for speakers in [1, 8] {
            let alone = room(10, speakers, route, recording);
            let shared = shared_room(10, speakers, recording, route);
            assert_eq!(shared, alone + speakers as u64, "{speakers} speakers");
        }
    }
}

#[test]
fn an_echo_allocates_nothing() {
    let mut scene = Scene::new(Limits::default());
    let one = frames(RAW).remove(0);
    let many: Rc<[u8]> = RAW.into();
    for speech in [one, many] {
        let lines: Vec<_> = (0..10).map(|_| (scene.open(Route::Echo), speech.clone())).collect();
        assert_eq!(allocations(&mut scene, &lines), 0);
    }
    let asked = scene.shard.io.asked;
    assert_eq!(asked.sends_back, asked.sends - 20, "all but the answers to the upgrades");
}
