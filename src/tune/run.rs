//! Turns knobs into decisions: sweeps, then all that won together, once more.
//!
//! In:    knobs, who runs trials, how long it may take.
//! Out:   `Outcome`.
//! Never: keeps what won alone and not together with the rest.

use std::time::{Duration, Instant};

use super::bar::Bar;
use super::sweep::{Pace, Swept, Time, sweep};
use super::{Bench, Fault, Knob, Load, Setting};

/// Name of the last sweep: all that won, beside the default.
pub const TOGETHER: &str = "together";
/// Part of the time that is kept for it.
const TOGETHER_SHARE: f64 = 0.3;

/// What was found out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Sweeps, in their order.
    pub sweeps: Vec<Swept>,
    /// All winners together; `None` where there are none.
    pub together: Option<Swept>,
    /// What replaces the defaults.
    pub chosen: Setting,
    /// Names of knobs that were not swept, and why.
    pub left_out: Vec<(&'static str, &'static str)>,
}

impl Outcome {
    /// Every sweep, the last one too.
    pub fn all(&self) -> impl Iterator<Item = &Swept> {
        self.sweeps.iter().chain(&self.together)
    }

    /// Whether what a sweep chose is in force: winners that lose together are not.
    #[must_use]
    pub fn keeps(&self, swept: &Swept) -> bool {
        let chosen = swept.chosen();
        !chosen.is_empty() && chosen.iter().all(|pair| self.chosen.contains(pair))
    }

    /// Whether sweeps won and then did not together.
    #[must_use]
    pub fn fell_apart(&self) -> bool {
        self.together.is_some() && self.chosen.is_empty()
    }
}

/// Trials that may be run, for a bar.
#[must_use]
pub fn planned(knobs: &[Knob], quick: bool) -> usize {
    swept(knobs, quick).map(|knob| pace(quick).trials(knob)).sum()
}

fn swept(knobs: &[Knob], quick: bool) -> impl Iterator<Item = &Knob> {
    knobs.iter().filter(move |knob| knob.quick || !quick)
}

fn pace(quick: bool) -> Pace {
    if quick { Pace::QUICK } else { Pace::FULL }
}

/// Turns all knobs that are to be turned, until `last` at the latest.
///
/// # Errors
/// If the default does not run.
pub fn run(
    bench: &mut dyn Bench,
    knobs: &[Knob],
    quick: bool,
    last: Instant,
    bar: &mut Bar,
) -> Result<Outcome, Fault> {
    let pace = pace(quick);
    let left_out = knobs.iter().filter(|knob| quick && !knob.quick);
    let left_out = left_out.map(|knob| (knob.name, "only in --full")).collect();
    let mut sweeps: Vec<Swept> = Vec::new();
    let turned: Vec<_> = swept(knobs, quick).collect();
    let all = last.saturating_duration_since(Instant::now());
    let last_sweep = last.checked_sub(all.mul_f64(TOGETHER_SHARE)).unwrap_or(last);
    for (at, knob) in turned.iter().enumerate() {
        let weight = |knob: &&Knob| pace.trials(knob) as f64;
        let rest: f64 = turned[at..].iter().map(weight).sum();
        let left = last_sweep.saturating_duration_since(Instant::now());
        let fair = Instant::now() + share(left, weight(knob) / rest);
        sweeps.push(sweep(bench, knob, pace, Time { fair, last: last_sweep }, bar)?);
    }
    let mut outcome = Outcome { sweeps, together: None, chosen: Setting::new(), left_out };
    let Some(knob) = together(&outcome.sweeps) else { return Ok(outcome) };
    let confirmed = sweep(bench, &knob, pace, Time { fair: last, last }, bar)?;
    outcome.chosen = confirmed.chosen();
    outcome.together = Some(confirmed);
    Ok(outcome)
}

fn share(time: Duration, part: f64) -> Duration {
    time.mul_f64(part.clamp(0.0, 1.0))
}

/// All that won as one candidate, under every load that any of it was decided under.
fn together(sweeps: &[Swept]) -> Option<Knob> {
    let won = || sweeps.iter().filter(|swept| swept.choice.is_some());
    let candidate: Setting = won().flat_map(Swept::chosen).collect();
    let mut loads: Vec<Load> = won().flat_map(|swept| swept.knob.loads).copied().collect();
    loads.sort_unstable();
    loads.dedup();
    (!candidate.is_empty()).then(|| Knob {
        name: TOGETHER,
        what: "all that won, beside the default",
        candidates: vec![candidate],
        // A few bytes, once a run.
        loads: loads.leak(),
        quick: true,
    })
}

#[cfg(test)]
mod tests {
    use super::super::decide::Standing;
    use super::super::tests::Known;
    use super::*;

    fn knob(name: &'static str, key: &'static str, values: &[&str], quick: bool) -> Knob {
        let candidates = values.iter().map(|value| vec![(key, (*value).to_owned())]).collect();
        Knob { name, what: "a test", candidates, loads: &[Load::Echo], quick }
    }

    fn knobs() -> Vec<Knob> {
        vec![
            knob("receive", "ring.receive", &["standing"], true),
            knob("batch", "server.gather_wait", &["0s", "2ms"], true),
            knob("depth", "ring.entries", &["512"], false),
        ]
    }

    fn outcome(quick: bool, factor: fn(&str, Load) -> f64) -> (Outcome, Known) {
        let mut bench = Known::new(factor);
        let last = Instant::now() + Duration::from_secs(3600);
        let mut bar = Bar::hidden();
        let outcome = run(&mut bench, &knobs(), quick, last, &mut bar).unwrap();
        (outcome, bench)
    }

    #[test]
    fn on_a_box_where_nothing_helps_the_defaults_stay() {
        let (outcome, _) = outcome(true, |_, _| 1.0);
        assert!(outcome.chosen.is_empty() && outcome.together.is_none());
        assert_eq!(outcome.left_out, [("depth", "only in --full")]);
    }

    #[test]
    fn a_full_run_leaves_nothing_out() {
        let (outcome, _) = outcome(false, |_, _| 1.0);
        assert!(outcome.left_out.is_empty());
        assert_eq!(outcome.sweeps.len(), 3);
    }

    #[test]
    fn winners_are_kept_when_they_win_together() {
        let (outcome, bench) = outcome(true, |setting, _| match setting {
            "standing" | "2ms" => 1.2,
            "standing,2ms" => 1.3,
            _ => 1.0,
        });
        let keys: Vec<_> = outcome.chosen.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["ring.receive", "server.gather_wait"]);
        assert!(bench.ran.iter().any(|(setting, _)| setting == "standing,2ms"));
        assert!(!outcome.fell_apart());
    }

    #[test]
    fn winners_that_lose_together_are_not_kept() {
        let (outcome, _) = outcome(true, |setting, _| match setting {
            "standing" | "2ms" => 1.2,
            "standing,2ms" => 0.9,
            _ => 1.0,
        });
        assert!(outcome.chosen.is_empty() && outcome.fell_apart());
        let together = outcome.together.unwrap();
        assert_eq!(together.verdicts[0].standing, Standing::Lost);
    }

    #[test]
    fn the_same_box_gives_the_same_decisions() {
        let twice = [(); 2].map(|()| {
            let (outcome, _) = outcome(true, |setting, _| if setting == "2ms" { 1.1 } else { 1.0 });
            outcome.chosen
        });
        assert_eq!(twice[0], twice[1]);
        assert_eq!(twice[0].len(), 1);
    }

    #[test]
    fn when_the_time_is_over_nothing_is_decided() {
        let mut bench = Known::new(|setting, _| if setting.is_empty() { 1.0 } else { 2.0 });
        let outcome = run(&mut bench, &knobs(), true, Instant::now(), &mut Bar::hidden()).unwrap();
        assert!(outcome.chosen.is_empty());
        assert!(outcome.sweeps.iter().all(Swept::ran_out));
    }
}
