//! Turns a shape of load into figures: the load generator behind `ringhall bench`.
//!
//! In:    `Options`.
//! Out:   a `Report`, or the `Fault` that ended the run.
//! Never: prints a result; sleeps; trusts a server.
//!
//! One thread that spins over rings of its own: nothing here wakes, or waits for, the server more
//! than clients do, and all that is sent in one turn is one buffer. What comes back is compared
//! byte for byte. A wrong, lost or repeated one ends the run.

mod answer;
mod churn;
mod drive;
mod ears;
mod fault;
mod frames;
mod json;
mod latency;
mod message;
pub mod pool;
mod process;
mod progress;
mod report;
mod rooms;
mod routes;
mod score;
mod target;

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

pub use answer::Upgrade;
pub use churn::Churn;
pub use drive::{Driver, Load, Measured, Span};
pub use fault::Fault;
pub use frames::{Partial, Sink, read};
pub use latency::{Latency, Quantiles};
pub use message::{STAMP_BYTES, Stamp, Template, put_control};
pub use pool::{End, Handler, Pool, Setup};
pub use process::{Spent, Usage};
pub use progress::Progress;
pub use report::Report;
pub use rooms::Rooms;
pub use routes::Routes;
pub use score::{Format, Shape};
pub use target::Target;

/// The subprotocol of a raw room.
const RAW: &str = "ringhall.raw";

/// What to do to a server.
#[derive(Clone, Copy, Debug)]
pub enum Bench {
    /// Messages there and back.
    Echo(Shape),
    /// Messages to everybody in a room.
    Fanout(Shape),
    /// Connections that say nothing: without publishers.
    Idle(Shape),
    /// So many handshakes, with their closes, at a time.
    Churn(usize),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub target: Target,
    /// What to do to it.
    pub bench: Bench,
    /// How long.
    pub span: Span,
    /// The CPU to stay on.
    pub cpu: Option<usize>,
    /// Whether to tell a terminal what is going on.
    pub progress: bool,
}

/// Runs it.
///
/// # Errors
/// Whatever went wrong, in a sentence that says what to do.
pub fn run(options: &Options) -> Result<Report, Fault> {
    if let Some(cpu) = options.cpu {
        stay_on(cpu)?;
    }
    raise_nofile();
    let rss_before = options.span.pid.map(Usage::of).transpose()?.map(|usage| usage.rss_bytes);
    let report = match options.bench {
        Bench::Echo(shape) => speak(options, "echo", "echoes", shape),
        Bench::Fanout(shape) => speak(options, "fanout", "deliveries", shape),
        Bench::Idle(shape) => idle(options, shape),
        Bench::Churn(in_flight) => churn(options, in_flight),
    }?;
    Ok(Report { rss_before, ..report })
}

fn pool(options: &Options, connections: usize, bytes: usize, raw: bool) -> Result<Pool, Fault> {
    Pool::new(Setup {
        connections,
        buffer_bytes: buffer_bytes(bytes),
        routes: Routes::new(options.target.addresses(connections)),
        upgrade: Upgrade::new(options.target.host.clone(), raw.then_some(RAW)),
    })
}

fn speak(
    options: &Options,
    bench: &'static str,
    unit: &'static str,
    shape: Shape,
) -> Result<Report, Fault> {
    let connections = shape.connections();
    let mut pool = pool(options, connections, shape.bytes, shape.format == Format::Raw)?;
    let mut load = Rooms::new(shape);
    let mut progress = Progress::new(options.progress);
    let mut driver = Driver::new(&mut pool, &mut load, &mut progress);
    driver.connect(connections)?;
    let measured = driver.measure(&options.span)?;
    driver.part(connections)?;
    Ok(Report {
        bench,
        unit,
        parameters: parameters(options, &shape_of(&shape)),
        measured,
        latency: load.latency().quantiles(),
        rss_before: None,
        messages: load.messages(),
    })
}

/// Holds connections. An operation is a connection that is open to the end.
fn idle(options: &Options, shape: Shape) -> Result<Report, Fault> {
    let report = speak(options, "idle", "connections", shape)?;
    let operations = shape.connections() as u64;
    let measured = Measured { operations, operations_all: operations, ..report.measured };
    Ok(Report { measured, ..report })
}

fn churn(options: &Options, in_flight: usize) -> Result<Report, Fault> {
    let mut pool = pool(options, in_flight, 0, false)?;
    let mut load = Churn::new(in_flight);
    let mut progress = Progress::new(options.progress);
    let measured = Driver::new(&mut pool, &mut load, &mut progress).measure(&options.span)?;
    Ok(Report {
        bench: "churn",
        unit: "handshakes",
        parameters: parameters(options, &[("in_flight", json!(in_flight))]),
        measured,
        latency: load.latency().quantiles(),
        rss_before: None,
        messages: load.begun(),
    })
}

fn parameters(options: &Options, more: &[(&str, Value)]) -> Value {
    let seconds = |duration: Duration| duration.as_secs_f64();
    let mut parameters = json!({
        "url": options.target.url,
        "seconds": seconds(options.span.measured),
        "warmup": seconds(options.span.warmup),
        "cpu": options.cpu,
    });
    for (name, value) in more {
        parameters[*name] = value.clone();
    }
    parameters
}

fn shape_of(shape: &Shape) -> Vec<(&'static str, Value)> {
    let mut parameters = match shape.format {
        Format::Echo => vec![("connections", json!(shape.rooms)), ("depth", json!(shape.window))],
        Format::Raw | Format::Json => vec![
            ("mode", json!(if shape.format == Format::Raw { "raw" } else { "json" })),
            ("rooms", json!(shape.rooms)),
            ("members", json!(shape.members)),
            ("publishers", json!(shape.publishers)),
            ("window", json!(shape.window)),
        ],
    };
    parameters.extend([("bytes", json!(shape.bytes)), ("rate", json!(shape.rate))]);
    parameters
}

/// Several short messages, or a good part of a long one.
fn buffer_bytes(message_bytes: usize) -> usize {
    (4 * message_bytes).next_power_of_two().clamp(2 << 10, 64 << 10)
}

fn stay_on(cpu: usize) -> Result<(), Fault> {
    let mut cpus = rustix::thread::CpuSet::new();
    if cpu < rustix::thread::CpuSet::MAX_CPU {
        cpus.set(cpu);
    }
    rustix::thread::sched_setaffinity(None, &cpus).map_err(|error| {
        let have = crate::probe::cpus();
        Fault::new(format!("cannot run on CPU {cpu} ({error}): --cpu takes one of {have:?}"))
    })
}

/// A table holds no more sockets than this process may have descriptors.
fn raise_nofile() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "RLIMIT_NOFILE stays as it is");
    }
}
