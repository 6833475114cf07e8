//! Turns families into Prometheus text.
//!
//! In:    a source of families.
//! Out:   the answer to `GET /metrics`.
//! Never: keeps a number from one scrape to the next.

use std::fmt;

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::{CONTENT_TYPE, encode};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Family, Kind, Row, Sample, Source, Value};

/// Prints what a source says.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Exposition {
    /// Of that source.
    #[must_use]
    pub fn of(source: Source) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Picture(source)));
        Self(registry)
    }

    /// Everything, now, as Prometheus text of version 0.0.4.
    ///
    /// # Errors
    /// None that a string gives.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 << 10);
        encode(&mut text, &self.0)?;
        Ok(text)
    }

    /// The answer to a scrape.
    pub(in crate::control) fn answer(&self) -> Response {
        let Ok(text) = self.text() else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let kind = HeaderValue::from_static(CONTENT_TYPE);
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (headers, text).into_response()
    }
}

/// Takes a picture at each scrape.
struct Picture(Source);

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Picture")
    }
}

impl Collector for Picture {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A name without a value would only raise questions.
        let families = self.0.families().into_iter().filter(|family| !family.samples.is_empty());
        families.into_iter().try_for_each(|family| put_family(&mut encoder, &family))
    }
}

fn put_family(encoder: &mut DescriptorEncoder<'_>, family: &Family) -> fmt::Result {
    let Row { name, kind, labels, help, .. } = family.metric.row();
    // The library puts a counter's suffix behind the name itself.
    let (name, kind) = match kind {
        Kind::Counter => (name.trim_end_matches("_total"), MetricType::Counter),
        Kind::Gauge => (name, MetricType::Gauge),
        Kind::Histogram => (name, MetricType::Histogram),
    };
    let mut encoder = encoder.encode_descriptor(name, help, None, kind)?;
    for Sample { labels: values, value } in &family.samples {
        let set: Vec<_> = labels.iter().copied().zip(values.iter().cloned()).collect();
        let mut encoder = encoder.encode_family(&set)?;
        put_value(&mut encoder, kind, value)?;
    }
    Ok(())
}

fn put_value(encoder: &mut MetricEncoder<'_>, kind: MetricType, value: &Value) -> fmt::Result {
    match (kind, value) {
        (MetricType::Counter, Value::Whole(whole)) => {
            encoder.encode_counter::<NoLabelSet, u64, u64>(whole, None)
        }
        (MetricType::Counter, Value::Real(real)) => {
            encoder.encode_counter::<NoLabelSet, f64, u64>(real, None)
        }
        (_, Value::Whole(whole)) => encoder.encode_gauge(whole),
        (_, Value::Real(real)) => encoder.encode_gauge(real),
        (_, Value::Histogram(times)) => {
            let (count, buckets) = (times.count(), &times.buckets);
            encoder.encode_histogram::<NoLabelSet>(times.sum, count, buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Histogram, Metric, MetricsSource};
    use super::*;

    struct Three;

    impl MetricsSource for Three {
        fn families(&self) -> Vec<Family> {
            let times =
                Histogram { sum: 0.5, buckets: vec![(0.1, 2), (1.0, 1), (f64::INFINITY, 0)] };
            vec![
                Family::by(Metric::Refusals, [("full".into(), Value::Whole(7))]),
                Family::one(Metric::BrokerUp, None),
                Family::one(Metric::Turn, Some(Value::Histogram(times))),
                Family::one(Metric::ProcessCpu, Some(Value::Real(0.25))),
            ]
        }
    }

    #[test]
    fn a_family_is_printed_as_its_row_says_and_an_empty_one_is_not() {
        let text = Exposition::of(Arc::new(Three)).text().unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        assert_eq!(
            lines,
            [
                "# TYPE ringhall_refusals_total counter",
                "ringhall_refusals_total{reason=\"full\"} 7",
                "# TYPE ringhall_turn_seconds histogram",
                "ringhall_turn_seconds_bucket{le=\"0.1\"} 2",
                "ringhall_turn_seconds_bucket{le=\"1\"} 3",
                "ringhall_turn_seconds_bucket{le=\"+Inf\"} 3",
                "ringhall_turn_seconds_sum 0.5",
                "ringhall_turn_seconds_count 3",
                "# TYPE process_cpu_seconds_total counter",
                "process_cpu_seconds_total 0.25",
            ]
        );
        let help = Metric::Turn.row().help;
        assert!(text.contains(&format!("# HELP ringhall_turn_seconds {help}\n")));
    }
}
