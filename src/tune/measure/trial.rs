//! One trial: a load on a server, and its figures.
//!
//! In:    a server that listens; a load.
//! Out:   a `Sample`.
//! Never: starts or ends a server.
//!
//! The load generator is a child too, on a CPU of its own: it spins, checks every byte, and is
//! killed where it hangs.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::child::Running;
use super::server::Server;
use super::{Fault, Load, Sample, Servers};

/// Time for everything of a trial beside its windows: connecting, settling, parting.
const AROUND: Duration = Duration::from_secs(20);

/// How much longer the second window is where nothing came of the first.
const LONGER: u32 = 5;

/// What `bench` is told for a load.
fn arguments(load: Load) -> &'static [&'static str] {
    match load {
        Load::Echo => &["echo", "--connections", "1000", "--depth", "8"],
        Load::LargeRoom => &["fanout", "--rooms", "1", "--members", "1000"],
        Load::SmallRooms => &["fanout", "--rooms", "100", "--members", "10"],
        Load::BusyRooms | Load::AllCpus => {
            &["fanout", "--rooms", "100", "--members", "10", "--publishers", "10"]
        }
        Load::Chat => &["fanout", "--rooms", "100", "--members", "10", "--mode", "json"],
        Load::Handshakes => &["churn", "--in-flight", "64"],
    }
}

/// Puts a load on a server.
pub(super) fn run(servers: &Servers, server: &Server, load: Load) -> Result<Sample, Fault> {
    // A box that was busy with something else for a whole window gets a longer one, once.
    for window in [servers.plan.trial, servers.plan.trial * LONGER] {
        let seconds = window.as_secs_f64().to_string();
        let warmup = servers.plan.warmup.as_secs_f64().to_string();
        let mut arguments = arguments(load).to_vec();
        arguments.extend(["--seconds", &seconds, "--warmup", &warmup]);
        let figures = bench(servers, server, &arguments, window + servers.plan.warmup)?;
        if let Some(sample) = sample(&figures, cpus_of(load)) {
            return Ok(sample);
        }
    }
    Err(Fault::new(format!(
        "under the load {load} nothing began and ended within {} ms: is the box busy with \
         something else?",
        (servers.plan.trial * LONGER).as_millis()
    )))
}

/// Runs `bench` with these arguments; the object that it prints.
pub(super) fn bench(
    servers: &Servers,
    server: &Server,
    arguments: &[&str],
    windows: Duration,
) -> Result<Value, Fault> {
    let mut command = Command::new(&servers.binary);
    command.arg("bench").args(arguments);
    command.args(["--url", &format!("ws://{}", server.address)]);
    command.args(["--pid", &server.pid().to_string()]);
    command.args(["--cpu", &servers.plan.generator_cpu.to_string()]);
    command.args(["--json", "--no-progress"]);
    let text = Running::start(command, "the load generator", None)?.output(windows + AROUND)?;
    serde_json::from_str(&text)
        .map_err(|error| Fault::new(format!("the load generator's figures are none: {error}")))
}

/// CPUs whose whole time a load's server is measured by; `None` where it is the time it used.
fn cpus_of(load: Load) -> Option<f64> {
    (load == Load::AllCpus).then(|| crate::probe::cpus().len() as f64)
}

fn sample(figures: &Value, cpus: Option<f64>) -> Option<Sample> {
    let per_second = figures["per_second"].as_f64()?;
    let server = &figures["server"];
    let operations_per_cpu_second = match cpus {
        // What CPUs do not use, they are not there for: a server on all of them has to use them.
        Some(cpus) => per_second / cpus,
        None => server["per_cpu_second"].as_f64()?,
    };
    // Whole microseconds are finer than any difference that counts.
    let p99_us = figures["latency_us"]["p99"].as_f64()?.round() as u64;
    let is_whole = per_second > 0.0 && operations_per_cpu_second > 0.0 && p99_us > 0;
    is_whole.then_some(Sample { operations_per_cpu_second, per_second, p99_us })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn figures(per_second: f64) -> Value {
        json!({
            "per_second": per_second,
            "server": {"per_cpu_second": 2.0 * per_second, "cpu_seconds": 0.5},
            "latency_us": {"p50": 10.0, "p99": 250.4},
        })
    }

    #[test]
    fn figures_become_a_sample() {
        let expected =
            Sample { operations_per_cpu_second: 2000.0, per_second: 1000.0, p99_us: 250 };
        assert_eq!(sample(&figures(1000.0), None), Some(expected));
        let all = sample(&figures(1000.0), Some(4.0)).unwrap();
        assert!((all.operations_per_cpu_second - 250.0).abs() < 1e-9);
    }

    #[test]
    fn a_window_in_which_nothing_was_whole_has_no_sample() {
        assert_eq!(sample(&figures(0.0), None), None);
        let mut unheard = figures(1000.0);
        unheard["latency_us"]["p99"] = json!(0.0);
        assert_eq!(sample(&unheard, None), None);
        assert_eq!(sample(&json!({"per_second": 5.0, "server": null}), None), None);
    }
}
