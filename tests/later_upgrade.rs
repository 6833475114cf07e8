//! A connection that has carried plain requests, as a proxy's does, becomes a WebSocket like any.

mod support;

use serde_json::json;
use support::{Bystander, Client, DEADLINE, End, Frame, Server, encode, eventually, opcode};

const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

#[test]
fn an_echo_with_its_first_frames_right_behind_the_request() {
    let server = Server::start(&[]);
    let mut client = Client::raw(server.address());
    let big = vec![0x5a; 100_000];
    let frames = [
        encode(true, 0, opcode::TEXT, true, b"one"),
        encode(true, 0, opcode::BINARY, true, &big),
        encode(true, 0, opcode::TEXT, true, b"three"),
    ]
    .concat();
    client.send_bytes(&[PAGE, &upgrade("/echo"), &frames].concat());
    assert_eq!(client.recv_response(false).status, 200);
    assert_eq!(client.recv_response(false).status, 101);
    assert_eq!(client.recv().text(), "one");
    assert_eq!(client.recv(), Frame::new(opcode::BINARY, big));
    assert_eq!(client.recv().text(), "three");
    client.close();
}

#[test]
fn a_member_of_a_room_like_any_other() {
    let server = Server::start(&[]);
    let (mut bob, _) = Client::join(server.address(), "hall", "bob");
    let mut alice = Client::raw(server.address());
    alice.send_bytes(PAGE);
    assert_eq!(alice.recv_response(false).status, 200);
    alice.send_bytes(&upgrade("/ws/hall/alice"));
    assert_eq!(alice.recv_response(false).status, 101);
    alice.recv_type("joined");
    alice.send_json(&json!({ "content": "hello" }));
    assert_eq!(bob.recv_content("hello")["sender"], "alice");
    bob.send_json(&json!({ "content": "welcome" }));
    assert_eq!(alice.recv_content("welcome")["sender"], "bob");
}

#[test]
fn a_refused_one_leaves_the_connection_to_plain_requests() {
    let server = Server::start(&["--set", "echo.enabled=false"]);
    let mut client = Client::raw(server.address());
    client.send_bytes(PAGE);
    assert_eq!(client.recv_response(false).status, 200);
    client.send_bytes(&upgrade("/echo"));
    client.recv_response(false).expect_refusal(404, "echo_disabled");
    client.send_bytes(&upgrade("/ws/hall/system"));
    client.recv_response(false).expect_refusal(403, "reserved_name");
    client.send_bytes(PAGE);
    assert_eq!(client.recv_response(false).status, 200);
}

/// Rooms enough for both of two shards to be the home of some: one in 2^31 runs finds otherwise.
const ROOMS: usize = 32;

#[test]
fn a_member_whose_first_messages_are_right_behind_on_whatever_shard_its_room_lives() {
    let server = Server::start(&["--shards", "2"]);
    for room in 0..ROOMS {
        let mut bystander = Bystander::join(server.address(), &format!("room{room}"));
        let mut bytes = [PAGE, PAGE, &upgrade(&format!("/ws/room{room}/ann"))].concat();
        let long = "x".repeat(50_000);
        for content in [json!("first"), json!(long), json!("third")] {
            let text = json!({ "content": content }).to_string();
            bytes.extend(encode(true, 0, opcode::TEXT, true, text.as_bytes()));
        }
        let mut client = Client::raw(server.address());
        client.send_bytes(&bytes);
        assert_eq!(client.recv_response(false).status, 200);
        assert_eq!(client.recv_response(false).status, 200);
        assert_eq!(client.recv_response(false).status, 101);
        assert_eq!(client.recv_json()["type"], "joined");
        client.recv_content("ann has joined the room");
        for content in [json!("first"), json!(long), json!("third")] {
            assert_eq!(client.recv_json()["content"], content);
        }
        client.close();
        assert_eq!(bystander.heard_until_left("ann").len(), 3);
    }
    assert!(server.counter("departed") > 0, "some rooms have their home on the other shard");
}

#[test]
fn a_head_and_a_first_frame_in_single_bytes() {
    let server = Server::start(&["--shards", "2"]);
    for path in ["/echo", "/ws/lobby/ann", "/ws/hall/ann", "/ws/room/ann"] {
        let mut client = Client::raw(server.address());
        client.send_bytes(PAGE);
        assert_eq!(client.recv_response(false).status, 200);
        let frame = encode(true, 0, opcode::TEXT, true, br#"{"content":"slowly"}"#);
        for byte in [upgrade(path), frame].concat() {
            client.send_bytes(&[byte]);
        }
        assert_eq!(client.recv_response(false).status, 101);
        client.recv_content("slowly");
        client.close();
    }
}

#[test]
fn its_place_is_free_again_when_it_has_left() {
    let server = Server::start(&["--set", "limits.connections_max=2"]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    for count in 1..=5 {
        let mut client = Client::raw(server.address());
        client.send_bytes(PAGE);
        assert_eq!(client.recv_response(false).status, 200);
        client.send_bytes(&upgrade("/ws/lobby/ann"));
        assert_eq!(client.recv_response(false).status, 101, "for the {count}. time");
        client.recv_content("ann has joined the room");
        // One more is too many, first request or later one.
        let mut late = Client::raw(server.address());
        late.send_bytes(&upgrade("/echo"));
        late.recv_response(false).expect_refusal(503, "full");
        client.close();
        bystander.expect_only_left("ann");
        server.wait_closed("peer_closed", count);
    }
}

#[test]
fn a_room_that_is_full_closes_what_was_answered_already_with_1013() {
    let server = Server::start(&["--shards", "2", "--set", "rooms.members_max=1"]);
    for room in 0..8 {
        let mut bystander = Bystander::join(server.address(), &format!("room{room}"));
        let mut client = Client::raw(server.address());
        client.send_bytes(&[PAGE, &upgrade(&format!("/ws/room{room}/ann"))].concat());
        assert_eq!(client.recv_response(false).status, 200);
        assert_eq!(client.recv_response(false).status, 101);
        client.expect_close(1013);
        assert_eq!(client.expect_end(), (End::Eof, vec![]));
        assert!(bystander.heard().is_empty());
    }
    assert_eq!(server.number("refused", "room_full"), 8);
    server.wait_closed("overloaded", 8);
}

#[test]
fn an_address_has_no_more_of_them_than_of_others() {
    let server = Server::start(&["--set", "limits.connections_per_address=2"]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    for count in 1..=3 {
        let mut client = Client::raw(server.address());
        client.send_bytes(&[PAGE, &upgrade("/ws/lobby/ann")].concat());
        assert_eq!(client.recv_response(false).status, 200);
        assert_eq!(client.recv_response(false).status, 101, "for the {count}. time");
        client.recv_content("ann has joined the room");
        let mut late = Client::raw(server.address());
        late.send_bytes(&upgrade("/echo"));
        late.recv_response(false).expect_refusal(429, "too_many_connections");
        client.close();
        bystander.expect_only_left("ann");
        server.wait_closed("peer_closed", count);
    }
    // And where the place is taken while plain requests are made, the later upgrade is refused.
    let mut client = Client::raw(server.address());
    client.send_bytes(PAGE);
    assert_eq!(client.recv_response(false).status, 200);
    let (_other, _) = Client::join(server.address(), "lobby", "bob");
    client.send_bytes(&upgrade("/ws/lobby/ann"));
    let answer = client.recv_response(false);
    answer.expect_refusal(429, "too_many_connections");
    assert!(answer.header("retry-after").is_some());
    client.send_bytes(PAGE);
    assert_eq!(client.recv_response(false).status, 200);
}

/// The shard of the newest line of the log that holds `what`, once there are `count` of them.
fn shard_of(server: &Server, what: &str, count: usize) -> u16 {
    let mut shard = None;
    eventually(DEADLINE, what, || {
        let log = server.log();
        let lines: Vec<_> = log.iter().filter(|line| line.contains(what)).collect();
        let digits = lines.get(count - 1).and_then(|line| line.split("shard=").nth(1));
        shard = digits.map(|rest| rest.split(' ').next().expect("a word").parse().expect("digits"));
        shard.is_some()
    });
    shard.expect("it was found")
}

#[test]
fn a_shard_whose_table_is_full_refuses_it_before_it_is_one() {
    // Tables of 100 sockets. The kernel draws who accepts: whoever is not on shard 0 leaves again.
    let server = Server::start_limited("-n 100", &["--shards", "2", "--log", "debug"]);
    let mut plain_clients = 0;
    let mut later = loop {
        let mut client = Client::raw(server.address());
        client.send_bytes(PAGE);
        assert_eq!(client.recv_response(false).status, 200);
        plain_clients += 1;
        if shard_of(&server, "reason=\"plain_http\"", plain_clients) == 0 {
            break client;
        }
    };
    let (mut sitting, mut opened) = (Vec::new(), 0);
    while server.counter("accept_paused") == 0 {
        assert!(opened < 1000, "a table of 100 is never full");
        let client = Client::connect(server.address(), "/echo");
        opened += 1;
        if shard_of(&server, " opened shard=", opened) == 0 {
            sitting.push(client);
        } else {
            client.close();
        }
    }
    later.send_bytes(&upgrade("/echo"));
    let refusal = later.recv_response(false);
    refusal.expect_refusal(503, "full");
    assert!(refusal.header("retry-after").is_some());
    sitting.truncate(80);
    server.wait_counter("connections", |connections| connections <= 80);
    // Its place among plain connections was kept.
    later.send_bytes(&upgrade("/echo"));
    assert_eq!(later.recv_response(false).status, 101);
    later.close();
}
