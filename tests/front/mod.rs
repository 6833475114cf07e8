//! A balancer in front of three servers: nginx or HAProxy, from the files in `tuning/`.
//!
//! In:    which balancer, which of its configurations; the servers' ports.
//! Out:   the balancer's address; what both balancers have to do, as checks.
//! Never: another configuration than the one that is shipped: only ports are put in.
#![allow(dead_code, unused_imports, reason = "each of the two test files uses its part of this")]

mod failover;
mod proxy;

use serde_json::json;

pub use failover::check_failover;
pub use proxy::{Kind, Proxy, names};

use crate::support::{Client, DEADLINE, Server, eventually, get, upgrade_request};

/// Where the balancers' own connections come from, and a balancer before them.
const TRUSTED: [&str; 2] = ["--set", "server.trusted_proxies=127.0.0.8/29"];
/// Enough connections for each of four addresses to be drawn: in one run of ten million not.
const ROOMS_FOR_SOURCES: usize = 80;
/// Boxes behind the balancer.
pub const BOXES: usize = 3;

/// Three servers that trust the balancer.
pub fn boxes(more: &[&str]) -> Vec<Server> {
    let arguments = [&["--shards", "1"], &TRUSTED[..], more].concat();
    (0..BOXES).map(|_| Server::start(&arguments)).collect()
}

/// Open WebSockets of each box.
pub fn spread(servers: &[Server]) -> Vec<u64> {
    servers.iter().map(|server| server.counter("websockets")).collect()
}

/// Opens a WebSocket from this address, and tells which box has it.
#[track_caller]
fn open(proxy: &Proxy, servers: &[Server], from: [u8; 4], path: &str) -> (Client, usize) {
    let before = spread(servers);
    let mut client = Client::raw_from(from, proxy.address());
    assert_eq!(client.upgrade(path, &[]).status, 101);
    let mut found = None;
    eventually(DEADLINE, "a box has it", || {
        let after = spread(servers);
        found = (0..servers.len()).find(|at| after[*at] > before[*at]);
        found.is_some()
    });
    (client, found.expect("just seen"))
}

/// Every file of the folder is a configuration that starts and serves pages and rooms.
pub fn check_every_configuration(kind: Kind) {
    let names = names(kind);
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let needs_header = name.ends_with("_v2");
        let sets: &[&str] =
            if needs_header { &["--set", "server.proxy_protocol=true"] } else { &[] };
        let servers = boxes(sets);
        let proxy = Proxy::start(kind, &name, &servers);
        if proxy.awaits_header() {
            continue; // `check_header_before_nginx` speaks to that one.
        }
        assert_eq!(get(proxy.address(), "/health").status, 200, "{name}");
        let (mut ann, _) = Client::join(proxy.address(), "room", "ann");
        ann.send_json(&json!({ "content": name }));
        ann.recv_content(name.as_str());
        ann.close();
        assert!(servers.iter().all(|server| server.number("refused", "bad_proxy_header") == 0));
    }
}

/// Twelve connections are four a box.
pub fn check_round_robin(kind: Kind) {
    let servers = boxes(&[]);
    let proxy = Proxy::start(kind, "round_robin", &servers);
    let clients: Vec<_> = (0..12).map(|_| Client::connect(proxy.address(), "/echo")).collect();
    eventually(DEADLINE, "four a box", || spread(&servers) == [4; BOXES]);
    drop(clients);
}

/// The box that has fewest gets the next ones.
pub fn check_least_connections(kind: Kind) {
    let servers = boxes(&[]);
    let proxy = Proxy::start(kind, "least_connections", &servers);
    let open = || open(&proxy, &servers, [127, 0, 1, 1], "/echo");
    let clients: Vec<_> = (0..12).map(|_| open()).collect();
    assert_eq!(spread(&servers), [4; BOXES]);
    let (leaving, staying): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(_, at)| *at == 1);
    leaving.into_iter().for_each(|(client, _)| client.close());
    eventually(DEADLINE, "one box has none", || spread(&servers) == [4, 0, 4]);
    let returning: Vec<_> = (0..4).map(|_| open()).collect();
    assert!(returning.iter().all(|(_, at)| *at == 1), "{:?}", spread(&servers));
    drop(staying);
}

/// One address is on one box; addresses that differ in their last number alone are on all.
pub fn check_source_hash(kind: Kind) {
    let servers = boxes(&[]);
    let proxy = Proxy::start(kind, "source_hash", &servers);
    let mut seen = [0; BOXES];
    for n in 0..30 {
        let from = [127, 0, 1, n + 1];
        let (client, first) = open(&proxy, &servers, from, "/echo");
        let (again, second) = open(&proxy, &servers, from, "/ws/room/ann");
        assert_eq!(first, second, "{from:?}");
        seen[first] += 1;
        client.close();
        again.reset();
        eventually(DEADLINE, "they are gone", || spread(&servers) == [0; BOXES]);
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// All members of a room are on one box, however its name is spelled and whoever they are.
pub fn check_room_hash(kind: Kind, name: &str, sets: &[&str]) {
    const ROOMS: usize = 40;
    let servers = boxes(sets);
    let proxy = Proxy::start(kind, name, &servers);
    let plain = (0..ROOMS).map(|n| ["room", "r%6fom", "%72oom"].map(|room| format!("{room}{n}")));
    // Names that a proxy could take for a part of the path.
    let odd = ["%2F", "%2f%2F", "%2E", "%2e%2E"].map(|room| [0; 3].map(|_| room.to_owned()));
    let mut members = Vec::new();
    for spellings in plain.chain(odd) {
        for (user, room) in spellings.iter().enumerate() {
            let mut client = Client::raw_from([127, 0, 1, 1 + user as u8], proxy.address());
            let path = format!("/ws/{room}/user{user}?echo=true");
            assert_eq!(client.upgrade(&path, &[]).status, 101, "{path}");
            client.recv_type("joined");
            members.push(client);
        }
    }
    let rooms: Vec<_> = servers.iter().map(|server| server.counter("rooms")).collect();
    // A room on two boxes would be there twice.
    assert_eq!(rooms.iter().sum::<u64>(), ROOMS as u64 + 4, "{rooms:?}");
    assert!(rooms.iter().all(|rooms| *rooms > 0), "{rooms:?}");
}

/// The limit an address counts clients, not the balancer; whoever forges wins nothing.
pub fn check_addresses(kind: Kind, name: &str, sets: &[&str]) {
    let limit = ["--set", "limits.connections_per_address=2"];
    let servers = boxes(&[&limit, sets].concat());
    let proxy = Proxy::start(kind, name, &servers);
    let ask = |from: [u8; 4], forged: &str| {
        let mut client = Client::raw_from(from, proxy.address());
        let answer = client.upgrade("/ws/room/ann", &[("X-Forwarded-For", forged)]);
        (client, answer)
    };
    let mut held = Vec::new();
    for n in 1..=4 {
        let from = [127, 0, 1, n];
        for tab in 0..2 {
            let (client, answer) = ask(from, &format!("192.0.2.{tab}"));
            assert_eq!(answer.status, 101, "{from:?}");
            held.push(client);
        }
        for forged in ["", "192.0.2.9", "127.0.0.1", "192.0.2.9, 127.0.0.11"] {
            let (_, answer) = ask(from, forged);
            answer.expect_refusal(429, "too_many_connections");
        }
    }
}

/// The balancer's connections to one box come from all of these addresses and no others: each has
/// ports of its own.
pub fn check_sources(kind: Kind, wanted: &[[u8; 4]]) {
    let servers = boxes(&[]);
    let proxy = Proxy::start(kind, "room_hash", &servers);
    let clients: Vec<_> = (0..ROOMS_FOR_SOURCES)
        .map(|n| Client::join(proxy.address(), &format!("room{n}"), "ann").0)
        .collect();
    let ports: Vec<_> = servers.iter().map(|server| server.address().port()).collect();
    let mut seen = std::collections::BTreeSet::new();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's list of sockets");
    // `sl local_address rem_address st ...`, addresses as `0100007F:1F40`; 01 is established.
    for fields in table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
        let [_, local, remote, "01", ..] = fields[..] else { continue };
        let number = |text: &str| u32::from_str_radix(text, 16).expect("hexadecimal");
        let (_, port) = local.split_once(':').expect("a port");
        if ports.iter().any(|own| number(port) == u32::from(*own)) {
            let (address, _) = remote.split_once(':').expect("a port");
            seen.insert(number(address).to_ne_bytes());
        }
    }
    // The test's own questions to the admin listeners go to other ports.
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), wanted);
    drop(clients);
}

/// The shipped times are longer than the server's own, by default: it is never the balancer who
/// ends an idle member.
pub fn check_timeouts(kind: Kind, names: &[&str]) {
    let heartbeat = ringhall::limits::Limits::default().heartbeat_timeout;
    let text = proxy::shipped(kind);
    for name in names {
        let values: Vec<_> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(name))
            .map(|value| value.trim().trim_end_matches(';').strip_suffix('s').expect("seconds"))
            .map(|value| value.parse().expect("a number"))
            .collect();
        assert!(!values.is_empty(), "{name} is not set");
        for seconds in values {
            let time = std::time::Duration::from_secs(seconds);
            assert!(time > heartbeat + heartbeat / 10, "{name}: {time:?}");
            assert!(time < heartbeat * 2, "{name}: a box without power is noticed soon");
        }
    }
}

/// Who is not the balancer and speaks to a box itself is known by its own address.
pub fn check_nobody_else_is_believed(kind: Kind) {
    let servers = boxes(&["--set", "limits.connections_per_address=1"]);
    let _proxy = Proxy::start(kind, "room_hash", &servers);
    let ask = |forged: &str| {
        let mut client = Client::raw_from([127, 0, 1, 9], servers[0].address());
        let request = upgrade_request("/ws/room/ann", &[("X-Forwarded-For", forged)]);
        // Refused at accept, it may not read the request any more.
        let _gone = client.try_send_bytes(&request);
        let answer = client.recv_response(false);
        (client, answer)
    };
    let (_first, answer) = ask("192.0.2.1");
    assert_eq!(answer.status, 101);
    let (_, answer) = ask("192.0.2.2");
    answer.expect_refusal(429, "too_many_connections");
}
