//! Turns the trials of a sweep into what to keep.
//!
//! In:    trials of the default and of candidates, in pairs.
//! Out:   a verdict a candidate, and the choice.
//! Never: leaves the default for less than its noise, or for a gain under one load that another
//!        load pays for.
//!
//! A pair is a candidate's trial and the default's of the same half of a round: what the box did
//! meanwhile both have felt. All figures here are ratios of such pairs.

use super::statistics::Spread;
use super::{Load, Sample};

/// A gain or loss of operations a CPU-second below this is none.
pub const GAIN_LEAST: f64 = 0.03;
/// The same of the 99th percentile, which strays more.
pub const LATENCY_LEAST: f64 = 0.10;
/// Two candidates whose memory differs by less take the same.
const MEMORY_LEAST: f64 = 0.03;

/// A trial and where it stood in its sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// 0 for the default, else the candidate's place, from 1.
    pub setting: usize,
    /// The load.
    pub load: Load,
    /// The half of a round, from 0: even ones run forwards, odd ones backwards.
    pub half: usize,
    /// What was measured.
    pub sample: Sample,
}

/// A candidate beside the default, under one load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// The load.
    pub load: Load,
    /// Operations a CPU-second, over the default's.
    pub operations: Spread,
    /// The 99th percentile, over the default's.
    pub p99: Spread,
}

/// How a candidate did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Better under a load, worse under none.
    Won,
    /// No difference that exceeds its noise.
    Tied,
    /// Fewer operations a CPU-second under a load.
    Lost,
    /// No fewer operations, but later ones.
    Slower,
    /// Given up after a few rounds: it could not win any more.
    Hopeless,
    /// It did not run.
    Failed,
    /// Too few rounds to say.
    Unknown,
}

/// A candidate's figures and what they mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// By load, in the order of the sweep's.
    pub compared: Vec<Compared>,
    /// What they mean.
    pub standing: Standing,
    /// Bytes that an idle connection takes, where that was looked at: where several have won.
    pub bytes_per_connection: Option<f64>,
}

impl Compared {
    fn gains(&self) -> bool {
        self.operations.median > 1.0 + self.operations.threshold(GAIN_LEAST)
    }

    fn loses(&self) -> bool {
        self.operations.median < 1.0 - self.operations.threshold(GAIN_LEAST)
    }

    fn is_later(&self) -> bool {
        self.p99.median > 1.0 + self.p99.threshold(LATENCY_LEAST)
    }

    /// Whether a gain is still within the noise of what was measured.
    fn may_gain(&self) -> bool {
        let reach = self.operations.mad.max(GAIN_LEAST / 3.0);
        self.operations.median + reach > 1.0 + GAIN_LEAST
    }
}

/// Compares a candidate, from 1, with the default.
#[must_use]
pub fn compare(trials: &[Trial], candidate: usize, loads: &[Load]) -> Vec<Compared> {
    let under = |load: &Load| {
        let (mut operations, mut p99) = (Vec::new(), Vec::new());
        for trial in trials.iter().filter(|t| t.setting == candidate && t.load == *load) {
            let pair = |t: &&Trial| t.setting == 0 && t.load == *load && t.half == trial.half;
            let Some(default) = trials.iter().find(pair) else { continue };
            let (mine, its) = (&trial.sample, &default.sample);
            operations.push(ratio(mine.operations_per_cpu_second, its.operations_per_cpu_second));
            p99.push(ratio(mine.p99_us as f64, its.p99_us as f64));
        }
        Some(Compared { load: *load, operations: Spread::of(&operations)?, p99: Spread::of(&p99)? })
    };
    loads.iter().filter_map(under).collect()
}

fn ratio(mine: f64, its: f64) -> f64 {
    // What takes no time at all was not measured; it is nobody's gain.
    if its > 0.0 { mine / its } else { 1.0 }
}

/// What a candidate's figures mean. `pairs_least` is the number of pairs under every load below
/// which nothing is decided.
#[must_use]
pub fn judge(compared: Vec<Compared>, loads: &[Load], pairs_least: usize) -> Verdict {
    let short = compared.len() < loads.len()
        || compared.iter().any(|one| one.operations.count < pairs_least);
    let standing = if short {
        Standing::Unknown
    } else if compared.iter().any(Compared::loses) {
        Standing::Lost
    } else if compared.iter().any(Compared::is_later) {
        Standing::Slower
    } else if compared.iter().any(Compared::gains) {
        Standing::Won
    } else {
        Standing::Tied
    };
    Verdict { compared, standing, bytes_per_connection: None }
}

/// Whether a candidate can no longer win, so that its further trials are not worth their time.
#[must_use]
pub fn is_hopeless(compared: &[Compared]) -> bool {
    !compared.iter().any(Compared::may_gain) || compared.iter().any(Compared::loses)
}

/// The place of the verdict whose candidate replaces the default; `None` keeps the default.
///
/// The one that gains most; of those within its noise the one that takes least memory; of these the
/// first, which is the simplest.
#[must_use]
pub fn choose(verdicts: &[Verdict]) -> Option<usize> {
    let won = || verdicts.iter().enumerate().filter(|(_, v)| v.standing == Standing::Won);
    let most = won().map(|(_, verdict)| score(verdict)).max_by(f64::total_cmp)?;
    let best = won().find(|(_, verdict)| score(verdict) >= most)?.1;
    let noise = best.compared.iter().map(|one| one.operations.mad).fold(0.0, f64::max);
    let near = most - GAIN_LEAST.max(2.0 * noise);
    let tied: Vec<_> = won().filter(|(_, verdict)| score(verdict) >= near).collect();
    let bytes = tied.iter().filter_map(|(_, verdict)| verdict.bytes_per_connection);
    let most_bytes = bytes.min_by(f64::total_cmp).unwrap_or(f64::MAX) * (1.0 + MEMORY_LEAST);
    // One that was not weighed is as slim as any.
    let slim = |verdict: &Verdict| verdict.bytes_per_connection.is_none_or(|it| it <= most_bytes);
    tied.into_iter().find(|(_, verdict)| slim(verdict)).map(|(at, _)| at)
}

/// The middle of a candidate's gains over its loads (their geometric mean).
fn score(verdict: &Verdict) -> f64 {
    let logs: f64 = verdict.compared.iter().map(|one| one.operations.median.ln()).sum();
    (logs / verdict.compared.len().max(1) as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADS: &[Load] = &[Load::Echo, Load::LargeRoom];

    fn sample(operations: f64, p99_us: u64) -> Sample {
        Sample { operations_per_cpu_second: operations, per_second: operations / 2.0, p99_us }
    }

    /// Trials of one load: the default's figures and those of each candidate, by halves.
    fn trials(load: Load, by_setting: &[&[f64]]) -> Vec<Trial> {
        let figures = by_setting.iter().enumerate();
        figures
            .flat_map(|(setting, figures)| {
                figures.iter().enumerate().map(move |(half, figure)| {
                    let sample = sample(*figure, 1000);
                    Trial { setting, load, half, sample }
                })
            })
            .collect()
    }

    fn verdict(trials: &[Trial], candidate: usize, loads: &[Load]) -> Verdict {
        judge(compare(trials, candidate, loads), loads, 4)
    }

    #[test]
    fn a_gain_above_three_percent_and_twice_the_deviation_wins() {
        let quiet = trials(Load::Echo, &[&[100.0; 6], &[104.0, 104.0, 104.1, 103.9, 104.0, 104.0]]);
        let verdict = verdict(&quiet, 1, &[Load::Echo]);
        assert_eq!(verdict.standing, Standing::Won);
        assert_eq!(choose(&[verdict]), Some(0));
    }

    #[test]
    fn a_gain_of_three_percent_is_none() {
        let close = trials(Load::Echo, &[&[100.0; 6], &[102.9; 6]]);
        assert_eq!(verdict(&close, 1, &[Load::Echo]).standing, Standing::Tied);
    }

    #[test]
    fn a_gain_within_twice_the_deviation_is_none() {
        let noisy = trials(Load::Echo, &[&[100.0; 6], &[98.0, 118.0, 103.0, 115.0, 101.0, 116.0]]);
        let verdict = verdict(&noisy, 1, &[Load::Echo]);
        assert!(verdict.compared[0].operations.median > 1.08, "{verdict:?}");
        assert_eq!(verdict.standing, Standing::Tied);
        assert_eq!(choose(&[verdict]), None);
    }

    #[test]
    fn what_both_of_a_pair_have_felt_is_no_difference() {
        // The box slows down to a half; the candidate is always a tenth better.
        let drifting =
            trials(Load::Echo, &[&[100.0, 90.0, 70.0, 50.0], &[110.0, 99.0, 77.0, 55.0]]);
        let verdict = verdict(&drifting, 1, &[Load::Echo]);
        assert_eq!(verdict.standing, Standing::Won);
        assert!((verdict.compared[0].operations.median - 1.1).abs() < 1e-9);
    }

    #[test]
    fn a_gain_that_another_load_pays_for_is_none() {
        let mut both = trials(Load::Echo, &[&[100.0; 4], &[130.0; 4]]);
        both.extend(trials(Load::LargeRoom, &[&[100.0; 4], &[95.0; 4]]));
        assert_eq!(verdict(&both, 1, LOADS).standing, Standing::Lost);
    }

    #[test]
    fn a_gain_that_comes_late_is_none() {
        let mut late = trials(Load::Echo, &[&[100.0; 4], &[130.0; 4]]);
        for trial in late.iter_mut().filter(|trial| trial.setting == 1) {
            trial.sample.p99_us = 1240;
        }
        assert_eq!(verdict(&late, 1, &[Load::Echo]).standing, Standing::Slower);
    }

    #[test]
    fn too_few_pairs_decide_nothing() {
        let few = trials(Load::Echo, &[&[100.0; 3], &[150.0; 3]]);
        assert_eq!(verdict(&few, 1, &[Load::Echo]).standing, Standing::Unknown);
        let unpaired = trials(Load::Echo, &[&[100.0; 3], &[150.0; 6]]);
        assert_eq!(verdict(&unpaired, 1, &[Load::Echo]).standing, Standing::Unknown);
        let one_load = trials(Load::Echo, &[&[100.0; 6], &[150.0; 6]]);
        assert_eq!(verdict(&one_load, 1, LOADS).standing, Standing::Unknown);
    }

    #[test]
    fn of_several_winners_the_best_is_chosen() {
        let three = trials(Load::Echo, &[&[100.0; 4], &[110.0; 4], &[130.0; 4], &[120.0; 4]]);
        let verdicts: Vec<_> = (1..=3).map(|one| verdict(&three, one, &[Load::Echo])).collect();
        assert_eq!(choose(&verdicts), Some(1));
    }

    #[test]
    fn among_equal_winners_less_memory_and_then_the_simpler_one() {
        let three = trials(Load::Echo, &[&[100.0; 4], &[120.0; 4], &[121.0; 4], &[120.5; 4]]);
        let mut all: Vec<_> = (1..=3).map(|one| verdict(&three, one, &[Load::Echo])).collect();
        assert_eq!(choose(&all), Some(0), "nobody looked at memory: the first");
        for (verdict, bytes) in all.iter_mut().zip([900.0, 300.0, 301.0]) {
            verdict.bytes_per_connection = Some(bytes);
        }
        assert_eq!(choose(&all), Some(1));
    }

    #[test]
    fn without_candidates_the_default_stays() {
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn only_what_cannot_win_any_more_is_hopeless() {
        let hopeless = |candidate: &[f64]| {
            let two = trials(Load::Echo, &[&[100.0; 4], candidate]);
            is_hopeless(&compare(&two, 1, &[Load::Echo]))
        };
        assert!(hopeless(&[100.0, 100.1, 99.9, 100.0]));
        assert!(hopeless(&[80.0; 4]));
        assert!(!hopeless(&[104.0; 4]));
        assert!(!hopeless(&[98.0, 105.0, 97.0, 104.0]), "so noisy that it may yet win");
    }
}
