//! Two boxes and a broker between them, on one machine: the course of events.
//!
//! In:    how long.
//! Out:   how long a message takes from box to box, how many a second get through; what a broker
//!        costs the members who are here.
//! Never: samples: every message has to arrive, once, whole and in its speaker's order.
//!
//! A room has one speaker on the first box and one listener on the second, so that all that is
//! heard has gone through the broker: the boxes know no other way.

mod listeners;
mod local;
pub mod neighbours;
mod pair;

use std::io;
use std::time::Duration;

use crate::Options;
use crate::broker::{Broker, Kind};
use crate::report::Report;
use neighbours::Neighbours;
use pair::{Costs, Pair};

/// Rooms: enough for every partition to have some.
const ROOMS: usize = 256;
/// Messages of a room on their way, where as many as can be are to get through. All of them
/// together are fewer than the lanes to and from a bridge hold.
const WINDOW: u32 = 24;
/// Messages a second, where it is time that counts.
const RATE: f64 = 1000.0;
/// Targets.
const P50_MICROS_MAX: f64 = 300.0;
const PER_SECOND_MIN: f64 = 150_000.0;

/// Runs everything, with one broker after the other.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("boxes");
    let seconds = Duration::from_secs(options.seconds.unwrap_or(5));
    report.say(format_args!("{ROOMS} rooms across two boxes, 64 B, {seconds:?} each"));
    for kind in [Kind::Redis, Kind::Nats] {
        let broker = Broker::start(kind)?;
        let mut pair = Pair::start(&options.binary, &broker, ROOMS)?;
        say_latency(&mut report, &mut pair, seconds)?;
        say_throughput(&mut report, &mut pair, &broker, seconds)?;
        let (sent, heard, wrong) = pair.end()?;
        let what = format!("{}: every message arrives once, whole and in order", kind.name());
        let is_well = sent == heard && wrong.is_empty();
        report.check(&what, is_well, format_args!("{sent} said, {heard} heard{wrong}"));
    }
    local::run(options, &mut report)?;
    Ok(report)
}

fn say_latency(report: &mut Report, pair: &mut Pair, seconds: Duration) -> io::Result<()> {
    let (name, neighbours) = (pair.broker, Neighbours::watch()?);
    let took = pair.speak_at(RATE, seconds)?;
    let named = |what: &str| format!("{name}: {what} at {RATE} messages a second");
    report.figure(&named("p99"), took.p99, "us from box to box");
    report.figure(&named("p99.9"), took.p999, "us from box to box");
    report.figure(&format!("{name}: the box was busy with others"), neighbours.percent()?, "%");
    let what = format!("{} <= {P50_MICROS_MAX} us", named("p50"));
    report.check(&what, took.p50 <= P50_MICROS_MAX, format_args!("{:.0}", took.p50));
    Ok(())
}

fn say_throughput(
    report: &mut Report,
    pair: &mut Pair,
    broker: &Broker,
    seconds: Duration,
) -> io::Result<()> {
    let name = pair.broker;
    let before = Costs::of(pair, broker)?;
    let (heard, wall) = pair.speak_as_fast_as_heard(WINDOW, seconds)?;
    let spent = Costs::of(pair, broker)?.since(&before);
    let each = |cpu: f64| cpu / heard as f64 * 1e6;
    report.figure(&format!("{name}: the first box"), each(spent.first), "us of CPU a message");
    report.figure(&format!("{name}: the broker"), each(spent.broker), "us of CPU a message");
    report.figure(&format!("{name}: the second box"), each(spent.second), "us of CPU a message");
    let rate = heard as f64 / wall;
    let what = format!("{name}: >= {PER_SECOND_MIN} messages a second heard on the other box");
    report.check(&what, rate >= PER_SECOND_MIN, format_args!("{rate:.0}"));
    Ok(())
}
