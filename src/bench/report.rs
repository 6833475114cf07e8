//! Turns what was measured into a table for people and an object for programs.
//!
//! In:    `Measured`, quantiles, parameters; facts of the box.
//! Out:   text.
//! Never: prints.

use std::fmt::{self, Write as _};

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
        let heard = if self.is_standing() { 0 } else { operations };
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
            "received_per_read": heard as f64 / reads.max(1) as f64,
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
        let Measured { operations, seconds, busy, reads, .. } = self.measured;
        let (unit, count) = (self.unit, grouped(operations as f64));
        let mut table = Table(String::new());
        if self.is_standing() {
            table.line(unit, format_args!("{count}, held for {seconds:.2} s"));
        } else {
            table.line(unit, format_args!("{count} in {seconds:.2} s"));
            let each = grouped(operations as f64 / seconds);
            table.line(&format!("{unit} a second"), format_args!("{each}"));
        }
        self.put_server(&mut table);
        if self.latency.max > 0.0 {
            let Quantiles { p50, p90, p99, p999, max } = self.latency;
            let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(micros);
            table.line(
                "latency",
                format_args!("p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, longest {max}"),
            );
        }
        table.line("generator", format_args!("{:.0} % busy", 100.0 * busy));
        if reads > 0 && !self.is_standing() {
            let per_read = operations as f64 / reads as f64;
            table.line("received a read", format_args!("{per_read:.1}"));
        }
        table.0
    }

    /// Connections that stay are no rate.
    fn is_standing(&self) -> bool {
        self.bench == "idle"
    }

    fn put_server(&self, table: &mut Table) {
        let Some((before, after)) = &self.measured.server else { return };
        let Measured { operations, seconds, .. } = self.measured;
        let spent = after.since(before);
        if !self.is_standing() {
            let each = grouped(operations as f64 / spent.cpu.max(1e-9));
            let name = format!("{} a CPU-second", self.unit);
            table.line(&name, format_args!("{each} of the server"));
        }
        let percent = 100.0 * spent.cpu / seconds;
        let (cpu, user, system) = (spent.cpu, spent.user, spent.system);
        table.line(
            "server CPU",
            format_args!(
                "{percent:.1} % of a core ({cpu:.2} s: {user:.2} user, {system:.2} system)"
            ),
        );
        let rss_before = self.rss_before.unwrap_or(before.rss_bytes);
        let [was, is] = [rss_before, after.rss_bytes].map(|bytes| bytes as f64 / 1_048_576.0);
        table.line("server memory", format_args!("{is:.1} MiB (before the run {was:.1} MiB)"));
        if self.is_standing() {
            let each = after.rss_bytes.saturating_sub(rss_before) as f64 / operations as f64;
            table.line("a connection", format_args!("{each:.0} bytes of the server's memory"));
        }
    }
}

/// Lines of a name and a value.
struct Table(String);

impl Table {
    fn line(&mut self, name: &str, value: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<26}{value}");
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
