//! `ringhall tune`: measures this box and writes what it found.
//!
//! In:    flags.
//! Out:   a table or JSON on stdout; what was done to files, and faults, on stderr.
//! Never: decides anything itself.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{answer, complain};
use crate::tune::command::{self, Measure, Request};
use crate::tune::measure::{self, Servers};
use crate::tune::write::{Folder, Reverted};
use crate::tune::{Bench, Fault, Plan, Probes};

/// Connections that as many tables could hold.
const CONNECTIONS_MAX: u64 = 1 << 30;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct TuneFlags {
    #[command(subcommand)]
    command: Option<TuneCommand>,
    /// Less than 90 seconds: receive mode, buffers and batch only (this is the default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Every sweep, up to 15 minutes
    #[arg(long)]
    full: bool,
    /// Connections that the box is to hold [default: as many as its
    /// memory and one shard a CPU do]
    #[arg(long, value_name = "N", value_parser = number)]
    connections: Option<u64>,
    /// Folder for ringhall.toml, the drop-ins of sysctl and systemd, and the report
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Measures on a loaded box too; replaces files that are not from here (and keeps them)
    #[arg(long)]
    force: bool,
    /// Measures, and says what would be written
    #[arg(long)]
    dry_run: bool,
    /// Prints one JSON object: the report
    #[arg(long)]
    json: bool,
    /// Shows no progress
    #[arg(long)]
    no_progress: bool,
}

#[derive(Debug, Subcommand)]
enum TuneCommand {
    /// Takes back what an earlier run wrote into a folder, and puts back what was there before.
    #[command(after_help = "Example:\n  ringhall tune revert --write ./tuned")]
    Revert(RevertFlags),
}

#[derive(Args, Debug)]
struct RevertFlags {
    /// The folder
    #[arg(long, value_name = "DIR")]
    write: PathBuf,
    /// Also what was edited since
    #[arg(long)]
    force: bool,
}

/// The measuring half, for real.
struct Real;

impl Measure for Real {
    fn probes(&mut self, plan: &Plan, say: &mut dyn FnMut(&str)) -> Result<Probes, Fault> {
        measure::probes(plan, say)
    }

    fn bench(&mut self, plan: &Plan) -> Result<Box<dyn Bench>, Fault> {
        Ok(Box::new(Servers::new(plan)?))
    }
}

/// Measures, or takes back.
pub(super) fn run(flags: TuneFlags) -> ExitCode {
    if let Some(TuneCommand::Revert(flags)) = flags.command {
        return revert(&flags);
    }
    let request = flags.request();
    match command::run(&request, &measure::knobs(), &mut Real) {
        Ok(done) => {
            complain(done.said.trim_end());
            match flags.json {
                true => answer(&format!("{}\n", done.report.to_json())),
                false => answer(&done.report.to_text()),
            }
        }
        Err(fault) => failed(&fault),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=CONNECTIONS_MAX).contains(number));
    number.ok_or_else(|| format!("a number from 1 to {CONNECTIONS_MAX}"))
}

fn failed(fault: &Fault) -> ExitCode {
    complain(&format!("ringhall: {fault}"));
    ExitCode::FAILURE
}

impl TuneFlags {
    fn request(&self) -> Request {
        let quick = !self.full;
        let mut command = format!("ringhall tune {}", if quick { "--quick" } else { "--full" });
        if let Some(connections) = self.connections {
            command.push_str(&format!(" --connections {connections}"));
        }
        if self.force {
            command.push_str(" --force");
        }
        Request {
            quick,
            connections: self.connections,
            write: self.write.clone(),
            force: self.force,
            dry_run: self.dry_run,
            progress: !self.no_progress,
            command,
        }
    }
}

fn revert(flags: &RevertFlags) -> ExitCode {
    let folder = flags.write.display();
    let taken_back = Folder::open(&flags.write).and_then(|opened| match opened.has_record() {
        false => Err(Fault::new(format!(
            "{folder} holds nothing that `ringhall tune` wrote: --write takes the folder of the \
             earlier run"
        ))),
        true => opened.revert(flags.force),
    });
    let all = match taken_back {
        Ok(all) => all,
        Err(fault) => return failed(&fault),
    };
    if all.is_empty() {
        return answer(&format!(
            "{folder}: the run ended before it wrote anything; its folders are \
            removed where nothing else is in them\n"
        ));
    }
    let mut kept = 0;
    let said: String = all
        .iter()
        .map(|one| match one {
            Reverted::Removed(name) => format!("removed {folder}/{name}\n"),
            Reverted::Restored(name) => format!("restored {folder}/{name}\n"),
            Reverted::Kept(name) => {
                kept += 1;
                format!("kept {folder}/{name}: it was edited since (--force takes it back too)\n")
            }
        })
        .collect();
    let code = answer(&said);
    if kept > 0 { ExitCode::FAILURE } else { code }
}
