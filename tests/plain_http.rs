//! A plain connection is served from the bytes already read to its end, whatever ends it.

#[path = "support/plain_site.rs"]
mod plain_site;
mod support;

use std::time::Duration;

use plain_site::{Plain, Setup, TOKEN, Told};
use ringhall::control::Bounds;
use ringhall::control::files::Files;
use ringhall::http::RefusalKind;
use support::{Client, Server, encode, get, http, opcode};

const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &[u8] = b"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A bound that a test waits for.
const SHORT: Duration = Duration::from_millis(100);
/// A bound that must not be the one that ends a connection.
const LONG: Duration = Duration::from_secs(600);

fn bounds() -> Bounds {
    Bounds { head_timeout: LONG, stall_timeout: LONG, linger_timeout: LONG, ..Bounds::default() }
}

#[track_caller]
fn expect_page(client: &mut Client) {
    let page = client.recv_response(false);
    assert_eq!((page.status, page.header("connection")), (200, None));
}

#[track_caller]
fn expect_socket(plain: &Plain) -> (Client, Vec<u8>) {
    match plain.told() {
        Told::Taken { token, stream, leftover } => {
            assert_eq!(token, TOKEN);
            stream.set_nonblocking(false).expect("a blocking socket for the test");
            (Client::over(stream), leftover)
        }
        told => panic!("{told:?}"),
    }
}

#[test]
fn the_bytes_already_read_come_before_the_sockets() {
    let both = [PAGE, PAGE].concat();
    // Within a line, at the end of the head, within the second one, and all of both.
    for prefix_bytes in [1, 9, PAGE.len() - 1, PAGE.len(), PAGE.len() + 7, both.len()] {
        let plain = Plain::start(Setup { prefix_bytes, ..Setup::default() });
        let mut client = Client::raw(plain.address());
        client.send_bytes(&both);
        expect_page(&mut client);
        expect_page(&mut client);
        client.send_bytes(PAGE);
        expect_page(&mut client);
    }
}

#[test]
fn requests_in_one_segment_are_answered_in_order() {
    let plain = Plain::start(Setup::default());
    let mut client = Client::raw(plain.address());
    let missing = b"GET /missing HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send_bytes(&[PAGE, missing, PAGE].concat());
    expect_page(&mut client);
    client.recv_response(false).expect_refusal(404, "not_found");
    expect_page(&mut client);
}

#[test]
fn a_request_to_close_is_followed_and_an_old_client_gets_its_answer() {
    let plain = Plain::start(Setup::default());
    for request in
        ["GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"]
    {
        let mut client = Client::raw(plain.address());
        client.send_bytes(request.as_bytes());
        let answer = String::from_utf8(client.take_all().expect("FIN")).unwrap();
        assert!(answer[8..].starts_with(" 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("</html>\n"), "{answer}");
    }
}

#[test]
fn an_upgrade_on_a_used_connection_comes_back_with_every_byte_behind_it() {
    let frames = [encode(true, 0, opcode::TEXT, true, b"one"), vec![0x5a; 20_000]].concat();
    let request = [UPGRADE, &frames].concat();
    let all = [PAGE, &request].concat();
    // Everything from the socket; a part of the frames, or all, already read before the hand-over.
    for prefix_bytes in [0, PAGE.len(), PAGE.len() + UPGRADE.len() + 5, all.len()] {
        let plain = Plain::start(Setup { prefix_bytes, ..Setup::default() });
        let mut client = Client::raw(plain.address());
        client.send_bytes(&all);
        expect_page(&mut client);
        let answer = client.recv_response(false);
        assert_eq!(answer.status, 101);
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        let (mut shard, mut got) = expect_socket(&plain);
        assert!(matches!(plain.told(), Told::Over));
        // What hyper had not read yet is still in the socket.
        got.extend(shard.take(frames.len() - got.len()).expect("the rest of the frames"));
        assert_eq!(got, frames);
        // And the socket works both ways.
        client.send_bytes(b"more");
        assert_eq!(shard.take(4).as_deref(), Ok(&b"more"[..]));
        shard.send_bytes(b"back");
        assert_eq!(client.take(4).as_deref(), Ok(&b"back"[..]));
    }
}

#[test]
fn an_upgrade_after_its_answer_may_take_its_time() {
    let plain = Plain::start(Setup::default());
    let mut client = Client::raw(plain.address());
    client.send_bytes(PAGE);
    expect_page(&mut client);
    client.send_bytes(UPGRADE);
    assert_eq!(client.recv_response(false).status, 101);
    let (mut shard, leftover) = expect_socket(&plain);
    assert_eq!(leftover, b"");
    client.send_bytes(b"frame");
    assert_eq!(shard.take(5).as_deref(), Ok(&b"frame"[..]));
}

#[test]
fn a_refused_upgrade_leaves_the_connection_to_plain_requests() {
    let plain = Plain::start(Setup::default());
    let mut client = Client::raw(plain.address());
    let text = String::from_utf8(UPGRADE.to_vec()).unwrap();
    client.send_bytes(text.replace("/echo", "/ws/room/user").as_bytes());
    let full = client.recv_response(false);
    full.expect_refusal(503, "room_full");
    assert_eq!(full.header("retry-after"), Some("2"));
    assert!(matches!(plain.told(), Told::Refused(RefusalKind::RoomFull)));

    client.send_bytes(text.replace("Version: 13", "Version: 8").as_bytes());
    let other = client.recv_response(false);
    other.expect_refusal(426, "upgrade_required");
    assert_eq!(other.header("sec-websocket-version"), Some("13"));
    assert!(matches!(plain.told(), Told::Refused(RefusalKind::UpgradeRequired)));

    client.send_bytes(text.replace("Upgrade: websocket", "Upgrade: h2c").as_bytes());
    client.recv_response(false).expect_refusal(426, "upgrade_required");
    client.send_bytes(PAGE);
    expect_page(&mut client);
}

#[test]
fn a_malformed_request_is_refused_with_a_reason() {
    let plain = Plain::start(Setup::default());
    let address = plain.address();
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    ] {
        http(address, request).expect_refusal(400, "bad_request");
        assert!(matches!(plain.told(), Told::Refused(RefusalKind::BadRequest)));
        assert!(matches!(plain.told(), Told::Over));
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(5000));
    http(address, long).expect_refusal(414, "uri_too_long");
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(17_000));
    http(address, long).expect_refusal(431, "head_too_large");
    http(address, "GET /\r\n\r\n").expect_refusal(400, "bad_request");
}

#[test]
fn a_later_head_that_is_no_good_is_refused_like_the_first_one_and_counted() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(110));
    let garbage = "\x16\x03\x01 hello\r\n".to_owned();
    for (head, status, kind) in [
        (long, 431, RefusalKind::HeadTooLarge),
        (many, 431, RefusalKind::HeadTooLarge),
        (garbage, 400, RefusalKind::BadRequest),
    ] {
        let both = [PAGE, head.as_bytes()].concat();
        // Read with the first request, cut within, and later.
        for (prefix_bytes, first) in
            [(both.len(), both.len()), (PAGE.len(), PAGE.len() + 3), (PAGE.len(), PAGE.len())]
        {
            let bounds = bounds();
            let plain = Plain::start(Setup { bounds, prefix_bytes, ..Setup::default() });
            let mut client = Client::raw(plain.address());
            client.send_bytes(&both[..first]);
            expect_page(&mut client);
            client.send_bytes(&both[first..]);
            let refusal = client.recv_response(false);
            refusal.expect_refusal(status, kind.code());
            assert_eq!(refusal.header("connection"), Some("close"));
            assert!(matches!(plain.told(), Told::Refused(told) if told == kind));
            assert_eq!(client.take_all(), Ok(Vec::new()));
            drop(client);
            assert!(matches!(plain.told(), Told::Over), "refused once");
        }
    }
}

#[test]
fn a_refused_upgrade_is_followed_by_heads_that_are_judged() {
    let plain = Plain::start(Setup::default());
    let mut client = Client::raw(plain.address());
    let full = String::from_utf8(UPGRADE.to_vec()).unwrap().replace("/echo", "/ws/room/user");
    client.send_bytes(&[full.as_bytes(), PAGE, b"nonsense\r\n\r\n"].concat());
    client.recv_response(false).expect_refusal(503, "room_full");
    expect_page(&mut client);
    client.recv_response(false).expect_refusal(400, "bad_request");
}

#[test]
fn an_echo_that_is_switched_off_says_so() {
    let plain = Plain::start(Setup { echo: false, ..Setup::default() });
    get(plain.address(), "/echo").expect_refusal(404, "echo_disabled");
}

#[test]
fn a_silent_connection_is_closed_and_a_slow_head_is_told_why() {
    let bounds = Bounds { head_timeout: SHORT, ..bounds() };
    let plain = Plain::start(Setup { bounds, ..Setup::default() });
    let mut silent = Client::raw(plain.address());
    silent.send_bytes(PAGE);
    expect_page(&mut silent);
    assert!(matches!(plain.told(), Told::Over), "although the client keeps its end");
    assert_eq!(silent.take_all(), Ok(Vec::new()));
    // The first head, and a later one.
    for requests in [&[][..], PAGE] {
        let mut slow = Client::raw(plain.address());
        slow.send_bytes(&[requests, &PAGE[..9]].concat());
        if !requests.is_empty() {
            expect_page(&mut slow);
        }
        let refusal = slow.recv_response(false);
        refusal.expect_refusal(408, "handshake_timeout");
        assert_eq!(refusal.header("connection"), Some("close"));
        assert_eq!(slow.take_all(), Ok(Vec::new()));
        drop(slow);
        assert!(matches!(plain.told(), Told::Refused(RefusalKind::HandshakeTimeout)));
        assert!(matches!(plain.told(), Told::Over));
    }
}

#[test]
fn a_reader_that_takes_nothing_is_given_up() {
    let (_dir, files) = site_of(32 << 20);
    let bounds = Bounds { stall_timeout: SHORT, ..bounds() };
    let plain = Plain::start(Setup { files, bounds, ..Setup::default() });
    let mut client = Client::raw_small(plain.address(), 4096);
    client.send_bytes(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(matches!(plain.told(), Told::Over));
}

/// A site with one file, of so many bytes.
fn site_of(bytes: usize) -> (tempfile::TempDir, Files) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("big"), vec![7; bytes]).expect("a file");
    let files = Files::folder(dir.path()).expect("a folder that can be read");
    (dir, files)
}

#[test]
fn a_download_may_take_longer_than_a_head() {
    let (_dir, files) = site_of(8 << 20);
    let bounds = Bounds { head_timeout: SHORT, ..bounds() };
    let plain = Plain::start(Setup { files, bounds, ..Setup::default() });
    let mut client = Client::raw_small(plain.address(), 4096);
    client.send_bytes(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    let begin = client.take(100_000).expect("the first of it");
    for _ in 0..3 {
        // As long as the bound, by the server's own clock.
        let mut silent = Client::raw(plain.address());
        assert_eq!(silent.take_all(), Ok(Vec::new()));
        assert!(matches!(plain.told(), Told::Over));
    }
    let head = begin.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
    client.take((8 << 20) + head - begin.len()).expect("all of it");
}

#[test]
fn an_answer_that_is_under_way_arrives_whoever_ends_the_connection() {
    // Much more than what the kernel takes.
    let bytes = 16 << 20;
    let (_dir, files) = site_of(bytes);
    let plain = Plain::start(Setup { files, bounds: bounds(), ..Setup::default() });
    for client_ends in [true, false] {
        let mut client = Client::raw_small(plain.address(), 4096);
        client.send_bytes(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        let begin = client.take(1000).expect("the first of it");
        if client_ends {
            client.shutdown_write();
        } else {
            plain.close();
        }
        let all = begin.len() + client.take_all().expect("FIN").len();
        assert!(all > bytes, "{all} bytes, client_ends: {client_ends}");
    }
}

#[test]
fn a_body_that_nobody_wants_does_not_destroy_the_answer() {
    let plain = Plain::start(Setup { bounds: bounds(), ..Setup::default() });
    let mut client = Client::raw(plain.address());
    client.send_bytes(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 800000\r\n\r\n");
    client.recv_response(false).expect_refusal(405, "method_not_allowed");
    assert_eq!(client.take_all(), Ok(Vec::new()), "the server's end");
    // It has said all it will, and still takes what a client sends that does not look up.
    for _ in 0..100 {
        client.send_bytes(&[b'x'; 8000]);
    }
    client.shutdown_write();
    assert!(matches!(plain.told(), Told::Refused(RefusalKind::MethodNotAllowed)));
    assert!(matches!(plain.told(), Told::Over));
}

#[test]
fn a_client_that_sends_for_ever_is_not_listened_to_for_ever() {
    let bounds = Bounds { linger_timeout: SHORT, ..bounds() };
    let plain = Plain::start(Setup { bounds, ..Setup::default() });
    let mut client = Client::raw(plain.address());
    client.send_bytes(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n");
    client.recv_response(false).expect_refusal(405, "method_not_allowed");
    assert_eq!(client.take_all(), Ok(Vec::new()));
    assert!(matches!(plain.told(), Told::Refused(RefusalKind::MethodNotAllowed)));
    // Its own FIN never comes.
    assert!(matches!(plain.told(), Told::Over));
}

#[test]
fn a_closing_server_lets_go_of_idle_connections_and_answers_the_rest() {
    let prefix_bytes = PAGE.len();
    let plain = Plain::start(Setup { bounds: bounds(), prefix_bytes, ..Setup::default() });
    let mut idle = Client::raw(plain.address());
    idle.send_bytes(PAGE);
    expect_page(&mut idle);
    plain.close();
    assert_eq!(idle.take_all(), Ok(Vec::new()));
    // Accepted just before the listener closed.
    let mut late = Client::raw(plain.address());
    late.send_bytes(PAGE);
    let page = late.recv_response(false);
    assert_eq!((page.status, page.header("connection")), (200, Some("close")));
    assert_eq!(late.take_all(), Ok(Vec::new()));
}

#[test]
fn in_a_crowd_a_response_is_the_last_and_its_connection_gone() {
    let plain = Plain::start(Setup { bounds: bounds(), is_crowded: true, ..Setup::default() });
    let mut client = Client::raw(plain.address());
    client.send_bytes(PAGE);
    let page = client.recv_response(false);
    assert_eq!((page.status, page.header("connection")), (200, Some("close")));
    // Although the client keeps its end.
    assert!(matches!(plain.told(), Told::Over));
    assert_eq!(client.take_all(), Ok(Vec::new()));
}

#[test]
fn idle_connections_leave_room_for_health() {
    let server = Server::start(&["--set", "limits.http_connections=8"]);
    let mut idle = Vec::new();
    for _ in 0..32 {
        let mut client = Client::raw(server.address());
        client.send_bytes(PAGE);
        let page = client.recv_response(false);
        assert_eq!(page.status, 200);
        // Its place is free again once the server has closed.
        if page.header("connection") == Some("close") {
            assert_eq!(client.take_all(), Ok(Vec::new()));
        }
        idle.push(client);
    }
    assert_eq!(get(server.address(), "/health").status, 200);
}

#[test]
fn whoever_is_dismissed_hears_the_last_words_whatever_it_still_sends() {
    let words: &[u8] = &[0x88, 2, 0x03, 0xf5];
    for linger_timeout in [LONG, SHORT] {
        let bounds = Bounds { linger_timeout, ..bounds() };
        let plain = Plain::start(Setup { bounds, dismissed: Some(words), ..Setup::default() });
        let mut client = Client::raw(plain.address());
        client.send_bytes(&[0x5a; 8000]);
        assert_eq!(client.take_all().as_deref(), Ok(words));
        if linger_timeout == LONG {
            client.send_bytes(&[0x5a; 8000]);
            client.shutdown_write();
        }
        assert!(matches!(plain.told(), Told::Over));
    }
}

#[test]
fn a_closing_server_makes_nobody_a_websocket() {
    let prefix_bytes = UPGRADE.len();
    let plain = Plain::start(Setup { bounds: bounds(), prefix_bytes, ..Setup::default() });
    plain.close();
    let mut late = Client::raw(plain.address());
    late.send_bytes(UPGRADE);
    let refusal = late.recv_response(false);
    refusal.expect_refusal(503, "shutting_down");
    assert!(refusal.header("retry-after").is_some());
    assert_eq!(late.take_all(), Ok(Vec::new()));
    assert!(matches!(plain.told(), Told::Refused(RefusalKind::ShuttingDown)));
}

#[test]
fn a_client_that_leaves_ends_its_connection() {
    let plain = Plain::start(Setup { bounds: bounds(), ..Setup::default() });
    let client = Client::raw(plain.address());
    drop(client);
    assert!(matches!(plain.told(), Told::Over));
    let mut client = Client::raw(plain.address());
    client.send_bytes(PAGE);
    client.reset();
    assert!(matches!(plain.told(), Told::Over));
}
