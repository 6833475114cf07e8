//! A server whose broker is not there serves its rooms, and says what it lacks.

mod support;

use std::net::TcpListener;

use serde_json::{Value, json};
use support::{Client, DEADLINE, Server, eventually, get};

/// A port where nobody listens.
fn nobody() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

fn start(port: u16, more: &[&str]) -> Server {
    let url = format!("broker.url=redis://ann:opensesame@127.0.0.1:{port}");
    Server::start(&[&["--set", &url], more].concat())
}

fn broker(server: &Server) -> Value {
    server.health()["dependencies"]["broker"].clone()
}

#[test]
fn rooms_go_on_and_health_is_degraded() {
    let port = nobody();
    let server = start(port, &[]);
    let (mut ann, _) = Client::join(server.address(), "room", "ann");
    let (mut bob, _) = Client::join(server.address(), "room", "bob");
    bob.send_json(&json!({ "content": "here" }));
    ann.recv_content("here");
    eventually(DEADLINE, "an error is shown", || broker(&server)["last_error"].is_string());
    let health = get(server.address(), "/health");
    let view = health.json();
    assert_eq!((health.status, view["status"].as_str()), (200, Some("degraded")));
    assert_eq!(view["dependencies"]["broker"]["state"], "open");
    assert!(view["dependencies"]["broker"].get("last_error").is_none());
    let seen = broker(&server);
    assert!(seen["last_error"].as_str().unwrap().contains(&port.to_string()), "{seen}");
    assert_eq!((&seen["kind"], &seen["dropped"]), (&json!("redis"), &json!(1)));
    assert_eq!(get(server.admin(), "/ready").status, 200);
    let line = server.wait_log("no broker");
    assert!(line.contains("ann:***@127.0.0.1"), "{line}");
    assert!(!server.log().join("\n").contains("opensesame"));
}

#[test]
fn a_required_broker_makes_unhealthy_and_not_ready() {
    let server = start(nobody(), &["--set", "broker.required=true"]);
    for address in [server.address(), server.admin()] {
        let health = get(address, "/health");
        assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("unhealthy")));
    }
    let ready = get(server.admin(), "/ready");
    assert_eq!((ready.status, ready.json()), (503, json!({ "ready": false, "reason": "broker" })));
}

#[test]
fn an_ordered_room_refuses_what_nobody_would_hear() {
    let server = start(nobody(), &["--set", "broker.delivery=ordered"]);
    let (mut ann, _) = Client::join(server.address(), "room", "ann");
    ann.send_json(&json!({ "content": "unheard", "ref": "1" }));
    let error = ann.recv_type("error");
    assert_eq!((&error["code"], &error["ref"]), (&json!("unavailable"), &json!("1")));
    eventually(DEADLINE, "it is counted", || broker(&server)["rejected"] == 1);
}
