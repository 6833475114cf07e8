//! What the bridge's thread does for one message, without the broker: out, and in.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use ringhall::bridge::envelope::{self, Node, Said};
use ringhall::bridge::{Delivery, Inbound, Outbound};
use ringhall::broker::Lane;
use ringhall::broker::cluster::{Cluster, Shards, Taken};
use ringhall::broker::status::Status;
use ringhall::id::{ConnId, ConnKey, Mode, RoomKey, ShardId};
use ringhall::room::hall::HallId;
use ringhall::ws::Opcode;

/// The system's allocator, with every allocation counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const SHARD: ShardId = ShardId(0);
const MESSAGES: u64 = 256;

/// Takes all mail and forgets it.
#[derive(Default)]
struct Sink(Cell<u64>);

impl Shards for Sink {
    fn tell(&self, _shard: ShardId, mail: Inbound) -> Result<(), Inbound> {
        self.0.set(self.0.get() + 1);
        drop(black_box(mail));
        Ok(())
    }
}

fn said() -> Vec<u8> {
    let speaker = ConnKey { shard: SHARD, conn: ConnId { slot: 1, generation: 1 } };
    envelope::said(&Said {
        mode: Mode::Json,
        opcode: Opcode::Text,
        speaker,
        room: "lobby",
        user: "ann",
        content: &[b'7'; 128],
    })
}

fn cluster(sink: &Sink) -> Cluster {
    let status = Arc::new(Status::new("none"));
    let node = Node { id: 1, incarnation: 1 };
    let mut cluster = Cluster::new(node, "box", Delivery::LocalFirst, 1, status);
    let key = RoomKey { mode: Mode::Json, name: "lobby".into() };
    let hall = HallId { index: 0, generation: 0 };
    let taken = cluster.take(SHARD, Outbound::Open { key, hall }, true, sink);
    assert!(matches!(taken, Taken::Noted));
    cluster
}

/// A shard's mail becomes an envelope for the broker; its allocation is the shard's.
#[divan::bench]
fn out(bencher: Bencher<'_, '_>) {
    let sink = Sink::default();
    let mut cluster = cluster(&sink);
    let speaker = ConnKey { shard: SHARD, conn: ConnId { slot: 1, generation: 1 } };
    let partition = envelope::partition("lobby");
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        for _ in 0..MESSAGES {
            let mail = Outbound::Said { partition, envelope: said(), speaker, reference: None };
            black_box(cluster.take(SHARD, mail, true, &sink));
        }
    });
}

/// An envelope of another box becomes mail for the shard of its room.
#[divan::bench]
fn arrive(bencher: Bencher<'_, '_>) {
    let sink = Sink::default();
    let mut cluster = cluster(&sink);
    let lane = Lane::Partition(envelope::partition("lobby"));
    let (mut envelope, mut sequence) = (said(), 0);
    let now = Instant::now();
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        for _ in 0..MESSAGES {
            sequence += 1;
            envelope::stamp(&mut envelope, Node { id: 2, incarnation: 1 }, sequence);
            let read = cluster.receive(lane, black_box(&envelope), now, &sink);
            assert_eq!(read, Ok(None));
        }
    });
    assert_eq!(sink.0.get(), sequence + 1, "and the answer to the room that was opened");
}
