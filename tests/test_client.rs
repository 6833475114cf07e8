//! The tests' own client and server handle, against somebody else's server: tungstenite's.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use support::{Client, DEADLINE, End, Frame, Server, encode, eventually, get, http, opcode};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

type Peer = WebSocket<std::net::TcpStream>;

/// One connection of tungstenite's, served by `serve` on a thread.
fn peer<T: Send + 'static>(
    serve: impl FnOnce(Peer) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let served = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        serve(tungstenite::accept(stream).expect("an upgrade"))
    });
    (address, served)
}

/// Echoes until the client closes.
fn echo(mut peer: Peer) {
    while let Ok(message) = peer.read() {
        if message.is_text() || message.is_binary() {
            peer.send(message).expect("echo");
        }
    }
}

/// A server that sends these bytes and closes.
fn bytes_then_fin(bytes: &'static [u8]) -> SocketAddr {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.write_all(bytes).expect("send");
        stream.shutdown(std::net::Shutdown::Write).expect("FIN");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the client's end");
    });
    address
}

#[test]
fn messages_of_every_length_class_come_back_as_sent() {
    let (address, served) = peer(echo);
    let mut client = Client::connect(address, "/echo");
    for len in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, 200_000] {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        client.send_binary(&bytes);
        assert_eq!(client.recv(), Frame::new(opcode::BINARY, bytes), "{len} bytes");
    }
    client.send_text("später");
    assert_eq!(client.recv().text(), "später");
    client.close();
    served.join().expect("the peer does not panic");
}

#[test]
fn fragments_with_a_ping_between_them_are_one_message_to_the_peer() {
    let (address, _served) = peer(echo);
    let mut client = Client::connect(address, "/");
    client.send_frame(false, 0, opcode::TEXT, true, b"one ");
    client.send_ping(b"now");
    client.send_frame(true, 0, opcode::CONTINUATION, true, b"two");
    assert_eq!(client.recv(), Frame::new(opcode::PONG, *b"now"));
    assert_eq!(client.recv().text(), "one two");
}

#[test]
fn sync_gives_what_came_before_its_own_pong() {
    let (address, _served) = peer(echo);
    let mut client = Client::connect(address, "/");
    client.send_ping(b"not this one");
    client.send_text("a");
    let before = client.sync();
    let expected = [Frame::new(opcode::PONG, *b"not this one"), Frame::new(opcode::TEXT, *b"a")];
    assert_eq!(before, expected);
    assert_eq!(client.sync(), []);
}

#[test]
fn json_is_waited_for_by_type_and_by_content() {
    let (address, _served) = peer(|mut peer| {
        for text in [
            r#"{"type":"joined","offset":3}"#,
            r#"{"content":"first"}"#,
            r#"{"content":"second"}"#,
            r#"{"type":"lag","missed":2}"#,
        ] {
            peer.send(Message::text(text)).expect("send");
        }
        echo(peer);
    });
    let (mut client, joined) = Client::join(address, "lobby", "alice");
    assert_eq!(joined["offset"], 3);
    assert_eq!(client.recv_content("second")["content"], "second");
    assert_eq!(client.recv_type("lag")["missed"], 2);
}

#[test]
fn a_close_frame_gives_code_and_reason() {
    let (address, _served) = peer(|mut peer| {
        let frame = CloseFrame { code: CloseCode::Restart, reason: "retry_ms=5".into() };
        peer.close(Some(frame)).expect("close");
        while peer.read().is_ok() {}
    });
    let mut client = Client::connect(address, "/");
    assert_eq!(client.expect_close(1012), "retry_ms=5");
    client.send_close(1012);
    assert_eq!(client.expect_end(), (End::Eof, Vec::new()));
}

#[test]
fn an_end_is_told_apart_as_fin_reset_or_silence() {
    let mut client = Client::raw(bytes_then_fin(b"\x81\x02hi\x81\x05cut"));
    assert_eq!(client.recv().text(), "hi");
    assert_eq!(client.try_recv(), Err(End::Eof), "a frame that was cut is none");

    let (address, _served) = peer(|peer| {
        let stream = peer.get_ref().try_clone().expect("a second handle");
        Client::over(stream).reset();
    });
    let mut client = Client::connect(address, "/");
    assert_eq!(client.expect_end().0, End::Reset);

    let (address, _served) = peer(echo);
    let mut client = Client::connect(address, "/");
    client.set_deadline(Duration::from_millis(30));
    assert_eq!(client.try_recv(), Err(End::TimedOut));
}

#[test]
fn a_wrong_frame_leaves_as_wrong_as_it_was_asked_for() {
    let (address, served) = peer(|mut peer| peer.read().expect_err("refused").to_string());
    let mut client = Client::connect(address, "/");
    client.send_frame(true, 0, opcode::TEXT, false, b"bare");
    let error = served.join().expect("the peer does not panic");
    assert!(error.contains("unmasked"), "{error}");
    assert_eq!(encode(false, 0b101, 9, false, b"x"), [0b0101_1001, 1, b'x']);
}

#[test]
#[should_panic(expected = "a server must not mask")]
fn a_masked_frame_of_a_server_is_an_error() {
    Client::raw(bytes_then_fin(b"\x81\x81\0\0\0\0a")).recv();
}

#[test]
#[should_panic(expected = "the minimal number of bytes")]
fn a_length_longer_than_it_needs_to_be_is_an_error() {
    Client::raw(bytes_then_fin(b"\x81\x7e\0\x01a")).recv();
}

#[test]
fn answers_are_taken_apart_whatever_ends_their_body() {
    let response = get(bytes_then_fin(b"HTTP/1.1 200 OK\r\nA:  b \r\n\r\nto the end"), "/");
    assert_eq!(
        (response.status, response.header("a"), response.text()),
        (200, Some("b"), "to the end")
    );

    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(get(bytes_then_fin(chunked), "/").text(), "abc");

    let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 43\r\n\r\n\
        {\"error\":\"reserved\",\"message\":\"not system\"}";
    get(bytes_then_fin(refused), "/ws/a/system").expect_refusal(403, "reserved");

    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n";
    assert_eq!(http(bytes_then_fin(head), "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").body, b"");
}

#[test]
fn frames_behind_the_answer_to_an_upgrade_are_not_lost() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\
        \x81\x02hi";
    assert_eq!(Client::connect(bytes_then_fin(answer), "/").recv().text(), "hi");
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn a_server_is_found_by_what_it_logs() {
    let json =
        r#"echo '{"url":"http://[::1]:81","admin":"http://127.0.0.1:82"}' >&2; exec sleep 60"#;
    for (script, public, admin) in [
        ("echo 'on http://127.0.0.1:7 admin http://127.0.0.1:8 !' >&2; exec sleep 60", 7, 8),
        (
            "echo 'admin=http://127.0.0.1:9' >&2; echo a http://127.0.0.1:1/ >&2; exec sleep 60",
            1,
            9,
        ),
        (json, 81, 82),
    ] {
        let server = Server::spawn(shell(script));
        assert_eq!((server.address().port(), server.admin().port()), (public, admin));
    }
}

#[test]
fn a_server_takes_signals_and_its_end_is_seen() {
    let script = "trap 'echo bye >&2; kill $!; exit 3' TERM; sleep 60 & \
        echo http://127.0.0.1:1 admin http://127.0.0.1:2 >&2; wait";
    let mut server = Server::spawn(shell(script));
    server.signal(Signal::TERM);
    assert_eq!(server.wait_log("by"), "bye");
    assert_eq!(server.wait(DEADLINE).code(), Some(3));

    let mut server =
        Server::spawn(shell("echo http://127.0.0.1:1 admin http://127.0.0.1:2 >&2; exec sleep 60"));
    server.signal(Signal::KILL);
    assert_eq!(server.wait(DEADLINE).signal(), Some(9));
}

#[test]
fn a_dropped_server_is_gone() {
    let server =
        Server::spawn(shell("echo http://127.0.0.1:1 admin http://127.0.0.1:2 >&2; exec sleep 60"));
    let process = format!("/proc/{}", server.pid());
    assert!(std::path::Path::new(&process).exists());
    server.stop();
    eventually(DEADLINE, "the process is gone", || !std::path::Path::new(&process).exists());
}

#[test]
#[should_panic(expected = "the server panicked")]
fn a_server_that_panicked_fails_the_test() {
    let script = "echo http://127.0.0.1:1 admin http://127.0.0.1:2 >&2; \
        echo \"thread 'main' panicked at src/main.rs:1\" >&2; exec sleep 60";
    let server = Server::spawn(shell(script));
    server.wait_log("panicked");
}

#[test]
#[should_panic(expected = "did not say where it listens")]
fn a_server_that_does_not_start_fails_the_test() {
    Server::spawn(shell("echo 'no such key' >&2; exit 2"));
}
