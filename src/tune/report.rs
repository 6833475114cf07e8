//! Turns a run into an object for programs and a table for people.
//!
//! In:    everything that a run found out.
//! Out:   `tune-report.json`, with each sample; text for stdout.
//! Never: leaves out a trial, or what was not measured.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::decide::{Compared, Standing, Trial, Verdict};
use super::files::named;
use super::provenance::Provenance;
use super::quiet::Look;
use super::run::Outcome;
use super::sizes::Sizes;
use super::sweep::Swept;
use super::{Plan, Probes, Setting};

/// Percent of the CPUs that others used meanwhile from which a report warns.
const OTHERS_PERCENT: f64 = 10.0;

/// Everything that a run found out.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who, where, when.
    pub provenance: Provenance,
    /// How it measured.
    pub plan: Plan,
    /// What the probes found.
    pub probes: Probes,
    /// Decisions and their samples.
    pub outcome: Outcome,
    /// What kernel and supervisor have to allow.
    pub sizes: Sizes,
    /// The box before.
    pub before: Look,
    /// Percent of the CPUs that others used meanwhile.
    pub others_percent: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Report {
    /// The object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { provenance, plan, outcome, sizes, before, .. } = self;
        json!({
            "written_by": "ringhall tune",
            "command": provenance.command,
            "date": provenance.date(),
            "seconds": self.seconds,
            "fingerprint": provenance.fingerprint.to_json(),
            "plan": {
                "quick": plan.quick,
                "server_cpu": plan.server_cpu,
                "generator_cpu": plan.generator_cpu,
                "trial_seconds": plan.trial.as_secs_f64(),
                "warmup_seconds": plan.warmup.as_secs_f64(),
            },
            "noise": {
                "busy_percent_before": before.busy_percent,
                "steal_percent_before": before.steal_percent,
                "load_average_before": before.load,
                "others_percent": self.others_percent,
            },
            "probes": probes(&self.probes),
            "sweeps": outcome.sweeps.iter().map(swept).collect::<Vec<_>>(),
            "together": outcome.together.as_ref().map(swept),
            "decisions": setting(&outcome.chosen),
            "left_out": outcome.left_out.iter().map(|(name, why)| json!({
                "sweep": name, "why": why,
            })).collect::<Vec<_>>(),
            "warnings": self.warnings(),
            "sizes": {
                "connections": sizes.connections,
                "shards": sizes.shards,
                "nofile": sizes.nofile,
                "memory_max_bytes": sizes.memory_max,
                "file_max": sizes.file_max,
                "tcp_mem_pages": sizes.tcp_mem,
            },
        })
    }

    /// What to think of when reading the figures.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let cpus = self.provenance.fingerprint.cpus;
        if cpus <= 2 {
            let count = if cpus == 1 { "1 CPU".to_owned() } else { format!("{cpus} CPUs") };
            warnings.push(format!(
                "{count}: the load generator shares the box with the servers; the ratios hold, the \
                 absolute figures are lower than with clients elsewhere"
            ));
        }
        let reasons = self.before.reasons(cpus);
        if !reasons.is_empty() {
            warnings.push(format!("measured by force on a loaded box: {}", reasons.join("; ")));
        }
        if self.others_percent > OTHERS_PERCENT {
            let others = self.others_percent;
            warnings.push(format!("others used {others:.0} % of the CPUs meanwhile"));
        }
        for swept in self.outcome.all().filter(|swept| swept.ran_out()) {
            let name = swept.knob.name;
            warnings.push(format!("{name}: the time was over before it was decided; use --full"));
        }
        if self.outcome.fell_apart() {
            warnings.push(
                "what won alone did not win together, so all defaults stay (see `together`)".into(),
            );
        }
        warnings
    }

    /// The table.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n\n", self.provenance.fingerprint);
        for finding in &self.probes.findings {
            let _ = writeln!(text, "{:<28}{}", finding.id, finding.text);
        }
        if !self.probes.findings.is_empty() {
            text.push('\n');
        }
        let columns = ("sweep", "setting", "load", "operations", "MAD", "p99");
        let _ = writeln!(text, "{}", row(columns, "verdict"));
        for swept in self.outcome.all() {
            put_sweep(&mut text, swept);
        }
        text.push('\n');
        for (name, why) in &self.outcome.left_out {
            let _ = writeln!(text, "left out: {name} ({why})");
        }
        for warning in self.warnings() {
            let _ = writeln!(text, "note: {warning}");
        }
        let chosen = &self.outcome.chosen;
        if chosen.is_empty() {
            text.push_str("decision: all defaults stay\n");
        }
        for (key, value) in chosen {
            let _ = writeln!(text, "decision: {key} = {value}");
        }
        let _ = writeln!(text, "{:.0} s", self.seconds);
        text
    }
}

fn put_sweep(text: &mut String, swept: &Swept) {
    let name = swept.knob.name;
    for (at, verdict) in swept.verdicts.iter().enumerate() {
        let setting = named(&swept.knob.candidates[at]);
        let mut word = word(verdict.standing).to_owned();
        if verdict.standing == Standing::Won && swept.choice != Some(at) {
            word.push_str(", another one is better");
        }
        if let Some((_, why)) = swept.failures.iter().find(|(failed, _)| *failed == at) {
            let _ = write!(word, ": {}", why.lines().next().unwrap_or_default());
        }
        if verdict.compared.is_empty() {
            let _ = writeln!(text, "{}", row((name, &setting, "-", "-", "-", "-"), &word));
        }
        for one in &verdict.compared {
            let (operations, p99) = (&one.operations, &one.p99);
            let ratio = format!("{:.3}x", operations.median);
            let mad = format!("{:.1} %", 100.0 * operations.mad);
            let p99 = format!("{:.2}x", p99.median);
            let columns = (name, setting.as_str(), one.load.name(), &*ratio, &*mad, &*p99);
            let _ = writeln!(text, "{}", row(columns, &word));
        }
    }
}

type Columns<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, &'a str);

fn row((sweep, setting, load, operations, mad, p99): Columns<'_>, verdict: &str) -> String {
    format!("{sweep:<11}{setting:<42} {load:<12}{operations:>10}{mad:>8}{p99:>8}  {verdict}")
}

/// A standing in a word or two.
#[must_use]
pub fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Won => "better",
        Standing::Tied => "no difference",
        Standing::Lost => "worse",
        Standing::Slower => "later",
        Standing::Hopeless => "no gain in sight",
        Standing::Failed => "does not run",
        Standing::Unknown => "too few rounds",
    }
}

fn probes(probes: &Probes) -> Value {
    let findings = probes.findings.iter().map(|finding| {
        (finding.id.to_owned(), json!({"value": finding.value, "text": finding.text}))
    });
    Value::Object(findings.collect())
}

fn setting(setting: &Setting) -> Value {
    let pairs = setting.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn swept(swept: &Swept) -> Value {
    let knob = &swept.knob;
    let candidates = knob.candidates.iter().zip(&swept.verdicts).enumerate();
    let candidates = candidates.map(|(at, (candidate, verdict))| {
        let failure = swept.failures.iter().find(|(failed, _)| *failed == at);
        verdict_json(candidate, verdict, failure.map(|(_, why)| why.as_str()))
    });
    json!({
        "name": knob.name,
        "what": knob.what,
        "loads": knob.loads.iter().map(|load| load.name()).collect::<Vec<_>>(),
        "rounds": swept.rounds,
        "candidates": candidates.collect::<Vec<_>>(),
        "choice": setting(&swept.chosen()),
        "trials": swept.trials.iter().map(trial).collect::<Vec<_>>(),
    })
}

fn verdict_json(candidate: &Setting, verdict: &Verdict, failure: Option<&str>) -> Value {
    json!({
        "setting": setting(candidate),
        "verdict": word(verdict.standing),
        "failure": failure,
        "bytes_per_connection": verdict.bytes_per_connection,
        "compared": verdict.compared.iter().map(compared).collect::<Vec<_>>(),
    })
}

fn compared(one: &Compared) -> Value {
    json!({
        "load": one.load.name(),
        "operations_ratio": one.operations.median,
        "operations_mad": one.operations.mad,
        "pairs": one.operations.count,
        "p99_ratio": one.p99.median,
        "p99_mad": one.p99.mad,
    })
}

/// `setting` is 0 for the default, else the candidate's place, from 1.
fn trial(trial: &Trial) -> Value {
    let sample = &trial.sample;
    json!({
        "setting": trial.setting,
        "load": trial.load.name(),
        "half_round": trial.half,
        "operations_per_cpu_second": sample.operations_per_cpu_second,
        "per_second": sample.per_second,
        "p99_us": sample.p99_us,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn the_object_has_every_sample_and_the_decisions() {
        let report = report();
        let json = report.to_json();
        let pair = |name: &str| json["decisions"][name].as_str().map(str::to_owned);
        assert_eq!(pair("server.gather_wait").as_deref(), Some("2ms"));
        let trials = |sweep: &Value| sweep["trials"].as_array().map_or(0, Vec::len);
        let of_sweeps: usize = json["sweeps"].as_array().unwrap().iter().map(trials).sum();
        let ran: usize = report.outcome.all().map(|swept| swept.trials.len()).sum();
        assert_eq!(of_sweeps + trials(&json["together"]), ran);
        assert_eq!(json["left_out"][0]["sweep"], "depth");
        assert_eq!(json["probes"]["kernel_bytes"]["value"], 4125.0);
        let fingerprint = crate::probe::Fingerprint::from_json(&json["fingerprint"]);
        assert_eq!(fingerprint, Some(report.provenance.fingerprint));
    }

    #[test]
    fn the_table_says_what_was_decided_and_what_was_not_tried() {
        let text = report().to_text();
        for words in [
            "decision: server.gather_wait = 2ms",
            "left out: depth (only in --full)",
            "no gain in sight",
            "worse",
            "1.250x",
            "4125 bytes of kernel memory",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn what_makes_figures_doubtful_is_a_note() {
        let quiet = report();
        let mut loaded = quiet.clone();
        loaded.others_percent = 40.0;
        loaded.before.busy_percent = 55.0;
        let more = loaded.warnings().len() - quiet.warnings().len();
        assert_eq!(more, 2, "{:?}", loaded.warnings());
        let mut small = quiet;
        small.provenance.fingerprint.cpus = 2;
        assert!(small.warnings()[0].contains("shares the box"), "{:?}", small.warnings());
    }
}
