//! How the server is, summed over its shards.
//!
//! In:    every shard's counters and the moment of its last turn.
//! Out:   `control::health::Health`.
//! Never: asks a shard: it reads what shards have written down.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::bridge::Watched;
use super::watch::{ROUND, Watch};
use crate::broker::breaker;
use crate::conn::disconnect::Disconnect;
use crate::control::health::{BrokerHealth, Health, HealthSource, Readiness, ShardHealth, State};
use crate::counters::{self, Counter, Counters};
use crate::host::Clock;
use crate::http::refusal;
use crate::probe::Footprint;
use crate::shard::shared::{MemoryLeft, Shared};

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// Reads all shards.
pub(super) struct Overseer {
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    stage: AtomicU8,
    pub(super) watch: Watch,
    /// The broker, where there is one.
    pub(super) watched: Option<Watched>,
    /// Since 1970.
    pub(super) started_at: Duration,
    /// What the process and the box took before the first connection.
    pub(super) baseline: OnceLock<Footprint>,
}

impl Overseer {
    pub(super) fn new(shared: Arc<Shared>, clock: Clock, watched: Option<Watched>) -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            watch: Watch::new(shared.neighbours.len()),
            shared,
            clock,
            stage: AtomicU8::new(STARTING),
            watched,
            started_at: since_1970.unwrap_or_default(),
            baseline: OnceLock::new(),
        }
    }

    /// Wakes whoever does not move, for as long as the process lives: a sleeping shard proves with
    /// a turn that it is not stuck.
    pub(super) async fn keep_watch(self: Arc<Self>, eventfds: Arc<[OwnedFd]>) {
        loop {
            tokio::time::sleep(ROUND).await;
            let neighbours = self.shared.neighbours.iter();
            let moved = neighbours.map(|shard| shard.moved_at.load(Ordering::Relaxed));
            for shard in self.watch.round(moved) {
                if let Err(error) = rustix::io::write(&eventfds[shard], &1u64.to_ne_bytes()) {
                    tracing::warn!(shard, %error, "a shard could not be woken");
                }
            }
        }
    }

    /// Whether every shard has taken turns of late, the sleeping ones when they were woken. (A
    /// supervisor's watchdog asks the same on its own schedule: `supervision`.)
    fn shards_moved(&self) -> bool {
        (0..self.shared.neighbours.len()).all(|shard| self.watch.is_alive(shard))
    }

    pub(super) fn set_ready(&self) {
        self.baseline.get_or_init(Footprint::read);
        self.stage.store(READY, Ordering::Relaxed);
    }

    pub(super) fn set_draining(&self) {
        self.stage.store(DRAINING, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == DRAINING
    }

    /// A counter, summed over all shards.
    pub(super) fn sum(&self, counter: Counter) -> u64 {
        let shards = self.shared.neighbours.iter();
        shards.map(|shard| shard.counters.get(counter)).fold(0, u64::wrapping_add)
    }

    /// What was counted by reason, summed over all shards.
    pub(super) fn by_reason(&self, read: fn(&Counters, usize) -> u64, index: usize) -> u64 {
        self.shared.neighbours.iter().map(|shard| read(&shard.counters, index)).sum()
    }

    /// Whether the broker is out of reach, and required.
    fn lacks_broker(&self) -> bool {
        let lacks = |watched: &Watched| watched.required && !watched.bridge.is_closed();
        self.watched.as_ref().is_some_and(lacks)
    }

    pub(super) fn readiness(&self) -> Readiness {
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
            ("rereads", report.rereads),
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
                let moved_ms_ago = now.saturating_sub(shard.moved_at.load(Ordering::Relaxed));
                ShardHealth { id, moved_ms_ago, alive: self.watch.is_alive(usize::from(id)) }
            })
            .collect();
        let broker = self.watched.as_ref().map(broker_health);
        let state = match &broker {
            _ if !self.shards_moved() => State::Unhealthy,
            Some(broker) => broker.judge(),
            None => State::Healthy,
        };
        Health {
            state,
            ready: self.readiness(),
            uptime: Duration::from_millis(now),
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
                    let closed = self.by_reason(Counters::closed, reason.index());
                    (reason.row().label, closed)
                })
                .collect(),
            refused: refusal::ALL
                .iter()
                .map(|kind| (kind.code(), self.by_reason(Counters::refused, kind.index())))
                .collect(),
        }
    }
}
