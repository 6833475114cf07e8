//! The sans-IO core over the recorded input, scene by scene, for an instruction counter to watch.
//!
//! `benches/instructions` runs this under callgrind, which collects only inside `measured_turns`.
//! Run without arguments, as `cargo test --benches` does, every scene is played once and checked.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "the answer of a bench goes there")]

#[path = "../tests/support/counting_io.rs"]
#[expect(dead_code, reason = "the test of fairness uses the rest")]
mod counting_io;
#[path = "../tests/support/scene.rs"]
#[expect(dead_code, reason = "the tests of shared rooms use the rest")]
mod scene;

use std::rc::Rc;

use ringhall::id::ConnId;
use ringhall::limits::Limits;
use scene::{CLOSE, JSON, RAW, Route, Scene, frames};

/// What the server itself uses.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A scene, ready to be played as often as one likes.
struct Stage {
    scene: Scene,
    /// Who says what, in one round.
    lines: Vec<(ConnId, Rc<[u8]>)>,
    /// Operations of one round: echoes, deliveries.
    operations: usize,
}

/// A name, what an operation is, and how the stage is set.
type Entry = (&'static str, &'static str, fn() -> Stage);

const SCENES: &[Entry] = &[
    ("echo-depth-1", "echo", || echoes(1)),
    ("echo-depth-8", "echo", || echoes(8)),
    ("raw-1x1000", "delivery", || room(1, 1000, 1, Route::Raw, RAW)),
    ("raw-1x1000-speakers-20", "delivery", || room(1, 1000, 20, Route::Raw, RAW)),
    ("raw-100x10", "delivery", || room(100, 10, 1, Route::Raw, RAW)),
    ("raw-100x10-speakers-10", "delivery", || room(100, 10, 10, Route::Raw, RAW)),
    ("json-1x1000", "delivery", || room(1, 1000, 1, Route::Json, JSON)),
    ("json-1x1000-speakers-20", "delivery", || room(1, 1000, 20, Route::Json, JSON)),
    ("json-100x10", "delivery", || room(100, 10, 1, Route::Json, JSON)),
    ("json-100x10-speakers-10", "delivery", || room(100, 10, 10, Route::Json, JSON)),
];

fn echoes(depth: usize) -> Stage {
    let mut scene = Scene::new(Limits::default());
    let speech: Vec<u8> = RAW[..depth * (RAW.len() / 16)].to_vec();
    let speech: Rc<[u8]> = speech.into();
    let lines: Vec<_> = (0..64).map(|_| (scene.open(Route::Echo), speech.clone())).collect();
    let operations = lines.len() * depth;
    Stage { scene, lines, operations }
}

fn room(
    rooms: usize,
    members: usize,
    speakers: usize,
    route: fn(usize) -> Route,
    recording: &[u8],
) -> Stage {
    let mut scene = Scene::new(Limits::default());
    let halls = scene.rooms(rooms, members, route);
    let frames = frames(recording);
    let speech = frames.iter().cycle().cloned();
    let speaking = halls.iter().flat_map(|hall| hall[..speakers].iter().copied());
    let lines: Vec<_> = speaking.zip(speech).collect();
    let operations = lines.len() * members;
    Stage { scene, lines, operations }
}

/// All that is counted: the turns, not what lays out their input.
#[inline(never)]
fn measured_turns(scene: &mut Scene) {
    // The readable are given buffers; what they received is dealt with.
    scene.turn();
    scene.turn();
}

fn play(stage: &mut Stage, rounds: usize) -> usize {
    for _ in 0..rounds {
        for (who, speech) in &stage.lines {
            stage.scene.say(*who, speech);
        }
        measured_turns(&mut stage.scene);
    }
    rounds * stage.operations
}

/// Comes, joins a room of its own, says goodbye and goes.
fn shake_hands(scene: &mut Scene, heads: &[Rc<[u8]>], close: &Rc<[u8]>) {
    for (slot, head) in (0..).zip(heads) {
        scene.shard.io.connect(slot);
        scene.shard.io.arrive(slot, head);
    }
    measured_turns(scene);
    for slot in 0..u32::try_from(heads.len()).unwrap() {
        let conn = scene.shard.state.conns().at(slot).unwrap().id(slot);
        scene.say(conn, close);
    }
    // What they sent, the answer, its FIN, theirs.
    measured_turns(scene);
    for slot in 0..u32::try_from(heads.len()).unwrap() {
        let conn = scene.shard.state.conns().at(slot);
        let Some(conn) = conn.map(|conn| conn.id(slot)) else { continue };
        scene.say(conn, &Rc::from([]));
    }
    measured_turns(scene);
    measured_turns(scene);
    assert!(scene.shard.state.conns().is_empty(), "everyone has gone");
}

fn handshakes(rounds: usize) -> usize {
    const AT_ONCE: usize = 64;
    let mut scene = Scene::new(Limits::default());
    let head = |user| Scene::head(Route::Raw(user), u32::try_from(user).unwrap());
    let heads: Vec<_> = (0..AT_ONCE).map(head).collect();
    let close = &frames(CLOSE)[0];
    for _ in 0..rounds {
        shake_hands(&mut scene, &heads, close);
    }
    rounds * AT_ONCE
}

fn check(name: &str, set: fn() -> Stage) {
    let mut stage = set();
    let before = stage.scene.shard.io.asked;
    let operations = play(&mut stage, 3);
    let asked = stage.scene.shard.io.asked;
    let said = stage.lines.len() * 3;
    assert_eq!(asked.receives - before.receives, said as u64, "{name}: one receive a line");
    // Sixty bytes at least an operation, all on their way: nothing waits for a further turn.
    let sent = asked.sent_bytes - before.sent_bytes;
    assert!(sent >= 60 * operations as u64, "{name}: {sent} bytes of {operations}");
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--scenes"] => {
            for (name, operation, _) in SCENES {
                println!("{name} {operation}");
            }
            println!("handshake handshake");
        }
        ["handshake", rounds] => println!("{}", handshakes(rounds.parse().unwrap())),
        [name, rounds] => {
            let scene = SCENES.iter().find(|scene| scene.0 == name).expect("see --scenes");
            println!("{}", play(&mut scene.2(), rounds.parse().unwrap()));
        }
        _ => {
            for (name, _, set) in SCENES {
                check(name, *set);
            }
            handshakes(2);
            println!("{} passed, 0 failed", SCENES.len() + 1);
        }
    }
}
