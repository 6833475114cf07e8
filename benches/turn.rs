//! Whole turns of a shard over the recorded input and a null `Io`.
//!
//! Allocations stand beside the times. Bytes copied are printed first: there is no honest way to
//! count every `memcpy`, so these are the bytes of all payloads that were built, each once, beside
//! the bytes that were sent; answers out of receive buffers are no payload. `benches/instructions`
//! counts the same turns in instructions.

#![expect(clippy::print_stdout, reason = "the answer of a bench goes there")]

#[path = "../tests/support/counting_io.rs"]
#[expect(dead_code, reason = "the test of fairness uses the rest")]
mod counting_io;
#[path = "../tests/support/scene.rs"]
#[expect(dead_code, reason = "each bench uses a part of it")]
mod scene;

use std::rc::Rc;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};
use ringhall::id::ConnId;
use ringhall::limits::Limits;
use scene::{JSON, RAW, Route, Scene, frames};

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// A shard, and what is said to it before each pair of turns.
struct Stage {
    scene: Scene,
    lines: Vec<(ConnId, Rc<[u8]>)>,
    operations: usize,
}

impl Stage {
    /// So many connections that each send so many of the recorded frames at once.
    fn echoes(connections: usize, depth: usize) -> Self {
        let mut scene = Scene::new(Limits::default());
        let speech: Rc<[u8]> = RAW[..depth * (RAW.len() / 16)].into();
        let lines = (0..connections).map(|_| (scene.open(Route::Echo), speech.clone())).collect();
        Self { scene, lines, operations: connections * depth }
    }

    /// So many rooms, in each of which so many speak.
    fn rooms((rooms, members, speakers): (usize, usize, usize), is_json: bool) -> Self {
        let mut scene = Scene::new(Limits::default());
        let halls = scene.rooms(rooms, members, if is_json { Route::Json } else { Route::Raw });
        let speech = frames(if is_json { JSON } else { RAW });
        let speaking = halls.iter().flat_map(|hall| hall[..speakers].iter().copied());
        let lines: Vec<_> = speaking.zip(speech.into_iter().cycle()).collect();
        let operations = lines.len() * members;
        Self { scene, lines, operations }
    }

    fn play(&mut self) {
        for (who, speech) in &self.lines {
            self.scene.say(*who, speech);
        }
        self.scene.turn();
        self.scene.turn();
    }

    /// What one pair of turns builds and sends, in bytes.
    fn bytes(mut self) -> (u64, u64) {
        self.play();
        let before = self.scene.shard.io.asked;
        self.play();
        let after = self.scene.shard.io.asked;
        (after.built_bytes - before.built_bytes, after.sent_bytes - before.sent_bytes)
    }
}

/// Rooms, members a room, speakers a room.
const HALLS: [(usize, usize, usize); 4] =
    [(1, 1000, 1), (1, 1000, 20), (100, 10, 1), (100, 10, 10)];

fn main() {
    println!("{:<28} {:>12} {:>12}", "bytes a pair of turns", "built", "sent");
    for depth in [1, 8] {
        let (built, sent) = Stage::echoes(64, depth).bytes();
        println!("{:<28} {built:>12} {sent:>12}", format!("echo 64 x {depth}"));
    }
    for (hall, is_json) in HALLS.into_iter().flat_map(|hall| [(hall, false), (hall, true)]) {
        let (built, sent) = Stage::rooms(hall, is_json).bytes();
        let mode = if is_json { "json" } else { "raw" };
        println!("{:<28} {built:>12} {sent:>12}", format!("{mode} {hall:?}"));
    }
    divan::main();
}

fn bench(bencher: Bencher<'_, '_>, mut stage: Stage) {
    stage.play();
    bencher.counter(ItemsCount::new(stage.operations)).bench_local(|| stage.play());
}

#[divan::bench(args = [1, 8, 16])]
fn echo(bencher: Bencher<'_, '_>, depth: usize) {
    bench(bencher, Stage::echoes(64, depth));
}

#[divan::bench(args = HALLS)]
fn raw(bencher: Bencher<'_, '_>, hall: (usize, usize, usize)) {
    bench(bencher, Stage::rooms(hall, false));
}

#[divan::bench(args = HALLS)]
fn json(bencher: Bencher<'_, '_>, hall: (usize, usize, usize)) {
    bench(bencher, Stage::rooms(hall, true));
}
