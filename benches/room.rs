//! A room's own work: places in the order, joins and leaves.

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::limits::Limits;
use ringhall::room::Room;
use ringhall::room::epoch::Epoch;
use ringhall::time::Now;

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn room(members: usize, limits: &Limits) -> Room {
    let mut room = Room::new(Epoch::default());
    for member in 0..members {
        let name = format!("user-{member}");
        room.apply_join(&name, limits, Now(0)).expect("there is no bound");
    }
    room
}

#[divan::bench]
fn say(bencher: Bencher<'_, '_>) {
    let mut room = room(10, &Limits::default());
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| black_box(&mut room).apply_say());
}

/// One comes and goes in a room of so many.
#[divan::bench(args = [10, 1000])]
fn join_and_leave(bencher: Bencher<'_, '_>, members: usize) {
    let limits = Limits::default();
    let mut room = room(members, &limits);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let joined = room.apply_join(black_box("newcomer"), &limits, Now(1)).expect("no bound");
        room.apply_leave(joined.user, &limits, Now(2))
    });
}
