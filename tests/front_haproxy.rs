//! HAProxy in front, from the shipped files: it starts, balances as it says, asks `/ready`,
//! survives a box, and tells who its clients are.
//!
//! Wants Debian's `haproxy`, which `tests/run` installs; plain `cargo test` leaves it out.

#[path = "front/mod.rs"]
mod front;
mod support;

use front::{Kind, Proxy, boxes};
use support::{Client, DEADLINE, eventually};

const PROXY_PROTOCOL: [&str; 2] = ["--set", "server.proxy_protocol=true"];

#[test]
fn every_shipped_configuration_starts_and_serves() {
    front::check_every_configuration(Kind::Haproxy);
}

#[test]
fn round_robin_gives_each_box_the_same() {
    front::check_round_robin(Kind::Haproxy);
}

#[test]
fn least_connections_fills_the_box_that_has_fewest() {
    front::check_least_connections(Kind::Haproxy);
}

#[test]
fn source_hash_keeps_an_address_on_one_box() {
    front::check_source_hash(Kind::Haproxy);
}

#[test]
fn room_hash_keeps_a_room_on_one_box() {
    front::check_room_hash(Kind::Haproxy, "room_hash", &[]);
    front::check_room_hash(Kind::Haproxy, "room_hash_proxy_v2", &PROXY_PROTOCOL);
}

#[test]
fn a_killed_boxs_clients_are_back_soon_and_nobody_else_notices() {
    front::check_failover(Kind::Haproxy);
}

#[test]
fn connections_to_a_box_leave_from_several_addresses() {
    front::check_sources(Kind::Haproxy, &[11, 12].map(|last| [127, 0, 0, last]));
}

#[test]
fn its_timeout_is_longer_than_the_heartbeat() {
    front::check_timeouts(Kind::Haproxy, &["timeout tunnel"]);
}

#[test]
fn an_addresss_limit_counts_clients() {
    front::check_addresses(Kind::Haproxy, "room_hash", &[]);
}

#[test]
fn an_addresss_limit_counts_clients_by_the_proxy_protocol() {
    front::check_addresses(Kind::Haproxy, "room_hash_proxy_v2", &PROXY_PROTOCOL);
}

#[test]
fn who_is_not_the_balancer_is_not_believed() {
    front::check_nobody_else_is_believed(Kind::Haproxy);
}

#[test]
fn a_box_that_is_not_ready_gets_no_newcomers_and_keeps_its_members() {
    let mut servers = boxes(&[]);
    servers[1] = boxes(&["--set", "limits.connections_max=4"]).swap_remove(0);
    let proxy = Proxy::start(Kind::Haproxy, "round_robin", &servers);
    let mut clients: Vec<_> = (0..12).map(|_| Client::connect(proxy.address(), "/echo")).collect();
    assert_eq!(front::spread(&servers), [4, 4, 4], "the second is full now");
    // Until the check has seen it, a newcomer may be sent there, and refused.
    eventually(DEADLINE, "nobody is sent to the full box", || {
        let mut newcomers: Vec<_> = (0..6).map(|_| Client::raw(proxy.address())).collect();
        newcomers.iter_mut().all(|client| client.upgrade("/echo", &[]).status == 101)
    });
    for client in &mut clients {
        client.send_text("still here");
        assert_eq!(client.recv().text(), "still here");
    }
}
