//! Turns what was measured into a table for people and an object for programs.
//!
//! In:    `Measured`, quantiles, parameters; facts of the box.
//! Out:   text.
//! Never: prints.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::drive::Measured;
use super::latency::Quantiles;

/// A finished run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The subcommand.
    pub bench: &'static str,
    /// What one operation is, for people.
    pub unit: &'static str,
    /// Everything that the run was told.
    pub parameters: Value,
    /// The figures.
    pub measured: Measured,
    /// From sending (or being due) to delivery.
    pub latency: Quantiles,
    /// The server's memory before the first connection, where it was looked at.
    pub rss_before: Option<u64>,
    /// Messages that were sent, in the whole run.
    pub messages: u64,
}

impl Report {
    /// The object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Measured { operations, operations_all, seconds, busy, reads, .. } = self.measured;
        let Quantiles { p50, p90, p99, p999, max } = self.latency;
        json!({
            "bench": self.bench,
            "parameters": self.parameters,
            "operations": operations,
            "seconds": seconds,
            "per_second": operations as f64 / seconds,
            "server": self.server(),
            "generator": {"busy_percent": 100.0 * busy},
            "latency_us": {"p50": p50, "p90": p90, "p99": p99, "p999": p999, "max": max},
            "received_per_read": operations as f64 / reads.max(1) as f64,
            "whole_run": {"messages_sent": self.messages, "operations": operations_all},
            "machine": machine(),
            "commit": option_env!("GIT_COMMIT"),
        })
    }

    fn server(&self) -> Value {
        let Some((before, after)) = &self.measured.server else { return Value::Null };
        let spent = after.since(before);
        json!({
            "cpu_seconds": spent.cpu,
            "user_seconds": spent.user,
            "system_seconds": spent.system,
            "per_cpu_second": self.measured.operations as f64 / spent.cpu.max(1e-9),
            "core_percent": 100.0 * spent.cpu / self.measured.seconds,
            "rss_bytes": after.rss_bytes,
            "rss_before_bytes": self.rss_before,
        })
    }

    /// The table.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<26}{value}");
        };
        let Measured { operations, seconds, busy, reads, .. } = self.measured;
        let unit = self.unit;
        line(unit, format!("{} in {seconds:.2} s", grouped(operations as f64)));
        line(&format!("{unit} a second"), grouped(operations as f64 / seconds));
        if let Some((before, after)) = &self.measured.server {
            let spent = after.since(before);
            let per = operations as f64 / spent.cpu.max(1e-9);
            line(&format!("{unit} a CPU-second"), format!("{} of the server", grouped(per)));
            line(
                "server CPU",
                format!(
                    "{:.0} % of a core ({:.2} s: {:.2} user, {:.2} system)",
                    100.0 * spent.cpu / seconds,
                    spent.cpu,
                    spent.user,
                    spent.system
                ),
            );
            let before = self.rss_before.unwrap_or(before.rss_bytes) as f64 / 1_048_576.0;
            let after = after.rss_bytes as f64 / 1_048_576.0;
            line("server memory", format!("{after:.1} MiB (before the run {before:.1} MiB)"));
        }
        if self.latency.max > 0.0 {
            let Quantiles { p50, p90, p99, p999, max } = self.latency;
            line(
                "latency",
                format!(
                    "p50 {}, p90 {}, p99 {}, p99.9 {}, longest {}",
                    micros(p50),
                    micros(p90),
                    micros(p99),
                    micros(p999),
                    micros(max)
                ),
            );
        }
        line("generator", format!("{:.0} % busy", 100.0 * busy));
        if reads > 0 && operations > 0 {
            let per_read = operations as f64 / reads as f64;
            line("received a read", format!("{per_read:.1}"));
        }
        text
    }
}

/// The box: what figures may be compared within.
fn machine() -> Value {
    let uname = rustix::system::uname();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "cpu": model.map_or("unknown", |(_, model)| model),
        "cpus": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "kernel": uname.release().to_string_lossy(),
    })
}

/// Whole, in groups of three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

fn micros(micros: f64) -> String {
    if micros < 1000.0 { format!("{micros:.0} us") } else { format!("{:.2} ms", micros / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let measured = Measured {
            operations: 1_234_567,
            operations_all: 2_000_000,
            seconds: 2.0,
            server: None,
            busy: 0.5,
            reads: 1000,
        };
        Report {
            bench: "echo",
            unit: "echoes",
            parameters: json!({"depth": 1}),
            measured,
            latency: Quantiles { p50: 10.0, p90: 20.0, p99: 3000.0, p999: 4000.0, max: 5000.0 },
            rss_before: None,
            messages: 2_000_000,
        }
    }

    #[test]
    fn the_object_has_what_programs_ask_for() {
        let json = report().to_json();
        assert_eq!(json["operations"], 1_234_567);
        assert_eq!(json["per_second"], 617_283.5);
        assert_eq!(json["latency_us"]["p999"], 4000.0);
        assert_eq!(json["server"], Value::Null);
        assert!(json["machine"]["kernel"].is_string());
    }

    #[test]
    fn the_table_reads_well() {
        let text = report().to_text();
        assert!(text.contains("1 234 567 in 2.00 s"), "{text}");
        assert!(text.contains("p50 10 us") && text.contains("longest 5.00 ms"), "{text}");
    }
}
