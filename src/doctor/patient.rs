//! Turns a configuration and a question into what is examined: the box as the server would find it.
//!
//! In:    the configuration; the facts of the box.
//! Out:   shards, capacity, and by how many connections each thing is judged.
//! Never: looks at one thing in particular: the checks do.

use std::path::{Path, PathBuf};

use super::Question;
use super::check::Status;
use super::root::Root;
use super::tuned::REPORT;
use crate::config::{Config, DEFAULT_FILE};
use crate::probe::{Bound, Capacity, Clients, Facts, Fingerprint, memory_reserve, shards_for};

/// Connections that any box should hold: with less a setting is wrong, whatever else is.
pub(super) const FEW: u64 = 10_000;

/// What is examined.
pub(super) struct Patient {
    /// Where the kernel shows itself.
    pub(super) root: Root,
    /// It is this box, so that things can be tried.
    pub(super) is_here: bool,
    /// This process is root.
    pub(super) is_root: bool,
    /// As the server would find them.
    pub(super) facts: Facts,
    pub(super) config: Config,
    /// As many as the server would run.
    pub(super) shards: usize,
    /// Why the configured numbers do not fit this box.
    pub(super) does_not_fit: Option<String>,
    pub(super) capacity: Capacity,
    /// Connections that are asked for.
    pub(super) asked: Option<u64>,
    pub(super) clients: Clients,
    /// Where `tune` may have left its report.
    pub(super) tune_report: PathBuf,
    /// What figures depend on.
    pub(super) box_now: Fingerprint,
}

impl Patient {
    /// This box.
    pub(super) fn this_box(config: Config, file: Option<&Path>, question: &Question<'_>) -> Self {
        let mut patient = Self::of(config, question, Facts::read().as_service(), Root::new("/"));
        let file = file.unwrap_or_else(|| Path::new(DEFAULT_FILE));
        patient.tune_report = file.with_file_name(REPORT);
        patient.is_here = true;
        patient.is_root = rustix::process::geteuid().is_root();
        patient
    }

    /// Any box.
    pub(super) fn of(config: Config, question: &Question<'_>, facts: Facts, root: Root) -> Self {
        let configured = config.connections_max.number();
        let shards_with = |most| shards_for(&facts, &config.ring, config.shards.number(), most);
        let fit = shards_with(configured);
        let usual = || shards_with(None).unwrap_or(1);
        let shards = fit.as_ref().map_or_else(|_| usual(), |shards| *shards);
        let reserve = memory_reserve(&facts.memory, &config.limits);
        let capacity = Capacity::of(&facts, &config.ring, shards, reserve);
        Self {
            root,
            is_here: false,
            is_root: false,
            shards,
            does_not_fit: fit.err().map(|error| error.to_string()),
            capacity,
            asked: question.connections.or(configured).map(|number| number as u64),
            clients: question.clients,
            facts,
            config,
            tune_report: PathBuf::from(REPORT),
            box_now: Fingerprint::read(),
        }
    }

    /// Connections that this part of the box holds.
    pub(super) fn holds(&self, part: Bound) -> u64 {
        let each = self.capacity.each(self.clients);
        let found = each.into_iter().find(|(_, bound)| *bound == part);
        found.map_or(u64::MAX, |(number, _)| number as u64)
    }

    /// By how many connections a thing is judged: those that are asked for, else those that
    /// everything but itself (`own`) holds. Tables and locked memory are reckoned by each other.
    pub(super) fn goal(&self, own: Option<Bound>) -> u64 {
        let tables = [Bound::Tables, Bound::Memlock];
        let is_own = |bound: Bound| match own {
            Some(own) if tables.contains(&own) => tables.contains(&bound),
            own => own == Some(bound),
        };
        let others = || {
            let each = self.capacity.each(self.clients).into_iter();
            let others = each.filter(|(_, bound)| !is_own(*bound)).map(|(number, _)| number);
            others.min().unwrap_or(usize::MAX) as u64
        };
        self.asked.unwrap_or_else(others)
    }

    /// How a setting is that holds so many connections, where `goal` are wanted.
    pub(super) fn judge(&self, holds: u64, goal: u64) -> Status {
        // Without a number that is asked for, more could be had: nothing is broken yet.
        let least = if self.asked.is_some() { goal } else { goal.min(FEW) };
        match holds {
            few if few < least => Status::Fail,
            less if less < goal => Status::Warn,
            _ => Status::Pass,
        }
    }

    /// As [`Self::judge`], for what only slows things down beyond its number.
    pub(super) fn judge_mildly(&self, holds: u64, goal: u64) -> Status {
        match self.judge(holds, goal) {
            Status::Fail if self.asked.is_some() && holds >= goal / 10 => Status::Warn,
            status => status,
        }
    }

    /// Whether every address that clients connect to is of this box alone.
    pub(super) fn listens_to_itself(&self) -> bool {
        self.config.listen.iter().all(|address| address.ip().is_loopback())
    }
}
