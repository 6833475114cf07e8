//! Everything that is measured, summed over the shards, in the words of the table.
//!
//! In:    every shard's counters; the mesh's, the bridge's and the broker's; `/proc`.
//! Out:   `control::metrics::Family`s.
//! Never: asks a shard, or waits for one: it reads what shards have written down.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use rustix::time::{ClockId, clock_gettime};

use super::bridge::Watched;
use super::health::Overseer;
use crate::broker::breaker;
use crate::conn::disconnect::Disconnect;
use crate::control::health::Readiness;
use crate::control::metrics::{Family, Histogram, Metric, MetricsSource, Value};
use crate::counters::{BOUNDS_US, Counter, Counters, Timer};
use crate::http::refusal;
use crate::id::ShardId;
use crate::probe::Footprint;
use crate::shard::shared::Neighbour;

/// Connections from which on memory a connection is more than noise.
const CROWD: u64 = 1_000;

/// Metrics that are one counter, summed.
const SUMS: &[(Metric, Counter)] = &[
    (Metric::Accepts, Counter::accepted),
    (Metric::Upgrades, Counter::upgraded),
    (Metric::HttpHandoffs, Counter::http),
    (Metric::ShutdownCut, Counter::shutdown_cut),
    (Metric::MessagesReceived, Counter::messages_in),
    (Metric::ReceivedBytes, Counter::received_bytes),
    (Metric::RoomMessages, Counter::said),
    (Metric::Deliveries, Counter::deliveries),
    (Metric::Sends, Counter::sends),
    (Metric::SentBytes, Counter::sent_bytes),
    (Metric::ShortSends, Counter::sends_short),
    (Metric::QueueBytes, Counter::queue_bytes),
    (Metric::Errors, Counter::errors),
    (Metric::Pauses, Counter::pauses),
    (Metric::Pings, Counter::pings),
    (Metric::Rooms, Counter::rooms),
    (Metric::Members, Counter::members),
    (Metric::MeshMessages, Counter::mesh_messages),
    (Metric::Turns, Counter::turns),
    (Metric::ReceiveBuffersExhausted, Counter::buffers_exhausted),
    (Metric::CompletionOverflows, Counter::completion_overflows),
];

/// Metrics that are several counters, each with its label.
const SPLITS: &[(Metric, &[(&str, Counter)])] = &[
    (
        Metric::AcceptPauses,
        &[
            ("table", Counter::accept_paused),
            ("rate", Counter::accept_paused_rate),
            ("memory", Counter::accept_paused_memory),
            ("files", Counter::accept_paused_files),
        ],
    ),
    (Metric::Moves, &[("moved", Counter::departed), ("stayed", Counter::stayed)]),
    (
        Metric::Drops,
        &[
            ("drop_oldest", Counter::dropped),
            ("disconnect", Counter::dropped_disconnect),
            ("overload", Counter::dropped_overload),
        ],
    ),
];

const TIMERS: [(Metric, Timer); 3] = [
    (Metric::Handshake, Timer::Handshake),
    (Metric::Publish, Timer::Publish),
    (Metric::Turn, Timer::Turn),
];

impl MetricsSource for Overseer {
    fn families(&self) -> Vec<Family> {
        let mut families = self.server();
        families.extend(self.shards());
        families.extend(self.connections());
        let sum = |(metric, counter): &(Metric, Counter)| {
            Family::one(*metric, Value::Whole(self.sum(*counter)))
        };
        families.extend(SUMS.iter().map(sum));
        let split = |(metric, parts): &(Metric, &[(&'static str, Counter)])| {
            let part = |(label, counter): &(&'static str, Counter)| {
                (Cow::Borrowed(*label), Value::Whole(self.sum(*counter)))
            };
            Family::by(*metric, parts.iter().map(part))
        };
        families.extend(SPLITS.iter().map(split));
        families.extend(TIMERS.map(|(metric, timer)| self.times(metric, timer)));
        families.extend(self.watched.iter().flat_map(broker));
        families.extend(self.process());
        families
    }
}

impl Overseer {
    fn server(&self) -> Vec<Family> {
        let ready = self.readiness();
        let reasons = Readiness::ALL.iter().map(|state| {
            let word = state.reason().unwrap_or("ready");
            (Cow::Borrowed(word), flag(*state == ready))
        });
        let limits = self.shared.limits();
        let version = Cow::Borrowed(env!("CARGO_PKG_VERSION"));
        vec![
            Family::by(Metric::BuildInfo, [(version, Value::Whole(1))]),
            Family::by(Metric::Ready, reasons),
            Family::one(Metric::Shards, count(self.shared.neighbours.len())),
            Family::one(Metric::ConnectionsLimit, count(limits.connections_max)),
            Family::one(Metric::QueueLimitBytes, count(limits.queue_bytes_total)),
        ]
    }

    /// What each shard has of its own.
    fn shards(&self) -> Vec<Family> {
        let now = self.clock.now().0;
        let busy = |shard: &Neighbour| shard.busy_percent.load(Ordering::Relaxed) as f64 / 100.0;
        let moved = |shard: &Neighbour| {
            let ago = now.saturating_sub(shard.moved_at.load(Ordering::Relaxed));
            Value::Real(ago as f64 / 1e3)
        };
        let cpu = |shard: &Neighbour| Value::Real(shard.counters.get(Counter::cpu_us) as f64 / 1e6);
        let of = |counter| move |shard: &Neighbour| Value::Whole(shard.counters.get(counter));
        let alive = (0..self.shared.neighbours.len()).map(|shard| flag(self.watch.is_alive(shard)));
        let mesh = &self.shared.mesh;
        let mail = (0..).map(ShardId).take(self.shared.neighbours.len());
        let mail = mail.map(|shard| count(mesh.queued(shard)));
        let connections = |shard: &Neighbour| shard.counters.get(Counter::connections) as f64;
        let imbalance = [
            ("busy".into(), Value::Real(imbalance(&self.each(busy)))),
            ("connections".into(), Value::Real(imbalance(&self.each(connections)))),
        ];
        vec![
            by_shard(Metric::ShardAlive, alive),
            by_shard(Metric::ShardMoved, self.each(moved)),
            by_shard(Metric::ShardBusy, self.each(|shard| Value::Real(busy(shard)))),
            by_shard(Metric::ShardCpu, self.each(cpu)),
            by_shard(Metric::ShardConnections, self.each(of(Counter::connections))),
            Family::by(Metric::Imbalance, imbalance),
            by_shard(Metric::MeshQueue, mail),
            by_shard(Metric::ReceiveBuffers, self.each(of(Counter::buffers))),
            by_shard(Metric::ReceiveBuffersLow, self.each(of(Counter::buffers_free_low))),
        ]
    }

    fn each<T>(&self, read: impl Fn(&Neighbour) -> T) -> Vec<T> {
        self.shared.neighbours.iter().map(|shard| read(shard)).collect()
    }

    fn connections(&self) -> Vec<Family> {
        let (all, open) = (self.sum(Counter::connections), self.sum(Counter::websockets));
        let closing = self.sum(Counter::closing);
        let http = self.shared.http_connections.load(Ordering::Relaxed);
        let states = [
            // The numbers are read one after the other, while shards go on.
            ("handshake".into(), Value::Whole(all.saturating_sub(open + closing))),
            ("open".into(), Value::Whole(open)),
            ("closing".into(), Value::Whole(closing)),
            ("http".into(), count(http)),
        ];
        let closes = Disconnect::ALL.iter().map(|reason| {
            let closed = self.by_reason(Counters::closed, reason.index());
            (reason.row().label.into(), Value::Whole(closed))
        });
        let refusals = refusal::ALL.iter().map(|kind| {
            let refused = self.by_reason(Counters::refused, kind.index());
            (kind.code().into(), Value::Whole(refused))
        });
        vec![
            Family::by(Metric::Connections, states),
            Family::by(Metric::Closes, closes),
            Family::by(Metric::Refusals, refusals),
        ]
    }

    fn times(&self, metric: Metric, timer: Timer) -> Family {
        let bounds = BOUNDS_US.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let mut buckets: Vec<_> = bounds.map(|bound| (bound, 0)).collect();
        let mut sum_us = 0;
        for shard in &self.shared.neighbours {
            let (sum, counts) = shard.counters.observed(timer);
            sum_us += sum;
            buckets.iter_mut().zip(counts).for_each(|((_, all), count)| *all += count);
        }
        let sum = sum_us as f64 / 1e6;
        Family::one(metric, Value::Histogram(Histogram { sum, buckets }))
    }

    fn process(&self) -> Vec<Family> {
        let now = Footprint::read();
        let sockets = self.sum(Counter::connections);
        let parts = self.baseline.get().filter(|_| sockets >= CROWD).map(|before| {
            let each = |now: u64, before: u64| {
                Value::Real(now.saturating_sub(before) as f64 / sockets as f64)
            };
            [
                ("user".into(), each(now.resident, before.resident)),
                ("kernel".into(), each(now.kernel, before.kernel)),
            ]
        });
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        vec![
            Family::by(Metric::ConnectionBytes, parts.into_iter().flatten()),
            Family::one(Metric::StartTime, Value::Real(self.started_at.as_secs_f64())),
            Family::one(Metric::ProcessCpu, Value::Real(cpu)),
            Family::one(Metric::ResidentMemory, Value::Whole(now.resident)),
        ]
    }
}

fn broker(watched: &Watched) -> Vec<Family> {
    let report = watched.status.report(&watched.bridge);
    let states = [
        ("closed", breaker::State::Closed),
        ("half_open", breaker::State::HalfOpen),
        ("open", breaker::State::Open),
    ];
    let states = states.map(|(word, state)| (word.into(), flag(report.state == state)));
    let queues =
        [("out".into(), count(report.queue)), ("in".into(), count(watched.bridge.inbound()))];
    let one = |metric, number| Family::one(metric, Value::Whole(number));
    vec![
        Family::one(Metric::BrokerUp, flag(report.state == breaker::State::Closed)),
        Family::by(Metric::BrokerState, states),
        Family::one(Metric::BrokerRoundTrip, Value::Real(report.round_trip.as_secs_f64())),
        Family::one(Metric::BrokerNodes, count(report.nodes)),
        Family::by(Metric::BridgeQueue, queues),
        one(Metric::BrokerDropped, report.dropped),
        one(Metric::BrokerRejected, report.rejected),
        one(Metric::BrokerUnconfirmed, report.unconfirmed),
        one(Metric::BrokerGaps, report.gaps),
        one(Metric::BrokerDuplicates, report.duplicates),
        one(Metric::BrokerUnreadable, report.unreadable),
        one(Metric::BrokerRereads, report.rereads),
        one(Metric::BrokerReconnects, report.reconnects),
    ]
}

fn by_shard(metric: Metric, values: impl IntoIterator<Item = Value>) -> Family {
    let named = (0u16..).zip(values).map(|(id, value)| (Cow::Owned(id.to_string()), value));
    Family::by(metric, named)
}

fn count(number: usize) -> Value {
    Value::Whole(number as u64)
}

fn flag(is_so: bool) -> Value {
    Value::Whole(u64::from(is_so))
}

/// The largest over the mean; where all are zero, they are even.
fn imbalance(values: &[f64]) -> f64 {
    let (sum, largest) = (values.iter().sum::<f64>(), values.iter().copied().fold(0.0, f64::max));
    if sum > 0.0 { largest * values.len() as f64 / sum } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imbalance_is_one_where_all_are_the_same_and_the_number_of_shards_at_most() {
        assert!((imbalance(&[0.0, 0.0]) - 1.0).abs() < 1e-9);
        assert!((imbalance(&[3.0, 3.0]) - 1.0).abs() < 1e-9);
        assert!((imbalance(&[3.0, 0.0]) - 2.0).abs() < 1e-9);
    }
}
