//! A connection that has carried plain requests, as a proxy's does, becomes a WebSocket like any.

mod support;

use serde_json::json;
use support::{Client, Frame, Server, encode, opcode};

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
