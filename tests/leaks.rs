//! However connections come and go, nothing of them stays.
//!
//! `STORM_SECONDS` is how long the storm lasts (5 by default); a failure prints its seed, which
//! `STORM_SEED` brings back: the same clients in the same order, on a scheduler that is nobody's.

mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use support::{Bystander, Client, DEADLINE, Server, encode, eventually, opcode, upgrade_request};

/// Clients at a time.
const THREADS: u64 = 4;
/// What RSS may grow by in a storm of thousands of clients: a few hundred bytes each would be more.
const RSS_SLACK: u64 = 3 << 20;
/// Storms of which one must not grow.
const STORMS: u64 = 4;

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Connects from some address of the loopback network: so many connections end that their ports,
/// waiting, would be used up for one.
fn connect(server: SocketAddr, random: &mut Rng) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source = Ipv4Addr::new(127, 9, random.u8(..), random.u8(1..255));
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("all of 127.0.0.0/8 is ours");
    socket.connect_timeout(&server.into(), DEADLINE).expect("connect");
    Client::over(socket.into())
}

/// One client's life, but for its end. Gives what kind of life it was.
fn live(client: &mut Client, random: &mut Rng) -> &'static str {
    let room = random.u8(..20);
    let user = random.u8(..5);
    let request = upgrade_request(&format!("/ws/room{room}/user{user}"), &[]);
    let talk = encode(true, 0, opcode::TEXT, true, br#"{"content":"hello"}"#);
    let half = &talk[..random.usize(1..talk.len())];
    match random.u8(..12) {
        0 => "came and went",
        1 => {
            client.send_bytes(&request[..random.usize(1..request.len())]);
            "half a handshake"
        }
        2 => {
            client.send_bytes(&[&request[..], half].concat());
            "gone before the answer"
        }
        3 => {
            client.send_bytes(&[&request[..], &talk, &talk].concat());
            assert_eq!(client.recv_response(false).status, 101);
            client.recv_content("hello");
            "said something, and gone"
        }
        4 | 5 => {
            client.send_bytes(&[&request[..], &talk].concat());
            assert_eq!(client.recv_response(false).status, 101);
            client.recv_content("hello");
            client.send_close(1000);
            client.expect_close(1000);
            "a whole conversation"
        }
        6 => {
            client.send_bytes(&[&request[..], &talk, half].concat());
            assert_eq!(client.recv_response(false).status, 101);
            client.recv_type("joined");
            "half a message"
        }
        7 => {
            client.upgrade("/echo", &[]);
            let message = vec![7; random.usize(1..200_000)];
            client.send_binary(&message);
            assert_eq!(client.recv().payload, message);
            "an echo"
        }
        8 => {
            client.upgrade("/echo", &[]);
            let message = encode(true, 0, opcode::BINARY, true, &vec![7; 100_000]);
            client.send_bytes(&message[..random.usize(1..message.len())]);
            "half an echo"
        }
        9 => {
            client.upgrade("/ws/room/violator", &[]);
            client.send_frame(true, 7, opcode::TEXT, true, b"reserved bits");
            client.expect_close(1002);
            "a violation"
        }
        10 => {
            client.send_bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            if random.bool() {
                assert_eq!(client.recv_response(false).status, 200);
            }
            "a page"
        }
        _ => {
            client.upgrade("/ws/room/system", &[]).expect_refusal(403, "reserved_name");
            "a refusal"
        }
    }
}

/// One life after the other until the time is over; half of them end with a reset.
fn lives(server: SocketAddr, mut random: Rng, until: Instant) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    while Instant::now() < until {
        let mut client = connect(server, &mut random);
        kinds.push(live(&mut client, &mut random));
        if random.bool() {
            client.reset();
        }
    }
    kinds
}

/// Several of these at a time; gives how many lives of each kind there were.
fn storm(server: SocketAddr, seed: u64, until: Instant) -> BTreeMap<&'static str, u64> {
    let mut kinds = BTreeMap::new();
    std::thread::scope(|scope| {
        let random = |thread| Rng::with_seed(seed + thread);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || lives(server, random(thread), until)))
            .collect();
        for thread in threads {
            for kind in thread.join().expect("no panic") {
                *kinds.entry(kind).or_default() += 1;
            }
        }
    });
    kinds
}

/// Descriptors that the process has open.
fn descriptors(server: &Server) -> usize {
    let folder = format!("/proc/{}/fd", server.pid());
    std::fs::read_dir(folder).expect("a process of ours").count()
}

/// Bytes of memory that the process has in use.
fn rss(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("a process of ours");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") * 1024
}

/// Waits until nothing is held for anybody.
fn settle(server: &Server) {
    for gauge in ["connections", "websockets", "rooms", "members", "queue_bytes", "buffers_lent"] {
        server.wait_counter(gauge, |value| value == 0);
    }
}

/// A storm that somebody must not notice; gives the bytes that the process has grown by.
fn witnessed_storm(server: &Server, seed: u64, length: Duration) -> u64 {
    let before = rss(server);
    let mut bystander = Bystander::join(server.address(), "bystander");
    let kinds = std::thread::scope(|scope| {
        let (address, until) = (server.address(), Instant::now() + length);
        let storm = scope.spawn(move || storm(address, seed, until));
        while !storm.is_finished() {
            assert!(bystander.heard().is_empty(), "nothing of it is heard elsewhere");
        }
        storm.join().expect("no panic")
    });
    assert_eq!(kinds.len(), 11, "lives of all kinds: {kinds:?}");
    drop(bystander);
    settle(server);
    rss(server).saturating_sub(before)
}

#[test]
fn a_storm_of_clients_leaves_nothing_behind() {
    let seed = number_from("STORM_SEED", fastrand::u64(..1 << 32));
    let seconds = number_from("STORM_SECONDS", 5);
    println!("STORM_SEED={seed}");
    let limits = ["--set", "handshake.timeout=2s", "--set", "client.close_timeout=1s"];
    let server = Server::start(&[&["--shards", "2"], &limits[..]].concat());
    // The first storm warms up what is kept on purpose: pages, tables, the allocator's caches.
    let warm = Duration::from_secs(seconds).div_f32(2.0);
    storm(server.address(), seed, Instant::now() + warm);
    settle(&server);
    let files = descriptors(&server);
    // A leak grows with each storm, an allocator's cache with one of them or two.
    let grown: Vec<u64> = (1..=STORMS)
        .map(|n| witnessed_storm(&server, seed + n * THREADS, Duration::from_secs(seconds)))
        .take_while(|grown| *grown > RSS_SLACK)
        .collect();
    println!("bytes grown: {grown:?}");
    assert!(grown.len() < STORMS as usize, "grown each time: {grown:?}");
    let health = server.health();
    assert_eq!(health["status"], "healthy");
    let all = |section: &str| -> u64 {
        let section = health[section].as_object().expect("a section");
        section.values().map(|value| value.as_u64().expect("a number")).sum()
    };
    let counted = |name: &str| health["counters"][name].as_u64().expect("a counter");
    // Whoever moves to another shard is closed here, and arrives there.
    assert_eq!(all("closed"), counted("accepted") + counted("arrived"), "each ends once");
    assert_eq!(health["closed"]["internal"], 0);
    eventually(DEADLINE, "descriptors are as before", || descriptors(&server) <= files);
}

#[test]
fn who_waits_in_a_handshake_for_ever_is_let_go() {
    let server = Server::start(&["--shards", "2", "--set", "handshake.timeout=500ms"]);
    settle(&server);
    let before = descriptors(&server);
    let mut random = Rng::new();
    let mut waiting: Vec<_> = (0..200).map(|_| connect(server.address(), &mut random)).collect();
    for (n, client) in waiting.iter_mut().enumerate() {
        client.send_bytes(&b"GET /ws/room/user HTTP/1.1\r\nHost: x\r\n"[..n % 37]);
    }
    let mut bystander = Bystander::join(server.address(), "room");
    server.wait_refused("handshake_timeout", 200);
    bystander.heard();
    // They are still there, and say nothing: the answer is out, the place is free all the same.
    drop(bystander);
    settle(&server);
    eventually(DEADLINE, "descriptors are as before", || descriptors(&server) <= before);
    assert_eq!(waiting.len(), 200);
}

#[test]
fn a_room_that_everybody_leaves_at_once_is_gone() {
    for arguments in [["--shards", "1"], ["--shards", "2"], ["--set", "rooms.spread=always"]] {
        let server = Server::start(&arguments);
        for round in 0..5 {
            let mut members: Vec<_> = (0..60)
                .map(|n| Client::join(server.address(), "room", &format!("u{n}")).0)
                .collect();
            members[0].send_json(&json!({ "content": round }));
            members[59].recv_content(round);
            for (n, member) in members.into_iter().enumerate() {
                if n % 2 == 0 { member.reset() } else { drop(member) }
            }
            settle(&server);
        }
        assert_eq!(server.counter("said"), 5);
    }
}
