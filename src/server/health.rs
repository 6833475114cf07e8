//! How the server is, summed over its shards.
//!
//! In:    every shard's counters and the moment of its last turn.
//! Out:   `control::health::Health`.
//! Never: asks a shard: it reads what shards have written down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::bridge::Watched;
use crate::broker::breaker;
use crate::conn::disconnect::Disconnect;
use crate::control::health::{BrokerHealth, Health, HealthSource, Readiness, ShardHealth, State};
use crate::counters::{self, Counter};
use crate::host::Clock;
use crate::http::refusal;
use crate::shard::shared::{MemoryLeft, Shared};

/// A shard that neither sleeps nor turns for so long is stuck, in milliseconds.
const STUCK_MS: u64 = 5_000;

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// Reads all shards.
pub(super) struct Overseer {
    shared: Arc<Shared>,
    clock: Clock,
    stage: AtomicU8,
    /// The broker, where there is one.
    watched: Option<Watched>,
}

impl Overseer {
    pub(super) fn new(shared: Arc<Shared>, clock: Clock, watched: Option<Watched>) -> Self {
        Self { shared, clock, stage: AtomicU8::new(STARTING), watched }
    }

    pub(super) fn set_ready(&self) {
        self.stage.store(READY, Ordering::Relaxed);
    }

    pub(super) fn set_draining(&self) {
        self.stage.store(DRAINING, Ordering::Relaxed);
    }

    /// A counter, summed over all shards.
    pub(super) fn sum(&self, counter: Counter) -> u64 {
        let shards = self.shared.neighbours.iter();
        shards.map(|shard| shard.counters.get(counter)).fold(0, u64::wrapping_add)
    }

    /// Whether the broker is out of reach, and required.
    fn lacks_broker(&self) -> bool {
        let lacks = |watched: &Watched| watched.required && !watched.bridge.is_closed();
        self.watched.as_ref().is_some_and(lacks)
    }

    fn readiness(&self) -> Readiness {
        let limit = self.shared.limits().connections_max;
        match self.stage.load(Ordering::Relaxed) {
            STARTING => Readiness::Starting,
            DRAINING => Readiness::Draining,
            _ if self.lacks_broker() => Readiness::Broker,
            _ if self.shared.connections.load(Ordering::Relaxed) >= limit => Readiness::Full,
            _ if self.shared.memory_left() != MemoryLeft::Enough => Readiness::Full,
            _ => Readiness::Ready,
        }
    }
}

/// The broker's report, in the words of `/health`.
fn broker_health(watched: &Watched) -> BrokerHealth {
    let report = watched.status.report(&watched.bridge);
    let state = match report.state {
        breaker::State::Open => "open",
        breaker::State::HalfOpen => "half_open",
        breaker::State::Closed => "closed",
    };
    let number = |number: usize| number as u64;
    BrokerHealth {
        kind: report.kind,
        state,
        is_well: report.state == breaker::State::Closed,
        is_required: watched.required,
        since: report.since,
        numbers: vec![
            ("rtt_us", u64::try_from(report.round_trip.as_micros()).unwrap_or(u64::MAX)),
            ("queue", number(report.queue)),
            ("queue_max", number(report.queue_max)),
            ("dropped", report.dropped),
            ("unconfirmed", report.unconfirmed),
            ("rejected", report.rejected),
            ("gaps", report.gaps),
            ("duplicates", report.duplicates),
            ("unreadable", report.unreadable),
            ("reconnects", report.reconnects),
            ("nodes", number(report.nodes)),
        ],
        last_error: report.last_error,
    }
}

impl HealthSource for Overseer {
    fn snapshot(&self) -> Health {
        let now = self.clock.now().0;
        let shards: Vec<_> = (0u16..)
            .zip(self.shared.neighbours.iter())
            .map(|(id, shard)| {
                let asleep = shard.asleep.load(Ordering::Relaxed);
                let moved = now.saturating_sub(shard.moved_at.load(Ordering::Relaxed));
                let moved_ms_ago = if asleep { 0 } else { moved };
                ShardHealth { id, moved_ms_ago, alive: moved_ms_ago < STUCK_MS }
            })
            .collect();
        let alive = shards.iter().filter(|shard| shard.alive).count();
        let broker = self.watched.as_ref().map(broker_health);
        let state = match &broker {
            _ if alive < shards.len() => State::Unhealthy,
            Some(broker) => broker.judge(),
            None => State::Healthy,
        };
        let by_reason = |read: fn(&counters::Counters, usize) -> u64, index: usize| {
            self.shared.neighbours.iter().map(|shard| read(&shard.counters, index)).sum()
        };
        Health {
            state,
            ready: self.readiness(),
            uptime: std::time::Duration::from_millis(now),
            connections: self.sum(Counter::connections),
            websockets: self.sum(Counter::websockets),
            rooms: self.sum(Counter::rooms),
            shards,
            broker,
            counters: counters::NAMES
                .iter()
                .zip(counters::ALL)
                .map(|(name, counter)| (*name, self.sum(*counter)))
                .collect(),
            closed: Disconnect::ALL
                .iter()
                .map(|reason| {
                    let closed = by_reason(counters::Counters::closed, reason.index());
                    (reason.row().label, closed)
                })
                .collect(),
            refused: refusal::ALL
                .iter()
                .map(|kind| (kind.code(), by_reason(counters::Counters::refused, kind.index())))
                .collect(),
        }
    }
}
