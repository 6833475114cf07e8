//! Turns settings and loads into figures: servers of this very binary, driven by its own `bench`.
//!
//! In:    a `Plan`; settings and loads.
//! Out:   `Sample`s, `Probes`; the knobs and what to try.
//! Never: decides which figure is better; leaves a child running.
//!
//! # Why each trial has a server of its own
//! Where a process's memory lies is drawn at its start and costs or saves a few percent. A server
//! that lived for a whole sweep would carry its draw through all of it, and the median would not
//! notice; drawn anew for each trial it is noise like any other, and the spread tells of it.

mod child;
mod knobs;
mod probes;
mod server;
mod trial;

use std::path::PathBuf;
use std::time::Duration;

use super::scrap::Scrap;
use super::{Bench, Fault, Load, Plan, Sample, Setting};
use server::Server;

pub use knobs::knobs;
pub use probes::probes;

/// Shortest window that is believed: ticks of the scheduler average out over some of them.
const WINDOW_LEAST: Duration = Duration::from_millis(100);

/// Starts servers for trials.
#[derive(Debug)]
pub struct Servers {
    binary: PathBuf,
    plan: Plan,
    /// A configuration of nothing but defaults: without one, a server would read the box's.
    defaults: Scrap,
}

impl Servers {
    /// With servers of this very binary.
    ///
    /// # Errors
    /// If nobody knows where that is.
    pub fn new(plan: &Plan) -> Result<Self, Fault> {
        let binary = std::env::current_exe().map_err(|error| {
            Fault::new(format!("cannot find this binary to start servers of it: {error}"))
        })?;
        Self::of(binary, plan)
    }

    /// With servers of that binary.
    ///
    /// # Errors
    /// If no file can be made for them.
    pub fn of(binary: PathBuf, plan: &Plan) -> Result<Self, Fault> {
        let plan = Plan { trial: plan.trial.max(WINDOW_LEAST), ..plan.clone() };
        let defaults = Scrap::of("").map_err(|error| {
            Fault::new(format!("cannot make a file in memory for the servers: {error}"))
        })?;
        Ok(Self { binary, plan, defaults })
    }

    /// A server under this setting, on the CPUs that this load gives it.
    fn start(&self, setting: &Setting, load: Load) -> Result<Server, Fault> {
        let cpu = (load != Load::AllCpus).then_some(self.plan.server_cpu);
        Server::start(&self.binary, &self.defaults.path(), setting, cpu)
    }
}

impl Bench for Servers {
    fn run(&mut self, setting: &Setting, load: Load) -> Result<Sample, Fault> {
        let server = self.start(setting, load)?;
        let sample = trial::run(self, &server, load)?;
        server.stop();
        Ok(sample)
    }

    fn weigh(&mut self, setting: &Setting) -> Result<Option<f64>, Fault> {
        probes::weigh(self, setting)
    }
}
