//! What is no proper request is told so, with the status that SPEC section 3 names, and counted;
//! nobody else notices.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use support::{Bystander, Client, End, Response, Server, get, upgrade_request};

/// A header and its value.
type Header = (&'static str, &'static str);

/// A server, a room with a witness, and refusals that the witness must not notice.
struct Stage {
    server: Server,
    bystander: Bystander,
}

impl Stage {
    fn set(arguments: &[&str]) -> Self {
        let server = Server::start(arguments);
        let bystander = Bystander::join(server.address(), "lobby");
        Self { server, bystander }
    }

    /// Sends the bytes on a connection of their own, which must be refused, and closed in order
    /// after a single answer.
    #[track_caller]
    fn expect_refused(&mut self, request: &[u8], status: u16, code: &str) -> Response {
        let what = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        let before = self.server.number("refused", code);
        let mut client = Client::raw(self.server.address());
        client.send_bytes(request);
        let answer = client.recv_response(false);
        let got = (answer.status, answer.json()["error"].clone());
        assert_eq!(got, (status, code.into()), "{what:?}: {}", answer.text());
        answer.expect_refusal(status, code);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let connection = answer.header("connection").expect("Connection").to_owned();
        assert!(connection.ends_with("close"), "{what:?}: {connection}");
        assert_eq!(client.take_all(), Ok(Vec::new()), "one answer, then FIN: {what:?}");
        assert_eq!(self.server.number("refused", code), before + 1, "counted once: {what:?}");
        assert!(self.bystander.heard().is_empty(), "nobody came or went: {what:?}");
        answer
    }

    #[track_caller]
    fn expect_upgrade_refused(&mut self, path: &str, headers: &[Header], status: u16, code: &str) {
        self.expect_refused(&upgrade_request(path, headers), status, code);
    }
}

/// Retry-After, which has to be there.
#[track_caller]
fn retry_after(answer: &Response) -> u32 {
    let value = answer.header("retry-after").expect("Retry-After");
    let seconds = value.parse().expect("seconds");
    assert!((1..=10).contains(&seconds), "{seconds}");
    seconds
}

#[test]
fn a_request_line_or_header_that_is_malformed_is_400() {
    let mut stage = Stage::set(&[]);
    let upgrade = String::from_utf8(upgrade_request("/ws/lobby/rude", &[])).expect("ASCII");
    let with = |line: &str| upgrade.replacen("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"), 1);
    let requests = [
        // Versions.
        upgrade.replace("HTTP/1.1", "HTTP/1.0"),
        upgrade.replace("HTTP/1.1", "HTTP/2.0"),
        upgrade.replace("HTTP/1.1", "HTTP/1.2"),
        upgrade.replace("HTTP/1.1", "http/1.1"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        // Host, also where no WebSocket is asked for.
        upgrade.replace("Host: ringhall.test\r\n", ""),
        with("Host: ringhall.test"),
        with("Host: other.test"),
        upgrade.replace("Host: ringhall.test", "Host: a b"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
        // Framing that two parsers could read differently, with a request hidden behind.
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n"
            .to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 35\r\n\r\n\
         GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
            .to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n".to_owned(),
        // Header lines.
        with("X-Fold: a\r\n b"),
        with("X-Space : a"),
        with(" X-Leading: a"),
        with("X-Nul: a\0b"),
        with("X\0: a"),
        with("X-Bare-CR: a\rb"),
        with("no colon"),
        with(": no name"),
        // No HTTP at all.
        "\x16\x03\x01\x02\x00\x01\x00\x01\x00\r\n\r\n".to_owned(),
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
    ];
    for request in &requests {
        stage.expect_refused(request.as_bytes(), 400, "bad_request");
    }
    stage.expect_refused(b"\xff\xfe\xfd GET / HTTP/1.1\r\n\r\n", 400, "bad_request");
}

#[test]
fn an_upgrade_that_is_none_is_400() {
    let mut stage = Stage::set(&[]);
    let cases: &[&[Header]] = &[
        &[("Connection", "keep-alive")],
        &[("Connection", "")],
        &[("Sec-WebSocket-Key", "")],
        &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ")],
        &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ===")],
        &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j!Q==")],
        &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSE=")],
        &[
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ],
        &[("Sec-WebSocket-Protocol", ",")],
        &[("Sec-WebSocket-Protocol", "ringhall.json, a b")],
        &[("Content-Length", "5")],
        &[("Transfer-Encoding", "chunked")],
    ];
    for headers in cases {
        stage.expect_upgrade_refused("/ws/lobby/rude", headers, 400, "bad_request");
    }
}

#[test]
fn names_that_may_not_be_are_400_and_the_reserved_one_is_403() {
    let mut stage = Stage::set(&[]);
    let long = "x".repeat(129);
    for name in [
        "",
        "%0a",
        "user%0a",
        "%0d%0auser",
        "a%00b",
        "%7f",
        "%c2%80",
        "%ff",
        "%c3",
        "%ed%a0%80",
        "%",
        "a%2",
        "%zz",
        &long,
    ] {
        stage.expect_upgrade_refused(&format!("/ws/lobby/{name}"), &[], 400, "bad_request");
        stage.expect_upgrade_refused(&format!("/ws/{name}/rude"), &[], 400, "bad_request");
    }
    for query in ["echo=maybe", "echo", "echo=", "echo=true&echo=true", "a=b&echo=FALSE"] {
        let path = format!("/ws/lobby/rude?{query}");
        stage.expect_upgrade_refused(&path, &[], 400, "bad_request");
    }
    stage.expect_upgrade_refused("/ws/lobby/rude#fragment", &[], 400, "bad_request");
    for system in ["system", "%73ystem", "%73%79%73%74%65%6d"] {
        let path = format!("/ws/lobby/{system}");
        stage.expect_upgrade_refused(&path, &[], 403, "reserved_name");
    }
}

#[test]
fn an_upgrade_elsewhere_is_404() {
    let mut stage = Stage::set(&[]);
    for path in [
        "/",
        "/ws",
        "/ws/",
        "/ws/lobby",
        "/ws/lobby/rude/more",
        "/ws?user=rude",
        "/echo/",
        "/ECHO",
        "/health",
        "//ws/lobby/rude",
        "/ws/lobby/rude/",
    ] {
        stage.expect_upgrade_refused(path, &[], 404, "not_found");
    }
    let mut stage = Stage::set(&["--set", "echo.enabled=false"]);
    stage.expect_upgrade_refused("/echo", &[], 404, "echo_disabled");
    get(stage.server.address(), "/echo").expect_refusal(404, "echo_disabled");
}

#[test]
fn another_method_is_405_and_told_which_is_allowed() {
    let mut stage = Stage::set(&[]);
    for method in ["POST", "PUT", "get", "CONNECT", "BREW"] {
        let request = upgrade_request("/ws/lobby/rude", &[]);
        let request = [method.as_bytes(), &request[3..]].concat();
        let answer = stage.expect_refused(&request, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("GET"), "{method}");
    }
}

#[test]
fn a_target_that_is_too_long_is_414_before_it_ends() {
    let mut stage = Stage::set(&[]);
    let long = format!("/ws/lobby/rude?{}", "x".repeat(4097 - "/ws/lobby/rude?".len()));
    stage.expect_refused(&upgrade_request(&long, &[]), 414, "uri_too_long");
    // One byte less is a name like another; and nobody waits for the end of an endless one.
    let mut client = Client::connect(stage.server.address(), &long[..4096]);
    assert_eq!(client.recv_json()["type"], "joined");
    client.close();
    stage.bystander.heard_until_left("rude");
    let endless = format!("GET /{}", "x".repeat(12_000));
    stage.expect_refused(endless.as_bytes(), 414, "uri_too_long");
}

#[test]
fn another_version_is_426_and_told_which_is_spoken() {
    let mut stage = Stage::set(&[]);
    let cases: &[&[Header]] = &[
        &[("Sec-WebSocket-Version", "12")],
        &[("Sec-WebSocket-Version", "8")],
        &[("Sec-WebSocket-Version", "013")],
        &[("Sec-WebSocket-Version", "13, 8")],
        &[("Sec-WebSocket-Version", "")],
        &[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Version", "13")],
    ];
    for headers in cases {
        let request = upgrade_request("/ws/lobby/rude", headers);
        let answer = stage.expect_refused(&request, 426, "upgrade_required");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{headers:?}");
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{headers:?}");
    }
    // No upgrade at all: plain HTTP says the same.
    let before = stage.server.number("refused", "upgrade_required");
    for path in ["/ws/lobby/rude", "/echo"] {
        let answer = get(stage.server.address(), path);
        answer.expect_refusal(426, "upgrade_required");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{path}");
    }
    assert_eq!(stage.server.number("refused", "upgrade_required"), before + 2);
}

#[test]
fn a_head_that_does_not_come_in_time_is_408() {
    let mut stage = Stage::set(&["--set", "handshake.timeout=100ms"]);
    // Silent from the start, in the middle of the head, and before its last byte.
    let head = upgrade_request("/ws/lobby/rude", &[]);
    for part in [0, 30, head.len() - 1] {
        stage.expect_refused(&head[..part], 408, "handshake_timeout");
    }
    // A byte now and then does not help: the time is one for the whole head.
    let mut client = Client::raw(stage.server.address());
    client.set_deadline(Duration::from_millis(10));
    client.send_bytes(b"GET / HTTP/1.1\r\nX: ");
    let answer = loop {
        match client.try_recv_response(false) {
            Ok(answer) => break answer,
            Err(End::TimedOut) => client.send_bytes(b"x"),
            Err(end) => panic!("{end:?}"),
        }
    };
    answer.expect_refusal(408, "handshake_timeout");
    stage.server.wait_refused("handshake_timeout", 4);
}

#[test]
fn a_head_that_is_too_large_is_431_and_one_at_the_limit_is_not() {
    let mut stage = Stage::set(&["--set", "handshake.head_bytes=2KiB"]);
    let padded = |len: usize| {
        let bare = upgrade_request("/ws/lobby/rude", &[("X-Pad", "x")]).len() - 1;
        upgrade_request("/ws/lobby/rude", &[("X-Pad", &"x".repeat(len - bare))])
    };
    stage.expect_refused(&padded(2049), 431, "head_too_large");
    stage.expect_refused(
        &[b"GET / HTTP/1.1\r\n", &*b"A: b\r\n".repeat(1000)].concat(),
        431,
        "head_too_large",
    );
    let lines = "X: y\r\n".repeat(100);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    stage.expect_refused(many.as_bytes(), 431, "head_too_large");
    let mut client = Client::raw(stage.server.address());
    client.send_bytes(&padded(2048));
    assert_eq!(client.recv_response(false).status, 101);
}

#[test]
fn one_connection_too_many_of_an_address_is_429() {
    let mut stage = Stage::set(&["--set", "limits.connections_per_address=2"]);
    let (ann, _) = Client::join(stage.server.address(), "room", "ann");
    let request = upgrade_request("/ws/lobby/rude", &[]);
    let answer = stage.expect_refused(&request, 429, "too_many_connections");
    retry_after(&answer);
    // Another address has a count of its own.
    let mut other = from_address(stage.server.address(), [127, 0, 0, 2].into());
    assert_eq!(other.upgrade("/ws/room/bob", &[]).status, 101);
    // The place of one who left is free, and a refused one never had any.
    ann.close();
    stage.server.wait_closed("peer_closed", 1);
    let (mut ann, _) = Client::join(stage.server.address(), "room", "ann");
    ann.recv_content("ann has joined the room");
    stage.expect_refused(&request, 429, "too_many_connections");
}

fn from_address(server: SocketAddr, from: IpAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of loopback");
    socket.connect(&server.into()).expect("connect");
    Client::over(socket.into())
}

#[test]
fn a_full_server_is_503_until_somebody_leaves() {
    let mut stage = Stage::set(&["--set", "limits.connections_max=2"]);
    let (ann, _) = Client::join(stage.server.address(), "room", "ann");
    let request = upgrade_request("/ws/lobby/rude", &[]);
    let drawn: Vec<_> =
        (0..20).map(|_| retry_after(&stage.expect_refused(&request, 503, "full"))).collect();
    let jittered = drawn.iter().any(|seconds| *seconds != drawn[0]);
    assert!(jittered, "not everybody comes back at once: {drawn:?}");
    let ready = get(stage.server.admin(), "/ready");
    assert_eq!((ready.status, &ready.json()["reason"]), (503, &"full".into()));
    ann.close();
    stage.server.wait_closed("peer_closed", 1);
    Client::join(stage.server.address(), "room", "ann");
}

#[test]
fn a_full_room_is_503_on_whatever_shard_it_is_asked() {
    let set = ["--shards", "2", "--set", "rooms.members_max=1", "--set", "rooms.max=17"];
    let mut stage = Stage::set(&set);
    let members: Vec<_> = (0..16)
        .map(|room| Client::join(stage.server.address(), &format!("room{room}"), "ann"))
        .collect();
    for room in 0..16 {
        let request = upgrade_request(&format!("/ws/room{room}/bob"), &[]);
        retry_after(&stage.expect_refused(&request, 503, "room_full"));
    }
    // The bystander's room is one of the 17.
    for room in 16..24 {
        let request = upgrade_request(&format!("/ws/room{room}/bob"), &[]);
        retry_after(&stage.expect_refused(&request, 503, "rooms_full"));
    }
    assert_eq!(stage.server.counter("rooms"), 17);
    // A room that everybody has left makes place for another.
    drop(members);
    stage.server.wait_counter("rooms", |count| count == 1);
    Client::join(stage.server.address(), "room17", "bob");
}

#[test]
fn one_plain_connection_too_many_is_503_and_no_matter_to_websockets() {
    let mut stage = Stage::set(&["--set", "limits.http_connections=1"]);
    let mut kept = Client::raw(stage.server.address());
    kept.send_bytes(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(kept.recv_response(false).status, 200);
    let page = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    retry_after(&stage.expect_refused(page, 503, "http_full"));
    let (ann, _) = Client::join(stage.server.address(), "room", "ann");
    ann.close();
    kept.send_bytes(page);
    assert_eq!(kept.recv_response(false).status, 200, "the one that was there first goes on");
}

#[test]
fn a_handshake_that_the_shutdown_overtakes_is_503() {
    let mut server = Server::start(&[]);
    let mut client = Client::raw(server.address());
    client.send_bytes(b"GET /ws/lobby/late HTTP/1.1\r\n");
    server.wait_counter("accepted", |count| count == 1);
    server.signal(Signal::TERM);
    let answer = client.recv_response(false);
    answer.expect_refusal(503, "shutting_down");
    retry_after(&answer);
    assert_eq!(client.take_all(), Ok(Vec::new()));
    drop(client);
    assert!(server.wait(support::DEADLINE).success());
}

#[test]
fn a_refusal_arrives_although_megabytes_behind_the_request_are_unread() {
    let mut stage = Stage::set(&[]);
    let megabytes = vec![b'x'; 8 << 20];
    let bad = upgrade_request("/ws/lobby/rude", &[("Sec-WebSocket-Version", "8")]);
    stage.expect_refused(&[&bad, &*megabytes].concat(), 426, "upgrade_required");
    let post = b"POST /ws/lobby/rude HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
        Content-Length: 8388608\r\n\r\n";
    stage.expect_refused(&[post, &*megabytes].concat(), 405, "method_not_allowed");
    let endless = b"GET / HTTP/1.1\r\nHost: a\r\nX: ";
    stage.expect_refused(&[endless, &*megabytes].concat(), 431, "head_too_large");
}
