//! What is done to a cluster under load, the same for every broker and delivery.
//!
//! In:    a broker, a delivery.
//! Out:   a panic that says what was not as promised.
//! Never: passes a case in which nothing happened.

use std::time::{Duration, Instant};

use ringhall::bridge::Delivery;

use super::check_presence::LEFT_WITHIN;
use super::nodes::NODES;
use super::presence;
use super::stage::{Stage, Way, first_answer};
use crate::brokers::{Broker, Data};
use crate::support::DEADLINE;

/// How long a broker is stopped.
const PAUSE: Duration = Duration::from_secs(6);
/// "`/health` degraded within 1.5 s".
const NOTICED_WITHIN: Duration = Duration::from_millis(1500);
/// A difference below this is the machine's, not the server's.
const NOISE: u64 = 25_000;
/// Of a broker that is slow and well: each way.
const SLOW: Duration = Duration::from_millis(40);
/// Of a broker that is too slow to be of use: each way.
const TOO_SLOW: Duration = Duration::from_millis(1500);

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Nothing happens, and nothing is missed.
    Steady,
    /// The broker is killed and comes back with what it had.
    KilledWithData,
    /// The broker is killed and comes back with nothing.
    KilledEmpty,
    /// The broker stands still for six seconds.
    Paused,
    /// The broker answers late, then too late.
    Slow,
    /// A node is killed, and another takes its place.
    NodeKilled,
    /// Two nodes lose the broker, and one has it back before the other.
    CutOff,
    /// Who is there, in small rooms and large ones.
    Presence,
}

impl Case {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Steady,
        Self::Slow,
        Self::CutOff,
        Self::NodeKilled,
        Self::Paused,
        Self::Presence,
        Self::KilledWithData,
        Self::KilledEmpty,
    ];

    /// Whether the nodes reach the broker through a proxy.
    pub fn through_proxy(self) -> bool {
        matches!(self, Self::Slow | Self::CutOff)
    }

    /// Runs it. `back_within`: how soon the nodes have to be well after the broker's port answers.
    ///
    /// # Panics
    /// If anything is not as promised.
    pub fn run(self, broker: &mut dyn Broker, way: Way<'_>, trial: Terms) {
        match self {
            Self::Steady => steady(broker, way, trial),
            Self::KilledWithData => killed(broker, way, trial, Data::Kept),
            Self::KilledEmpty => killed(broker, way, trial, Data::Lost),
            Self::Paused => paused(broker, way, trial),
            Self::Slow => slow(broker, way, trial),
            Self::NodeKilled => node_killed(broker, way, trial),
            Self::CutOff => cut_off(broker, way, trial),
            Self::Presence => presence::run(broker, way, trial.delivery),
        }
    }
}

/// What differs between brokers.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Who gives messages their order.
    pub delivery: Delivery,
    /// How soon the nodes have to be well after the broker's port answers.
    pub back_within: Duration,
}

/// Seconds of load before, in and after a fault: `CLUSTER_SECONDS`, 2 where it is not set.
fn seconds() -> f64 {
    let set = std::env::var("CLUSTER_SECONDS").ok();
    set.map_or(2.0, |set| set.parse().expect("CLUSTER_SECONDS is a number of seconds"))
}

fn steady(broker: &mut dyn Broker, way: Way<'_>, terms: Terms) {
    let stage = Stage::set(broker, way, terms.delivery);
    stage.load.pass(2.0 * seconds());
    stage.conclude();
}

#[expect(clippy::print_stderr, reason = "the harness shows it where asked")]
fn killed(broker: &mut dyn Broker, way: Way<'_>, terms: Terms, data: Data) {
    let mut stage = Stage::set(broker, way, terms.delivery);
    // What happens first is not what usually happens: caches, connections, memory.
    stage.load.pass(0.5);
    let begin = stage.load.now();
    stage.load.pass(seconds());
    let struck = Instant::now();
    broker.kill();
    for node in 0..NODES {
        let after = stage.fault("the broker was killed", node, struck);
        assert!(after <= NOTICED_WITHIN, "node {node} was degraded only after {after:?}");
    }
    stage.load.pass(seconds());
    // The broker's start takes the machine's time: what is local is measured before it.
    let end = stage.load.now();
    let answer = first_answer(broker.address());
    broker.restart(data);
    if data == Data::Lost {
        stage.lost_its_log();
    }
    let answered = answer.join().expect("the broker is back");
    for node in 0..NODES {
        let after = stage.over(node, answered);
        assert!(after <= terms.back_within, "node {node} was well only {after:?} after the broker");
    }
    stage.load.pass(seconds());
    stage.conclude();
    if terms.delivery == Delivery::LocalFirst {
        let (before, within) = (
            stage.local_p99(begin, stage.load.time_of(struck)),
            stage.local_p99(stage.load.time_of(struck), end),
        );
        eprintln!("  local p99: {before} us before, {within} us in the outage");
        assert!(
            within <= (2 * before).max(NOISE),
            "local p99 was {before} us and {within} us in the outage"
        );
    }
}

fn paused(broker: &mut dyn Broker, way: Way<'_>, terms: Terms) {
    let mut stage = Stage::set(broker, way, terms.delivery);
    stage.load.pass(seconds());
    let struck = Instant::now();
    broker.pause();
    for node in 0..NODES {
        stage.fault("the broker stood still", node, struck);
    }
    stage.load.pass(PAUSE.saturating_sub(struck.elapsed()).as_secs_f64());
    broker.resume();
    let resumed = Instant::now();
    for node in 0..NODES {
        stage.over(node, resumed);
    }
    stage.load.pass(seconds());
    stage.conclude();
}

fn slow(broker: &mut dyn Broker, way: Way<'_>, terms: Terms) {
    let proxy = way.proxy.expect("this case needs one");
    let mut stage = Stage::set(broker, way, terms.delivery);
    stage.load.pass(seconds());
    // Slow is no fault: everything arrives.
    proxy.delay(SLOW);
    stage.load.pass(seconds());
    for node in 0..NODES {
        assert_eq!(stage.cluster.broker(node)["state"], "closed", "node {node}");
    }
    let struck = Instant::now();
    proxy.delay(TOO_SLOW);
    for node in 0..NODES {
        stage.fault("the broker was too slow", node, struck);
    }
    stage.load.pass(1.0);
    proxy.delay(Duration::ZERO);
    let mended = Instant::now();
    for node in 0..NODES {
        stage.over(node, mended);
    }
    stage.load.pass(seconds());
    stage.conclude();
}

fn node_killed(broker: &mut dyn Broker, way: Way<'_>, terms: Terms) {
    const VICTIM: usize = NODES - 1;
    let mut stage = Stage::set(broker, way, terms.delivery);
    stage.load.pass(seconds());
    let at = Instant::now();
    stage.load.lose_node(VICTIM, at);
    let listen = stage.cluster.kill(VICTIM);
    stage.wait_announced(Duration::from_micros(LEFT_WITHIN));
    stage.start_again(listen);
    stage.wait_announced(DEADLINE);
    stage.load.pass(seconds());
    stage.conclude();
}

/// The publisher has the broker back before a subscriber has: what it says then is lost on that one
/// alone, which counts it (or, ordered, reads it in the log).
fn cut_off(broker: &mut dyn Broker, way: Way<'_>, terms: Terms) {
    const EARLY: usize = 0;
    const LATE: usize = 1;
    let proxy = way.proxy.expect("this case needs one");
    let mut stage = Stage::set(broker, way, terms.delivery);
    stage.load.pass(seconds());
    let struck = Instant::now();
    for node in [EARLY, LATE] {
        proxy.cut(stage.cluster.server(node).pid());
    }
    for node in [EARLY, LATE] {
        stage.fault("cut off from the broker", node, struck);
    }
    stage.load.pass(0.5);
    proxy.mend(stage.cluster.server(EARLY).pid());
    stage.over(EARLY, Instant::now());
    stage.load.pass(seconds());
    proxy.mend(stage.cluster.server(LATE).pid());
    stage.over(LATE, Instant::now());
    stage.load.pass(seconds());
    stage.conclude();
    if terms.delivery == Delivery::LocalFirst {
        let gaps = stage.cluster.counted(LATE).expect("it lives").gaps;
        assert!(gaps > 0, "the late one missed what the early one said meanwhile");
    }
}
