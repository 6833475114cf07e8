//! Prometheus' own checker finds nothing to say about `/metrics` under load, nor about the rules.
//!
//! Wants `promtool` on the PATH (or in PROMTOOL), which `tests/run` provides; plain `cargo test`
//! leaves it out.

mod support;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use support::{Server, get};

/// Scrapes that are checked while the load runs.
const SCRAPES: usize = 5;

fn promtool(arguments: &[&str]) -> Command {
    let program = std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A file of the folder with everything for Prometheus.
fn file(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tuning/prometheus");
    folder.join(name).to_str().expect("UTF-8").to_owned()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// What `promtool check metrics` has to say.
fn check(metrics: &str) -> Output {
    let mut command = promtool(&["check", "metrics"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("promtool runs");
    let mut input = child.stdin.take().expect("it was asked for");
    input.write_all(metrics.as_bytes()).expect("promtool reads");
    drop(input);
    child.wait_with_output().expect("promtool ends")
}

#[track_caller]
fn assert_passes(arguments: &[&str]) {
    let output = promtool(arguments).stdin(Stdio::null()).output().expect("promtool runs");
    let said = said(&output);
    assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
}

#[test]
fn metrics_under_load_are_clean() {
    let server = Server::start(&["--shards", "2"]);
    let url = format!("ws://{}", server.address());
    let shapes: [&[&str]; 3] = [
        &["fanout", "--rooms", "4", "--members", "20", "--publishers", "2"],
        &["echo", "--connections", "20"],
        // What `ringhall_connection_bytes` wants, too.
        &["idle", "--connections", "1200"],
    ];
    let loads: Vec<_> = shapes.iter().map(|shape| Load::start(shape, &url)).collect();
    let is_loaded = |metrics: &str| {
        let wanted = ["ringhall_connection_bytes{", "ringhall_publish_seconds_bucket{"];
        wanted.iter().all(|name| metrics.contains(name))
            && !metrics.contains("\nringhall_deliveries_total 0\n")
    };
    support::eventually(support::DEADLINE, "the load is there", || {
        is_loaded(get(server.admin(), "/metrics").text())
    });
    let mut deliveries = Vec::new();
    for _ in 0..SCRAPES {
        let answer = get(server.admin(), "/metrics");
        let output = check(answer.text());
        assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
        let line =
            answer.text().lines().find(|line| line.starts_with("ringhall_deliveries_total "));
        deliveries.push(line.map(str::to_owned));
    }
    assert!(deliveries.windows(2).any(|pair| pair[0] != pair[1]), "no load: {deliveries:?}");
    drop(loads);
}

/// A generator that runs until it is dropped.
struct Load(std::process::Child);

impl Load {
    fn start(shape: &[&str], url: &str) -> Self {
        let mut command = Server::command();
        command.arg("bench").args(shape).args(["--url", url, "--seconds", "60", "--warmup", "0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("the generator runs"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Errors mean that it ended by itself, which a test finds out by what is missing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_checker_does_find_what_is_wrong() {
    let output = check("# TYPE ringhall_accepts counter\nringhall_accepts 1\n");
    assert!(!output.status.success() && said(&output).contains("_total"), "{}", said(&output));
}

#[test]
fn the_rules_are_right() {
    assert_passes(&["check", "rules", &file("ringhall.rules.yml")]);
}

#[test]
fn each_rule_speaks_when_it_should_and_only_then() {
    assert_passes(&["test", "rules", &file("ringhall.rules.test.yml")]);
}

#[test]
fn the_example_reads_the_rules() {
    assert_passes(&["check", "config", &file("prometheus.yml")]);
}
