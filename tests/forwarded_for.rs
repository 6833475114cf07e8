//! `X-Forwarded-For` names the client where a trusted proxy sends it, and nobody where anyone else
//! does.

mod support;

use support::{Client, DEADLINE, Response, Server, eventually, upgrade_request};

/// Trusted.
const PROXY: [u8; 4] = [127, 0, 0, 2];
/// Not trusted.
const STRANGER: [u8; 4] = [127, 0, 1, 1];
const PAGE: &[u8] = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server that trusts `PROXY`, with at most so many connections an address.
fn start(per_address: usize) -> Server {
    let limit = format!("limits.connections_per_address={per_address}");
    let trusted = "server.trusted_proxies=127.0.0.2, 10.0.0.0/8";
    let sets = ["--set", limit.as_str(), "--set", trusted, "--set", "log.level=debug"];
    Server::start(&[&["--shards", "2"], &sets[..]].concat())
}

/// Asks for a room from this address, forwarded for those; the answer, with what it came on.
#[track_caller]
fn ask(server: &Server, from: [u8; 4], room: &str, forwarded: &[&str]) -> (Client, Response) {
    let fields: Vec<_> = forwarded.iter().map(|value| ("X-Forwarded-For", *value)).collect();
    let mut client = Client::raw_from(from, server.address());
    let answer = client.upgrade(&format!("/ws/{room}/ann"), &fields);
    (client, answer)
}

#[test]
fn each_client_behind_a_trusted_proxy_has_its_own_count() {
    let server = start(2);
    // In several rooms, so that some of them move to another shard with their count.
    let mut clients = Vec::new();
    for n in 0..10 {
        let address = format!("192.0.2.{n}");
        for tab in 0..2 {
            let (client, answer) = ask(&server, PROXY, &format!("room{n}{tab}"), &[&address]);
            assert_eq!(answer.status, 101, "{address}");
            clients.push(client);
        }
        let (_, answer) = ask(&server, PROXY, "more", &[&address]);
        answer.expect_refusal(429, "too_many_connections");
        server.wait_refused("too_many_connections", n + 1);
    }
    drop(clients);
    server.wait_counter("connections", |connections| connections == 0);
    let (_client, answer) = ask(&server, PROXY, "room", &["192.0.2.0"]);
    assert_eq!(answer.status, 101, "its places are free again");
}

#[test]
fn what_an_untrusted_address_forwards_changes_nothing() {
    let server = start(1);
    let (_first, answer) = ask(&server, STRANGER, "room", &["192.0.2.1"]);
    assert_eq!(answer.status, 101);
    for forged in ["192.0.2.2", "10.0.0.1, 192.0.2.3", "127.0.0.2"] {
        // Counted at accept: it is refused before it has said anything.
        let answer = Client::raw_from(STRANGER, server.address()).recv_response(false);
        answer.expect_refusal(429, "too_many_connections");
        let mut other = Client::raw_from([127, 0, 1, 2], server.address());
        let answer = other.upgrade("/ws/room/bob", &[("X-Forwarded-For", forged)]);
        assert_eq!(answer.status, 101, "{forged}");
        other.close();
        server.wait_counter("connections", |connections| connections == 1);
    }
    let (_its, answer) = ask(&server, PROXY, "room", &["192.0.2.1"]);
    assert_eq!(answer.status, 101, "a forged address takes nobody's place");
}

#[test]
fn a_client_that_forges_behind_a_trusted_proxy_is_known_by_what_the_proxy_wrote() {
    let server = start(1);
    let (_first, answer) = ask(&server, PROXY, "room", &["198.51.100.1, 192.0.2.1"]);
    assert_eq!(answer.status, 101);
    for forged in [
        &["198.51.100.2, 192.0.2.1"][..],
        &["198.51.100.3", "192.0.2.1"],
        &["10.0.0.9, 192.0.2.1, 10.0.0.1"],
        &["nonsense, 192.0.2.1"],
    ] {
        let (_, answer) = ask(&server, PROXY, "room", forged);
        answer.expect_refusal(429, "too_many_connections");
    }
    let (_other, answer) = ask(&server, PROXY, "room", &["192.0.2.1, 198.51.100.1"]);
    assert_eq!(answer.status, 101, "nobody was counted under what a client wrote");
}

#[test]
fn without_a_word_about_its_client_a_proxy_is_the_client() {
    let server = start(1);
    let (_first, answer) = ask(&server, PROXY, "room", &[]);
    assert_eq!(answer.status, 101);
    for forwarded in [&[][..], &["unknown"], &["192.0.2.1, _hidden"], &[""]] {
        let (_, answer) = ask(&server, PROXY, "room", forwarded);
        answer.expect_refusal(429, "too_many_connections");
    }
}

#[test]
fn an_upgrade_on_a_kept_connection_is_counted_for_its_own_client() {
    let server = start(1);
    let upgrade = |client: &mut Client, forwarded: &str| {
        let path = "/ws/room/ann";
        client.send_bytes(&upgrade_request(path, &[("X-Forwarded-For", forwarded)]));
        client.recv_response(false)
    };
    let kept = || {
        let mut client = Client::raw_from(PROXY, server.address());
        let other = b"GET /health HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n";
        for page in [PAGE, other] {
            client.send_bytes(page);
            assert_eq!(client.recv_response(false).status, 200);
        }
        client
    };
    let mut first = kept();
    assert_eq!(upgrade(&mut first, "192.0.2.1").status, 101);
    let mut second = kept();
    upgrade(&mut second, "192.0.2.1").expect_refusal(429, "too_many_connections");
    assert_eq!(
        upgrade(&mut second, "192.0.2.2").status,
        101,
        "the same connection, another client"
    );
    let (_, answer) = ask(&server, PROXY, "room", &["192.0.2.2"]);
    answer.expect_refusal(429, "too_many_connections");
    first.recv_type("joined");
    first.close();
    eventually(DEADLINE, "its place is free again", || {
        upgrade(&mut kept(), "192.0.2.1").status == 101
    });
}

#[test]
fn what_a_proxy_keeps_open_for_plain_requests_counts_for_nobody() {
    let server = start(1);
    let mut kept: Vec<_> = (0..5).map(|_| Client::raw_from(PROXY, server.address())).collect();
    for client in &mut kept {
        client.send_bytes(PAGE);
        assert_eq!(client.recv_response(false).status, 200);
    }
    let (_client, answer) = ask(&server, PROXY, "room", &[]);
    assert_eq!(answer.status, 101);
}

#[test]
fn where_no_proxy_is_trusted_the_peer_is_the_client() {
    let sets = ["--set", "limits.connections_per_address=1"];
    let server = Server::start(&sets);
    let (_first, answer) = ask(&server, PROXY, "room", &["192.0.2.1"]);
    assert_eq!(answer.status, 101);
    let answer = Client::raw_from(PROXY, server.address()).recv_response(false);
    answer.expect_refusal(429, "too_many_connections");
}

#[test]
fn the_log_shows_the_client_and_not_the_proxy() {
    let server = start(1);
    let (_client, answer) = ask(&server, PROXY, "room", &["192.0.2.77"]);
    assert_eq!(answer.status, 101);
    let line = server.wait_log("opened");
    assert!(line.contains("client=192.0.2.77"), "{line}");
    let (_, answer) = ask(&server, PROXY, "room", &["192.0.2.77"]);
    assert_eq!(answer.status, 429);
    let line = server.wait_log("refused shard");
    assert!(line.contains("client="), "{line}");
}
