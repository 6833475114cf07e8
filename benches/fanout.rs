//! One payload to every member: the inner loop.

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::conn::table::Table;
use ringhall::conn::{Conn, Flags};
use ringhall::fanout::fan_out;
use ringhall::id::ShardId;
use ringhall::payload::{Batch, Payload};
use ringhall::room::hall::Member;
use ringhall::room::users::UserId;

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const SHARD: ShardId = ShardId(0);

fn payload() -> Payload {
    let mut batch = Batch::default();
    batch.bytes.extend_from_slice(&[0x82; 66]);
    batch.mark(1, None);
    Payload::own(batch)
}

/// Members whose slots lie one behind the other, or far from each other as in a busy table.
fn hall(count: u32, apart: u32) -> (Table, Vec<Member>) {
    let mut conns = Table::default();
    let member = |n: u32| Member { slot: n * apart % 1_000_003, user: UserId(n) };
    let members: Vec<_> = (0..count).map(member).collect();
    for member in &members {
        conns.insert(member.slot, Conn::new(0));
    }
    (conns, members)
}

fn bench(bencher: Bencher<'_, '_>, (mut conns, members): (Table, Vec<Member>)) {
    let payload = payload();
    let mut given = Vec::with_capacity(members.len());
    bencher.counter(ItemsCount::new(members.len())).bench_local(|| {
        given.clear();
        fan_out(black_box(&payload), &members, &mut conns, SHARD, |share| given.push(share));
        assert_eq!(given.len(), members.len());
    });
}

#[divan::bench(args = [10, 1000])]
fn neighbours(bencher: Bencher<'_, '_>, members: u32) {
    bench(bencher, hall(members, 1));
}

#[divan::bench(args = [1000])]
fn strangers(bencher: Bencher<'_, '_>, members: u32) {
    bench(bencher, hall(members, 997));
}

/// Nobody wants to hear itself: each is looked at for its own frames.
#[divan::bench(args = [1000])]
fn deaf(bencher: Bencher<'_, '_>, members: u32) {
    let (mut conns, members) = hall(members, 1);
    for member in &members {
        conns.at(member.slot).expect("it was inserted").flags.set(Flags::DEAF);
    }
    bench(bencher, (conns, members));
}
