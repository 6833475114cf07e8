//! A connection ends in order: the peer's code comes back, what was said before arrives, what comes
//! after is of no interest; and it ends in time, whatever the peer does.

mod support;

use std::net::SocketAddr;
use std::thread::JoinHandle;

use serde_json::json;
use support::{
    Bystander, Client, DEADLINE, End, Frame, Server, encode, eventually, opcode, upgrade_request,
};

const ROUTES: [&str; 2] = ["/ws/lobby/ann", "/echo"];

#[track_caller]
fn open(address: SocketAddr, path: &str) -> Client {
    let mut client = Client::connect(address, path);
    if path != "/echo" {
        client.recv_content("ann has joined the room");
    }
    client
}

fn close(payload: &[u8]) -> Vec<u8> {
    encode(true, 0, opcode::CLOSE, true, payload)
}

#[test]
fn a_close_is_answered_with_its_own_code_and_fin() {
    let server = Server::start(&["--shards", "2"]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    let mut closed = 0;
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 4999] {
        for path in ROUTES {
            for reason in ["", "bye \u{20ac}", &"x".repeat(123)] {
                let mut client = open(server.address(), path);
                client.send_bytes(&close(&[&u16::to_be_bytes(code), reason.as_bytes()].concat()));
                let frame = client.recv();
                assert_eq!(frame.close_code().0, code, "{path} {reason}");
                assert_eq!(client.expect_end(), (End::Eof, vec![]), "{path} {code} {reason}");
                closed += 1;
            }
        }
    }
    for path in ROUTES {
        let mut client = open(server.address(), path);
        client.send_bytes(&close(b""));
        assert_eq!(client.recv(), Frame::new(opcode::CLOSE, *b""), "no code, none back: {path}");
        assert_eq!(client.expect_end(), (End::Eof, vec![]), "{path}");
        closed += 1;
    }
    server.wait_closed("peer_closed", closed);
    assert!(bystander.heard().iter().all(|message| message["sender"] == "system"));
    assert_eq!(server.counter("members"), 1);
}

#[test]
fn a_close_that_may_not_be_is_a_violation() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    let codes = [0_u16, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535];
    let mut cases: Vec<_> = codes.iter().map(|code| (code.to_be_bytes().to_vec(), 1002)).collect();
    cases.push((vec![3], 1002));
    cases.push((b"\x03\xe8\xff".to_vec(), 1007));
    cases.push((b"\x03\xe8\xed\xa0\x80".to_vec(), 1007));
    cases.push((b"\x03\xe8cut \xe2\x82".to_vec(), 1007));
    cases.push(([&[3, 232], &[b'x'; 124][..]].concat(), 1002));
    let (mut protocol, mut utf8) = (0, 0);
    for (payload, answer) in cases {
        for path in ROUTES {
            let mut client = open(server.address(), path);
            client.send_bytes(&close(&payload));
            assert_eq!(client.recv().close_code().0, answer, "{payload:?}");
            assert_eq!(client.expect_end(), (End::Eof, vec![]), "{payload:?}");
            *(if answer == 1002 { &mut protocol } else { &mut utf8 }) += 1;
        }
        bystander.expect_only_left("ann");
    }
    server.wait_closed("protocol_error", protocol);
    server.wait_closed("invalid_utf8", utf8);
}

#[test]
fn what_follows_a_close_is_not_said() {
    let server = Server::start(&["--shards", "2"]);
    for room in 0..8 {
        let room = format!("room{room}");
        let mut bystander = Bystander::join(server.address(), &room);
        let mut client = Client::connect(server.address(), &format!("/ws/{room}/ann"));
        client.recv_content("ann has joined the room");
        let both = [
            encode(true, 0, opcode::TEXT, true, br#"{"content":"before"}"#),
            close(&1000_u16.to_be_bytes()),
            encode(true, 0, opcode::TEXT, true, br#"{"content":"after"}"#),
            close(&1000_u16.to_be_bytes()),
            encode(true, 7, opcode::PING, false, b"a violation"),
        ];
        client.send_bytes(&both.concat());
        client.expect_close(1000);
        assert_eq!(client.expect_end(), (End::Eof, vec![]), "one close frame, then FIN");
        let heard = bystander.heard_until_left("ann");
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert_eq!(heard[0]["content"], "before");
    }
    server.wait_closed("peer_closed", 8);
    assert_eq!(server.number("closed", "protocol_error"), 0);
}

/// Sends on a thread of its own, so that the client can read meanwhile.
fn send_aside(client: &Client, bytes: Vec<u8>) -> JoinHandle<std::io::Result<()>> {
    let mut stream = client.stream().try_clone().expect("a second handle");
    std::thread::spawn(move || std::io::Write::write_all(&mut stream, &bytes))
}

#[test]
fn what_waits_for_a_slow_reader_arrives_before_the_close() {
    let server = Server::start(&[]);
    let mut client = Client::connect_small(server.address(), "/echo", 4096);
    let message = vec![0x42; 100_000];
    let mut bytes = encode(true, 0, opcode::BINARY, true, &message).repeat(80);
    bytes.extend(close(&1000_u16.to_be_bytes()));
    let sending = send_aside(&client, bytes);
    server.wait_counter("pauses", |pauses| pauses > 0);
    for n in 0..80 {
        assert_eq!(client.recv(), Frame::new(opcode::BINARY, &*message), "{n}");
    }
    client.expect_close(1000);
    assert_eq!(client.expect_end(), (End::Eof, vec![]));
    sending.join().expect("no panic").expect("all is taken");
    server.wait_closed("peer_closed", 1);
}

/// A client whose program ends with `shutdown(SHUT_WR)`, then reads to the end.
#[test]
fn a_fin_right_behind_the_close_loses_nothing_that_waits() {
    let server = Server::start(&[]);
    let mut client = Client::connect_small(server.address(), "/echo", 4096);
    let message = vec![0x42; 1 << 20];
    let mut bytes = encode(true, 0, opcode::BINARY, true, &message);
    bytes.extend(close(&1000_u16.to_be_bytes()));
    client.send_bytes(&bytes);
    client.shutdown_write();
    server.wait_counter("sends_short", |short| short > 0);
    assert_eq!(client.recv(), Frame::new(opcode::BINARY, message));
    client.expect_close(1000);
    assert_eq!(client.expect_end(), (End::Eof, vec![]));
    server.wait_closed("peer_closed", 1);
}

#[test]
fn a_fin_without_a_close_frame_ends_the_connection_behind_what_was_said() {
    let server = Server::start(&["--shards", "2"]);
    for room in 0..8 {
        let room = format!("room{room}");
        let mut bystander = Bystander::join(server.address(), &room);
        // All of it in one segment: head, message, FIN.
        let mut bytes = upgrade_request(&format!("/ws/{room}/ann"), &[]);
        bytes.extend(encode(true, 0, opcode::TEXT, true, br#"{"content":"and gone"}"#));
        let mut client = Client::raw(server.address());
        client.send_bytes(&bytes);
        client.shutdown_write();
        assert_eq!(client.recv_response(false).status, 101);
        assert_eq!(client.recv_json()["type"], "joined");
        assert_eq!(client.expect_end().0, End::Eof);
        let heard = bystander.heard_until_left("ann");
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert_eq!(heard[0]["content"], "and gone");
    }
    // The bystanders have gone the same way.
    server.wait_closed("peer_gone", 16);
    // The echo of what came before the FIN still arrives.
    let mut client = Client::connect(server.address(), "/echo");
    let message = vec![7; 200_000];
    client.send_binary(&message);
    client.send_text("last");
    client.shutdown_write();
    assert_eq!(client.recv(), Frame::new(opcode::BINARY, message));
    assert_eq!(client.recv().text(), "last");
    assert_eq!(client.expect_end(), (End::Eof, vec![]));
    server.wait_closed("peer_gone", 17);
}

#[test]
fn a_reset_frees_the_place_and_is_told_to_the_room() {
    let server = Server::start(&["--shards", "2"]);
    for room in 0..8 {
        let room = format!("room{room}");
        let mut bystander = Bystander::join(server.address(), &room);
        let (mut client, _) = Client::join(server.address(), &room, "ann");
        client.recv_content("ann has joined the room");
        // In the middle of a frame, and with unread bytes on both sides.
        client.send_bytes(&encode(true, 0, opcode::TEXT, true, &[b'x'; 1000])[..500]);
        client.reset();
        bystander.expect_only_left("ann");
    }
    server.wait_closed("peer_gone", 16);
    server.wait_counter("connections", |count| count == 0);
    server.wait_counter("queue_bytes", |bytes| bytes == 0);
}

#[test]
fn who_does_not_answer_the_close_is_reset_in_time() {
    let server = Server::start(&["--set", "client.close_timeout=100ms"]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    for path in ROUTES {
        let mut client = open(server.address(), path);
        client.send_frame(true, 7, opcode::TEXT, true, b"a violation");
        client.expect_close(1002);
        assert_eq!(client.expect_end(), (End::Eof, vec![]), "{path}");
        // No FIN of ours: the server gives the socket up, and what we send is answered with RST.
        server.wait_counter("connections", |count| count == 1);
        eventually(DEADLINE, "the socket is gone", || client.try_send_bytes(b"x").is_err());
    }
    server.wait_closed("protocol_error", 2);
    bystander.expect_only_left("ann");
}

/// A close frame waits for a reader no longer than anything else does.
#[test]
fn who_does_not_read_the_close_is_reset_in_time() {
    let server = Server::start(&["--set", "client.close_timeout=100ms"]);
    let mut client = Client::connect_small(server.address(), "/ws/lobby/ann", 4096);
    client.recv_content("ann has joined the room");
    let (mut speaker, _) = Client::join(server.address(), "lobby", "speaker");
    let text = "x".repeat(30_000);
    let mut said = 0;
    while server.counter("queue_bytes") == 0 {
        said += 1;
        speaker.send_json(&json!({ "content": [said, text] }));
        speaker.recv_until(|message| message["content"][0] == said);
    }
    client.send_frame(true, 7, opcode::TEXT, true, b"a violation");
    speaker.recv_content("ann has left the room");
    server.wait_closed("protocol_error", 1);
    server.wait_counter("queue_bytes", |bytes| bytes == 0);
    assert_eq!(client.expect_end().0, End::Reset);
    speaker.send_json(&json!({ "content": "goes on" }));
    speaker.recv_content("goes on");
}

#[test]
fn a_drip_of_input_does_not_hold_a_closed_connection() {
    let server = Server::start(&["--set", "client.close_timeout=100ms"]);
    let mut client = open(server.address(), "/echo");
    client.send_frame(true, 7, opcode::TEXT, true, b"a violation");
    client.expect_close(1002);
    // A byte again and again: the time is one for the whole close.
    eventually(DEADLINE, "the socket is gone", || client.try_send_bytes(b"x").is_err());
    server.wait_closed("protocol_error", 1);
    assert_eq!(server.counter("connections"), 0);
}

/// Whoever goes away while on its way: to another shard, into a room elsewhere, to plain HTTP.
#[test]
fn aborts_at_every_stage_leave_nothing_behind() {
    for spread in ["auto", "always"] {
        let set = format!("rooms.spread={spread}");
        let server = Server::start(&["--shards", "2", "--set", &set]);
        let mut bystander = Bystander::join(server.address(), "lobby");
        let said = encode(true, 0, opcode::TEXT, true, &[b'x'; 200]);
        for round in 0..300 {
            let path = format!("/ws/room{}/ann", round % 30);
            let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
            let prefix = if round % 7 == 0 { plain } else { Vec::new() };
            let bytes = [prefix, upgrade_request(&path, &[]), said.clone()].concat();
            let cut = match round % 5 {
                0 => bytes.len() * (round % 11) / 11,
                1 => bytes.len() - said.len(),
                2 => bytes.len() - 100,
                _ => bytes.len(),
            };
            let mut client = Client::raw(server.address());
            client.send_bytes(&bytes[..cut]);
            match round % 3 {
                0 => client.reset(),
                1 => client.shutdown_write(),
                _ => {}
            }
        }
        server.wait_counter("connections", |count| count == 1);
        server.wait_counter("members", |count| count == 1);
        server.wait_counter("rooms", |count| count == 1);
        server.wait_counter("queue_bytes", |bytes| bytes == 0);
        server.wait_counter("buffers_lent", |count| count == 0);
        assert_eq!(server.counter("websockets"), 1);
        assert!(bystander.heard().is_empty());
    }
}
