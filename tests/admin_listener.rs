//! The admin listener tells machines how the server is, and everything else wants the key.

#[path = "support/plain_site.rs"]
mod plain_site;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use plain_site::Picture;
use ringhall::control::health::{Readiness, State};
use ringhall::control::{ADMIN_CONNECTIONS_MAX, admin};
use support::{Client, get, http};
use tokio::sync::watch;

const READY: &str = "GET /ready HTTP/1.1\r\nHost: a\r\n\r\n";

struct Admin {
    address: SocketAddr,
    closing: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

fn start(picture: Picture, key: Option<&str>) -> Admin {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("nonblocking");
    let address = listener.local_addr().expect("an address");
    let router = admin::router(Arc::new(picture), key);
    let (closing, is_closing) = watch::channel(false);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            admin::serve(listener, router, is_closing).await;
        });
    });
    Admin { address, closing, thread }
}

#[test]
fn health_names_every_number() {
    let admin = start(Picture::default(), None);
    let health = get(admin.address, "/health");
    assert_eq!(health.status, 200);
    assert_eq!(health.header("cache-control"), Some("no-store"));
    let health = health.json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["counters"]["accepted"], 3);
    assert_eq!(health["closed"]["normal"], 1);
    assert_eq!(health["refused"]["not_found"], 1);
    assert_eq!(health["dependencies"]["shards"]["each"][0]["alive"], true);
}

#[test]
fn only_an_unhealthy_server_fails_the_check() {
    for (state, word, status) in [
        (State::Healthy, "healthy", 200),
        (State::Degraded, "degraded", 200),
        (State::Unhealthy, "unhealthy", 503),
    ] {
        let admin = start(Picture { state, ..Picture::default() }, None);
        let health = get(admin.address, "/health");
        assert_eq!((health.status, health.json()["status"].as_str()), (status, Some(word)));
    }
}

#[test]
fn readiness_tells_why_not() {
    for (ready, reason) in [
        (Readiness::Ready, None),
        (Readiness::Starting, Some("starting")),
        (Readiness::Draining, Some("draining")),
        (Readiness::Full, Some("full")),
    ] {
        let admin = start(Picture { ready, ..Picture::default() }, None);
        let answer = get(admin.address, "/ready");
        assert_eq!(answer.status, if reason.is_none() { 200 } else { 503 });
        assert_eq!(answer.json()["ready"], reason.is_none());
        assert_eq!(answer.json()["reason"].as_str(), reason);
    }
}

#[test]
fn the_key_opens_everything_else() {
    let admin = start(Picture::default(), Some("swordfish"));
    let address = admin.address;
    assert_eq!(get(address, "/health").status, 200);
    assert_eq!(get(address, "/ready").status, 200);
    let with = |authorization: &str| {
        http(address, format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{authorization}\r\n"))
    };
    for wrong in [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer swordfis\r\n",
        "Authorization: Bearer swordfish2\r\n",
        "Authorization: Basic swordfish\r\n",
        "Authorization: Bearer nope\r\nAuthorization: Bearer swordfish\r\n",
    ] {
        let answer = with(wrong);
        answer.expect_refusal(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{wrong}");
    }
    let answer = with("Authorization: Bearer swordfish\r\n");
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("ringhall_accepts_total 3\n"), "{}", answer.text());
}

#[test]
fn without_a_key_an_unknown_path_is_404_and_a_known_one_keeps_its_methods() {
    let admin = start(Picture::default(), None);
    get(admin.address, "/").expect_refusal(404, "not_found");
    let answer = http(admin.address, "POST /ready HTTP/1.1\r\nHost: a\r\n\r\n");
    answer.expect_refusal(405, "method_not_allowed");
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")));
    http(admin.address, "GET /ready HTTP/1.1\r\n\r\n").expect_refusal(400, "bad_request");
}

#[test]
fn a_malformed_head_is_refused_with_words_first_or_later() {
    let admin = start(Picture::default(), None);
    http(admin.address, "hello\r\n\r\n").expect_refusal(400, "bad_request");
    let mut client = Client::raw(admin.address);
    let many = "X: y\r\n".repeat(110);
    let heads = format!("{READY}GET /ready HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    client.send_bytes(heads.as_bytes());
    assert_eq!(client.recv_response(false).status, 200);
    client.recv_response(false).expect_refusal(431, "head_too_large");
}

#[test]
fn idle_connections_make_room_for_others() {
    let admin = start(Picture::default(), None);
    let ask = || {
        let mut client = Client::raw(admin.address);
        client.send_bytes(READY.as_bytes());
        let answer = client.recv_response(false);
        assert_eq!(answer.status, 200);
        (client, answer.header("connection") == Some("close"))
    };
    let half = ADMIN_CONNECTIONS_MAX / 2;
    let mut idle: Vec<_> = (0..half).map(|_| ask()).collect();
    assert!(idle.iter().all(|(_, is_last)| !is_last), "half of the places are for whoever comes");
    // One more makes it a crowd, until it asks: by then the idle may be gone.
    let (mut last, is_last) = ask();
    let gone = idle.iter_mut().map(|(client, _)| client);
    for client in gone.chain(is_last.then_some(&mut last)) {
        assert_eq!(client.take_all(), Ok(Vec::new()));
    }
    // Although all still hold their ends.
    let (_, is_last) = ask();
    assert!(!is_last, "there is room again");
}

#[test]
fn silent_connections_make_room_for_others() {
    let admin = start(Picture::default(), None);
    // Three times the places: with ten seconds each, nobody would wait for an answer so long.
    let silent: Vec<_> =
        (0..ADMIN_CONNECTIONS_MAX * 3).map(|_| Client::raw(admin.address)).collect();
    assert_eq!(get(admin.address, "/health").status, 200);
    drop(silent);
}

#[test]
fn closing_ends_the_listener_and_its_idle_connections() {
    let admin = start(Picture::default(), None);
    let mut idle = Client::raw(admin.address);
    idle.send_bytes(READY.as_bytes());
    assert_eq!(idle.recv_response(false).status, 200);
    admin.closing.send(true).expect("the server runs");
    assert_eq!(idle.take_all(), Ok(Vec::new()));
    drop(idle);
    admin.thread.join().expect("the server ends");
}
