//! What members of one box pay for a broker that is attached, though all of them are here.
//!
//! In:    how often.
//! Out:   deliveries beside those of a server without a broker, in the median of all rounds.
//! Never: compares runs that are not neighbours in time.
//!
//! One message is under way a room, so that nothing is joined: how much is depends on who else is
//! on the box, and moves the figures more than a broker does. The server has core 0 and the load
//! core 1, as in `benches/peers`; the broker runs wherever there is time for it. With two cores the
//! bridge's thread shares the shard's, which it would not where there are more: so deliveries are
//! counted a CPU-second of the shard's thread, too.

use std::io;
use std::time::Duration;

use ringhall::bench::{self, Bench, Format, Shape, Span, Target};

use super::neighbours::Neighbours;
use super::pair::wait_until_closed;
use crate::Options;
use crate::broker::{Broker, Kind};
use crate::report::Report;
use crate::server::{Server, pin, unpin};

/// Rounds, where none are asked for.
const ROUNDS: usize = 7;
/// What a server touches first, it touches within this; and it reaches its broker.
const SETTLE: Duration = Duration::from_secs(1);
const WARMUP: Duration = Duration::from_millis(200);
const MEASURED: Duration = Duration::from_millis(600);
/// Target: of the deliveries without a broker.
const SHARE_MIN: f64 = 0.95;

/// Who is measured: with which broker.
const WHO: [Option<Kind>; 3] = [None, Some(Kind::Redis), Some(Kind::Nats)];

/// What is said: rooms, members of each, speakers among them.
const SHAPES: [(&str, usize, usize, usize); 2] =
    [("1 room x 1000, 1 publisher", 1, 1000, 1), ("100 rooms x 10, 1 publisher", 100, 10, 1)];

/// One run's deliveries.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    per_server_second: f64,
    per_shard_second: f64,
}

/// One figure of a run.
type Figure = fn(&Figures) -> f64;

/// Measures both shapes.
///
/// # Errors
/// Where a server or a broker does not start, or a message is lost.
pub fn run(options: &Options, report: &mut Report) -> io::Result<()> {
    let rounds = options.rounds.unwrap_or(ROUNDS);
    unpin()?;
    let brokers = [Broker::start(Kind::Redis)?, Broker::start(Kind::Nats)?];
    for (title, rooms, members, publishers) in SHAPES {
        let shape = Shape {
            format: Format::Raw,
            rooms,
            members,
            publishers,
            window: 1,
            bytes: super::listeners::MESSAGE_BYTES,
            rate: None,
        };
        let mut runs: [Vec<Figures>; WHO.len()] = Default::default();
        let neighbours = Neighbours::watch()?;
        for round in 0..rounds {
            for at in 0..WHO.len() {
                let who = (round + at) % WHO.len();
                let broker = who.checked_sub(1).map(|broker| &brokers[broker]);
                runs[who].push(measure(options, broker, shape)?);
            }
        }
        say(report, title, &runs);
        report.figure(
            &format!("{title}: the box was busy with others"),
            neighbours.percent()?,
            "%",
        );
    }
    Ok(())
}

/// One fresh server, one window.
fn measure(options: &Options, broker: Option<&Broker>, shape: Shape) -> io::Result<Figures> {
    let url = broker.map(|broker| format!("broker.url={}", broker.url()));
    let mut arguments = vec!["--log", "info", "--shards", "1"];
    if let Some(url) = &url {
        arguments.extend(["--set", url]);
    }
    pin(0)?;
    let server = Server::start(&options.binary, &arguments)?;
    pin(1)?;
    // The same for everybody: else the start would be on the account of who has no broker.
    std::thread::park_timeout(SETTLE);
    if broker.is_some() {
        wait_until_closed(&server)?;
    }
    let target = Target::parse(&format!("ws://127.0.0.1:{}", server.port));
    let span = Span { warmup: WARMUP, measured: MEASURED, pid: Some(server.pid()) };
    let load = bench::Options {
        target: target.map_err(io::Error::other)?,
        bench: Bench::Fanout(shape),
        span,
        cpu: None,
        progress: false,
    };
    let (all, shard) = (server.cpu_seconds()?, server.thread_seconds("shard")?);
    let found = bench::run(&load).map_err(io::Error::other)?;
    let (all, shard) = (server.cpu_seconds()? - all, server.thread_seconds("shard")? - shard);
    let measured = &found.measured;
    // CPU was counted over the whole run, connecting included: alike for everybody.
    let operations = measured.operations_all as f64;
    Ok(Figures {
        per_second: measured.operations as f64 / measured.seconds,
        per_server_second: operations / all,
        per_shard_second: operations / shard,
    })
}

fn say(report: &mut Report, title: &str, runs: &[Vec<Figures>; WHO.len()]) {
    let figures: [(&str, Figure); 3] = [
        ("a second", |run| run.per_second),
        ("a server CPU-second", |run| run.per_server_second),
        ("a CPU-second of the shard", |run| run.per_shard_second),
    ];
    for (who, kind) in WHO.iter().enumerate() {
        let name = kind.map_or("no broker", Kind::name);
        // Beside the run without a broker of the same round.
        let share = |figure: Figure| {
            middle(runs[who].iter().zip(&runs[0]).map(|(with, alone)| figure(with) / figure(alone)))
        };
        for (unit, figure) in figures {
            let value = middle(runs[who].iter().map(figure));
            let what = format!("{title}, {name}, {unit} ({:.2} x no broker)", share(figure));
            report.figure(&what, value, "deliveries");
        }
        if kind.is_some() {
            let share = share(figures[2].1);
            let what = format!("{title}: {name} leaves >= {SHARE_MIN} of the shard's deliveries");
            report.check(&what, share >= SHARE_MIN, format_args!("{share:.3}"));
        }
    }
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
