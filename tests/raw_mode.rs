//! A raw room relays payloads as they are, and nothing else.

mod support;

use std::net::SocketAddr;

use serde_json::json;
use support::{Bystander, Client, End, Frame, Server, encode, opcode};

const PLACEMENTS: [&[&str]; 3] =
    [&["--shards", "1"], &["--shards", "2"], &["--shards", "2", "--set", "rooms.spread=always"]];

#[track_caller]
fn raw(address: SocketAddr, path: &str) -> Client {
    let mut client = Client::raw(address);
    let answer = client.upgrade(path, &[("Sec-WebSocket-Protocol", "ringhall.raw")]);
    assert_eq!(answer.status, 101, "{path}");
    assert_eq!(answer.header("sec-websocket-protocol"), Some("ringhall.raw"), "{path}");
    client
}

/// As many members, all of them in: the server says nothing to them, so its counter is asked.
#[track_caller]
fn members<const N: usize>(server: &Server, room: &str) -> [Client; N] {
    let before = server.counter("members");
    let clients = std::array::from_fn(|n| raw(server.address(), &format!("/ws/{room}/user{n}")));
    server.wait_counter("members", |count| count == before + N as u64);
    clients
}

#[test]
fn payloads_are_relayed_with_their_opcode_byte_for_byte() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let [mut ann, mut bob, mut eve] = members(&server, "lobby");
        let every_byte: Vec<u8> = (0..=255).collect();
        let large: Vec<u8> = (0..60_000_u32).map(|at| (at * 31 % 251) as u8).collect();
        for (opcode, payload) in [
            (opcode::TEXT, &b"plain text"[..]),
            (opcode::TEXT, b""),
            (opcode::BINARY, b""),
            (opcode::TEXT, "\u{0}\u{7f}\u{20ac}\u{1f600}".as_bytes()),
            (opcode::TEXT, br#"{"content":"not looked at","room":"elsewhere"}"#),
            (opcode::TEXT, br#"{"type":"join","room":"other"}"#),
            (opcode::TEXT, b"{not JSON"),
            (opcode::BINARY, &every_byte),
            (opcode::BINARY, &large),
        ] {
            ann.send_frame(true, 0, opcode, true, payload);
            let wanted = Frame::new(opcode, payload);
            // The speaker hears it too, as its place in the order.
            assert_eq!(ann.recv(), wanted);
            assert_eq!(bob.recv(), wanted);
            assert_eq!(eve.recv(), wanted);
        }
    }
}

#[test]
fn fragments_are_relayed_as_one_frame() {
    let server = Server::start(&["--shards", "2"]);
    let [mut ann, mut bob] = members(&server, "lobby");
    ann.send_frame(false, 0, opcode::BINARY, true, b"one ");
    ann.send_ping(b"between");
    ann.send_frame(false, 0, opcode::CONTINUATION, true, b"");
    ann.send_frame(true, 0, opcode::CONTINUATION, true, b"two");
    assert_eq!(ann.recv(), Frame::new(opcode::PONG, *b"between"));
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.recv(), Frame::new(opcode::BINARY, *b"one two"));
    }
}

#[test]
fn the_server_says_nothing_of_its_own() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let [mut ann, bob] = members(&server, "lobby");
        bob.close();
        server.wait_counter("members", |count| count == 1);
        let mut eve = raw(server.address(), "/ws/lobby/eve");
        server.wait_counter("members", |count| count == 2);
        // No `joined`, no announcement, no error: the first frame is what is said.
        for text in ["nonsense", "{}", "[]"] {
            ann.send_text(text);
            for client in [&mut ann, &mut eve] {
                assert_eq!(client.recv(), Frame::new(opcode::TEXT, text));
            }
        }
        assert_eq!(server.counter("errors"), 0);
        ann.close();
        eve.close();
        server.wait_counter("rooms", |count| count == 0);
    }
}

#[test]
fn a_raw_room_and_a_json_room_of_one_name_are_two() {
    let server = Server::start(&["--shards", "2"]);
    for room in 0..8 {
        let room = format!("room{room}");
        let rooms = server.counter("rooms");
        let mut bystander = Bystander::join(server.address(), &room);
        let [mut ann, mut bob] = members(&server, &room);
        assert_eq!(server.counter("rooms"), rooms + 2);
        ann.send_text(r#"{"content":"raw"}"#);
        for client in [&mut ann, &mut bob] {
            assert_eq!(client.recv().text(), r#"{"content":"raw"}"#);
        }
        assert!(bystander.heard().is_empty(), "the JSON room hears neither joins nor words");
        ann.send_text("and back");
        assert_eq!(bob.recv().text(), "and back", "the raw room heard nothing of that");
        drop((ann, bob, bystander));
        server.wait_counter("rooms", |count| count == 0);
    }
}

#[test]
fn one_order_for_all_members() {
    const EACH: usize = 100;
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let mut clients: [Client; 4] = members(&server, "lobby");
        for n in 0..EACH {
            for (user, client) in clients.iter_mut().enumerate() {
                client.send_binary(&[user as u8, n as u8]);
            }
        }
        let mut all = clients
            .iter_mut()
            .map(|client| (0..4 * EACH).map(|_| client.recv().payload).collect::<Vec<_>>());
        let first = all.next().expect("a member");
        assert!(all.all(|other| other == first), "the same order");
        for user in 0..4 {
            let of_user = first.iter().filter(|payload| payload[0] == user);
            let numbers: Vec<_> = of_user.map(|payload| usize::from(payload[1])).collect();
            assert_eq!(numbers, (0..EACH).collect::<Vec<_>>());
        }
    }
}

#[test]
fn who_does_not_want_to_hear_itself_does_not() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let mut ann = raw(server.address(), "/ws/lobby/ann?echo=false");
        let mut bob = raw(server.address(), "/ws/lobby/bob");
        server.wait_counter("members", |count| count == 2);
        for n in 0..20 {
            let mine = encode(true, 0, opcode::BINARY, true, &[n]);
            ann.send_bytes(&mine.repeat(3));
            for _ in 0..3 {
                assert_eq!(bob.recv(), Frame::new(opcode::BINARY, [n]));
            }
            bob.send_text("to both");
            assert_eq!(bob.recv().text(), "to both");
            assert_eq!(ann.recv().text(), "to both");
        }
    }
}

#[test]
fn only_close_codes_tell_of_a_violation() {
    let server = Server::start(&["--set", "client.message_bytes=1KiB"]);
    let [mut bob, mut eve] = members(&server, "lobby");
    let mut count = [("invalid_utf8", 0), ("message_too_big", 0), ("protocol_error", 0)];
    for (bytes, code, which) in [
        (encode(true, 0, opcode::TEXT, true, b"\xff"), 1007, 0),
        (encode(true, 0, opcode::BINARY, true, &[0; 1025]), 1009, 1),
        (encode(true, 4, opcode::BINARY, true, b"x"), 1002, 2),
    ] {
        let mut ann = raw(server.address(), "/ws/lobby/ann");
        ann.send_binary(&[0xff; 1024]);
        assert_eq!(ann.recv(), Frame::new(opcode::BINARY, [0xff; 1024]), "no text, no UTF-8");
        ann.send_bytes(&bytes);
        let frame = ann.recv();
        assert_eq!(frame.close_code().0, code);
        assert_eq!(ann.expect_end(), (End::Eof, vec![]));
        drop(ann);
        count[which].1 += 1;
        server.wait_closed(count[which].0, count[which].1);
        // The others heard the one message, and go on.
        eve.send_text("goes on");
        for client in [&mut bob, &mut eve] {
            assert_eq!(client.recv().payload, [0xff; 1024]);
            assert_eq!(client.recv().text(), "goes on");
        }
    }
}

#[test]
fn a_shutdown_is_a_close_code_alone() {
    let mut server = Server::start(&[]);
    let [mut ann] = members(&server, "lobby");
    let (mut json, _) = Client::join(server.address(), "lobby", "json");
    json.recv_content("json has joined the room");
    server.signal(rustix::process::Signal::TERM);
    let frame = ann.recv();
    assert_eq!(frame.close_code().0, 1012);
    let told = json!({"type": "system", "message": "Server is shutting down"});
    assert_eq!(json.recv_json(), told, "where words are spoken, they come first");
    json.expect_close(1012);
    drop((ann, json));
    assert!(server.wait(support::DEADLINE).success());
}
