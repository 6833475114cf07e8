//! `ringhall bench`: a load generator against a server that runs.
//!
//! In:    flags.
//! Out:   a table or JSON on stdout, a fault on stderr, an exit code.
//! Never: starts a server.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{answer, complain};
use crate::bench::{self, Bench, Format, Options, STAMP_BYTES, Shape, Span, Target};

/// Connections, rooms, members and the like: more than any box holds, few enough to multiply.
const COUNT_MAX: u64 = 10_000_000;
/// Longest message, in bytes.
const BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Sends messages to /echo and waits for each to come back.
    #[command(after_help = "\
Example:
  ringhall bench echo --url ws://127.0.0.1:8000 --depth 8 --pid $(pgrep -x ringhall)")]
    Echo(EchoFlags),
    /// Sends messages to rooms and waits for all members to hear them.
    #[command(after_help = "\
Example:
  ringhall bench fanout --url ws://127.0.0.1:8000 --rooms 100 --members 10 --mode json")]
    Fanout(FanoutFlags),
    /// Connects, upgrades, closes, and does it again.
    #[command(after_help = "\
Example:
  ringhall bench churn --url ws://127.0.0.1:8000 --in-flight 64")]
    Churn(ChurnFlags),
    /// Holds connections that say nothing and answer pings.
    #[command(after_help = "\
Example:
  ringhall bench idle --url ws://127.0.0.1:8000 --connections 15000 --seconds 60")]
    Idle(IdleFlags),
}

#[derive(Args, Debug)]
pub(super) struct SharedFlags {
    /// The server's root, such as ws://127.0.0.1:8000 (ws://0.0.0.0:8000: all loopback addresses)
    #[arg(long, value_name = "URL", value_parser = Target::parse)]
    url: Target,
    /// Seconds that are measured
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = window)]
    seconds: Duration,
    /// Seconds of load before
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    warmup: Duration,
    /// The server's process: its CPU time and memory are measured too
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// The CPU to run on
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
    /// Shows no progress
    #[arg(long)]
    no_progress: bool,
}

#[derive(Args, Debug)]
pub(super) struct EchoFlags {
    #[command(flatten)]
    shared: SharedFlags,
    /// Connections
    #[arg(long, value_name = "N", default_value = "1000", value_parser = count())]
    connections: u64,
    /// Messages under way on each
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    depth: u64,
    /// Bytes of a message
    #[arg(long, value_name = "N", default_value = "64", value_parser = bytes())]
    bytes: u64,
    /// Messages a second over all connections, sent when due and not when answered
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
}

#[derive(Args, Debug)]
pub(super) struct FanoutFlags {
    #[command(flatten)]
    shared: SharedFlags,
    /// Rooms
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    rooms: u64,
    /// Members of each room
    #[arg(long, value_name = "N", default_value = "1000", value_parser = count())]
    members: u64,
    /// Members of each room that speak
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    publishers: u64,
    /// Messages of each of them that not all members have heard
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    window: u64,
    /// Bytes of a message
    #[arg(long, value_name = "N", default_value = "64", value_parser = bytes())]
    bytes: u64,
    /// Raw rooms, or JSON ones
    #[arg(long, value_name = "MODE", default_value = "raw")]
    mode: ModeFlag,
    /// Messages a second over all publishers, sent when due and not when delivered
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
}

#[derive(Args, Debug)]
pub(super) struct ChurnFlags {
    #[command(flatten)]
    shared: SharedFlags,
    /// Handshakes under way
    #[arg(long, value_name = "N", default_value = "64", value_parser = count())]
    in_flight: u64,
}

#[derive(Args, Debug)]
pub(super) struct IdleFlags {
    #[command(flatten)]
    shared: SharedFlags,
    /// Connections
    #[arg(long, value_name = "N", default_value = "15000", value_parser = count())]
    connections: u64,
    /// Members of each room; 0: on /echo, in no room
    #[arg(long, value_name = "N", default_value = "10")]
    members: u32,
    /// Raw rooms, or JSON ones
    #[arg(long, value_name = "MODE", default_value = "json")]
    mode: ModeFlag,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeFlag {
    /// Payloads byte for byte
    Raw,
    /// Envelopes with room, sender and offset
    Json,
}

impl ModeFlag {
    fn format(self) -> Format {
        match self {
            Self::Raw => Format::Raw,
            Self::Json => Format::Json,
        }
    }
}

/// Runs the load.
pub(super) fn run(command: BenchCommand) -> ExitCode {
    let (shared, bench) = match command {
        BenchCommand::Echo(flags) => flags.bench(),
        BenchCommand::Fanout(flags) => flags.bench(),
        BenchCommand::Churn(flags) => (flags.shared, Ok(Bench::Churn(flags.in_flight as usize))),
        BenchCommand::Idle(flags) => flags.bench(),
    };
    let bench = match bench {
        Ok(bench) => bench,
        Err(sentence) => {
            complain(&format!("error: {sentence}"));
            return ExitCode::from(super::BAD_USAGE);
        }
    };
    let options = Options {
        target: shared.url,
        bench,
        span: Span { warmup: shared.warmup, measured: shared.seconds, pid: shared.pid },
        cpu: shared.cpu,
        progress: !shared.no_progress,
    };
    match bench::run(&options) {
        Ok(report) if shared.json => answer(&format!("{}\n", report.to_json())),
        Ok(report) => answer(&report.to_text()),
        Err(fault) => {
            complain(&format!("ringhall: {fault}"));
            ExitCode::FAILURE
        }
    }
}

impl EchoFlags {
    fn bench(self) -> (SharedFlags, Result<Bench, String>) {
        let shape = Shape {
            format: Format::Echo,
            rooms: self.connections as usize,
            members: 1,
            publishers: 1,
            window: self.depth as usize,
            bytes: self.bytes as usize,
            rate: self.rate,
        };
        (self.shared, Ok(Bench::Echo(shape)))
    }
}

impl FanoutFlags {
    fn bench(self) -> (SharedFlags, Result<Bench, String>) {
        let shape = Shape {
            format: self.mode.format(),
            rooms: self.rooms as usize,
            members: self.members as usize,
            publishers: self.publishers as usize,
            window: self.window as usize,
            bytes: self.bytes as usize,
            rate: self.rate,
        };
        let bench = if self.publishers > self.members {
            let (publishers, members) = (self.publishers, self.members);
            Err(format!("--publishers {publishers} are members too: at most --members {members}"))
        } else if self.rooms * self.members > COUNT_MAX {
            Err(format!("--rooms times --members: at most {COUNT_MAX} connections"))
        } else {
            Ok(Bench::Fanout(shape))
        };
        (self.shared, bench)
    }
}

impl IdleFlags {
    fn bench(self) -> (SharedFlags, Result<Bench, String>) {
        let (connections, members) = (self.connections as usize, self.members as usize);
        let format = if members == 0 { Format::Echo } else { self.mode.format() };
        let members = members.max(1);
        let shape = Shape {
            format,
            rooms: connections / members,
            members,
            publishers: 0,
            window: 0,
            bytes: STAMP_BYTES,
            rate: None,
        };
        let bench = match connections.is_multiple_of(members) {
            true => Ok(Bench::Idle(shape)),
            false => Err(format!(
                "--connections {connections} are no whole rooms of {members}: give a multiple of \
                 {members}, other --members, or --members 0 for connections in no room"
            )),
        };
        (self.shared, bench)
    }
}

fn count() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=COUNT_MAX)
}

fn bytes() -> clap::builder::RangedU64ValueParser {
    // A message names its speaker and itself.
    clap::value_parser!(u64).range(STAMP_BYTES as u64..=BYTES_MAX)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "a number of seconds from 0 to 1000000, such as 2 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if !(0.0..=1e6).contains(&seconds) {
        return Err(wrong());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn window(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        // What is divided by.
        Duration::ZERO => Err("more than 0 seconds: within none nothing is measured".to_owned()),
        seconds => Ok(seconds),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "a number of messages a second".to_owned())?;
    match rate > 0.0 && rate <= 1e9 {
        true => Ok(rate),
        false => Err("more than 0 and at most 1000000000 messages a second".to_owned()),
    }
}
