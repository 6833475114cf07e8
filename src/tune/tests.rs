//! Boxes and runs whose figures are known, for the tests of this module.

use std::time::Instant;

use super::bar::Bar;
use super::provenance::Provenance;
use super::quiet::Look;
use super::report::Report;
use super::sizes::{Basis, Sizes};
use super::*;

/// A box whose figures are known.
pub(super) struct Known {
    /// What each setting's (its values, joined) figures are multiplied with, by its load.
    factor: fn(&str, Load) -> f64,
    /// The setting that does not run.
    pub(super) broken: Option<String>,
    /// What ran.
    pub(super) ran: Vec<(String, Load)>,
}

impl Known {
    /// Operations a CPU-second of the default.
    pub(super) const BASE: f64 = 250_000.0;

    pub(super) fn new(factor: fn(&str, Load) -> f64) -> Self {
        Self { factor, broken: None, ran: Vec::new() }
    }
}

impl Bench for Known {
    fn run(&mut self, setting: &Setting, load: Load) -> Result<Sample, Fault> {
        let values: Vec<_> = setting.iter().map(|(_, value)| value.as_str()).collect();
        let values = values.join(",");
        if self.broken.as_ref() == Some(&values) {
            return Err(Fault::new("it does not start"));
        }
        let operations = Self::BASE * (self.factor)(&values, load);
        self.ran.push((values, load));
        Ok(Sample {
            operations_per_cpu_second: operations,
            per_second: operations / 2.0,
            p99_us: 900,
        })
    }

    /// The longer its values, the more it takes.
    fn weigh(&mut self, setting: &Setting) -> Result<Option<f64>, Fault> {
        let bytes: usize = setting.iter().map(|(_, value)| value.len()).sum();
        Ok(Some(4_000.0 + 1_000.0 * bytes as f64))
    }
}

/// Knobs of real keys.
pub(super) fn knobs() -> Vec<Knob> {
    let knob = |name, candidates: &[&[(&'static str, &str)]], quick| Knob {
        name,
        what: "a <test> & more",
        candidates: candidates
            .iter()
            .map(|pairs| pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect())
            .collect(),
        loads: &[Load::LargeRoom, Load::Echo],
        quick,
    };
    vec![
        knob("receive", &[&[("ring.receive", "standing")]], true),
        knob(
            "batch",
            &[
                &[("server.gather_wait", "0s")],
                &[("server.gather_wait", "2ms"), ("server.gather_max", "512")],
            ],
            true,
        ),
        knob("depth", &[&[("ring.entries", "512")]], false),
    ]
}

/// A run of a box on which a longer wait is a quarter better and everything else no better.
pub(super) fn report() -> Report {
    let mut bench = Known::new(|setting, _| match setting {
        "2ms,512" => 1.25,
        "0s" => 0.8,
        _ => 1.0,
    });
    let last = Instant::now() + Duration::from_secs(3600);
    let outcome = run::run(&mut bench, &knobs(), true, last, &mut Bar::hidden()).unwrap();
    let basis = Basis {
        wanted: Some(1_000_000),
        memory_holds: 3_000_000,
        cpus: 2,
        shards: None,
        memory_bytes: 24 << 30,
    };
    let finding = Finding {
        id: "kernel_bytes",
        value: Some(4125.0),
        text: "4125 bytes of kernel memory an idle connection".to_owned(),
    };
    Report {
        provenance: Provenance::now("ringhall tune --quick".to_owned()),
        plan: Plan {
            quick: true,
            server_cpu: 0,
            generator_cpu: 1,
            trial: Duration::from_millis(400),
            warmup: Duration::from_millis(100),
        },
        probes: Probes { findings: vec![finding], ..Probes::default() },
        outcome,
        sizes: Sizes::of(&basis),
        before: Look::default(),
        others_percent: 0.5,
        seconds: 61.0,
    }
}
