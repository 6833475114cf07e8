//! With `metrics.statsd` every metric goes to a StatsD server; whether there is one or not, the
//! server serves.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;

use ringhall::control::metrics::table::{ALL, When};
use ringhall::control::statsd::DATAGRAM_BYTES;
use rustix::process::Signal;
use serde_json::json;
use support::{Client, DEADLINE, Server, get};

/// A StatsD server that adds counters up and keeps each gauge's last.
struct Listener {
    socket: UdpSocket,
    counters: BTreeMap<String, f64>,
    gauges: BTreeMap<String, f64>,
}

impl Listener {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self { socket, counters: BTreeMap::new(), gauges: BTreeMap::new() }
    }

    fn port(&self) -> u16 {
        self.socket.local_addr().expect("a bound socket").port()
    }

    /// Takes one datagram.
    #[track_caller]
    fn take(&mut self) {
        let mut bytes = [0; 64 << 10];
        let len = self.socket.recv(&mut bytes).expect("a datagram");
        assert!(len <= DATAGRAM_BYTES, "{len} bytes are more than a frame takes");
        let text = std::str::from_utf8(&bytes[..len]).expect("text");
        for line in text.lines() {
            let (name, rest) = line.split_once(':').unwrap_or_else(|| panic!("no value: {line}"));
            let (value, kind) = rest.split_once('|').unwrap_or_else(|| panic!("no kind: {line}"));
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            assert!(name.starts_with("ringhall.") && name.chars().all(plain), "{line}");
            match kind {
                "c" => *self.counters.entry(name.to_owned()).or_default() += value,
                "g" => drop(self.gauges.insert(name.to_owned(), value)),
                _ => panic!("no such kind: {line}"),
            }
        }
    }

    /// Takes what was sent, and what comes up to and with this name.
    #[track_caller]
    fn take_until(&mut self, name: &str) {
        while !self.gauges.contains_key(name) {
            self.take();
        }
    }

    /// Takes what a server has sent that has ended.
    fn take_rest(&mut self) {
        self.socket.set_nonblocking(true).expect("no waiting");
        let mut byte = [0];
        while self.socket.peek(&mut byte).is_ok() {
            self.take();
        }
    }
}

fn start(host: &str, port: u16) -> Server {
    Server::start(&["--shards", "2", "--set", &format!("metrics.statsd={host}:{port}")])
}

#[test]
fn every_row_of_the_table_is_sent_and_counters_add_up_to_the_end() {
    let mut listener = Listener::new();
    let mut server = start("127.0.0.1", listener.port());
    // The table's last row, so the whole first report.
    listener.take_until("ringhall.process_resident_memory_bytes");
    assert_eq!(listener.gauges["ringhall.shards"], 2.0);
    assert_eq!(listener.gauges["ringhall.connections.open"], 0.0);
    let (mut ann, _) = Client::join(server.address(), "lobby", "ann");
    for n in 0..3 {
        ann.send_json(&json!({ "content": n }));
        ann.recv_content(n);
    }
    get(server.address(), "/ws/lobby/system").expect_refusal(426, "upgrade_required");
    ann.close();
    server.wait_closed("peer_closed", 1);
    let accepted = server.counter("accepted");
    server.signal(Signal::TERM);
    assert!(server.wait(DEADLINE).success());
    listener.take_rest();
    let counters = &listener.counters;
    let counted = |name: &str| counters.get(&format!("ringhall.{name}")).copied();
    assert_eq!(counted("messages_received_total"), Some(3.0));
    assert_eq!(counted("upgrades_total"), Some(1.0));
    assert_eq!(counted("refusals_total.upgrade_required"), Some(1.0));
    assert_eq!(counted("closes_total.peer_closed"), Some(1.0));
    assert_eq!(counted("accepts_total"), Some(accepted as f64));
    assert_eq!(counted("handshake_seconds.count"), Some(1.0));
    assert!(counted("process_cpu_seconds_total") > Some(0.0));
    assert!(listener.gauges["ringhall.publish_seconds.p99"] > 0.0);
    let sent: BTreeSet<_> = counters.keys().chain(listener.gauges.keys()).collect();
    for metric in ALL {
        let row = metric.row();
        let stem = row.name.strip_prefix("ringhall_").unwrap_or(row.name);
        let stem = format!("ringhall.{stem}");
        let is_of = |name: &&&String| {
            name.strip_prefix(&stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let is_sent = sent.iter().any(|name| is_of(&name));
        assert_eq!(is_sent, row.when == When::Always, "{}", row.name);
    }
}

#[test]
fn a_name_is_looked_up() {
    let mut listener = Listener::new();
    let server = start("localhost", listener.port());
    listener.take_until("ringhall.shards");
    drop(server);
}

#[test]
fn a_name_that_is_not_found_is_a_warning() {
    // RFC 6761 section 6.4: "invalid" is a name that nobody has. RFC 1035 section 2.3.4: a label
    // has at most 63 letters, so no resolver is asked, who might take longer than the test does.
    let name = format!("{}.invalid", "x".repeat(64));
    let mut server = start(&name, 8125);
    let said = server.wait_log("the name is not found");
    let target = format!("{name}:8125");
    assert!(said.contains("WARN") && said.contains(&target), "{said}");
    let (ann, _) = Client::join(server.address(), "lobby", "ann");
    ann.close();
    server.signal(Signal::TERM);
    assert!(server.wait(DEADLINE).success());
}

#[test]
fn a_server_that_nobody_listens_to_serves_and_ends() {
    let port = Listener::new().port();
    let mut server = start("127.0.0.1", port);
    let said = server.wait_log("not all was sent");
    assert!(said.contains("Connection refused"), "{said}");
    let (ann, _) = Client::join(server.address(), "lobby", "ann");
    ann.close();
    server.signal(Signal::TERM);
    assert!(server.wait(DEADLINE).success());
}
