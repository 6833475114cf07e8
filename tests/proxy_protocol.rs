//! A PROXY protocol header of version 2 names the client of a trusted proxy's connection; a bad one
//! is refused, and one from anybody else.

mod support;

use support::{Client, Response, Server, upgrade_request};

/// Trusted.
const PROXY: [u8; 4] = [127, 0, 0, 2];
/// Not trusted.
const STRANGER: [u8; 4] = [127, 0, 1, 1];
const PAGE: &[u8] = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Command and family.
const PROXY_TCP4: [u8; 2] = [0x21, 0x11];
const PROXY_TCP6: [u8; 2] = [0x21, 0x21];
const PROXY_UNSPEC: [u8; 2] = [0x21, 0];
const LOCAL: [u8; 2] = [0x20, 0];

/// A header of these parts.
fn header(kind: [u8; 2], behind: &[u8]) -> Vec<u8> {
    let length = u16::try_from(behind.len()).expect("a header's length").to_be_bytes();
    [&SIGNATURE[..], &kind, &length, behind].concat()
}

/// Source, destination, their ports.
fn v4(source: [u8; 4]) -> Vec<u8> {
    [&source[..], &[127, 0, 0, 1], &4711_u16.to_be_bytes(), &8000_u16.to_be_bytes()].concat()
}

fn v6(last: u8) -> Vec<u8> {
    let mut addresses = vec![0; 36];
    addresses[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    addresses[15] = last;
    addresses
}

/// A server that trusts `PROXY`, with at most so many connections an address.
fn start(per_address: usize) -> Server {
    start_with(&["--set", &format!("limits.connections_per_address={per_address}")])
}

fn start_with(more: &[&str]) -> Server {
    let sets = ["--set", "server.trusted_proxies=127.0.0.2", "--set", "server.proxy_protocol=true"];
    let log = ["--set", "log.level=debug"];
    Server::start(&[&["--shards", "2"], &sets[..], &log[..], more].concat())
}

/// Asks for a room behind this header.
#[track_caller]
fn ask(server: &Server, header: &[u8], room: &str) -> (Client, Response) {
    let mut client = Client::raw_from(PROXY, server.address());
    let request = upgrade_request(&format!("/ws/{room}/ann"), &[]);
    client.send_bytes(&[header, &request].concat());
    let answer = client.recv_response(false);
    (client, answer)
}

#[test]
fn the_header_names_the_client_that_is_counted() {
    let server = start(1);
    let mut clients = Vec::new();
    for n in 0..8 {
        for header in [header(PROXY_TCP4, &v4([192, 0, 2, n])), header(PROXY_TCP6, &v6(n))] {
            // In several rooms, so that some of them move to another shard with their count.
            let (client, answer) = ask(&server, &header, &format!("room{}", clients.len()));
            assert_eq!(answer.status, 101);
            clients.push(client);
            let (_, answer) = ask(&server, &header, "more");
            answer.expect_refusal(429, "too_many_connections");
        }
    }
    let line = server.wait_log("client=192.0.2.7");
    assert!(line.contains("opened"), "{line}");
    drop(clients);
    server.wait_counter("connections", |connections| connections == 0);
    let (_client, answer) = ask(&server, &header(PROXY_TCP4, &v4([192, 0, 2, 1])), "room");
    assert_eq!(answer.status, 101, "its place is free again");
}

#[test]
fn a_client_is_refused_with_its_header_and_need_not_ask_first() {
    let server = start(1);
    let header = header(PROXY_TCP4, &v4([192, 0, 2, 1]));
    let (_first, answer) = ask(&server, &header, "room");
    assert_eq!(answer.status, 101);
    let mut silent = Client::raw_from(PROXY, server.address());
    silent.send_bytes(&header);
    silent.recv_response(false).expect_refusal(429, "too_many_connections");
}

#[test]
fn header_and_request_may_come_in_single_bytes() {
    let server = start(1);
    for n in 0..4 {
        let header = header(PROXY_TCP4, &v4([192, 0, 2, n]));
        let request = upgrade_request(&format!("/ws/room{n}/ann"), &[]);
        let mut client = Client::raw_from(PROXY, server.address());
        for byte in [&header[..], &request].concat() {
            client.send_bytes(&[byte]);
        }
        assert_eq!(client.recv_response(false).status, 101);
        client.recv_type("joined");
        let (_, answer) = ask(&server, &header, "room");
        answer.expect_refusal(429, "too_many_connections");
        client.close();
    }
}

#[test]
fn what_follows_the_addresses_is_skipped() {
    let server = start(1);
    let tlvs = [&[2, 0, 11][..], b"example.org", &[4, 0, 3, 1, 2, 3], &[0; 3000]].concat();
    let header = header(PROXY_TCP4, &[v4([192, 0, 2, 1]), tlvs].concat());
    let (_first, answer) = ask(&server, &header, "room");
    assert_eq!(answer.status, 101);
    let (_, answer) = ask(&server, &header, "room");
    answer.expect_refusal(429, "too_many_connections");
}

#[test]
fn a_proxy_that_speaks_for_itself_is_served() {
    let server = start(1);
    for header in
        [header(LOCAL, &[]), header(LOCAL, &v4([192, 0, 2, 1])), header(PROXY_UNSPEC, &[])]
    {
        let mut check = Client::raw_from(PROXY, server.address());
        check.send_bytes(&[&header[..], PAGE].concat());
        assert_eq!(check.recv_response(false).status, 200);
        let (client, answer) = ask(&server, &header, "room");
        assert_eq!(answer.status, 101);
        client.reset();
        server.wait_counter("connections", |connections| connections == 0);
    }
}

#[test]
fn an_upgrade_on_a_kept_connection_is_counted_for_the_client_of_its_header() {
    let server = start(1);
    let header = header(PROXY_TCP4, &v4([192, 0, 2, 1]));
    let mut kept = Client::raw_from(PROXY, server.address());
    kept.send_bytes(&[&header[..], PAGE].concat());
    assert_eq!(kept.recv_response(false).status, 200);
    let (first, answer) = ask(&server, &header, "room");
    assert_eq!(answer.status, 101);
    // The client is no proxy of ours: what it forwards changes nothing.
    let forged = upgrade_request("/ws/room/bob", &[("X-Forwarded-For", "192.0.2.9")]);
    kept.send_bytes(&forged);
    kept.recv_response(false).expect_refusal(429, "too_many_connections");
    first.reset();
    server.wait_counter("connections", |connections| connections == 0);
    kept.send_bytes(&forged);
    assert_eq!(kept.recv_response(false).status, 101);
    let (_, answer) = ask(&server, &header, "room");
    answer.expect_refusal(429, "too_many_connections");
}

#[test]
fn a_header_that_is_malformed_or_missing_is_refused_and_counted() {
    let server = start(100);
    let mut wrong_version = header(PROXY_TCP4, &v4([192, 0, 2, 1]));
    wrong_version[12] = 0x11;
    let wrong: [&[u8]; 6] = [
        &upgrade_request("/ws/room/ann", &[]),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 8000\r\n",
        &wrong_version,
        &header([0x2f, 0x11], &v4([192, 0, 2, 1])),
        &header(PROXY_TCP4, &[192, 0, 2, 1]),
        &header(PROXY_TCP4, &[0; 5000]),
    ];
    for (count, bytes) in (1..).zip(wrong) {
        let mut client = Client::raw_from(PROXY, server.address());
        client.send_bytes(bytes);
        let answer = client.recv_response(false);
        answer.expect_refusal(400, "bad_proxy_header");
        assert!(answer.text().contains("server.proxy_protocol"), "{}", answer.text());
        server.wait_refused("bad_proxy_header", count);
    }
    assert_eq!(server.counter("upgraded"), 0);
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for_beyond_the_handshakes_time() {
    let server = start_with(&["--set", "handshake.timeout=400ms"]);
    let mut client = Client::raw_from(PROXY, server.address());
    client.send_bytes(&SIGNATURE[..5]);
    client.recv_response(false).expect_refusal(408, "handshake_timeout");
}

#[test]
fn from_an_untrusted_address_a_header_is_refused_and_nothing_of_it_believed() {
    let server = start(1);
    let header = header(PROXY_TCP4, &v4([192, 0, 2, 1]));
    for (count, cut) in (1..).zip([header.len(), 5]) {
        let mut client = Client::raw_from(STRANGER, server.address());
        client.send_bytes(&header[..cut]);
        let answer = client.recv_response(false);
        answer.expect_refusal(400, "bad_proxy_header");
        assert!(answer.text().contains("server.trusted_proxies"), "{}", answer.text());
        server.wait_refused("bad_proxy_header", count);
        drop(client);
        server.wait_counter("connections", |connections| connections == 0);
    }
    let mut plain = Client::raw_from(STRANGER, server.address());
    assert_eq!(plain.upgrade("/ws/room/ann", &[]).status, 101, "without one it is served");
    let answer = Client::raw_from(STRANGER, server.address()).recv_response(false);
    answer.expect_refusal(429, "too_many_connections");
}

#[test]
fn where_no_header_is_awaited_none_is_taken() {
    let server = Server::start(&["--set", "server.trusted_proxies=127.0.0.2"]);
    let header = header(PROXY_TCP4, &v4([192, 0, 2, 1]));
    let (_, answer) = ask(&server, &header, "room");
    answer.expect_refusal(400, "bad_proxy_header");
}

#[test]
fn where_the_header_names_another_trusted_proxy_what_that_forwards_counts() {
    let server = start(1);
    let header = header(PROXY_TCP4, &v4(PROXY));
    let ask = |forwarded: &str| {
        let mut client = Client::raw_from(PROXY, server.address());
        let request = upgrade_request("/ws/room/ann", &[("X-Forwarded-For", forwarded)]);
        client.send_bytes(&[&header[..], &request].concat());
        let answer = client.recv_response(false);
        (client, answer)
    };
    let (_one, answer) = ask("192.0.2.1");
    assert_eq!(answer.status, 101);
    let (_other, answer) = ask("192.0.2.1, 192.0.2.2");
    assert_eq!(answer.status, 101);
    let (_, answer) = ask("192.0.2.1, 127.0.0.2");
    answer.expect_refusal(429, "too_many_connections");
}
