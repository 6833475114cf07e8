//! `ringhall doctor`: the examination, as text or JSON.
//!
//! In:    flags.
//! Out:   the report on stdout; exit code 0 (all is well), 1 (warnings) or 2 (something is broken).
//! Never: changes anything.

use std::process::ExitCode;

use clap::Args;

use super::{SharedFlags, answer};
use crate::config::load;
use crate::doctor::{Question, examine};
use crate::probe::Clients;

pub(super) const EXAMPLES: &str = "\
Examples:
  ringhall doctor
  ringhall doctor --connections 1000000     what has to change for a million?
  ringhall doctor --loopback                clients and server on this box
  ringhall doctor --json --config ./ringhall.toml
  ringhall doctor --preflight               what ExecStartPre= of the unit runs

Exit code: 0 all is well, 1 there are warnings (0 with --preflight), 2 something is broken.";

#[derive(Args, Debug)]
pub(super) struct DoctorFlags {
    #[command(flatten)]
    shared: SharedFlags,
    /// Judges everything by so many connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    connections: Option<u64>,
    /// The clients are on this box too: each connection has both of its ends here
    #[arg(long)]
    loopback: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Only what would keep the server from starting; what makes it hold fewer is a warning
    #[arg(long)]
    preflight: bool,
}

/// Examines, and tells.
pub(super) fn run(flags: DoctorFlags) -> ExitCode {
    let file = flags.shared.config.clone();
    let question = Question {
        file: file.as_deref(),
        connections: flags.connections.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        clients: if flags.loopback { Clients::Here } else { Clients::Elsewhere },
        preflight: flags.preflight,
    };
    let loaded = load(flags.shared.sources(vec![]));
    let report = examine(loaded.as_ref().map_err(Vec::as_slice), &question);
    let told = match flags.json {
        true => format!("{:#}\n", report.json(question.preflight)),
        false => report.text(question.preflight),
    };
    let written = answer(&told);
    match report.exit(question.preflight) {
        0 => written,
        code => ExitCode::from(code),
    }
}
