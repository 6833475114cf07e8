//! Turns a configuration and a box into what would stop the server, at how many connections, and
//! what to do about it.
//!
//! In:    a loaded configuration, or what is wrong with it; what the box says and does when tried.
//! Out:   `Report`: a line each, how many connections the box holds, an exit code; text or JSON.
//! Never: changes anything on the box; reckons otherwise than the server does (`probe::Capacity`).
//!
//! # Invariants
//! - A check that is not PASS says what breaks; one that can be put right says how.
//! - What does not follow from something that was read or tried is not said.

mod accept;
mod addresses;
mod check;
mod clock;
mod conntrack;
mod counters;
mod cpus;
mod files;
mod kernel;
mod locked;
mod memory;
mod nic;
mod patient;
mod report;
mod root;
#[cfg(test)]
mod tests;
mod tuned;

pub use check::{Check, Status};
pub use report::Report;

use std::path::Path;

use self::patient::Patient;
use crate::config::{Loaded, Problem};
use crate::probe::Clients;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The configuration file that was named, if one was.
    pub file: Option<&'a Path>,
    /// For so many connections; `None`: what the configuration asks for, or what the box holds.
    pub connections: Option<usize>,
    /// Where the clients are.
    pub clients: Clients,
    /// Only what would keep the server from starting; what makes it hold fewer is a warning.
    pub preflight: bool,
}

/// One part of the examination.
struct Part {
    /// It belongs to the quick look before a start.
    preflight: bool,
    examine: fn(&Patient) -> Vec<Check>,
}

const fn part(examine: fn(&Patient) -> Vec<Check>) -> Part {
    Part { preflight: false, examine }
}

const fn before_start(examine: fn(&Patient) -> Vec<Check>) -> Part {
    Part { preflight: true, examine }
}

/// Everything that is looked at, in the order in which it is told.
const PARTS: &[Part] = &[
    before_start(kernel::version),
    before_start(kernel::io_uring),
    part(kernel::features),
    before_start(locked::memlock),
    before_start(files::nofile),
    part(files::nr_open),
    part(files::file_max),
    before_start(memory::memory),
    part(memory::group),
    before_start(memory::tcp_mem),
    part(memory::swap),
    part(memory::huge_pages),
    part(accept::somaxconn),
    part(accept::syn_backlog),
    part(accept::switches),
    part(accept::port_range),
    part(conntrack::conntrack),
    part(nic::queues),
    part(cpus::quota),
    part(cpus::steal),
    part(clock::clocksource),
    part(clock::synchronised),
    part(counters::listen_queue),
    part(counters::tcp_memory),
    part(counters::input_queue),
    part(tuned::fingerprint),
    part(addresses::listen),
    part(addresses::server),
];

/// Examines this box for this configuration.
#[must_use]
pub fn examine(loaded: Result<&Loaded, &[Problem]>, question: &Question<'_>) -> Report {
    let mut checks = vec![configuration(loaded, question)];
    let config = loaded.map_or_else(|_| Loaded::defaults().config, |loaded| loaded.config.clone());
    let file = loaded.ok().and_then(|loaded| loaded.file.as_deref());
    let patient = Patient::this_box(config, file, question);
    let parts = PARTS.iter().filter(|part| part.preflight || !question.preflight);
    let found = parts.flat_map(|part| (part.examine)(&patient));
    checks.extend(found.map(|check| match question.preflight {
        true => check.before_a_start(),
        false => check,
    }));
    Report::new(checks, &patient)
}

/// The flag that names the file again, as a shell takes it.
fn named(file: Option<&Path>) -> String {
    let quoted = |file: &Path| file.display().to_string().replace('\'', r"'\''");
    file.map(|file| format!(" --config '{}'", quoted(file))).unwrap_or_default()
}

fn configuration(loaded: Result<&Loaded, &[Problem]>, question: &Question<'_>) -> Check {
    let check = Check::of("config");
    match loaded {
        Ok(loaded) => {
            let read = loaded.file.as_ref().map(|file| file.display().to_string());
            check.measured(read.as_deref().unwrap_or("built-in defaults")).pass("it is right")
        }
        Err(problems) => {
            let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
            let count = problems.len();
            let said =
                if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
            check.measured(said).breaks_at(0).fail(
                format!("the server does not start with it: {}", lines.join("; ")),
                format!("ringhall config check{}   # until it says ok", named(question.file)),
            )
        }
    }
}
