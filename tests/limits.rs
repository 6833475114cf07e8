//! Connections, rooms and requests end where the configuration says; who is within it goes on.
//!
//! Limits on what waits in queues are in `limits_queues.rs`, some others where their behaviour is;
//! that no key is without a test is a test here.

mod support;

use serde_json::json;
use support::{Bystander, Client, DEADLINE, Frame, Response, Server, eventually, get, opcode};

/// Keys that bound nothing: where, how and as whom the server runs.
const NO_LIMITS: [&str; 14] = [
    "server.listen",
    "server.shards",
    "server.placement",
    "admin.listen",
    "admin.key",
    "log.level",
    "log.format",
    "static.dir",
    "broker.prefix",
    "server.trusted_proxies",
    "server.proxy_protocol",
    "server.gather_sends",
    "server.gather_max",
    "server.gather_wait",
];

#[test]
fn every_key_that_bounds_something_is_hit_by_a_test() {
    let default = Server::command().args(["config", "default"]).output().expect("it runs");
    let default = String::from_utf8(default.stdout).expect("UTF-8");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let sources: Vec<String> = std::fs::read_dir(folder)
        .expect("this folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| std::fs::read_to_string(path).expect("a source"))
        .collect();
    let mut section = String::new();
    let mut limits = 0;
    for line in default.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((name, _)) = line.split_once(" = ") {
            let key = format!("{section}.{name}");
            if NO_LIMITS.contains(&key.as_str()) || name.contains(' ') {
                continue;
            }
            limits += 1;
            let set = format!("\"{key}=");
            assert!(sources.iter().any(|source| source.contains(&set)), "no test sets {key}");
        }
    }
    assert!(limits > 20, "the defaults were understood: {limits} limits");
}

/// Asserts a refusal that asks to come back later, counted once.
#[track_caller]
fn expect_for_now(server: &Server, answer: &Response, status: u16, code: &str, count: u64) {
    answer.expect_refusal(status, code);
    let seconds: u32 = answer.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=10).contains(&seconds), "{seconds}");
    server.wait_refused(code, count);
}

#[test]
fn connections_of_the_process_end_at_connections_max() {
    let server = Server::start(&["--shards", "2", "--set", "limits.connections_max=4"]);
    let mut bystander = Bystander::join(server.address(), "room");
    let members: Vec<_> =
        (0..3).map(|n| Client::join(server.address(), "room", &format!("u{n}")).0).collect();
    bystander.heard();
    let ready = get(server.admin(), "/ready");
    assert_eq!((ready.status, &ready.json()["reason"]), (503, &json!("full")));
    for count in 1..=3 {
        let answer = Client::raw(server.address()).recv_response(false);
        expect_for_now(&server, &answer, 503, "full", count);
    }
    assert_eq!(bystander.heard(), Vec::<serde_json::Value>::new());
    drop(members);
    let path = "/ws/room/late";
    eventually(DEADLINE, "places are free again", || {
        Client::raw(server.address()).upgrade(path, &[]).status == 101
    });
    assert_eq!(get(server.admin(), "/ready").status, 200);
}

#[test]
fn by_itself_the_server_takes_what_its_tables_hold_and_refuses_the_rest() {
    // Tables of 100 sockets, a few slots of each left free for whoever is refused.
    let server = Server::start_limited("-n 100", &["--shards", "2"]);
    let mut clients = Vec::new();
    let mut refused = 0;
    for n in 0..250 {
        let mut client = Client::raw(server.address());
        // Each in a room of its own: they move between the shards, back and forth.
        let response = client.upgrade(&format!("/ws/room{n}/user"), &[]);
        match response.status {
            101 => clients.push(client),
            _ => {
                refused += 1;
                expect_for_now(&server, &response, 503, "full", refused);
            }
        }
    }
    assert_eq!(clients.len() as u64 + refused, 250, "nobody was left waiting");
    assert!((170..200).contains(&clients.len()), "{} of 200 slots", clients.len());
    let first = &mut clients[0];
    first.send_json(&json!({ "content": "full, and alive" }));
    first.recv_content("full, and alive");
    drop(clients);
    server.wait_counter("connections", |connections| connections == 0);
    let mut again = Client::connect(server.address(), "/ws/room/again");
    again.recv_content("again has joined the room");
}

#[test]
fn below_memory_reserve_newcomers_are_refused_and_members_are_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ringhall.toml");
    let write = |reserve: &str| {
        let text = format!("[limits]\nmemory_reserve = \"{reserve}\"\n");
        std::fs::write(&path, text).expect("a file");
    };
    write("1MiB");
    let config = path.to_str().expect("UTF-8");
    let server = Server::start(&["--shards", "2", "--config", config]);
    let mut bystander = Bystander::join(server.address(), "room");
    let mut kept = Client::raw(server.address());
    kept.send_bytes(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(kept.recv_response(false).status, 200);
    // More than any box has.
    write("1TiB");
    server.signal(rustix::process::Signal::HUP);
    server.wait_log("memory is short");
    let before = server.number("refused", "low_memory");
    for count in 1..=3 {
        let answer = Client::raw(server.address()).recv_response(false);
        expect_for_now(&server, &answer, 503, "low_memory", before + count);
    }
    // Over a connection that plain HTTP has kept, too.
    let answer = kept.upgrade("/ws/room/kept", &[]);
    expect_for_now(&server, &answer, 503, "low_memory", before + 4);
    let ready = get(server.admin(), "/ready");
    assert_eq!((ready.status, &ready.json()["reason"]), (503, &json!("full")));
    assert_eq!(bystander.heard(), Vec::<serde_json::Value>::new());
    write("1MiB");
    server.signal(rustix::process::Signal::HUP);
    server.wait_log("memory is free again");
    assert_eq!(get(server.admin(), "/ready").status, 200);
    let (_late, _) = Client::join(server.address(), "room", "late");
    bystander.heard_until("late has joined the room");
}

#[test]
fn without_enough_memory_for_the_reserve_a_server_starts_and_refuses() {
    let server = Server::start(&["--set", "limits.memory_reserve=1TiB"]);
    server.wait_log("memory is short");
    let answer = Client::raw(server.address()).recv_response(false);
    expect_for_now(&server, &answer, 503, "low_memory", 1);
}

#[test]
fn connections_of_one_address_end_at_connections_per_address() {
    let sets = ["--set", "limits.connections_per_address=2"];
    let server = Server::start(&[&["--shards", "2"], &sets[..]].concat());
    let (one, other) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    let mut bystander = Bystander::join(server.address(), "room");
    // In several rooms, so that some of them move to another shard with their count.
    let mut refused = 0;
    for round in 0..10 {
        let mut members: Vec<_> = (0..2).map(|_| Client::raw_from(one, server.address())).collect();
        for (n, member) in members.iter_mut().enumerate() {
            let path = format!("/ws/room{round}{n}/user");
            assert_eq!(member.upgrade(&path, &[]).status, 101, "{round}");
        }
        refused += 1;
        let answer = Client::raw_from(one, server.address()).recv_response(false);
        expect_for_now(&server, &answer, 429, "too_many_connections", refused);
        let mut neighbour = Client::raw_from(other, server.address());
        assert_eq!(neighbour.upgrade("/echo", &[]).status, 101, "another address is free");
        for (n, member) in members.into_iter().enumerate() {
            if n == 0 { member.reset() } else { member.close() }
        }
        drop(neighbour);
        server.wait_counter("connections", |connections| connections == 1);
    }
    assert_eq!(bystander.heard(), Vec::<serde_json::Value>::new());
}

#[test]
fn rooms_end_at_rooms_max() {
    for spread in ["rooms.spread=auto", "rooms.spread=always"] {
        let sets = ["--set", "rooms.max=2", "--set", spread];
        let server = Server::start(&[&["--shards", "2"], &sets[..]].concat());
        let mut bystander = Bystander::join(server.address(), "first");
        let (second, _) = Client::join(server.address(), "second", "ann");
        for count in 1..=4 {
            let path = format!("/ws/another{count}/ann");
            let answer = Client::raw(server.address()).upgrade(&path, &[]);
            expect_for_now(&server, &answer, 503, "rooms_full", count);
        }
        let raw = [("Sec-WebSocket-Protocol", "ringhall.raw")];
        let answer = Client::raw(server.address()).upgrade("/ws/first/ann", &raw);
        expect_for_now(&server, &answer, 503, "rooms_full", 5);
        let (member, _) = Client::join(server.address(), "first", "cat");
        bystander.heard_until("cat has joined the room");
        drop((second, member));
        server.wait_counter("rooms", |rooms| rooms == 1);
        let (_third, _) = Client::join(server.address(), "third", "ann");
        assert_eq!(server.counter("rooms"), 2);
        bystander.heard();
    }
}

#[test]
fn members_of_a_room_end_at_members_max() {
    for spread in ["rooms.spread=auto", "rooms.spread=always"] {
        let sets = ["--set", "rooms.members_max=3", "--set", spread];
        let server = Server::start(&[&["--shards", "2"], &sets[..]].concat());
        let mut bystander = Bystander::join(server.address(), "room");
        let (ann, _) = Client::join(server.address(), "room", "ann");
        let (_tab, _) = Client::join(server.address(), "room", "ann");
        for count in 1..=4 {
            let answer = Client::raw(server.address()).upgrade("/ws/room/late", &[]);
            expect_for_now(&server, &answer, 503, "room_full", count);
        }
        let (_elsewhere, _) = Client::join(server.address(), "else", "late");
        let heard = bystander.heard();
        assert!(heard.iter().all(|message| message["content"] == "ann has joined the room"));
        ann.close();
        server.wait_counter("members", |members| members == 3);
        let (_late, _) = Client::join(server.address(), "room", "late");
        bystander.heard_until("late has joined the room");
    }
}

#[test]
fn plain_connections_end_at_http_connections() {
    // Above half of a larger bound a response is its connection's last: one can still be kept.
    let server = Server::start(&["--shards", "2", "--set", "limits.http_connections=1"]);
    let mut bystander = Bystander::join(server.address(), "room");
    let ask = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut kept: Vec<_> = (0..1).map(|_| Client::raw(server.address())).collect();
    for client in &mut kept {
        client.send_bytes(ask);
        assert_eq!(client.recv_response(false).status, 200);
    }
    for count in 1..=3 {
        expect_for_now(&server, &get(server.address(), "/health"), 503, "http_full", count);
    }
    kept[0].send_bytes(ask);
    assert_eq!(kept[0].recv_response(false).status, 200, "who is in is served");
    bystander.heard();
    drop(kept);
    eventually(DEADLINE, "places are free again", || get(server.address(), "/").status == 200);
}

#[test]
fn a_room_members_message_ends_at_message_bytes() {
    let server = Server::start(&["--set", "client.message_bytes=1KiB"]);
    let mut bystander = Bystander::join(server.address(), "room");
    let frame = r#"{"content":""}"#.len();
    let longest = "x".repeat(1024 - frame);
    let mut client = Client::connect(server.address(), "/ws/room/ann");
    client.send_json(&json!({ "content": longest }));
    bystander.heard_until(longest.clone());
    client.send_json(&json!({ "content": longest + "x" }));
    client.expect_close(1009);
    drop(client);
    bystander.expect_only_left("ann");
    // All fragments together, refused before the last has come.
    let mut client = Client::connect(server.address(), "/ws/room/bob");
    client.send_frame(false, 0, opcode::TEXT, true, &[b'x'; 1000]);
    client.send_frame(false, 0, opcode::CONTINUATION, true, &[b'x'; 25]);
    client.expect_close(1009);
    drop(client);
    bystander.expect_only_left("bob");
    server.wait_closed("message_too_big", 2);
}

#[test]
fn an_echos_message_ends_at_echo_message_bytes() {
    let server = Server::start(&["--set", "echo.message_bytes=2KiB"]);
    let mut other = Client::connect(server.address(), "/echo");
    let mut client = Client::connect(server.address(), "/echo");
    client.send_binary(&[1; 2048]);
    assert_eq!(client.recv(), Frame::new(opcode::BINARY, [1; 2048]));
    client.send_binary(&[1; 2049]);
    client.expect_close(1009);
    drop(client);
    server.wait_closed("message_too_big", 1);
    other.send_text("undisturbed");
    assert_eq!(other.recv().text(), "undisturbed");
    other.close();
}

#[test]
fn without_echo_enabled_there_is_none() {
    let server = Server::start(&["--set", "echo.enabled=false"]);
    let mut bystander = Bystander::join(server.address(), "room");
    Client::raw(server.address()).upgrade("/echo", &[]).expect_refusal(404, "echo_disabled");
    get(server.address(), "/echo").expect_refusal(404, "echo_disabled");
    server.wait_refused("echo_disabled", 2);
    bystander.heard();
}

#[test]
fn a_request_head_ends_at_head_bytes() {
    let server = Server::start(&["--set", "handshake.head_bytes=1KiB"]);
    let mut bystander = Bystander::join(server.address(), "room");
    let ours = support::upgrade_request("/echo", &[("X", "x")]).len() - 1;
    let filled = "x".repeat(1024 - ours);
    let mut client = Client::raw(server.address());
    assert_eq!(client.upgrade("/echo", &[("X", &filled)]).status, 101);
    let mut client = Client::raw(server.address());
    client.upgrade("/echo", &[("X", &(filled + "x"))]).expect_refusal(431, "head_too_large");
    // Without an end, too.
    let mut client = Client::raw(server.address());
    client.send_bytes(&[b"GET / HTTP/1.1\r\nX: ", &[b'x'; 1024][..]].concat());
    client.recv_response(false).expect_refusal(431, "head_too_large");
    server.wait_refused("head_too_large", 2);
    bystander.heard();
}

#[test]
fn a_handshake_ends_at_its_timeout_however_it_drips() {
    let server = Server::start(&["--set", "handshake.timeout=400ms"]);
    let mut bystander = Bystander::join(server.address(), "room");
    let before = std::time::Instant::now();
    let mut silent = Client::raw(server.address());
    let mut dripping = Client::raw(server.address());
    dripping.send_bytes(b"GET /echo HTTP/1.1\r\n");
    dripping.set_deadline(std::time::Duration::from_millis(20));
    // One more byte with each look: no byte starts the time anew.
    let answer = loop {
        if let Ok(answer) = dripping.try_recv_response(false) {
            break answer;
        }
        let _gone = dripping.try_send_bytes(b"x");
    };
    // The tick of the server's deadlines, rounded down where it began.
    let least = std::time::Duration::from_millis(400 - 32);
    assert!(before.elapsed() >= least, "{:?}", before.elapsed());
    answer.expect_refusal(408, "handshake_timeout");
    silent.recv_response(false).expect_refusal(408, "handshake_timeout");
    server.wait_refused("handshake_timeout", 2);
    bystander.heard();
}
