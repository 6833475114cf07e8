//! The board, the alert rules and their README speak of metrics that there are, with labels and
//! values that they have.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;

use ringhall::control::metrics::table::{ALL, Kind, Row, When};
use serde_json::Value;
use support::{Server, get};

const BOARD: &str = include_str!("../tuning/grafana/ringhall.json");
const RULES: &str = include_str!("../tuning/prometheus/ringhall.rules.yml");
const RULES_TEST: &str = include_str!("../tuning/prometheus/ringhall.rules.test.yml");
const TUNING: &str = include_str!("../tuning/README.md");

/// Labels that Prometheus puts to every series.
const SCRAPED: [&str; 2] = ["instance", "job"];

/// A metric where it is named, with what stands in its braces.
struct Mention<'a> {
    row: Row,
    selectors: Vec<(&'a str, &'a str)>,
}

fn row_of(name: &str) -> Option<Row> {
    let mut rows = ALL.iter().map(|metric| metric.row());
    rows.find(|row| match row.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count", ""]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(row.name)),
        Kind::Counter | Kind::Gauge => name == row.name,
    })
}

/// All metrics of ours that a text names.
#[track_caller]
fn mentions(text: &str) -> Vec<Mention<'_>> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_part) {
        let word = &rest[at..];
        let end = word.find(|c| !is_part(c)).unwrap_or(word.len());
        let (name, behind) = word.split_at(end);
        rest = behind;
        if !name.starts_with("ringhall_") && !name.starts_with("process_") {
            continue;
        }
        let row = row_of(name).unwrap_or_else(|| panic!("no metric {name} in {text}"));
        let inside = behind.strip_prefix('{').and_then(|inside| inside.split('}').next());
        // A name without a sign is a README's way to write a label.
        let selectors = inside.into_iter().flat_map(|inside| inside.split(','));
        let selectors = selectors.map(|one| {
            let end = one.find(['=', '!']).unwrap_or(one.len());
            (one[..end].trim(), one[end..].trim_start_matches(['=', '!', '~']).trim_matches('"'))
        });
        found.push(Mention { row, selectors: selectors.collect() });
    }
    found
}

/// Every `expr`, `query` and `definition` of the board.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("expr" | "query" | "definition", Value::String(query)) => {
                        found.push(query.clone());
                    }
                    _ => queries(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

fn board() -> Value {
    serde_json::from_str(BOARD).expect("JSON")
}

/// The queries of the board, and each rule's expression on one line.
fn all_queries() -> Vec<String> {
    let mut found = Vec::new();
    queries(&board(), &mut found);
    let count = found.len();
    assert!(count > 50, "the board was understood: {count} queries");
    for rule in RULES.split("- alert: ").skip(1) {
        let (_, expression) = rule.split_once("expr:").expect("an expression");
        let lines = expression.lines().take_while(|line| !line.trim_start().starts_with("for:"));
        let lines = lines.take_while(|line| !line.trim_start().starts_with("labels:"));
        found.push(lines.map(str::trim).collect::<Vec<_>>().join(" "));
    }
    assert!(found.len() > count + 10, "the rules were understood");
    found
}

#[test]
fn every_name_and_label_is_in_the_table() {
    let mut named = BTreeSet::new();
    for query in all_queries() {
        let mentions = mentions(&query);
        let mut labels: BTreeSet<&str> = SCRAPED.into();
        for Mention { row, selectors } in &mentions {
            named.insert(row.name);
            for (label, _) in selectors {
                let is_known = row.labels.contains(label) || SCRAPED.contains(label);
                assert!(is_known, "{} has no label {label}: {query}", row.name);
            }
            labels.extend(row.labels);
            if row.kind == Kind::Histogram {
                labels.insert("le");
            }
        }
        for list in query.split("by (").skip(1) {
            for label in list.split(')').next().unwrap_or_default().split(',') {
                assert!(labels.contains(label.trim()), "by {label}: {query}");
            }
        }
    }
    assert!(named.len() > 40, "a board that shows little: {named:?}");
    assert!(!mentions(TUNING).is_empty(), "the README names some");
    assert!(!mentions(RULES).is_empty(), "the runbooks too");
}

/// What a server prints, by name: the label sets.
fn printed() -> BTreeMap<String, Vec<String>> {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = nobody.local_addr().expect("a bound socket").port();
    drop(nobody);
    let server = Server::start(&["--set", &format!("broker.url=redis://127.0.0.1:{port}")]);
    let mut printed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in get(server.admin(), "/metrics").text().lines().filter(|line| !line.starts_with('#'))
    {
        let (name, labels) = line.split_once('{').unwrap_or((line, "}"));
        let name = name.split(' ').next().unwrap_or_default();
        let labels = labels.split('}').next().unwrap_or_default();
        printed.entry(name.to_owned()).or_default().push(labels.to_owned());
    }
    printed
}

#[test]
fn every_value_that_is_asked_for_is_one_that_a_server_prints() {
    let printed = printed();
    let mut asked = 0;
    for query in all_queries() {
        for Mention { row, selectors } in mentions(&query) {
            for (label, values) in selectors {
                if SCRAPED.contains(&label) || row.when == When::Crowd {
                    continue;
                }
                for value in values.split('|') {
                    let wanted = format!("{label}=\"{value}\"");
                    let sets = &printed[row.name];
                    asked += 1;
                    assert!(sets.iter().any(|set| set.contains(&wanted)), "{wanted} in {query}");
                }
            }
        }
    }
    assert!(asked > 10, "{asked} values were found");
}

#[test]
fn each_alert_says_what_to_do_and_why_there_and_has_a_test() {
    let mut before = "";
    let mut alerts = 0;
    for block in RULES.split("      - alert: ") {
        if alerts > 0 {
            let name = block.lines().next().unwrap_or_default();
            let severity = ["severity: page", "severity: ticket"];
            assert!(severity.iter().any(|severity| block.contains(severity)), "{name}");
            for part in ["summary: \"", "runbook: >-"] {
                assert!(block.contains(part), "{name} has no {part}");
            }
            // The reason of its threshold.
            let above = before.trim_end().lines().next_back().unwrap_or_default();
            assert!(above.trim_start().starts_with("# "), "no reason above {name}");
            let tested = format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\",severity=");
            assert!(RULES_TEST.contains(&tested), "{name} is never made to speak");
        }
        alerts += 1;
        before = block;
    }
    assert!(alerts > 10, "the rules were understood: {alerts}");
}

#[test]
fn the_boards_panels_stand_beside_each_other_and_say_what_they_show() {
    let board = board();
    let panels = board["panels"].as_array().expect("panels");
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64()), "{title}: its id is taken");
        let place = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title} is off the grid");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} stands on another");
        }
        if panel["type"] != "row" {
            assert!(panel["description"].as_str().is_some_and(|text| text.len() > 10), "{title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    assert!(panels.len() > 30);
}
