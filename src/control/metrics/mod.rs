//! What is measured, in the words of the table; who prints it, prints all of it.
//!
//! In:    `Families`, a picture taken by the server when asked.
//! Out:   the same as Prometheus text.
//! Never: asks a shard, or knows what a number is made of.

pub mod exposition;
pub mod table;

use std::borrow::Cow;
use std::sync::Arc;

pub use table::{Kind, Metric, Row, Unit, When};

/// Whoever can say what is measured.
pub trait MetricsSource: Send + Sync {
    /// Takes a picture now; called once a scrape, on the main thread, so it must not block.
    fn families(&self) -> Vec<Family>;
}

/// A source, as those who print it share it.
pub type Source = Arc<dyn MetricsSource>;

/// One metric with its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Which.
    pub metric: Metric,
    /// One value for each set of labels; none where there is nothing to say.
    pub samples: Vec<Sample>,
}

impl Family {
    /// Of a metric without labels; `None` where there is nothing to say.
    pub fn one(metric: Metric, value: impl Into<Option<Value>>) -> Self {
        let value = value.into().into_iter();
        let samples = value.map(|value| Sample { labels: Vec::new(), value }).collect();
        Self { metric, samples }
    }

    /// Of a metric with one label: a value for each of its values.
    pub fn by(
        metric: Metric,
        values: impl IntoIterator<Item = (Cow<'static, str>, Value)>,
    ) -> Self {
        let sample = |(label, value)| Sample { labels: vec![label], value };
        Self { metric, samples: values.into_iter().map(sample).collect() }
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Values of the row's labels, in the row's order.
    pub labels: Vec<Cow<'static, str>>,
    /// The number.
    pub value: Value,
}

/// A number, in the base unit of its row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a gauge.
    Whole(u64),
    /// Of a counter or a gauge.
    Real(f64),
    /// Of a histogram.
    Histogram(Histogram),
}

/// Observations by size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Sum of all observations.
    pub sum: f64,
    /// Upper bound (the last is infinite) and number of observations above the bound before it and
    /// not above this one.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}
