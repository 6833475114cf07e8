//! The keys of section `ring` change what the rings are made of, and nothing that a client sees.
//!
//! The load generator is who looks: it compares every byte, and a message that is wrong, lost or
//! repeated ends its run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::{Client, Frame, Server, opcode};

/// Ways to use a ring, each with its bounds hit: small buffers cut messages, few buffers and short
/// strides make everybody wait, a small ring makes many submissions of one.
const WAYS: [&[&str]; 7] = [
    &["ring.send=sendmsg"],
    &["ring.receive=standing"],
    &["ring.receive=standing", "ring.buffer_bytes=1KiB", "ring.buffers=64"],
    &["ring.receive=standing", "rooms.tick_bytes=1KiB", "rooms.spread=always"],
    &["ring.buffer_bytes=1KiB", "ring.buffers=64", "ring.stride=1"],
    &["ring.entries=256", "ring.stride=128"],
    &["ring.buffer_bytes=1MiB", "ring.buffers=256", "ring.entries=8192", "ring.stride=4096"],
];

fn start(shards: &str, keys: &[&str]) -> Server {
    let mut arguments = vec!["--shards", shards];
    arguments.extend(keys.iter().flat_map(|key| ["--set", *key]));
    Server::start(&arguments)
}

/// Runs the load for a moment; messages that were sent.
#[track_caller]
fn bench(server: &Server, arguments: &[&str]) -> u64 {
    let mut command = Server::command();
    command.arg("bench").args(arguments).args(["--url", &format!("ws://{}", server.address())]);
    let output = command.args(["--seconds", "0.2", "--warmup", "0", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    let whole = |name: &str| figures["whole_run"][name].as_u64().unwrap();
    assert!(whole("operations") > 0, "{arguments:?}: {figures}");
    whole("messages_sent")
}

#[test]
fn no_message_is_lost_or_spoilt_however_the_ring_is_used() {
    for way in WAYS {
        let server = start("2", way);
        // Longer than small buffers, shorter than large ones; many of them in one.
        let mut sent = bench(&server, &["echo", "--connections", "50", "--depth", "4"]);
        sent += bench(&server, &["echo", "--connections", "9", "--bytes", "5000", "--depth", "3"]);
        let rooms = ["fanout", "--rooms", "5", "--members", "20", "--publishers", "20"];
        sent += bench(&server, &[&rooms[..], &["--window", "3", "--mode", "json"]].concat());
        sent += bench(&server, &[&rooms[..], &["--bytes", "3000"]].concat());
        server.wait_counter("messages_in", |count| count == sent);
        bench(&server, &["churn", "--in-flight", "20"]);
        for gauge in ["connections", "websockets", "members", "queue_bytes", "buffers_lent"] {
            server.wait_counter(gauge, |value| value == 0);
        }
    }
}

#[test]
fn who_waits_for_its_reader_loses_nothing_with_standing_receives() {
    let server = start("1", &["ring.receive=standing", "ring.buffers=64"]);
    let mut client = Client::connect_small(server.address(), "/echo", 4 << 10);
    let payload: Vec<u8> = (0..100_000_u32).map(|at| (at * 31 % 251) as u8).collect();
    // More than the sockets hold: the server waits for this reader, and reads on when it reads.
    for _ in 0..3 {
        client.send_binary(&payload);
    }
    let mut other = Client::connect(server.address(), "/echo");
    for round in 0..50 {
        other.send_text(&format!("round {round}"));
        assert_eq!(other.recv(), Frame::new(opcode::TEXT, format!("round {round}").as_bytes()));
    }
    for _ in 0..3 {
        assert_eq!(client.recv(), Frame::new(opcode::BINARY, &payload[..]));
    }
    client.close();
    other.close();
    server.wait_counter("buffers_lent", |count| count == 0);
}

/// How many rings of the process have so many submission entries.
fn rings(server: &Server) -> BTreeMap<u64, usize> {
    let mut rings = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", server.pid())).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let mask = text.lines().find_map(|line| line.strip_prefix("SqMask:"));
        if let Some(mask) = mask {
            let mask = u64::from_str_radix(mask.trim().trim_start_matches("0x"), 16).unwrap();
            *rings.entry(mask + 1).or_default() += 1;
        }
    }
    rings
}

#[test]
fn a_shards_ring_has_no_more_entries_than_it_may() {
    for (key, entries) in [("ring.entries=256", 256), ("ring.entries=512", 512)] {
        let server = start("3", &[key, "ring.stride=64"]);
        assert_eq!(rings(&server).get(&entries), Some(&3), "{:?}", rings(&server));
    }
}

fn rss_bytes(server: &Server) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", server.pid())).unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

#[test]
fn the_receive_buffers_are_as_many_and_as_long_as_asked() {
    let none = start("2", &["ring.buffers=64", "ring.buffer_bytes=1KiB"]);
    let many = start("2", &["ring.buffers=4096", "ring.buffer_bytes=16KiB"]);
    let more = rss_bytes(&many) - rss_bytes(&none);
    let wanted = (4096 * 16 - 2 * 64) << 10;
    assert!(more.abs_diff(wanted) < 8 << 20, "{more} bytes more, not about {wanted}");
}
