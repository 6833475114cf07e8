//! SIGHUP puts other limits in force, or, where they are wrong, leaves the old ones.

mod support;

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::json;
use support::{Client, DEADLINE, Frame, Server, eventually, get, opcode, open_folder};
use tempfile::TempDir;

/// A configuration file that can be written anew, and a server that reads it.
struct Configured {
    server: Server,
    path: PathBuf,
    _folder: TempDir,
}

impl Configured {
    fn start(text: &str, arguments: &[&str]) -> Self {
        let folder = open_folder();
        let path = folder.path().join("ringhall.toml");
        std::fs::write(&path, text).expect("a file");
        let config = path.to_str().expect("UTF-8");
        let server = Server::start(&[&["--config", config], arguments].concat());
        Self { server, path, _folder: folder }
    }

    /// Writes the file anew, has it read, and gives the line of the log that says what came of it.
    fn reload(&self, text: &str, said: &str) -> String {
        std::fs::write(&self.path, text).expect("a file");
        let lines = |server: &Server| {
            server.log().into_iter().filter(|line| line.contains(said)).collect::<Vec<_>>()
        };
        let before = lines(&self.server).len();
        self.server.signal(Signal::HUP);
        let mut last = None;
        eventually(DEADLINE, said, || {
            let now = lines(&self.server);
            last = now.get(before).cloned();
            last.is_some()
        });
        last.expect("it was found")
    }
}

/// Whether a message of so many bytes is relayed; if not, it closes the connection with 1009.
fn is_relayed(server: &Server, bytes: usize) -> bool {
    let (mut client, _) = Client::join(server.address(), "room", "probe");
    client.sync();
    client.send_json(&json!({ "content": "x".repeat(bytes) }));
    let frame: Frame = client.recv();
    if frame.opcode == opcode::CLOSE {
        assert_eq!(frame.close_code().0, 1009);
    }
    frame.opcode == opcode::TEXT
}

#[test]
fn sighup_puts_new_limits_in_force_for_connections_old_and_new() {
    let configured = Configured::start("[client]\nmessage_bytes = \"2KiB\"\n", &["--shards", "2"]);
    let server = &configured.server;
    let (mut old, _) = Client::join(server.address(), "lobby", "old");
    old.recv_content("old has joined the room");
    assert!(!is_relayed(server, 3000));
    let line = configured.reload("[client]\nmessage_bytes = \"8KiB\"\n", "limits reloaded");
    assert!(line.contains("client.message_bytes"), "{line}");
    eventually(DEADLINE, "each shard has it", || (0..10).all(|_| is_relayed(server, 3000)));
    old.send_json(&json!({ "content": "x".repeat(3000) }));
    assert_eq!(old.recv_json()["content"], "x".repeat(3000));
    assert!(!is_relayed(server, 9000));
    let line = configured.reload("[client]\nmessage_bytes = \"8KiB\"\n", "limits reloaded");
    assert!(!line.contains("client.message_bytes"), "nothing has changed since: {line}");
    // And down again, without a word to who keeps within it.
    configured.reload("[client]\nmessage_bytes = \"1KiB\"\n", "limits reloaded");
    eventually(DEADLINE, "each shard has it", || (0..10).all(|_| !is_relayed(server, 3000)));
    old.send_json(&json!({ "content": "short" }));
    assert_eq!(old.recv_json()["content"], "short");
    old.send_json(&json!({ "content": "x".repeat(3000) }));
    old.expect_close(1009);
}

#[test]
fn a_wrong_file_is_refused_by_line_and_the_old_limits_stay() {
    let configured = Configured::start("[client]\nmessage_bytes = \"2KiB\"\n", &[]);
    let server = &configured.server;
    let (mut member, _) = Client::join(server.address(), "lobby", "ann");
    member.recv_content("ann has joined the room");
    for (wrong, said) in [
        ("[client]\nmessage_byte = \"8KiB\"\n", ":2: client.message_byte: unknown key"),
        ("[client]\nmessage_bytes = \"8 parsecs\"\n", ":2: client.message_bytes: got"),
        ("[client]\n\nmessage_bytes = \"8KiB\n", ":3"),
        ("[heartbeat]\nping_after = \"2m\"\n", "lower ping_after or raise timeout"),
    ] {
        let refused = configured.reload(wrong, "reload refused");
        assert!(refused.contains("the old limits stay"), "{refused}");
        let told = server.log().into_iter().any(|line| line.contains(said));
        assert!(told, "{said}: {:?}", server.log());
        assert!(is_relayed(server, 1500) && !is_relayed(server, 3000), "{wrong}");
    }
    std::fs::remove_file(&configured.path).expect("it was there");
    server.signal(Signal::HUP);
    server.wait_log("no such file");
    assert!(is_relayed(server, 1500) && !is_relayed(server, 3000));
    configured.reload("[client]\nmessage_bytes = \"8KiB\"\n", "limits reloaded");
    eventually(DEADLINE, "a right file is read again", || is_relayed(server, 3000));
    assert_eq!(member.sync(), [], "the member noticed nothing");
}

#[test]
fn keys_that_need_a_restart_are_named_and_the_rest_is_in_force() {
    let configured = Configured::start("[server]\nshards = 1\n", &[]);
    let changed = "[server]\nshards = 2\nnotsent_lowat = \"64KiB\"\n\n[echo]\nenabled = false\n";
    let line = configured.reload(changed, "limits reloaded");
    let (_, restart) = line.split_once("needs_restart").expect("they are named");
    assert!(restart.contains("server.shards server.notsent_lowat"), "{line}");
    let (before, _) = line.split_once("needs_restart").expect("they are named");
    assert!(before.contains("echo.enabled"), "{line}");
    let server = &configured.server;
    let echo = || Client::raw(server.address()).upgrade("/echo", &[]);
    eventually(DEADLINE, "there is no echo any more", || echo().status == 404);
    echo().expect_refusal(404, "echo_disabled");
    assert_eq!(server.health()["dependencies"]["shards"]["total"], 1);
}

#[test]
fn a_flag_still_wins_over_the_file() {
    let text = "[client]\nmessage_bytes = \"8KiB\"\n";
    let configured = Configured::start(text, &["--set", "client.message_bytes=2KiB"]);
    assert!(!is_relayed(&configured.server, 3000));
    let line = configured.reload("[client]\nmessage_bytes = \"16KiB\"\n", "limits reloaded");
    assert!(!line.contains("client.message_bytes"), "nothing has changed: {line}");
    assert!(!is_relayed(&configured.server, 3000));
}

#[test]
fn plain_requests_follow_the_limits_in_force() {
    let with = |echo: bool, head: &str| {
        format!("[echo]\nenabled = {echo}\n\n[handshake]\nhead_bytes = \"{head}\"\n")
    };
    let configured = Configured::start(&with(true, "2KiB"), &[]);
    let address = configured.server.address();
    // The second request of a connection: the first is read by the data ring.
    let second = || {
        let mut client = Client::raw(address);
        client.send_bytes(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.recv_response(false).status, 200);
        let pad = "x".repeat(3000);
        let request = format!("GET /health HTTP/1.1\r\nHost: a\r\nX-Pad: {pad}\r\n\r\n");
        client.send_bytes(request.as_bytes());
        client.recv_response(false).status
    };
    get(address, "/echo").expect_refusal(426, "upgrade_required");
    assert_eq!(second(), 431);
    configured.reload(&with(false, "8KiB"), "limits reloaded");
    get(address, "/echo").expect_refusal(404, "echo_disabled");
    assert_eq!(second(), 200);
    configured.reload(&with(true, "2KiB"), "limits reloaded");
    get(address, "/echo").expect_refusal(426, "upgrade_required");
    assert_eq!(second(), 431);
}

#[test]
fn a_head_that_is_half_there_is_judged_by_the_limit_in_force() {
    let configured = Configured::start("", &["--shards", "1"]);
    let address = configured.server.address();
    let mut waiting = Client::raw(address);
    waiting.send_bytes(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(5000)).as_bytes());
    eventually(DEADLINE, "the shard holds it", || configured.server.counter("queue_bytes") > 0);
    configured.reload("[handshake]\nhead_bytes = \"1KiB\"\n", "limits reloaded");
    waiting.send_bytes(b"x");
    waiting.recv_response(false).expect_refusal(431, "head_too_large");
    assert_eq!(get(address, "/health").status, 200);
}

#[test]
fn a_kept_alive_connection_follows_the_limit_on_heads() {
    let configured = Configured::start("", &["--shards", "1"]);
    let [mut narrow, mut wide] = [1, 2].map(|_| Client::raw(configured.server.address()));
    let page =
        |bytes: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    for client in [&mut narrow, &mut wide] {
        client.send_bytes(page(5000).as_bytes());
        assert_eq!(client.recv_response(false).status, 200);
    }
    configured.reload("[handshake]\nhead_bytes = \"1KiB\"\n", "limits reloaded");
    narrow.send_bytes(page(5000).as_bytes());
    narrow.recv_response(false).expect_refusal(431, "head_too_large");
    wide.send_bytes(page(500).as_bytes());
    assert_eq!(wide.recv_response(false).status, 200);
    configured.reload("[handshake]\nhead_bytes = \"64KiB\"\n", "limits reloaded");
    wide.send_bytes(page(40_000).as_bytes());
    assert_eq!(wide.recv_response(false).status, 200);
    wide.send_bytes(page(70_000).as_bytes());
    wide.recv_response(false).expect_refusal(431, "head_too_large");
}
