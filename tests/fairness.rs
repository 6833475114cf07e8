//! Who sends without end delays nobody by more than a turn's bounded work.
//!
//! Counted in turns and bytes, over an `Io` without a clock: a turn takes at most
//! `ring.buffer_bytes` of one connection, whoever waits for a buffer or for a room comes before
//! whoever wants more of it, and so does mail from another shard.

use std::rc::Rc;

use ringhall::counters::Counter;
use ringhall::id::{ConnId, ShardId};
use ringhall::limits::{Limits, RingUse};

#[path = "support/counting_io.rs"]
mod counting_io;
#[path = "support/scene.rs"]
#[expect(dead_code, reason = "the benches use the rest")]
mod scene;
use scene::{RAW, Route, Scene, frames};

/// Input of one receive: as many of the recorded frames as a buffer holds.
fn flood() -> Rc<[u8]> {
    let frame = &frames(RAW)[0];
    frame.repeat(RingUse::default().buffer_bytes / frame.len()).into()
}

/// What the polite say, unlike anything in a flood.
fn polite() -> Rc<[u8]> {
    frames(RAW)[9].clone()
}

/// The payload of the polite, as it is heard.
fn is_heard(scene: &Scene) -> bool {
    let frame = polite();
    let mask = &frame[2..6];
    let payload: Vec<u8> = frame[6..].iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
    scene.shard.io.heard.windows(payload.len()).any(|heard| heard == payload)
}

/// The greedy have always more to say than one receive brings.
struct Greedy {
    flood: Rc<[u8]>,
    who: Vec<ConnId>,
}

impl Greedy {
    fn new(who: Vec<ConnId>) -> Self {
        Self { flood: flood(), who }
    }

    fn go_on(&self, scene: &mut Scene) {
        for greedy in &self.who {
            while scene.shard.io.arriving(greedy.slot) < 3 {
                scene.say(*greedy, &self.flood);
            }
        }
    }

    /// Turns until `listener` hears what `speaker` has just said.
    fn turns_until_heard(&self, scene: &mut Scene, speaker: ConnId, listener: ConnId) -> usize {
        scene.shard.io.listen_at = Some(listener.slot);
        scene.shard.io.heard.clear();
        scene.say(speaker, &polite());
        for turn in 1..=TURNS_MAX {
            self.go_on(scene);
            scene.turn();
            if is_heard(scene) {
                return turn;
            }
            scene.shard.io.heard.clear();
        }
        panic!("not heard within {TURNS_MAX} turns");
    }
}

/// Turns after which a wait counts as endless.
const TURNS_MAX: usize = 2000;
/// Turns that an answer takes where nobody disturbs: what is readable is received and answered.
const UNDISTURBED: usize = 1;

/// What one turn took of a connection that has no end of input, for so many turns.
fn taken(route: Route, limits: Limits) -> Vec<u64> {
    let mut scene = Scene::new(limits);
    let greedy = Greedy::new(vec![scene.open(route)]);
    let frame_bytes = frames(RAW)[0].len() as u64;
    let messages = |scene: &Scene| {
        let neighbour = scene.shard.state.shared().neighbour(ShardId(0));
        neighbour.counters.get(Counter::messages_in)
    };
    let turns = (0..200).map(|_| {
        greedy.go_on(&mut scene);
        let before = messages(&scene);
        scene.turn();
        (messages(&scene) - before) * frame_bytes
    });
    turns.collect()
}

#[test]
fn a_turn_takes_no_more_of_one_connection_than_the_limit() {
    for route in [Route::Echo, Route::Raw(0)] {
        // With the second, the room pauses its speaker in the middle of every buffer.
        for room_tick_bytes in [Limits::default().room_tick_bytes, 2000] {
            let turns = taken(route, Limits { room_tick_bytes, ..Limits::default() });
            let most = turns.iter().max().copied().unwrap_or_default();
            let bound = RingUse::default().buffer_bytes as u64;
            assert!(most <= bound, "{route:?}: {most} bytes in one turn");
            let all: u64 = turns.iter().sum();
            assert!(all > 100 * 1000, "{route:?}: {all} bytes in all: it was to be greedy");
        }
    }
}

#[test]
fn the_polite_are_answered_as_if_nobody_disturbed() {
    let mut scene = Scene::new(Limits::default());
    let greedy = Greedy::new(vec![scene.open(Route::Echo), scene.open(Route::Raw(0))]);
    let echo = scene.open(Route::Echo);
    let room: Vec<_> = (0..2).map(|_| scene.open(Route::Raw(1))).collect();
    let same_room = scene.open(Route::Raw(0));
    for _ in 0..20 {
        for (speaker, listener) in [(echo, echo), (room[0], room[1]), (same_room, same_room)] {
            let turns = greedy.turns_until_heard(&mut scene, speaker, listener);
            assert_eq!(turns, UNDISTURBED);
        }
    }
}

#[test]
fn buffers_go_round() {
    let crowd = 64_usize;
    let mut scene = Scene::with_buffers(Limits::default(), 4);
    let greedy = Greedy::new((0..crowd).map(|_| scene.open(Route::Raw(0))).collect());
    let polite = scene.open(Route::Echo);
    for _ in 0..20 {
        let turns = greedy.turns_until_heard(&mut scene, polite, polite);
        // Who is greedy stands in the queue once, as everyone does.
        assert!(turns <= (crowd + 1).div_ceil(4) + UNDISTURBED, "{turns} turns");
    }
}

#[test]
fn a_room_that_is_full_every_turn_hears_everyone_in_turn() {
    // Forty speakers whose buffers together are five times what the room takes in a turn; and
    // with the other bound, eight turns' worth in one buffer.
    for room_tick_bytes in [64 << 10, 1 << 10] {
        let crowd = 40;
        let mut scene = Scene::new(Limits { room_tick_bytes, ..Limits::default() });
        let greedy = Greedy::new((0..crowd).map(|_| scene.open(Route::Raw(0))).collect());
        let polite = scene.open(Route::Raw(0));
        for _ in 0..5 {
            let turns = greedy.turns_until_heard(&mut scene, polite, polite);
            assert!(turns <= crowd + 1 + UNDISTURBED, "{turns} turns");
        }
    }
}
