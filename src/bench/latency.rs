//! Turns durations into quantiles.
//!
//! In:    nanoseconds, a delivery each.
//! Out:   microseconds at the quantiles that people ask for.
//! Never: shows in a profile: all that one turn brings for one message is one entry.

use hdrhistogram::Histogram;

/// Longest duration that is told from longer ones: a minute.
const LONGEST_NANOS: u64 = 60_000_000_000;
/// Three significant digits.
const DIGITS: u8 = 3;

/// Durations so far.
#[derive(Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
    /// The last one, and how many of it are not entered yet.
    last: u64,
    count: u64,
}

/// What a report says, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantiles {
    /// Half are shorter.
    pub p50: f64,
    /// Nine in ten are.
    pub p90: f64,
    /// 99 in 100.
    pub p99: f64,
    /// 999 in 1000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Default for Latency {
    fn default() -> Self {
        // These bounds are valid; were they not, one that grows by itself would do.
        let histogram = Histogram::new_with_bounds(1, LONGEST_NANOS, DIGITS)
            .or_else(|_| Histogram::new(DIGITS))
            .expect("three digits are among those that may be asked for");
        Self { histogram, last: 0, count: 0 }
    }
}

impl Latency {
    /// Notes one.
    #[inline]
    pub fn record(&mut self, nanos: u64) {
        if nanos != self.last {
            self.enter();
            self.last = nanos;
        }
        self.count += 1;
    }

    fn enter(&mut self) {
        if self.count == 0 {
            return;
        }
        let nanos = self.last.clamp(1, LONGEST_NANOS);
        // Clamped to what it holds.
        let _ = self.histogram.record_n(nanos, self.count);
        self.count = 0;
    }

    /// The quantiles of all; zeros where there were none.
    pub fn quantiles(&mut self) -> Quantiles {
        self.enter();
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let at = |quantile| micros(self.histogram.value_at_quantile(quantile));
        Quantiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(self.histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_every_one() {
        let mut latency = Latency::default();
        for _ in 0..990 {
            latency.record(10_000);
        }
        for _ in 0..10 {
            latency.record(5_000_000);
        }
        let quantiles = latency.quantiles();
        let near = |a: f64, b: f64| (a - b).abs() <= b / 500.0;
        assert!(near(quantiles.p50, 10.0) && near(quantiles.p99, 10.0), "{quantiles:?}");
        assert!(near(quantiles.p999, 5000.0) && near(quantiles.max, 5000.0), "{quantiles:?}");
    }

    #[test]
    fn none_at_all_are_zeros() {
        assert_eq!(Latency::default().quantiles(), Quantiles::default());
    }
}
