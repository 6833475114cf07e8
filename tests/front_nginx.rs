//! nginx in front, from the shipped files: it starts, balances as it says, survives a box, and
//! tells who its clients are.
//!
//! Wants Debian's `nginx-light`, which `tests/run` installs; plain `cargo test` leaves it out.

#[path = "front/mod.rs"]
mod front;
mod support;

use front::{Kind, Proxy, boxes};
use support::{Client, upgrade_request};

#[test]
fn every_shipped_configuration_starts_and_serves() {
    front::check_every_configuration(Kind::Nginx);
}

#[test]
fn round_robin_gives_each_box_the_same() {
    front::check_round_robin(Kind::Nginx);
}

#[test]
fn least_connections_fills_the_box_that_has_fewest() {
    front::check_least_connections(Kind::Nginx);
}

#[test]
fn source_hash_keeps_an_address_on_one_box() {
    front::check_source_hash(Kind::Nginx);
}

#[test]
fn room_hash_keeps_a_room_on_one_box() {
    front::check_room_hash(Kind::Nginx, "room_hash", &[]);
}

#[test]
fn a_killed_boxs_clients_are_back_soon_and_nobody_else_notices() {
    let refused = front::check_failover(Kind::Nginx);
    assert_eq!(refused, 0, "nginx tries the next box before the client knows");
}

#[test]
fn connections_to_a_box_leave_from_several_addresses() {
    let addresses = [11, 12, 13, 14].map(|last| [127, 0, 0, last]);
    front::check_sources(Kind::Nginx, &addresses);
}

#[test]
fn its_timeouts_are_longer_than_the_heartbeat() {
    front::check_timeouts(Kind::Nginx, &["proxy_read_timeout", "proxy_send_timeout"]);
}

#[test]
fn an_addresss_limit_counts_clients() {
    front::check_addresses(Kind::Nginx, "room_hash", &[]);
}

#[test]
fn who_is_not_the_balancer_is_not_believed() {
    front::check_nobody_else_is_believed(Kind::Nginx);
}

/// A header of version 2, as a TCP balancer before nginx sends it.
fn header(source: [u8; 4]) -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&signature[..], &source, &[127, 0, 0, 1], &[0x12, 0x67, 0x1f, 0x90]].concat()
}

#[test]
fn a_client_of_a_balancer_before_nginx_is_known_by_its_proxy_header() {
    let servers = boxes(&["--set", "limits.connections_per_address=2"]);
    let proxy = Proxy::start(Kind::Nginx, "room_hash_behind_balancer", &servers);
    let ask = |client: [u8; 4]| {
        let mut connection = Client::raw_from([127, 0, 0, 5], proxy.address());
        let forged = upgrade_request("/ws/room/ann", &[("X-Forwarded-For", "198.51.100.1")]);
        connection.send_bytes(&[header(client), forged].concat());
        let answer = connection.recv_response(false);
        (connection, answer)
    };
    let mut held = Vec::new();
    for n in 1..=4 {
        for _ in 0..2 {
            let (client, answer) = ask([192, 0, 2, n]);
            assert_eq!(answer.status, 101);
            held.push(client);
        }
        let (_, answer) = ask([192, 0, 2, n]);
        answer.expect_refusal(429, "too_many_connections");
    }
}
