//! Turns trials of this box into a configuration with its evidence: `ringhall tune`.
//!
//! In:    what is asked for; a box that is quiet.
//! Out:   decisions, and the files that put them in force.
//! Never: changes the box; believes a difference that is not larger than its noise.
//!
//! `measure` measures: it starts servers of this very binary and drives them with `bench`. The
//! rest decides and writes. What lies between is in this file, and three things of `measure`:
//! `knobs() -> Vec<Knob>`, `probes(&Plan, &mut dyn FnMut(&str)) -> Result<Probes, Fault>` (it says
//! what it is at), and `Servers::new(&Plan) -> Result<Servers, Fault>`, which is a `Bench`.

use std::fmt;
use std::time::Duration;

pub mod bar;
pub mod command;
pub mod decide;
pub mod diff;
pub mod files;
pub mod lock;
pub mod measure;
pub mod picture;
pub mod provenance;
pub mod quiet;
pub mod report;
pub mod run;
mod scrap;
pub mod sizes;
pub mod statistics;
pub mod sweep;
pub mod write;

pub use crate::bench::Fault;

/// Keys and values that differ from the defaults; empty is the default itself.
pub type Setting = Vec<(&'static str, String)>;

/// A load that servers are compared under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Load {
    /// Echoes, eight under way on each connection.
    Echo,
    /// One raw room of a thousand members, one of whom speaks.
    LargeRoom,
    /// A hundred raw rooms of ten, in each of which one speaks.
    SmallRooms,
    /// A hundred raw rooms of ten, in which all speak.
    BusyRooms,
    /// A hundred JSON rooms of ten, in each of which one speaks.
    Chat,
    /// Connections that are made, upgraded and closed.
    Handshakes,
    /// As `BusyRooms`, and the server has all CPUs: what a second of all of them gives, used or
    /// not. On a box of two the load generator shares one of them.
    AllCpus,
}

impl Load {
    /// What people and reports call it: letters and `-`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::LargeRoom => "large-room",
            Self::SmallRooms => "small-rooms",
            Self::BusyRooms => "busy-rooms",
            Self::Chat => "chat",
            Self::Handshakes => "handshakes",
            Self::AllCpus => "all-cpus",
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A sweep: something that can be set, and what to try.
#[derive(Clone, Debug)]
pub struct Knob {
    /// What people and reports call it, such as `receive`: letters and `-`.
    pub name: &'static str,
    /// What is tried, in a few words.
    pub what: &'static str,
    /// What to try beside the default, the simpler first; none is empty.
    pub candidates: Vec<Setting>,
    /// Where it may show. A candidate wins on one of them and loses on none.
    pub loads: &'static [Load],
    /// Whether `--quick` sweeps it too.
    pub quick: bool,
}

/// How a run measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `--quick`: all in less than 90 seconds.
    pub quick: bool,
    /// The CPU of the servers.
    pub server_cpu: usize,
    /// The CPU of the load generator; the same one where there is no other.
    pub generator_cpu: usize,
    /// What is measured of a trial.
    pub trial: Duration,
    /// Load before that.
    pub warmup: Duration,
}

/// Figures of one trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Operations (echoes, deliveries, handshakes) a second of the server's CPU.
    pub operations_per_cpu_second: f64,
    /// Operations a second.
    pub per_second: f64,
    /// Latency in microseconds that 99 of 100 operations stay below.
    pub p99_us: u64,
}

/// Who runs trials.
pub trait Bench {
    /// One short trial of a server with that setting under that load.
    ///
    /// # Errors
    /// If the server does not start, or the run ends early.
    fn run(&mut self, setting: &Setting, load: Load) -> Result<Sample, Fault>;

    /// Bytes of memory, the process's and the kernel's, that an idle connection takes of a server
    /// with that setting; `None` where the box does not tell.
    ///
    /// # Errors
    /// If the server does not start, or its connections fail.
    fn weigh(&mut self, setting: &Setting) -> Result<Option<f64>, Fault>;
}

/// One thing that a probe found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What reports call it: letters and `_`, ending in the unit where it has one.
    pub id: &'static str,
    /// The figure, where it is one.
    pub value: Option<f64>,
    /// The same for people, in a few words with the unit.
    pub text: String,
}

/// What the probes found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probes {
    /// Everything, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// Bytes of kernel memory that an idle connection of the server takes.
    pub kernel_bytes: Option<f64>,
    /// Bytes of the server's own memory that it takes.
    pub user_bytes: Option<f64>,
}

#[cfg(test)]
mod tests;
