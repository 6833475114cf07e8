//! Mail from one shard to another, on one thread: the queue itself, not the wake-up.

use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::id::{ConnId, ShardId};
use ringhall::mesh::{Mail, Mesh, MeshEnd, Way};
use ringhall::payload::Batch;
use ringhall::room::hall::HallId;
use ringhall::room::users::UserId;
use ringhall::ws::Opcode;

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);
const HALL: HallId = HallId { index: 3, generation: 1 };

fn ends() -> (MeshEnd, MeshEnd) {
    let mesh = Arc::new(Mesh::new(2, 4096, 4 << 20));
    (MeshEnd::new(mesh.clone(), HERE), MeshEnd::new(mesh, THERE))
}

/// So many mails in one turn: posted, moved, collected.
fn pass(bencher: Bencher<'_, '_>, mails: usize, way: Way, mail: impl Fn() -> Mail) {
    let (mut here, mut there) = ends();
    bencher.counter(ItemsCount::new(mails)).bench_local(|| {
        for _ in 0..mails {
            assert!(here.may_say(THERE));
            here.post(THERE, mail());
        }
        here.flush(|shard| assert_eq!(shard, THERE));
        for _ in 0..there.arrived(HERE, way) {
            black_box(there.collect(HERE, way));
        }
        assert_eq!(here.waiting(), 0);
    });
}

/// What members say to a home elsewhere: its content goes along.
#[divan::bench(args = [1, 64, 1024])]
fn say(bencher: Bencher<'_, '_>, mails: usize) {
    let who = ConnId { slot: 5, generation: 1 };
    pass(bencher, mails, Way::Up, || Mail::Say {
        home: HALL,
        user: UserId(1),
        who,
        opcode: Opcode::Text,
        content: [7; 64].into(),
        reference: None,
    });
}

/// What a home says to members elsewhere: by reference.
#[divan::bench(args = [1, 64, 1024])]
fn payload(bencher: Bencher<'_, '_>, mails: usize) {
    let batch = Arc::new(Batch { bytes: vec![7; 66], frames: Vec::new() });
    pass(bencher, mails, Way::Down, || Mail::Payload {
        home: HALL,
        hall: HALL,
        batch: batch.clone(),
    });
}
