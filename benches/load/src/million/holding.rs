//! What it costs to hold idle connections: pings and pongs, and the wheel that times them.
//!
//! In:    how many connections, how long to look.
//! Out:   server CPU a connection and second.
//! Never: does anything but answer pings.

use std::io;
use std::time::Duration;

use super::{Stage, members};
use crate::Options;
use crate::report::Report;

/// Silence after which the server pings.
const PING_AFTER: u64 = 25;
/// Target, in microseconds of CPU a connection and second.
const CPU_MAX: f64 = 1.0;

/// Holds them.
///
/// # Errors
/// Where a connection is lost.
pub fn run(options: &Options) -> io::Result<Report> {
    let count = members(options.connections.unwrap_or(100_000));
    let seconds = options.seconds.unwrap_or(2 * PING_AFTER);
    let mut report = Report::new("holding");
    let pings = format!("heartbeat.ping_after={PING_AFTER}s");
    let mut stage = Stage::open(options, count, &[pings])?;
    report.say(format_args!("{count} connections, a ping each after {PING_AFTER} s of silence"));
    stage.fill(&mut report)?;
    // Until the first pings are due, nothing happens at all.
    stage.idle(Duration::from_secs(PING_AFTER))?;
    let (pings, cpu) = (stage.crew.counts.pings, stage.server.cpu_seconds()?);
    stage.idle(Duration::from_secs(seconds))?;
    let cpu = stage.server.cpu_seconds()? - cpu;
    let pings = stage.crew.counts.pings - pings;
    let each = cpu / (count as f64 * seconds as f64) * 1e6;
    report.figure("pings", pings as f64 / seconds as f64, "a second");
    report.figure("a ping and its pong", cpu / pings.max(1) as f64 * 1e6, "us of server CPU");
    report.figure("holding", each, "us of server CPU a connection and second");
    report.check("holding <= 1 us a second each", each <= CPU_MAX, format_args!("{each:.2}"));
    let least = count as u64 * seconds / (2 * PING_AFTER);
    report.check("everyone is pinged", pings as u64 >= least, pings);
    Ok(report)
}
