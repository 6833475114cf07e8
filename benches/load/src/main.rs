//! Load and checks for a running Ringhall: arguments to bench to exit code.
//!
//! In:    a bench (`idle`, `bigroom`, `storm`, `echo`, `million`, `holding`, `boxes`, `scrape`),
//!        and its options.
//! Out:   figures and PASS or FAIL lines; 0 where all passed, 1 where not, 2 for bad usage.
//! Never: talks to anything but 127.0.0.0/8.

mod bigroom;
mod boxes;
mod broker;
mod echo;
mod idle;
mod link;
mod memory;
mod million;
mod report;
mod scrape;
mod server;
mod sleeper;
mod storm;
mod stream;
mod taken;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "benches/idle|bigroom|storm|echo|million|holding|boxes|scrape [--seconds N] \
                     [--members N] [--connections N] [--rounds N] [--long] [--json] [--record]";

/// What was asked for.
#[derive(Debug)]
pub struct Options {
    /// The server.
    pub binary: PathBuf,
    /// How long to load it.
    pub seconds: Option<u64>,
    /// How many members or connections.
    pub members: Option<usize>,
    /// How many connections (million, holding).
    pub connections: Option<usize>,
    /// How often to repeat.
    pub rounds: Option<usize>,
    /// Whether to take as long as before a release.
    pub long: bool,
    json: bool,
    record: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let bench = arguments.next().unwrap_or_default();
    let options = match options(arguments) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\nusage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    let run = match bench.as_str() {
        "echo" => echo::run,
        "idle" => idle::run,
        "storm" => storm::run,
        "bigroom" => bigroom::run,
        "million" => million::run,
        "holding" => million::holding::run,
        "boxes" => boxes::run,
        "scrape" => scrape::run,
        _ => {
            eprintln!("usage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options).and_then(|report| report.finish(options.json, options.record)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAIL {bench}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let binary = std::env::var_os("RINGHALL_BIN").ok_or("RINGHALL_BIN names the server")?;
    let (seconds, members, connections, rounds) = (None, None, None, None);
    let (long, json, record) = (false, false, false);
    let binary = binary.into();
    let mut options = Options { binary, seconds, members, connections, rounds, long, json, record };
    while let Some(option) = arguments.next() {
        let mut number = || {
            let word = arguments.next().ok_or_else(|| format!("{option} wants a number"))?;
            word.parse::<usize>().map_err(|error| format!("{option} {word}: {error}"))
        };
        match option.as_str() {
            "--seconds" => options.seconds = Some(number()? as u64),
            "--members" => options.members = Some(number()?),
            "--connections" => options.connections = Some(number()?),
            "--rounds" => options.rounds = Some(number()?),
            "--long" => options.long = true,
            "--json" => options.json = true,
            "--record" => options.record = true,
            _ => return Err(format!("no option {option}")),
        }
    }
    Ok(options)
}
