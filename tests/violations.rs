//! What breaks RFC 6455 is answered with its close code, which arrives whatever else is under way;
//! it is counted, and the others in the room notice nothing.

mod support;

use std::net::SocketAddr;

use support::{Bystander, Client, End, Server, encode, opcode};

const ROUTES: [&str; 2] = ["/ws/lobby/rude", "/echo"];

/// Joins or opens, and takes what the server says to a newcomer.
#[track_caller]
fn open(address: SocketAddr, path: &str) -> Client {
    let mut client = Client::connect(address, path);
    if path != "/echo" {
        client.recv_content("rude has joined the room");
    }
    client
}

/// The close frame is the last thing that comes, then FIN.
#[track_caller]
fn expect_closed(client: &mut Client, code: u16, what: &str) -> String {
    let frame = client.recv();
    assert_eq!(frame.opcode, opcode::CLOSE, "{what}: {frame:?}");
    let (got, reason) = frame.close_code();
    assert_eq!(got, code, "{what}: {reason}");
    assert_eq!(client.expect_end(), (End::Eof, vec![]), "{what}");
    reason
}

/// Sends these bytes to a room and to `/echo`: both close with `code`, counted as `label`.
struct Case {
    what: &'static str,
    bytes: Vec<u8>,
    code: u16,
    label: &'static str,
}

fn protocol(what: &'static str, bytes: impl Into<Vec<u8>>) -> Case {
    Case { what, bytes: bytes.into(), code: 1002, label: "protocol_error" }
}

fn utf8(what: &'static str, bytes: impl Into<Vec<u8>>) -> Case {
    Case { what, bytes: bytes.into(), code: 1007, label: "invalid_utf8" }
}

fn too_big(what: &'static str, bytes: impl Into<Vec<u8>>) -> Case {
    Case { what, bytes: bytes.into(), code: 1009, label: "message_too_big" }
}

/// A masked header alone: opcode byte, length bytes, mask.
fn header(first: u8, length: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend_from_slice(length);
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&[1, 2, 3, 4]);
    bytes
}

fn text(fin: bool, payload: &[u8]) -> Vec<u8> {
    encode(fin, 0, opcode::TEXT, true, payload)
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        protocol("no mask", encode(true, 0, opcode::TEXT, false, b"x")),
        protocol("no mask on a control frame", encode(true, 0, opcode::PING, false, b"")),
        protocol("a continuation of nothing", encode(true, 0, opcode::CONTINUATION, true, b"x")),
        protocol("a message within another", [text(false, b"a"), text(true, b"b")].concat()),
        protocol(
            "a fragmented ping",
            [encode(false, 0, opcode::PING, true, b"a"), text(true, b"b")].concat(),
        ),
        protocol("a fragmented close", encode(false, 0, opcode::CLOSE, true, &[3, 232])),
        protocol("a ping of 126 bytes", encode(true, 0, opcode::PING, true, &[0; 126])),
        protocol("a pong of 70 000 bytes", encode(true, 0, opcode::PONG, true, &[0; 70_000])),
        protocol("125 bytes in a 16-bit length", header(0x81, &[126, 0, 125])),
        protocol("0 bytes in a 16-bit length", header(0x82, &[126, 0, 0])),
        protocol(
            "65 535 bytes in a 64-bit length",
            header(0x81, &[127, 0, 0, 0, 0, 0, 0, 255, 255]),
        ),
        protocol("a ping in a 16-bit length", header(0x89, &[126, 0, 5])),
        protocol("a length of 2^63", header(0x81, &[127, 128, 0, 0, 0, 0, 0, 0, 0])),
        utf8("a byte that never is UTF-8", text(true, b"a\xff")),
        utf8("an overlong slash", text(true, b"\xc0\xaf")),
        utf8("a surrogate", text(true, b"\xed\xa0\x80")),
        utf8("beyond U+10FFFF", text(true, b"\xf4\x90\x80\x80")),
        utf8("half a character at the end", text(true, b"\xe2\x82")),
        utf8(
            "half a character at the end of a fragmented message",
            [text(false, b"\xe2"), encode(true, 0, opcode::CONTINUATION, true, b"\x82")].concat(),
        ),
        too_big("an announced 2^62", header(0x81, &[127, 64, 0, 0, 0, 0, 0, 0, 0])),
        too_big("an announced 2^32", header(0x82, &[127, 0, 0, 0, 1, 0, 0, 0, 0])),
        too_big(
            "lengths whose sum overflows",
            [text(false, b"abc"), header(0x80, &[127, 127, 255, 255, 255, 255, 255, 255, 255])]
                .concat(),
        ),
    ];
    for rsv in 1..=7 {
        cases.push(protocol("a reserved bit", encode(true, rsv, opcode::TEXT, true, b"x")));
        cases.push(protocol("a reserved bit", encode(true, rsv, opcode::PING, true, b"")));
    }
    for reserved in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push(protocol("a reserved opcode", encode(true, 0, reserved, true, b"x")));
    }
    cases
}

#[test]
fn each_violation_has_its_code_and_its_count_and_the_room_goes_on() {
    let server = Server::start(&["--shards", "2"]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    for case in cases() {
        for path in ROUTES {
            let before = server.number("closed", case.label);
            let mut client = open(server.address(), path);
            client.send_bytes(&case.bytes);
            let reason = expect_closed(&mut client, case.code, case.what);
            assert!(!reason.is_empty(), "{}: a reason for a person", case.what);
            drop(client);
            server.wait_closed(case.label, before + 1);
        }
        bystander.expect_only_left("rude");
    }
    assert_eq!(server.counter("members"), 1);
    assert_eq!(server.counter("buffers_lent"), 0);
}

/// RFC 6455 section 8.1 lets an endpoint wait for the end of the message; we do not.
#[test]
fn bad_utf8_is_refused_at_once_inside_an_unfinished_frame() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    for path in ROUTES {
        // The first of a frame of 1000 bytes, of which the rest never comes.
        let mut client = open(server.address(), path);
        client.send_bytes(&text(true, &[b"good \xf0\x80", &*vec![b'x'; 993]].concat())[..20]);
        expect_closed(&mut client, 1007, path);
        // The character is cut between two fragments, the second of which never ends either.
        let mut client = open(server.address(), path);
        let next = encode(false, 0, opcode::CONTINUATION, true, b"\x28 and more");
        client.send_bytes(&[text(false, b"cut \xc3"), next[..8].to_vec()].concat());
        expect_closed(&mut client, 1007, path);
    }
    server.wait_closed("invalid_utf8", 4);
    bystander.expect_only_left("rude");
}

/// The lesson of `reliability.md`: a socket that is closed with input unread is reset, and the
/// reset eats what was sent before.
#[test]
fn the_close_frame_arrives_although_megabytes_behind_the_violation_are_unread() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    let frame = encode(true, 0, opcode::TEXT, true, br#"{"content":"far too late to be heard"}"#);
    let megabytes = frame.repeat((8 << 20) / frame.len());
    let mut count = 0;
    for (bytes, code) in [
        (encode(true, 0, opcode::TEXT, false, b"no mask"), 1002),
        (text(true, b"\xff"), 1007),
        (header(0x81, &[127, 0, 0, 0, 1, 0, 0, 0, 0]), 1009),
    ] {
        for path in ROUTES {
            let mut client = open(server.address(), path);
            client.send_bytes(&[&bytes, &*megabytes].concat());
            expect_closed(&mut client, code, path);
            count += 1;
        }
        bystander.expect_only_left("rude");
    }
    let closed = ["protocol_error", "invalid_utf8", "message_too_big"];
    let sum = || closed.iter().map(|label| server.number("closed", label)).sum::<u64>();
    support::eventually(support::DEADLINE, "all are counted", || sum() == count);
    server.wait_counter("connections", |connections| connections == 1);
}

/// The same, where the violation comes last and what came before it waits to be read.
#[test]
fn what_was_said_before_a_violation_is_heard() {
    let server = Server::start(&["--shards", "2"]);
    for room in 0..16 {
        let mut bystander = Bystander::join(server.address(), &format!("room{room}"));
        let mut client = Client::connect(server.address(), &format!("/ws/room{room}/rude"));
        client.recv_content("rude has joined the room");
        let mut bytes = Vec::new();
        for n in 0..20 {
            bytes.extend(text(true, format!("{{\"content\":{n}}}").as_bytes()));
        }
        bytes.extend(encode(true, 7, opcode::TEXT, true, b"x"));
        client.send_bytes(&bytes);
        let heard: Vec<_> = bystander.heard_until_left("rude");
        let heard: Vec<_> = heard.iter().map(|message| message["content"].as_u64()).collect();
        assert_eq!(heard, (0..20).map(Some).collect::<Vec<_>>());
        client.expect_close(1002);
    }
    let mut client = Client::connect(server.address(), "/echo");
    client.send_bytes(&[text(true, b"echoed"), text(true, b"\xff")].concat());
    assert_eq!(client.recv().text(), "echoed");
    expect_closed(&mut client, 1007, "/echo");
}
