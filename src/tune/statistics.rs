//! Turns figures into a middle and how far they stray from it.
//!
//! In:    figures of equal trials.
//! Out:   `Spread`.
//! Never: takes a mean: one trial that a neighbour disturbed must not decide.

/// The middle of some figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half of them are above it.
    pub median: f64,
    /// Median absolute deviation from it: half of them are nearer than this.
    pub mad: f64,
    /// How many there were.
    pub count: usize,
}

impl Spread {
    /// Of these figures; `None` where there is none.
    #[must_use]
    pub fn of(figures: &[f64]) -> Option<Self> {
        let median = median(figures)?;
        let strays: Vec<f64> = figures.iter().map(|figure| (figure - median).abs()).collect();
        Some(Self { median, mad: median_of(strays)?, count: figures.len() })
    }

    /// What a difference has to exceed to be one: `least`, or twice the deviation.
    #[must_use]
    pub fn threshold(&self, least: f64) -> f64 {
        least.max(2.0 * self.mad)
    }
}

/// The middle figure, or half way between the middle two.
#[must_use]
pub fn median(figures: &[f64]) -> Option<f64> {
    median_of(figures.to_vec())
}

fn median_of(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let upper = *figures.get(figures.len() / 2)?;
    match figures.len() % 2 {
        0 => Some(f64::midpoint(upper, figures[figures.len() / 2 - 1])),
        _ => Some(upper),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_known_by_hand() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn one_disturbed_trial_moves_neither_middle_nor_spread() {
        let quiet = Spread::of(&[1.00, 1.01, 0.99, 1.02, 0.98]).unwrap();
        let disturbed = Spread::of(&[1.00, 1.01, 0.99, 9.00, 0.98]).unwrap();
        assert!((quiet.median - 1.0).abs() < 1e-9 && (disturbed.median - 1.0).abs() < 1e-9);
        assert!((quiet.mad - 0.01).abs() < 1e-9, "{quiet:?}");
        assert!((disturbed.mad - 0.01).abs() < 1e-9, "{disturbed:?}");
    }

    #[test]
    fn what_counts_as_a_difference_grows_with_the_noise() {
        let spread = |mad| Spread { median: 1.0, mad, count: 5 };
        assert_eq!(spread(0.001).threshold(0.03), 0.03);
        assert_eq!(spread(0.05).threshold(0.03), 0.1);
    }
}
