//! A rush of newcomers waits in a queue, no faster than `handshake.rate`: nobody is refused, and
//! the rooms go on.

mod support;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Bystander, Client, DEADLINE, Server, eventually, upgrade_request};

/// Connections a second.
const RATE: u64 = 200;
/// Who comes at once.
const NEWCOMERS: usize = 300;
/// What may come at once: a fiftieth of a second's, and one more a shard, for it is divided.
const BURST: u64 = RATE / 50 + 2;

/// Clients that have asked for their upgrade, and have no answer yet.
fn newcomers(address: SocketAddr, count: usize) -> Vec<Client> {
    let ask = |n| {
        let stream = TcpStream::connect(address).expect("the listen queue has room");
        let mut client = Client::over(stream);
        client.send_bytes(&upgrade_request(&format!("/ws/room{}/user{n}", n % 20), &[]));
        client
    };
    (0..count).map(ask).collect()
}

#[test]
fn a_rush_comes_in_at_the_rate_and_everybody_does_while_a_room_goes_on() {
    let server = Server::start(&["--shards", "2", "--set", "handshake.rate=200"]);
    let mut bystander = Bystander::join(server.address(), "talk");
    let accepted = || (Instant::now(), server.counter("accepted"), Instant::now());
    let (since, before, _) = accepted();
    let mut clients = newcomers(server.address(), NEWCOMERS);
    let mut heard = 0;
    let mut most = before;
    while most < before + NEWCOMERS as u64 {
        assert!(since.elapsed() < DEADLINE, "{most} of {NEWCOMERS} after {:?}", since.elapsed());
        bystander.heard();
        heard += 1;
        let (_, now, until) = accepted();
        // However slow this machine is, no more than this can have come since the first look.
        let passed = u64::try_from((until - since).as_millis()).expect("milliseconds");
        let may = RATE * passed / 1000 + BURST;
        assert!(now - before <= may, "{} within {passed} ms, and {may} may", now - before);
        most = now;
    }
    let least = Duration::from_millis((NEWCOMERS as u64 - BURST) * 1000 / RATE);
    assert!(since.elapsed() >= least, "{NEWCOMERS} within {:?}", since.elapsed());
    assert!(heard > 1, "the room went on meanwhile: {heard} messages");
    for client in &mut clients {
        assert_eq!(client.recv_response(false).status, 101);
    }
    assert!(server.counter("accept_paused_rate") > 0);
    for refusal in ["full", "low_memory", "handshake_timeout"] {
        assert_eq!(server.number("refused", refusal), 0, "{refusal}");
    }
    bystander.heard();
}

#[test]
fn sighup_opens_the_gate_for_whoever_waits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ringhall.toml");
    std::fs::write(&path, "[handshake]\nrate = 1\n").expect("a file");
    let config = path.to_str().expect("UTF-8");
    let server = Server::start(&["--shards", "2", "--config", config]);
    // A thousand seconds' worth, were it not for what comes.
    let mut clients = newcomers(server.address(), 1000);
    server.wait_counter("accept_paused_rate", |paused| paused > 0);
    assert!(server.counter("upgraded") < 100);
    std::fs::write(&path, "[handshake]\nrate = \"auto\"\n").expect("a file");
    server.signal(Signal::HUP);
    server.wait_log("limits reloaded");
    for client in &mut clients {
        assert_eq!(client.recv_response(false).status, 101);
    }
    // And closes it again, for those who come then.
    std::fs::write(&path, "[handshake]\nrate = 1\n").expect("a file");
    server.signal(Signal::HUP);
    let paused = server.counter("accept_paused_rate");
    eventually(DEADLINE, "newcomers wait again", || {
        clients.append(&mut newcomers(server.address(), 10));
        server.counter("accept_paused_rate") > paused
    });
}
