//! Turns a knob into trials, in an order that cancels what the box does meanwhile.
//!
//! In:    a `Knob`; who runs a trial; how many rounds, until when.
//! Out:   `Swept`: every trial, a verdict a candidate, the choice.
//! Never: decides on fewer rounds than it was told to; goes on with what cannot win.
//!
//! A round is the settings forwards, then backwards (A B C, C B A), under each load: whatever grows
//! or shrinks steadily meanwhile, all of them feel alike.

use std::time::{Duration, Instant};

use super::bar::Bar;
use super::decide::{Standing, Trial, Verdict, choose, compare, is_hopeless, judge};
use super::{Bench, Fault, Knob, Setting};

/// Rounds after which a candidate that cannot win any more is given up.
const ROUNDS_BEFORE_GIVING_UP: usize = 2;

/// Time to look at what a connection takes.
const WEIGHING: Duration = Duration::from_secs(6);

/// How many rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// With fewer nothing is decided.
    pub rounds_least: usize,
    /// More are not run.
    pub rounds_most: usize,
}

impl Pace {
    /// Of `--quick`.
    pub const QUICK: Self = Self { rounds_least: 3, rounds_most: 5 };
    /// Of `--full`.
    pub const FULL: Self = Self { rounds_least: 5, rounds_most: 9 };

    /// Trials of a sweep, if nothing is given up and there is time.
    #[must_use]
    pub fn trials(&self, knob: &Knob) -> usize {
        2 * self.rounds_most * knob.loads.len() * (1 + knob.candidates.len())
    }
}

/// Until when.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// No more than the least number of rounds from then on.
    pub fair: Instant,
    /// No trial may end later.
    pub last: Instant,
}

/// A knob that was turned.
#[derive(Clone, Debug)]
pub struct Swept {
    /// Which.
    pub knob: Knob,
    /// In the order in which they ran.
    pub trials: Vec<Trial>,
    /// By candidate.
    pub verdicts: Vec<Verdict>,
    /// Candidates that did not run, from 0, and why.
    pub failures: Vec<(usize, String)>,
    /// The candidate, from 0, that replaces the default.
    pub choice: Option<usize>,
    /// Whole rounds.
    pub rounds: usize,
}

impl Swept {
    /// What is kept: nothing where that is the default.
    #[must_use]
    pub fn chosen(&self) -> Setting {
        self.choice.map(|at| self.knob.candidates[at].clone()).unwrap_or_default()
    }

    /// Whether the time was over before anything could be decided.
    #[must_use]
    pub fn ran_out(&self) -> bool {
        self.verdicts.iter().any(|verdict| verdict.standing == Standing::Unknown)
    }
}

/// Turns a knob.
///
/// # Errors
/// If the default itself does not run: then there is nothing to compare with.
pub fn sweep(
    bench: &mut dyn Bench,
    knob: &Knob,
    pace: Pace,
    time: Time,
    bar: &mut Bar,
) -> Result<Swept, Fault> {
    let mut sweep = Sweep {
        knob,
        alive: (1..=knob.candidates.len()).collect(),
        given_up: Vec::new(),
        failures: Vec::new(),
        trials: Vec::new(),
        longest: Duration::ZERO,
    };
    let mut rounds = 0;
    let planned = bar.done() + pace.trials(knob);
    while rounds < pace.rounds_most && !sweep.alive.is_empty() {
        let until = if rounds < pace.rounds_least { time.last } else { time.fair };
        if Instant::now() + sweep.next_round() > until {
            break;
        }
        bar.say(&format!("{}, round {}", knob.name, rounds + 1));
        sweep.round(bench, rounds, bar)?;
        rounds += 1;
        if rounds >= ROUNDS_BEFORE_GIVING_UP {
            sweep.give_up();
        }
    }
    bar.skip_to(planned);
    let mut verdicts = sweep.verdicts(pace);
    weigh(bench, knob, &mut verdicts, time, bar);
    Ok(sweep.end(verdicts, rounds))
}

struct Sweep<'a> {
    knob: &'a Knob,
    /// Candidates, from 1, that may still win.
    alive: Vec<usize>,
    given_up: Vec<usize>,
    failures: Vec<(usize, String)>,
    trials: Vec<Trial>,
    /// The longest trial so far.
    longest: Duration,
}

impl Sweep<'_> {
    /// How long the next round may take.
    fn next_round(&self) -> Duration {
        let trials = 2 * self.knob.loads.len() * (1 + self.alive.len());
        self.longest * u32::try_from(trials).unwrap_or(u32::MAX)
    }

    fn round(&mut self, bench: &mut dyn Bench, round: usize, bar: &mut Bar) -> Result<(), Fault> {
        let mut order: Vec<_> = self
            .knob
            .loads
            .iter()
            .flat_map(|load| {
                let settings = std::iter::once(0).chain(self.alive.iter().copied());
                settings.map(move |setting| (setting, *load))
            })
            .collect();
        for half in [2 * round, 2 * round + 1] {
            for (setting, load) in &order {
                if *setting > 0 && !self.alive.contains(setting) {
                    continue;
                }
                let begin = Instant::now();
                let outcome = bench.run(&self.keys(*setting), *load);
                self.longest = self.longest.max(begin.elapsed());
                bar.step();
                match outcome {
                    Ok(sample) => {
                        self.trials.push(Trial { setting: *setting, load: *load, half, sample });
                    }
                    Err(fault) if *setting == 0 => return Err(fault),
                    Err(fault) => {
                        self.alive.retain(|one| one != setting);
                        self.failures.push((setting - 1, fault.to_string()));
                    }
                }
            }
            order.reverse();
        }
        Ok(())
    }

    fn keys(&self, setting: usize) -> Setting {
        match setting.checked_sub(1) {
            None => Setting::new(),
            Some(candidate) => self.knob.candidates[candidate].clone(),
        }
    }

    fn give_up(&mut self) {
        let (trials, loads) = (&self.trials, self.knob.loads);
        let hopeless = |one: &usize| is_hopeless(&compare(trials, *one, loads));
        let (given_up, alive) = self.alive.iter().partition(|one| hopeless(one));
        self.alive = alive;
        self.given_up.extend::<Vec<usize>>(given_up);
    }

    fn verdicts(&self, pace: Pace) -> Vec<Verdict> {
        let pairs_least = 2 * pace.rounds_least;
        let verdict = |candidate: usize| {
            let compared = compare(&self.trials, candidate, self.knob.loads);
            let few = 2 * ROUNDS_BEFORE_GIVING_UP;
            let judged = judge(compared, self.knob.loads, pairs_least);
            if self.failures.iter().any(|(failed, _)| *failed == candidate - 1) {
                return Verdict { standing: Standing::Failed, ..judged };
            }
            if !self.given_up.contains(&candidate) {
                return judged;
            }
            // It was given up on fewer pairs: why is judged by these.
            let early = judge(judged.compared, self.knob.loads, few);
            match early.standing {
                Standing::Lost | Standing::Slower => early,
                _ => Verdict { standing: Standing::Hopeless, ..early },
            }
        };
        (1..=self.knob.candidates.len()).map(verdict).collect()
    }

    fn end(self, verdicts: Vec<Verdict>, rounds: usize) -> Swept {
        Swept {
            knob: self.knob.clone(),
            choice: choose(&verdicts),
            trials: self.trials,
            verdicts,
            failures: self.failures,
            rounds,
        }
    }
}

/// Looks at what connections take where several candidates have won, for the choice between them.
/// One whose memory is not to be told is chosen or not by its speed alone.
fn weigh(bench: &mut dyn Bench, knob: &Knob, verdicts: &mut [Verdict], time: Time, bar: &mut Bar) {
    let won = verdicts.iter().filter(|verdict| verdict.standing == Standing::Won).count();
    if won < 2 {
        return;
    }
    bar.say(&format!("{}, bytes a connection", knob.name));
    for (candidate, verdict) in knob.candidates.iter().zip(verdicts) {
        if verdict.standing == Standing::Won && Instant::now() + WEIGHING <= time.last {
            verdict.bytes_per_connection = bench.weigh(candidate).ok().flatten();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Known;
    use super::super::{Load, Sample};
    use super::*;

    const PACE: Pace = Pace { rounds_least: 3, rounds_most: 4 };

    fn knob(candidates: &[&str]) -> Knob {
        Knob {
            name: "batch",
            what: "how long a turn waits for more",
            candidates: candidates
                .iter()
                .map(|value| vec![("server.gather_wait", (*value).to_owned())])
                .collect(),
            loads: &[Load::LargeRoom, Load::Echo],
            quick: true,
        }
    }

    fn hour() -> Time {
        let last = Instant::now() + Duration::from_secs(3600);
        Time { fair: last, last }
    }

    fn swept(bench: &mut Known, candidates: &[&str], time: Time) -> Swept {
        sweep(bench, &knob(candidates), PACE, time, &mut Bar::hidden()).unwrap()
    }

    #[test]
    fn a_better_setting_is_chosen_and_a_worse_one_given_up_early() {
        let mut bench = Known::new(|setting, _| match setting {
            "2ms" => 1.25,
            "0s" => 0.8,
            _ => 1.0,
        });
        let swept = swept(&mut bench, &["0s", "2ms"], hour());
        assert_eq!(swept.chosen(), vec![("server.gather_wait", "2ms".to_owned())]);
        assert_eq!(swept.verdicts[0].standing, Standing::Lost);
        assert_eq!(swept.verdicts[0].compared[0].operations.count, 4, "two rounds");
        assert_eq!(swept.verdicts[1].compared[0].operations.count, 8);
        assert_eq!(swept.rounds, 4);
    }

    #[test]
    fn each_half_runs_the_settings_the_other_way_round() {
        let mut bench = Known::new(|_, _| 1.0);
        swept(&mut bench, &["a", "b"], hour());
        let settings: Vec<_> = bench.ran.iter().map(|(setting, _)| setting.as_str()).collect();
        let forwards = ["", "a", "b", "", "a", "b"];
        let backwards = ["b", "a", "", "b", "a", ""];
        assert_eq!(settings[..6], forwards);
        assert_eq!(settings[6..12], backwards);
    }

    #[test]
    fn what_cannot_win_costs_two_rounds_and_keeps_the_default() {
        let mut bench = Known::new(|_, _| 1.0);
        let swept = swept(&mut bench, &["1ms", "2ms"], hour());
        assert_eq!((swept.choice, swept.rounds), (None, 2));
        assert!(swept.verdicts.iter().all(|verdict| verdict.standing == Standing::Hopeless));
        assert_eq!(bench.ran.len(), 2 * 2 * 3 * 2);
    }

    #[test]
    fn without_time_for_the_least_rounds_the_default_stays() {
        let mut bench = Known::new(|setting, _| if setting == "1ms" { 2.0 } else { 1.0 });
        let now = Instant::now();
        let swept = swept(&mut bench, &["1ms"], Time { fair: now, last: now });
        assert!(swept.chosen().is_empty() && swept.ran_out(), "{swept:?}");
    }

    #[test]
    fn a_fair_share_that_is_over_still_leaves_the_least_rounds() {
        let mut bench = Known::new(|setting, _| if setting == "1ms" { 2.0 } else { 1.0 });
        let time = Time { fair: Instant::now(), ..hour() };
        let swept = swept(&mut bench, &["1ms"], time);
        assert_eq!((swept.choice, swept.rounds), (Some(0), PACE.rounds_least));
    }

    #[test]
    fn a_candidate_that_does_not_run_is_passed_over() {
        let mut bench = Known::new(|setting, _| if setting == "2ms" { 1.5 } else { 1.0 });
        bench.broken = Some("1ms".to_owned());
        let swept = swept(&mut bench, &["1ms", "2ms"], hour());
        assert_eq!(swept.choice, Some(1));
        assert_eq!(swept.verdicts[0].standing, Standing::Failed);
        assert_eq!(swept.failures.len(), 1);
    }

    #[test]
    fn of_two_that_win_alike_the_one_with_less_memory_is_chosen() {
        let mut bench = Known::new(|setting, _| if setting.is_empty() { 1.0 } else { 1.2 });
        let both = swept(&mut bench, &["1000us", "1ms"], hour());
        assert_eq!(both.choice, Some(1));
        assert_eq!(both.verdicts[1].bytes_per_connection, Some(7_000.0));
        let one = swept(&mut bench, &["1000us"], hour());
        assert_eq!(one.verdicts[0].bytes_per_connection, None, "there is nothing to choose");
    }

    #[test]
    fn a_default_that_does_not_run_is_a_fault() {
        let mut bench = Known::new(|_, _| 1.0);
        bench.broken = Some(String::new());
        assert!(sweep(&mut bench, &knob(&["1ms"]), PACE, hour(), &mut Bar::hidden()).is_err());
    }

    #[test]
    fn samples_are_kept_as_they_came() {
        let mut bench = Known::new(|_, _| 1.0);
        let swept = swept(&mut bench, &["1ms"], hour());
        let operations = |sample: &Sample| sample.operations_per_cpu_second;
        assert!(swept.trials.iter().all(|trial| operations(&trial.sample) == Known::BASE));
        assert_eq!(swept.trials.len(), bench.ran.len());
    }
}
