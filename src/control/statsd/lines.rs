//! Turns families of metrics into StatsD's lines: what has grown, what stands, how it is spread.
//!
//! In:    the same `Family`s as `/metrics` prints.
//! Out:   lines to a `StatsdClient`.
//! Never: loses what a counter has grown by since the last line that was taken.
//!
//! StatsD knows no labels, so their values stand behind the name, in the table's order:
//! `ringhall_closes_total{reason="slow_consumer"}` is `ringhall.closes_total.slow_consumer`.

use std::collections::HashMap;

use cadence::ext::{MetricValue, ToCounterValue};
use cadence::{Counted, Gauged, MetricResult, StatsdClient};

use super::super::metrics::{Family, Histogram, Kind, Sample, Value};

/// What every name begins with.
const PREFIX: &str = "ringhall";
/// Quantiles of what a histogram has taken since the last report.
const QUANTILES: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];

/// A client that sends into this sink.
pub(super) fn client<S>(sink: S) -> StatsdClient
where
    S: cadence::MetricSink + Sync + Send + std::panic::RefUnwindSafe + 'static,
{
    StatsdClient::from_sink(PREFIX, sink)
}

/// A counter's growth that is no whole number, such as seconds.
struct Growth(f64);

impl ToCounterValue for Growth {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        Ok(MetricValue::Float(self.0))
    }
}

/// What has been told so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Counters and histograms by the name under which they are sent.
    told: HashMap<String, Value>,
}

impl Lines {
    /// Sends everything there is to say; the first of the errors, where a line was not taken. What
    /// such a line would have said of a counter is said the next time.
    pub(super) fn send(&mut self, families: &[Family], client: &StatsdClient) -> MetricResult<()> {
        let mut outcome = Ok(());
        for family in families {
            let row = family.metric.row();
            for sample in &family.samples {
                let name = name(row.name, sample);
                let sent = match (&sample.value, row.kind) {
                    (Value::Histogram(histogram), _) => self.histogram(name, histogram, client),
                    (value, Kind::Counter) => self.counter(name, value, client),
                    (value, _) => gauge(&name, value, client),
                };
                if outcome.is_ok() {
                    outcome = sent;
                }
            }
        }
        let flushed = client.flush();
        outcome.and(flushed)
    }

    /// What it has grown by; nothing where that is nothing and the name is known.
    fn counter(&mut self, name: String, now: &Value, client: &StatsdClient) -> MetricResult<()> {
        match (now, self.told.get(&name)) {
            (now, Some(before)) if now == before => return Ok(()),
            (Value::Whole(now), Some(Value::Whole(before))) => {
                client.count(&name, now.saturating_sub(*before))?;
            }
            (Value::Whole(now), _) => drop(client.count(&name, *now)?),
            (Value::Real(now), Some(Value::Real(before))) => {
                client.count(&name, Growth((now - before).max(0.0)))?;
            }
            (Value::Real(now), _) => drop(client.count(&name, Growth(*now))?),
            (Value::Histogram(_), _) => return Ok(()),
        }
        self.told.insert(name, now.clone());
        Ok(())
    }

    /// How many observations there were since the last time, their sum, and how they are spread. A
    /// time without any has no quantiles.
    fn histogram(
        &mut self,
        name: String,
        now: &Histogram,
        client: &StatsdClient,
    ) -> MetricResult<()> {
        let before = match self.told.get(&name) {
            Some(Value::Histogram(before)) if before.count() == now.count() => return Ok(()),
            Some(Value::Histogram(before)) => before.clone(),
            _ => Histogram::default(),
        };
        let earlier = |at: usize| before.buckets.get(at).map_or(0, |(_, count)| *count);
        let grown = now.buckets.iter().enumerate();
        let grown: Vec<_> =
            grown.map(|(at, (bound, count))| (*bound, count.saturating_sub(earlier(at)))).collect();
        let count: u64 = grown.iter().map(|(_, count)| count).sum();
        client.count(&format!("{name}.count"), count)?;
        client.count(&format!("{name}.sum"), Growth((now.sum - before.sum).max(0.0)))?;
        for (suffix, quantile) in QUANTILES {
            if let Some(value) = quantile_of(&grown, quantile) {
                client.gauge(&format!("{name}.{suffix}"), value)?;
            }
        }
        self.told.insert(name, Value::Histogram(now.clone()));
        Ok(())
    }
}

fn gauge(name: &str, value: &Value, client: &StatsdClient) -> MetricResult<()> {
    match value {
        Value::Whole(number) => client.gauge(name, *number).map(drop),
        // A number that is none yet has no spelling there.
        Value::Real(number) if number.is_finite() => client.gauge(name, *number).map(drop),
        Value::Real(_) | Value::Histogram(_) => Ok(()),
    }
}

/// The metric's name, with its labels' values behind it; the client puts the prefix before it.
fn name(metric: &str, sample: &Sample) -> String {
    let mut name = metric.strip_prefix("ringhall_").unwrap_or(metric).to_owned();
    for label in &sample.labels {
        name.push('.');
        // What a name may not hold: `.` makes a part, `:`, `|`, `@` and `#` make a line.
        name.extend(label.chars().map(|letter| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => letter,
            _ => '_',
        }));
    }
    name
}

/// The value below which this share of the observations lies, as if they lay evenly within their
/// bucket (as Prometheus' `histogram_quantile` has it); `None` where there are none.
fn quantile_of(buckets: &[(f64, u64)], quantile: f64) -> Option<f64> {
    let count: u64 = buckets.iter().map(|(_, count)| count).sum();
    let wanted = quantile * count as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    for &(upper, within) in buckets.iter().filter(|_| count > 0) {
        let within = within as f64;
        if within > 0.0 && below + within >= wanted {
            // Beyond the largest bound nothing more is known than that.
            let is_open = upper.is_infinite();
            return Some(if is_open {
                lower
            } else {
                lower + (upper - lower) * (wanted - below) / within
            });
        }
        below += within;
        lower = if upper.is_finite() { upper } else { lower };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use cadence::{MetricSink, SpyMetricSink};

    use super::super::super::metrics::Metric;
    use super::*;

    fn family(metric: Metric, labels: &[&'static str], value: Value) -> Family {
        let labels = labels.iter().map(|label| (*label).into()).collect();
        Family { metric, samples: vec![Sample { labels, value }] }
    }

    /// What each of these pictures sends, a line each.
    fn sent(pictures: &[Vec<Family>]) -> Vec<Vec<String>> {
        let mut lines = Lines::default();
        let (heard, sink) = SpyMetricSink::new();
        let client = client(sink);
        let all = pictures.iter().map(|picture| {
            lines.send(picture, &client).unwrap();
            heard.try_iter().map(|line| String::from_utf8(line).unwrap()).collect()
        });
        all.collect()
    }

    #[test]
    fn a_gauge_is_told_each_time_and_a_counter_where_it_has_grown() {
        let picture = |accepts, cpu, rooms| {
            vec![
                family(Metric::Accepts, &[], Value::Whole(accepts)),
                family(Metric::ProcessCpu, &[], Value::Real(cpu)),
                family(Metric::Rooms, &[], Value::Whole(rooms)),
                family(Metric::ShardBusy, &["3"], Value::Real(0.25)),
            ]
        };
        let sent = sent(&[picture(7, 0.5, 3), picture(7, 0.5, 3), picture(9, 0.75, 0)]);
        let gauges = |rooms| {
            [format!("ringhall.rooms:{rooms}|g"), "ringhall.shard_busy_ratio.3:0.25|g".into()]
        };
        assert_eq!(
            sent[0][..2],
            ["ringhall.accepts_total:7|c", "ringhall.process_cpu_seconds_total:0.5|c"]
        );
        assert_eq!(sent[0][2..], gauges(3));
        assert_eq!(sent[1], gauges(3));
        assert_eq!(
            sent[2][..2],
            ["ringhall.accepts_total:2|c", "ringhall.process_cpu_seconds_total:0.25|c"]
        );
        assert_eq!(sent[2][2..], gauges(0));
    }

    #[test]
    fn a_counter_that_never_counted_is_named_once() {
        let picture = vec![family(Metric::Pauses, &[], Value::Whole(0))];
        assert_eq!(sent(&[picture.clone(), picture]), [vec!["ringhall.pauses_total:0|c"], vec![]]);
    }

    #[test]
    fn labels_stand_behind_the_name_without_what_makes_a_line() {
        let picture = vec![
            family(Metric::Closes, &["slow_consumer"], Value::Whole(1)),
            family(Metric::BuildInfo, &["0.1.0|c\n#x:1"], Value::Whole(1)),
        ];
        let wanted =
            ["ringhall.closes_total.slow_consumer:1|c", "ringhall.build_info.0_1_0_c__x_1:1|g"];
        assert_eq!(sent(&[picture]), [wanted]);
    }

    #[test]
    fn what_is_no_number_is_not_sent() {
        let picture = vec![family(Metric::Imbalance, &["busy"], Value::Real(f64::NAN))];
        assert_eq!(sent(&[picture]), [Vec::<String>::new()]);
    }

    fn turns(counts: [u64; 3], sum: f64) -> Vec<Family> {
        let bounds = [0.001, 0.002, f64::INFINITY];
        let buckets = bounds.into_iter().zip(counts).collect();
        vec![family(Metric::Turn, &[], Value::Histogram(Histogram { sum, buckets }))]
    }

    #[test]
    fn a_histogram_tells_count_sum_and_quantiles_since_the_last_time() {
        let sent =
            sent(&[turns([10, 0, 0], 0.25), turns([10, 0, 0], 0.25), turns([10, 99, 1], 1.25)]);
        let lines = |count, sum, p50, p99| {
            let name = "ringhall.turn_seconds";
            vec![
                format!("{name}.count:{count}|c"),
                format!("{name}.sum:{sum}|c"),
                format!("{name}.p50:{p50}|g"),
                format!("{name}.p99:{p99}|g"),
            ]
        };
        assert_eq!(sent[0], lines(10, 0.25, 0.0005, 0.00099));
        assert!(sent[1].is_empty(), "nothing was observed: {:?}", sent[1]);
        let p50 = 0.001 + 0.001 * 50.0 / 99.0;
        assert_eq!(sent[2], lines(100, 1.0, p50, 0.002));
    }

    #[test]
    fn beyond_the_last_bound_a_quantile_is_that_bound() {
        assert_eq!(quantile_of(&[(1.0, 0), (f64::INFINITY, 5)], 0.5), Some(1.0));
        assert_eq!(quantile_of(&[(1.0, 0), (f64::INFINITY, 0)], 0.5), None);
    }

    /// A network that is away now and then.
    struct Shaky {
        inner: SpyMetricSink,
        away: Arc<AtomicBool>,
    }

    impl MetricSink for Shaky {
        fn emit(&self, line: &str) -> io::Result<usize> {
            if self.away.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::NetworkUnreachable.into());
            }
            self.inner.emit(line)
        }
    }

    #[test]
    fn what_could_not_be_sent_is_made_up_for() {
        let (heard, inner) = SpyMetricSink::new();
        let away = Arc::new(AtomicBool::new(false));
        let client = client(Shaky { inner, away: away.clone() });
        let mut lines = Lines::default();
        let mut tell = |accepts, turned| {
            let mut picture = turns([turned, 0, 0], 0.0);
            picture.push(family(Metric::Accepts, &[], Value::Whole(accepts)));
            lines.send(&picture, &client)
        };
        tell(5, 1).unwrap();
        away.store(true, Ordering::Relaxed);
        assert!(tell(6, 3).is_err());
        away.store(false, Ordering::Relaxed);
        tell(8, 4).unwrap();
        let heard: Vec<_> = heard.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        for line in ["ringhall.accepts_total:5|c", "ringhall.accepts_total:3|c"] {
            assert!(heard.iter().any(|heard| heard == line), "{heard:?}");
        }
        assert!(heard.iter().any(|heard| heard == "ringhall.turn_seconds.count:3|c"), "{heard:?}");
    }
}
