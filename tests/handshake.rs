//! What browsers and libraries send is upgraded, however it is cut; no byte behind it is lost.

mod support;

use std::net::SocketAddr;

use support::{Bystander, Client, Frame, Server, encode, opcode, upgrade_request};

/// Rooms enough for both of two shards to be the home of some, and to accept for some: one in 2^31
/// runs finds otherwise.
const ROOMS: usize = 32;

fn two_shards() -> Server {
    Server::start(&["--shards", "2"])
}

/// Takes the 101, and what the room says to a newcomer.
#[track_caller]
fn expect_in_room(client: &mut Client, user: &str) {
    assert_eq!(client.recv_response(false).status, 101);
    assert_eq!(client.recv_json()["type"], "joined");
    client.recv_content(format!("{user} has joined the room"));
}

#[test]
fn what_a_browser_sends_is_upgraded_and_nothing_is_promised_that_was_not_asked() {
    let server = Server::start(&[]);
    let browser = "GET /ws/lobby/ann HTTP/1.1\r\n\
        Host: 127.0.0.1:8000\r\n\
        Connection: keep-alive, Upgrade\r\n\
        Pragma: no-cache\r\n\
        Cache-Control: no-cache\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) \u{fc}\r\n\
        Upgrade: WebSocket\r\n\
        Origin: http://127.0.0.1:8000\r\n\
        Sec-WebSocket-Version: 13\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\n\
        Accept-Language: de,en;q=0.9\r\n\
        Cookie: a=b; c=d\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let mut client = Client::raw(server.address());
    client.send_bytes(browser.as_bytes());
    let answer = client.recv_response(false);
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection"), Some("Upgrade"));
    assert_eq!(answer.header("sec-websocket-extensions"), None);
    assert_eq!(answer.header("sec-websocket-protocol"), None);
    assert_eq!(client.recv_json()["type"], "joined");
    server.wait_counter("upgraded", |count| count == 1);
    assert_eq!(server.counter("websockets"), 1);
    client.close();
    server.wait_counter("websockets", |count| count == 0);
}

#[test]
fn names_of_headers_have_no_case_and_values_may_be_lists() {
    let server = Server::start(&[]);
    for headers in [
        "host: a\r\nUPGRADE: websocket\r\nconnection: upgrade\r\n",
        "Host: a:80\r\nUpgrade: h2c, websocket\r\nConnection: keep-alive\r\n\
         Connection: UPGRADE\r\n",
        "Host: [::1]:8000\r\nUpgrade: websocket\r\nConnection: ,, Upgrade ,\r\n\
         Content-Length: 0\r\n",
        "Host:\r\nUpgrade:\twebsocket \r\nConnection:Upgrade\r\n",
    ] {
        let request = format!(
            "GET /echo HTTP/1.1\r\n{headers}sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             SEC-WEBSOCKET-VERSION: 13\r\n\r\n"
        );
        let mut client = Client::raw(server.address());
        client.send_bytes(request.as_bytes());
        assert_eq!(client.recv_response(false).status, 101, "{headers:?}");
        client.send_text("hello");
        assert_eq!(client.recv().text(), "hello");
    }
    server.wait_counter("upgraded", |count| count == 4);
}

#[test]
fn the_first_known_subprotocol_is_chosen_and_none_where_none_is_known() {
    let server = Server::start(&[]);
    for (offered, chosen) in [
        ("ringhall.json", Some("ringhall.json")),
        ("ringhall.raw", Some("ringhall.raw")),
        ("chat, ringhall.raw, ringhall.json", Some("ringhall.raw")),
        ("ringhall.json,ringhall.raw", Some("ringhall.json")),
        ("chat, Ringhall.Raw", None),
    ] {
        let mut client = Client::raw(server.address());
        let answer = client.upgrade("/ws/lobby/ann", &[("Sec-WebSocket-Protocol", offered)]);
        assert_eq!(answer.status, 101, "{offered}");
        assert_eq!(answer.header("sec-websocket-protocol"), chosen, "{offered}");
    }
    // Spread over two header lines, as RFC 6455 section 11.3.4 allows.
    let mut client = Client::raw(server.address());
    let lines = [("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Protocol", "ringhall.json")];
    let answer = client.upgrade("/ws/lobby/ann", &lines);
    assert_eq!(answer.header("sec-websocket-protocol"), Some("ringhall.json"));
}

#[test]
fn room_and_user_are_percent_decoded_once() {
    let server = Server::start(&[]);
    let long = "\u{fc}".repeat(64);
    for (path, room, user) in [
        ("/ws/a%20room/J%C3%BCrgen", "a room", "J\u{fc}rgen"),
        ("/ws/a%2Fb/c%2fd", "a/b", "c/d"),
        ("/ws/%2541/x", "%41", "x"),
        ("/ws/../..", "..", ".."),
        ("/ws/a+b/c+d?", "a+b", "c+d"),
        ("/ws/System/SYSTEM?other=1&echo=true", "System", "SYSTEM"),
        (&format!("/ws/{long}/{}", "%C3%BC".repeat(64)), &long, &long),
        ("http://ringhall.test/ws/absolute/form", "absolute", "form"),
    ] {
        let mut client = Client::connect(server.address(), path);
        assert_eq!(client.recv_json()["room"], room, "{path}");
        let announced = client.recv_content(format!("{user} has joined the room"));
        assert_eq!(announced["sender"], "system");
        client.send_json(&serde_json::json!({ "content": 1 }));
        assert_eq!(client.recv_json()["sender"], user, "{path}");
    }
}

#[test]
fn a_head_in_single_bytes_is_a_head() {
    let server = two_shards();
    let mut bystander = Bystander::join(server.address(), "lobby");
    let mut request = upgrade_request("/ws/lobby/slow", &[("X-Long", &"x".repeat(300))]);
    // An empty line before the request line is allowed, and the first frame follows at once.
    request.splice(0..0, *b"\r\n");
    request.extend(encode(true, 0, opcode::TEXT, true, br#"{"content":"first"}"#));
    let mut client = Client::raw(server.address());
    for byte in &request {
        client.send_bytes(std::slice::from_ref(byte));
    }
    expect_in_room(&mut client, "slow");
    assert_eq!(client.recv_json()["content"], "first");
    client.close();
    assert_eq!(bystander.heard_until_left("slow")[0]["content"], "first");
}

#[test]
fn frames_behind_the_head_in_one_segment_are_the_first_messages() {
    let server = two_shards();
    for room in 0..ROOMS {
        let mut bytes = upgrade_request(&format!("/ws/room{room}/ann"), &[]);
        for n in 0..3 {
            let text = format!("{{\"content\":{n}}}");
            bytes.extend(encode(true, 0, opcode::TEXT, true, text.as_bytes()));
        }
        let mut client = Client::raw(server.address());
        client.send_bytes(&bytes);
        expect_in_room(&mut client, "ann");
        for n in 0..3 {
            let said = client.recv_json();
            assert_eq!((&said["content"], &said["offset"]), (&n.into(), &(n + 1).into()));
        }
    }
    let mut bytes = upgrade_request("/echo", &[]);
    bytes.extend(encode(true, 0, opcode::BINARY, true, &[7; 3000]));
    bytes.extend(encode(true, 0, opcode::PING, true, b"p"));
    let mut client = Client::raw(server.address());
    client.send_bytes(&bytes);
    assert_eq!(client.recv_response(false).status, 101);
    assert_eq!(client.recv(), Frame::new(opcode::BINARY, [7; 3000]));
    assert_eq!(client.recv(), Frame::new(opcode::PONG, *b"p"));
    assert!(server.counter("departed") > 0, "some rooms have their home on the other shard");
    assert_eq!(server.counter("departed"), server.counter("arrived"));
}

#[test]
fn a_frame_cut_behind_the_head_is_put_together() {
    let server = two_shards();
    let said = encode(true, 0, opcode::TEXT, true, br#"{"content":"in two pieces"}"#);
    for cut in 1..said.len() {
        let room = format!("room{cut}");
        let mut head = upgrade_request(&format!("/ws/{room}/ann"), &[]);
        head.extend(&said[..cut]);
        let mut client = Client::raw(server.address());
        client.send_bytes(&head);
        expect_in_room(&mut client, "ann");
        client.send_bytes(&said[cut..]);
        assert_eq!(client.recv_json()["content"], "in two pieces", "{cut}");
    }
    assert!(server.counter("departed") > 0, "some rooms have their home on the other shard");
}

#[test]
fn a_large_message_behind_the_head_is_not_lost_on_the_way_to_another_shard() {
    let server = two_shards();
    let content = "x".repeat(60_000);
    for room in 0..ROOMS {
        let mut bytes = upgrade_request(&format!("/ws/room{room}/ann"), &[]);
        let text = format!("{{\"content\":\"{content}\"}}");
        bytes.extend(encode(true, 0, opcode::TEXT, true, text.as_bytes()));
        bytes.extend(encode(true, 0, opcode::TEXT, true, br#"{"content":"next"}"#));
        let mut client = Client::raw(server.address());
        client.send_bytes(&bytes);
        expect_in_room(&mut client, "ann");
        assert_eq!(client.recv_json()["content"], content);
        assert_eq!(client.recv_json()["content"], "next");
    }
    assert!(server.counter("departed") > 0, "some rooms have their home on the other shard");
}

#[test]
fn half_open_handshakes_hold_up_nobody_and_cost_no_websocket() {
    let server = Server::start(&["--set", "handshake.timeout=600s"]);
    let half_open = |address: SocketAddr| {
        let mut client = Client::raw(address);
        client.send_bytes(b"GET /ws/lobby/half HTTP/1.1\r\nHost: a\r\n");
        client
    };
    let held: Vec<_> = (0..500).map(|_| half_open(server.address())).collect();
    let mut bystander = Bystander::join(server.address(), "lobby");
    let (mut ann, _) = Client::join(server.address(), "lobby", "ann");
    ann.send_json(&serde_json::json!({ "content": "among them" }));
    ann.recv_content("among them");
    assert_eq!(bystander.heard().last().expect("a message")["content"], "among them");
    server.wait_counter("accepted", |count| count == 502);
    assert_eq!(server.counter("websockets"), 2);
    drop(held);
    server.wait_counter("connections", |count| count == 2);
    server.wait_closed("peer_gone", 500);
}
