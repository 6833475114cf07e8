//! `/metrics` prints the table, no more and no less, and its numbers are what has happened.

mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;

use ringhall::control::metrics::table::{ALL, Kind, Row, When};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use support::{Client, DEADLINE, Server, eventually, get, http, upgrade_request};

/// What a scrape brought.
struct Scrape {
    /// Kind by name.
    types: BTreeMap<String, String>,
    /// Meaning by name.
    helps: BTreeMap<String, String>,
    /// Values by name and labels, as printed.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    #[track_caller]
    fn of(server: &Server) -> Self {
        let answer = get(server.admin(), "/metrics");
        assert_eq!(answer.status, 200);
        let kind = answer.header("content-type").expect("a type");
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let (mut types, mut helps) = (BTreeMap::new(), BTreeMap::new());
        let mut samples = BTreeMap::new();
        for line in answer.text().lines() {
            let mut parts = line.splitn(4, ' ');
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some("#"), Some(word), Some(name), Some(rest)) => {
                    let of = if word == "TYPE" { &mut types } else { &mut helps };
                    assert!(of.insert(name.to_owned(), rest.to_owned()).is_none(), "{line}");
                }
                _ => {
                    let (name, value) = line.rsplit_once(' ').expect("a name and a value");
                    let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                    assert!(samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
                }
            }
        }
        Self { types, helps, samples }
    }

    #[track_caller]
    fn value(&self, name: &str) -> f64 {
        *self.samples.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.samples.keys()))
    }

    /// Checks every name, kind, meaning and label against the table.
    #[track_caller]
    fn is_the_table(&self, besides: &[When]) {
        let shown = |when| when == When::Always || besides.contains(&when);
        let rows: Vec<Row> = ALL.iter().map(|metric| metric.row()).collect();
        let rows: Vec<_> = rows.into_iter().filter(|row| shown(row.when)).collect();
        let mut names: Vec<_> = rows.iter().map(|row| row.name).collect();
        names.sort_unstable();
        assert_eq!(self.types.keys().collect::<Vec<_>>(), names);
        let mut known = 0;
        for row in &rows {
            let kind = match row.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            assert_eq!((&*self.types[row.name], &*self.helps[row.name]), (kind, row.help));
            let own: Vec<_> = self.samples.keys().filter(|key| is_of(key, row)).collect();
            assert!(!own.is_empty(), "{} has no value", row.name);
            known += own.len();
            for key in own {
                let labels = labels_of(key);
                let labels: Vec<_> = labels.iter().filter(|label| *label != "le").collect();
                assert_eq!(labels, row.labels, "{key}");
            }
        }
        assert_eq!(known, self.samples.len(), "a value without a row");
    }
}

fn is_of(key: &str, row: &Row) -> bool {
    let name = key.split('{').next().unwrap_or_default();
    match row.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(row.name)),
        _ => name == row.name,
    }
}

/// Names of labels, as printed in `name{label="value",...}`.
fn labels_of(key: &str) -> Vec<String> {
    let Some((_, labels)) = key.split_once('{') else { return Vec::new() };
    let pairs = labels.trim_end_matches('}').split(',');
    pairs.map(|pair| pair.split('=').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn what_is_printed_is_the_table() {
    Scrape::of(&Server::start(&["--shards", "2"])).is_the_table(&[]);
}

#[test]
fn a_broker_has_its_rows_though_nobody_answers() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = nobody.local_addr().expect("a bound socket").port();
    drop(nobody);
    let url = format!("broker.url=redis://127.0.0.1:{port}");
    let scrape = Scrape::of(&Server::start(&["--set", &url]));
    scrape.is_the_table(&[When::Broker]);
    assert_eq!(scrape.value("ringhall_broker_up"), 0.0);
    assert_eq!(scrape.value("ringhall_broker_state{state=\"open\"}"), 1.0);
}

#[test]
fn memory_a_connection_is_told_from_a_thousand_on() {
    const CROWD: usize = 1000;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("to the hard");
    let server = Server::start(&["--shards", "2"]);
    let mut crowd: Vec<_> =
        (1..CROWD).map(|_| Client::connect(server.address(), "/echo")).collect();
    Scrape::of(&server).is_the_table(&[]);
    crowd.push(Client::connect(server.address(), "/echo"));
    let scrape = Scrape::of(&server);
    scrape.is_the_table(&[When::Crowd]);
    // Less than a page each, and not nothing; the kernel's part is the whole box's, who else is on
    // it included.
    let user = scrape.value("ringhall_connection_bytes{part=\"user\"}");
    assert!((16.0..4096.0).contains(&user), "{user}");
}

#[test]
fn bytes_in_and_out_are_those_of_the_wire() {
    let server = Server::start(&["--shards", "1"]);
    let mut echo = Client::raw(server.address());
    let request = upgrade_request("/echo", &[]);
    echo.send_bytes(&request);
    let answer = echo.take_until(b"\r\n\r\n").expect("a 101");
    echo.send_text("four");
    assert_eq!(echo.recv().payload, b"four");
    // A frame of four bytes has two before them, and four of mask where a client sends it.
    let (received, sent) = (request.len() + 2 + 4 + 4, answer.len() + 2 + 4);
    let mut scrape = Scrape::of(&server);
    // What the kernel took is known for sure a turn later.
    eventually(DEADLINE, "both are counted", || {
        scrape = Scrape::of(&server);
        scrape.value("ringhall_sent_bytes_total") >= sent as f64
    });
    assert_eq!(scrape.value("ringhall_sent_bytes_total"), sent as f64);
    assert_eq!(scrape.value("ringhall_received_bytes_total"), received as f64);
    assert_eq!(scrape.value("ringhall_messages_received_total"), 1.0);
    assert_eq!(scrape.value("ringhall_connections{state=\"open\"}"), 1.0);
    assert_eq!(scrape.value("ringhall_handshake_seconds_count"), 1.0);
    echo.close();
    eventually(DEADLINE, "the connection is gone", || {
        let scrape = Scrape::of(&server);
        let state = |state| scrape.value(&format!("ringhall_connections{{state=\"{state}\"}}"));
        state("open") + state("closing") + state("handshake") == 0.0
    });
}

#[test]
fn a_rooms_messages_are_counted_and_timed() {
    const MESSAGES: usize = 5;
    let server = Server::start(&["--shards", "2"]);
    let (mut ann, _) = Client::join(server.address(), "lobby", "ann");
    let (mut bob, _) = Client::join(server.address(), "lobby", "bob");
    for n in 0..MESSAGES {
        ann.send_json(&json!({ "content": n }));
        ann.recv_content(n);
        bob.recv_content(n);
    }
    ann.send_text("not json");
    ann.recv_type("error");
    get(server.address(), "/ws/lobby/system").expect_refusal(426, "upgrade_required");
    let scrape = Scrape::of(&server);
    let value = |name: &str| scrape.value(&format!("ringhall_{name}"));
    assert_eq!(value("messages_received_total"), MESSAGES as f64 + 1.0);
    assert_eq!(value("room_messages_total"), MESSAGES as f64);
    // Both hear every message, and the announcements of whoever came.
    assert!(value("deliveries_total") >= 2.0 * MESSAGES as f64);
    assert_eq!((value("rooms"), value("members"), value("errors_total")), (1.0, 2.0, 1.0));
    let published = value("publish_seconds_count");
    assert!(published >= MESSAGES as f64, "{published}");
    assert!(value("publish_seconds_sum") > 0.0);
    assert_eq!(value("publish_seconds_bucket{le=\"+Inf\"}"), published);
    // Turns are short, but a turn of no time at all was not measured.
    assert!(value("turn_seconds_count") > 0.0 && value("turn_seconds_sum") > 0.0);
    // Whoever was moved to the room's home keeps the moment of its accept.
    assert_eq!((value("upgrades_total"), value("handshake_seconds_count")), (2.0, 2.0));
    let refusals = scrape.samples.iter().filter(|(key, _)| key.contains("refusals_total"));
    assert_eq!(refusals.map(|(_, count)| count).sum::<f64>(), 1.0);
    assert_eq!(value("shards"), 2.0);
    for shard in 0..2 {
        assert_eq!(value(&format!("shard_alive{{shard=\"{shard}\"}}")), 1.0);
        let low = value(&format!("receive_buffers_free_low{{shard=\"{shard}\"}}"));
        assert!(low <= value(&format!("receive_buffers{{shard=\"{shard}\"}}")) && low > 0.0);
    }
}

#[test]
fn the_key_guards_the_numbers() {
    let server = Server::start(&["--set", "admin.key=swordfish"]);
    get(server.admin(), "/metrics").expect_refusal(401, "unauthorized");
    let key = "GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer swordfish\r\n\r\n";
    assert_eq!(http(server.admin(), key).status, 200);
}

#[test]
fn a_sleeping_shard_is_woken_to_prove_itself() {
    /// Nobody comes, so without being woken a shard's last turn is as old as the server.
    const SECONDS: u64 = 5;
    let server = Server::start(&["--shards", "2"]);
    eventually(DEADLINE, "the server is some seconds old", || {
        get(server.address(), "/health").json()["uptime_s"].as_u64() >= Some(SECONDS)
    });
    let health = server.health();
    for shard in health["dependencies"]["shards"]["each"].as_array().expect("shards") {
        let moved = shard["moved_ms_ago"].as_u64().expect("a number");
        assert!(moved < SECONDS * 1000 && shard["alive"] == true, "{health}");
    }
}
