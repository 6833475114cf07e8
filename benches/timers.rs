//! The wheel of deadlines.

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::conn::Conn;
use ringhall::conn::table::Table;
use ringhall::shard::timers::Wheel;
use ringhall::time::Now;

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Connections of the wheel.
const CONNECTIONS: u32 = 10_000;

fn wheel() -> (Wheel, Table) {
    let (mut wheel, mut conns) = (Wheel::default(), Table::default());
    for slot in 0..CONNECTIONS {
        conns.insert(slot, Conn::new(0));
        wheel.set(&mut conns, slot, Now(u64::from(slot) * 5));
    }
    (wheel, conns)
}

/// A new deadline in place of the old one, as a heartbeat sets it.
#[divan::bench]
fn set_anew(bencher: Bencher<'_, '_>) {
    let (mut wheel, mut conns) = wheel();
    let mut slot = 0;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        slot = (slot + 4001) % CONNECTIONS;
        wheel.set(&mut conns, black_box(slot), Now(u64::from(slot) * 5 + 54_000));
    });
}

/// All of them come up within a minute, looked at every 32 milliseconds.
#[divan::bench]
fn a_minute(bencher: Bencher<'_, '_>) {
    let counted = bencher.counter(ItemsCount::new(CONNECTIONS));
    counted.with_inputs(wheel).bench_local_values(|(mut wheel, mut conns)| {
        let mut seen = 0;
        for now in (0..60_000).step_by(32) {
            while wheel.pop(&mut conns, Now(now)).is_some() {
                seen += 1;
            }
        }
        assert_eq!(seen, CONNECTIONS);
    });
}

/// When the next is due, with one connection in the whole wheel.
#[divan::bench]
fn next_due(bencher: Bencher<'_, '_>) {
    let (mut wheel, mut conns) = (Wheel::default(), Table::default());
    conns.insert(0, Conn::new(0));
    wheel.set(&mut conns, 0, Now(60_000));
    bencher.bench_local(|| black_box(&wheel).next_due());
}
