//! A message is the same message in however many fragments and segments it comes.

mod support;

use support::{Bystander, Client, End, Frame, Server, encode, opcode};

/// `client.message_bytes` of these tests.
const MESSAGE_BYTES: usize = 4096;
/// `echo.message_bytes` of these tests.
const ECHO_BYTES: usize = 100_000;

fn server() -> Server {
    let message = format!("client.message_bytes={MESSAGE_BYTES}");
    let echo = format!("echo.message_bytes={ECHO_BYTES}");
    Server::start(&["--shards", "2", "--set", &message, "--set", &echo])
}

/// The message in frames of so many bytes, the last one final.
fn fragments(first: u8, payload: &[u8], bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let count = payload.len().div_ceil(bytes).max(1);
    for (at, piece) in payload.chunks(bytes).enumerate() {
        let opcode = if at == 0 { first } else { opcode::CONTINUATION };
        out.extend(encode(at + 1 == count, 0, opcode, true, piece));
    }
    out
}

fn member(server: &Server) -> Client {
    let mut client = Client::connect(server.address(), "/ws/lobby/ann");
    client.recv_content("ann has joined the room");
    client
}

#[test]
fn fragments_of_every_size_are_one_message() {
    let server = server();
    let mut client = Client::connect(server.address(), "/echo");
    let text = "Zw\u{f6}lf Boxk\u{e4}mpfer \u{1f94a} jagen Viktor".repeat(10);
    for bytes in [1, 2, 3, 7, 64, 125, 126, 127, text.len()] {
        client.send_bytes(&fragments(opcode::TEXT, text.as_bytes(), bytes));
        assert_eq!(client.recv(), Frame::new(opcode::TEXT, text.as_bytes()), "{bytes} each");
    }
    let binary: Vec<u8> = (0..ECHO_BYTES).map(|at| (at * 7 % 251) as u8).collect();
    for bytes in [1000, 4096, 65_536] {
        client.send_bytes(&fragments(opcode::BINARY, &binary, bytes));
        assert_eq!(client.recv(), Frame::new(opcode::BINARY, &*binary), "{bytes} each");
    }
    client.close();
}

#[test]
fn a_frame_may_be_cut_anywhere() {
    let server = server();
    let mut client = Client::connect(server.address(), "/echo");
    let bytes = fragments(opcode::TEXT, "\u{20ac}uro und \u{1f600}".as_bytes(), 5);
    for byte in &bytes {
        client.send_bytes(std::slice::from_ref(byte));
    }
    assert_eq!(client.recv().text(), "\u{20ac}uro und \u{1f600}");
    // A 64-bit length, cut inside the length, the mask and the payload.
    let long = encode(true, 0, opcode::BINARY, true, &[9; 70_000]);
    for cut in [1, 2, 5, 9, 10, 12, 14, 15, 69_999] {
        client.send_bytes(&long[..cut]);
        client.send_bytes(&long[cut..]);
        assert_eq!(client.recv(), Frame::new(opcode::BINARY, [9; 70_000]), "{cut}");
    }
}

#[test]
fn control_frames_pass_between_fragments() {
    let server = server();
    let mut client = Client::connect(server.address(), "/echo");
    client.send_frame(false, 0, opcode::TEXT, true, b"one ");
    client.send_ping(b"first");
    assert_eq!(client.recv(), Frame::new(opcode::PONG, *b"first"));
    client.send_frame(false, 0, opcode::CONTINUATION, true, b"two ");
    client.send_frame(true, 0, opcode::PONG, true, b"unasked");
    client.send_ping(b"");
    assert_eq!(client.recv(), Frame::new(opcode::PONG, *b""));
    client.send_frame(true, 0, opcode::CONTINUATION, true, b"three");
    assert_eq!(client.recv().text(), "one two three");
    // In one segment, and a close in the middle of a message is a close.
    let both = [
        encode(false, 0, opcode::BINARY, true, b"a"),
        encode(true, 0, opcode::PING, true, b"p"),
        encode(true, 0, opcode::CONTINUATION, true, b"b"),
        encode(false, 0, opcode::TEXT, true, b"never ended"),
        encode(true, 0, opcode::CLOSE, true, &1000_u16.to_be_bytes()),
    ];
    client.send_bytes(&both.concat());
    assert_eq!(client.recv(), Frame::new(opcode::PONG, *b"p"));
    assert_eq!(client.recv(), Frame::new(opcode::BINARY, *b"ab"));
    client.expect_close(1000);
    assert_eq!(client.expect_end(), (End::Eof, vec![]));
}

#[test]
fn empty_fragments_are_fragments() {
    let server = server();
    let mut client = Client::connect(server.address(), "/echo");
    client.send_frame(false, 0, opcode::TEXT, true, b"");
    client.send_frame(false, 0, opcode::CONTINUATION, true, b"");
    client.send_frame(true, 0, opcode::CONTINUATION, true, b"");
    assert_eq!(client.recv(), Frame::new(opcode::TEXT, *b""));
    client.send_frame(true, 0, opcode::BINARY, true, b"");
    assert_eq!(client.recv(), Frame::new(opcode::BINARY, *b""));
    // Any number of them, and none takes memory: what is bounded is bytes.
    let empty = encode(false, 0, opcode::CONTINUATION, true, b"").repeat(50_000);
    client.send_frame(false, 0, opcode::TEXT, true, b"a");
    client.send_bytes(&empty);
    client.send_frame(true, 0, opcode::CONTINUATION, true, b"z");
    assert_eq!(client.recv().text(), "az");
}

#[test]
fn many_tiny_fragments_cost_their_bytes_and_little_more() {
    let server = server();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(server.address(), "/echo");
        client.send_bytes(
            &[
                encode(false, 0, opcode::BINARY, true, b"x"),
                encode(false, 0, opcode::CONTINUATION, true, b"x").repeat(15_999),
            ]
            .concat(),
        );
        // The pong says that all of it has been read.
        client.send_ping(b"read");
        assert_eq!(client.recv(), Frame::new(opcode::PONG, *b"read"));
        clients.push(client);
    }
    let held = server.counter("queue_bytes");
    assert!((20 * 16_000..20 * 40_000).contains(&held), "20 times 16 000 bytes: {held}");
    for client in &mut clients {
        client.send_frame(true, 0, opcode::CONTINUATION, true, b"!");
        assert_eq!(client.recv().payload.len(), 16_001);
    }
    server.wait_counter("queue_bytes", |held| held == 0);
}

#[test]
fn a_member_speaks_in_fragments_and_the_room_hears_one_message() {
    let server = server();
    let mut bystander = Bystander::join(server.address(), "lobby");
    let mut client = member(&server);
    let text = r#"{"content":"f\u00fcr \ud83e\udd4a alle — überall"}"#;
    for bytes in [1, 3, 10] {
        client.send_bytes(&fragments(opcode::TEXT, text.as_bytes(), bytes));
        client.recv_content("f\u{fc}r \u{1f94a} alle \u{2014} \u{fc}berall");
    }
    let heard = bystander.heard();
    assert_eq!(heard.iter().filter(|message| message["sender"] == "ann").count(), 3);
}

/// A whole text message of so many bytes.
fn message(bytes: usize) -> String {
    format!("{{\"content\":\"{}\"}}", "x".repeat(bytes - r#"{"content":""}"#.len()))
}

#[test]
fn a_message_at_the_limit_is_taken_and_one_byte_more_is_1009() {
    let server = server();
    let mut bystander = Bystander::join(server.address(), "lobby");
    let (fits, over) = (message(MESSAGE_BYTES), message(MESSAGE_BYTES + 1));
    let mut closed = 0;
    // Whole, in two fragments, in many.
    for pieces in [MESSAGE_BYTES + 1, MESSAGE_BYTES / 2, 100, 1] {
        let mut client = member(&server);
        client.send_bytes(&fragments(opcode::TEXT, fits.as_bytes(), pieces));
        let heard = client.recv_json();
        assert_eq!(heard["content"].as_str().map(str::len), Some(MESSAGE_BYTES - 14));
        client.send_bytes(&fragments(opcode::TEXT, over.as_bytes(), pieces));
        client.expect_close(1009);
        assert_eq!(client.expect_end(), (End::Eof, vec![]));
        drop(client);
        closed += 1;
        server.wait_closed("message_too_big", closed);
        assert_eq!(bystander.heard_until_left("ann").len(), 1, "in pieces of {pieces}");
    }
    // The limit of `/echo` is its own.
    for pieces in [ECHO_BYTES + 1, 8192, 999] {
        let mut client = Client::connect(server.address(), "/echo");
        client.send_bytes(&fragments(opcode::BINARY, &[5; ECHO_BYTES], pieces));
        assert_eq!(client.recv(), Frame::new(opcode::BINARY, [5; ECHO_BYTES]));
        client.send_bytes(&fragments(opcode::BINARY, &[5; ECHO_BYTES + 1], pieces));
        client.expect_close(1009);
        drop(client);
        closed += 1;
        server.wait_closed("message_too_big", closed);
    }
}

#[test]
fn an_announced_length_is_refused_before_a_byte_of_it_comes() {
    let server = server();
    let over = encode(true, 0, opcode::TEXT, true, &[b' '; MESSAGE_BYTES + 1]);
    let mut client = member(&server);
    client.send_bytes(&over[..8]);
    client.expect_close(1009);
    drop(client);
    // Fragments count together.
    let mut client = member(&server);
    client.send_frame(false, 0, opcode::TEXT, true, &[b' '; 100]);
    let next = encode(true, 0, opcode::CONTINUATION, true, &[b' '; MESSAGE_BYTES - 99]);
    client.send_bytes(&next[..8]);
    client.expect_close(1009);
    drop(client);
    server.wait_closed("message_too_big", 2);
    // And an announcement within the limit reserves nothing.
    let mut client = Client::connect(server.address(), "/echo");
    let frame = encode(true, 0, opcode::BINARY, true, &[1; ECHO_BYTES]);
    client.send_ping(b"before");
    client.recv();
    client.send_bytes(&frame[..20]);
    server.wait_counter("queue_bytes", |held| held > 0);
    assert!(server.counter("queue_bytes") < 4096);
    client.send_bytes(&frame[20..]);
    assert_eq!(client.recv().payload.len(), ECHO_BYTES);
}
