//! Turns what was found into a report.
//!
//! In:    checks; the patient they were made of.
//! Out:   text for a person, JSON for a machine, an exit code.
//! Never: prints.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::check::{Check, Status};
use super::patient::Patient;
use crate::probe::Clients;

/// Column in which what was found begins.
const COLUMN: usize = 34;
/// Checks without which there is no server, so that the box holds nobody; what is the cause of
/// another comes first.
const VITAL: [&str; 5] = ["config", "kernel", "memlock", "nofile", "io_uring"];

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// A line each, in order.
    pub checks: Vec<Check>,
    /// Connections that this box holds.
    pub connections: u64,
    /// What stops it first; one word.
    pub first_limit: String,
    /// The same for people.
    first_limit_said: String,
    /// Connections that were asked about.
    asked: Option<u64>,
    /// Each part that may bind, by its word; `None` where it does not.
    each: Vec<(&'static str, Option<u64>)>,
    /// The same promise where the clients are on this box.
    here: u64,
    /// What the promise reckons with.
    clients: Clients,
}

impl Report {
    pub(super) fn new(checks: Vec<Check>, patient: &Patient) -> Self {
        let configured = patient.config.connections_max.number();
        let capacity = &patient.capacity;
        let (connections, bound) = capacity.promise(configured, patient.clients);
        let (here, _) = capacity.promise(configured, Clients::Here);
        let mut report = Self {
            connections: connections as u64,
            first_limit: bound.word().to_owned(),
            first_limit_said: bound.to_string(),
            asked: patient.asked,
            each: each(patient),
            here: here as u64,
            clients: patient.clients,
            checks,
        };
        let is_dead = |id: &&str| {
            let none = |check: &Check| check.status == Status::Fail && check.breaks_at == Some(0);
            report.checks.iter().any(|check| check.id == **id && none(check))
        };
        let dead = VITAL.iter().copied().find(is_dead);
        if let Some(dead) = dead {
            (report.connections, report.here) = (0, 0);
            (report.first_limit, report.first_limit_said) = (dead.to_owned(), dead.to_owned());
        }
        report
    }

    /// 2 where something fails, 1 where something is to be warned of, else 0. Before a start (as
    /// `ExecStartPre=`) a warning stops nobody: 0.
    #[must_use]
    pub fn exit(&self, preflight: bool) -> u8 {
        let worst = self.checks.iter().map(|check| check.status).max();
        match worst {
            Some(Status::Fail) => 2,
            Some(Status::Warn) if !preflight => 1,
            _ => 0,
        }
    }

    /// For people: a line each, what to do below it, and how many connections the box holds.
    #[must_use]
    pub fn text(&self, preflight: bool) -> String {
        let mut text = String::new();
        let told = self.checks.iter().filter(|check| !preflight || check.status > Status::Pass);
        for check in told {
            write_check(&mut text, check);
        }
        if let Some(asked) = self.asked.filter(|asked| *asked > self.connections) {
            let then = match preflight && self.exit(true) < 2 {
                true => "the server starts, and turns away whoever is more than it holds",
                false => "put right what says FAIL",
            };
            let _ = writeln!(text, "\n{asked} connections are asked for: {then}.");
        }
        if self.clients == Clients::Elsewhere && !preflight {
            let _ = writeln!(text, "Were the clients on this box too: {} connections", self.here);
        }
        let _ = writeln!(
            text,
            "This box holds {} connections; first limit: {}",
            self.connections, self.first_limit_said
        );
        text
    }

    /// For machines; `README.md` says what each field means.
    #[must_use]
    pub fn json(&self, preflight: bool) -> Value {
        let checks: Vec<_> = self.checks.iter().map(check_as_json).collect();
        let each: serde_json::Map<_, _> =
            self.each.iter().map(|(word, number)| ((*word).to_owned(), json!(number))).collect();
        json!({
            "checks": checks,
            "capacity": {
                "connections": self.connections,
                "connections_loopback": self.here,
                "first_limit": self.first_limit,
                "each": each,
            },
            "asked": self.asked,
            "exit": self.exit(preflight),
        })
    }
}

/// What each part holds, in the order in which it may bind.
fn each(patient: &Patient) -> Vec<(&'static str, Option<u64>)> {
    let told = |number: usize| (number < usize::MAX).then_some(number as u64);
    let capacity = &patient.capacity;
    let binding =
        capacity.each(patient.clients).map(|(number, bound)| (bound.word(), told(number)));
    let mut all = binding.to_vec();
    all.push(("connections_max", patient.config.connections_max.number().map(|n| n as u64)));
    // Nobody is refused for it; a message to more at once stalls.
    all.push(("tcp_mem", told(capacity.tcp_mem)));
    all
}

fn check_as_json(check: &Check) -> Value {
    json!({
        "id": check.id,
        "status": check.status.to_string(),
        "measured": check.measured,
        "limit": check.limit,
        "breaks_at": check.breaks_at,
        "message": check.message,
        "fix": check.fix,
    })
}

fn write_check(text: &mut String, check: &Check) {
    // A String takes whatever is written to it.
    let _ = write!(text, "{}  {:<width$} ", check.status, check.id, width = COLUMN - 7);
    let _ = write!(text, "{}", check.measured);
    if let Some(limit) = &check.limit {
        let _ = write!(text, " ({limit})");
    }
    let is_bare = check.measured.is_empty() && check.limit.is_none();
    let between = if is_bare { "" } else { ": " };
    let _ = write!(text, "{between}{}", check.message);
    match check.breaks_at {
        Some(0) if check.status == Status::Fail => text.push_str("; it holds nobody"),
        Some(number) => {
            let _ = write!(text, "; breaks at {number} connections");
        }
        None => {}
    }
    text.push('\n');
    for line in check.fix.iter().flat_map(|fix| fix.lines()) {
        let _ = writeln!(text, "{:COLUMN$}fix: {line}", "");
    }
}
