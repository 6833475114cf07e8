//! What does not fit the queue to a broker that hangs is refused, or stays on its box; by count and
//! by bytes.
//!
//! Not part of `cargo test`: `cargo test --test broker_overflow`. Wants Debian's `redis-server`.
#![cfg(feature = "redis")]

#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "support/brokers/redis.rs"]
mod servers;
mod support;

use serde_json::{Value, json};
use servers::Redis;
use support::{Client, DEADLINE, Server, eventually};

/// Messages said while the broker hangs: far more than any of the queues holds.
const SAID: u64 = 200;

fn broker(server: &Server, name: &str) -> Value {
    server.health()["dependencies"]["broker"][name].clone()
}

/// A server whose broker has begun to hang a moment ago.
fn hanging(settings: &[&str]) -> (Redis, Server) {
    let redis = Redis::start();
    let url = format!("broker.url={}", redis.url());
    let mut arguments = vec!["--shards", "1", "--set", &url];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    let server = Server::start(&arguments);
    eventually(DEADLINE, "the breaker is closed", || broker(&server, "state") == "closed");
    redis.pause();
    (redis, server)
}

/// Says it all at once; how many came back to the speaker, and how many were refused.
fn speak(server: &Server, content: &str) -> (u64, u64) {
    let (mut ann, _) = Client::join(server.address(), "room", "ann");
    for _ in 0..SAID {
        ann.send_json(&json!({ "content": content }));
    }
    let (mut heard, mut refused) = (0, 0);
    while heard + refused < SAID {
        let message = ann.recv_json();
        match message["code"].as_str() {
            Some("unavailable") => refused += 1,
            Some(other) => panic!("{other}: {message}"),
            None if message["content"] == content => heard += 1,
            None => {}
        }
    }
    (heard, refused)
}

#[test]
fn too_many_messages_are_refused() {
    let (redis, server) = hanging(&["broker.queue_messages=64"]);
    let (heard, refused) = speak(&server, "short");
    assert!(refused > 0 && heard >= 64, "{heard} heard, {refused} refused");
    assert_eq!(broker(&server, "rejected"), refused);
    redis.resume();
}

#[test]
fn too_many_bytes_are_refused() {
    // Nobody reads before all is said: the speaker's own queue has to hold it.
    let (redis, server) = hanging(&["broker.queue_bytes=64KiB", "client.queue_bytes=16MiB"]);
    let (heard, refused) = speak(&server, &"x".repeat(16 << 10));
    assert!(refused > 0 && heard >= 4, "{heard} heard, {refused} refused");
    redis.resume();
}

#[test]
fn what_is_dropped_is_heard_here_and_counted() {
    let (redis, server) = hanging(&["broker.queue_messages=64", "broker.overflow=drop"]);
    assert_eq!(speak(&server, "short"), (SAID, 0));
    let dropped = || broker(&server, "dropped").as_u64();
    eventually(DEADLINE, "they are counted", || dropped().is_some_and(|dropped| dropped > 0));
    assert_eq!(broker(&server, "rejected"), 0);
    redis.resume();
}
