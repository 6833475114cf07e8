//! A ping is answered with its own bytes, whatever else is under way; silence is asked, then ended.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Bystander, Client, DEADLINE, Frame, Server, encode, eventually, opcode};

fn pong(payload: impl Into<Vec<u8>>) -> Frame {
    Frame::new(opcode::PONG, payload)
}

#[test]
fn a_pong_carries_the_pings_bytes() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    for path in ["/echo", "/ws/lobby/ann"] {
        let mut client = Client::connect(server.address(), path);
        if path != "/echo" {
            client.recv_content("ann has joined the room");
        }
        for payload in [&b""[..], b"x", b"\0\xff\xfe not UTF-8", &[7; 125]] {
            client.send_ping(payload);
            assert_eq!(client.recv(), pong(payload), "{path}");
        }
        // In single bytes.
        for byte in encode(true, 0, opcode::PING, true, b"slowly") {
            client.send_bytes(&[byte]);
        }
        assert_eq!(client.recv(), pong(*b"slowly"), "{path}");
        client.close();
    }
    bystander.expect_only_left("ann");
}

#[test]
fn a_pong_that_nobody_asked_for_is_ignored() {
    let server = Server::start(&[]);
    let mut client = Client::connect(server.address(), "/echo");
    for payload in [&b""[..], b"unasked", &[1; 125]] {
        client.send_frame(true, 0, opcode::PONG, true, payload);
    }
    client.send_text("still here");
    assert_eq!(client.recv().text(), "still here");
}

#[test]
fn replies_of_one_segment_come_in_the_order_of_what_they_answer() {
    let server = Server::start(&[]);
    let mut client = Client::connect(server.address(), "/echo");
    let both = [
        encode(true, 0, opcode::TEXT, true, b"one"),
        encode(true, 0, opcode::PING, true, b"two"),
        encode(true, 0, opcode::TEXT, true, b"three"),
    ];
    client.send_bytes(&both.concat());
    assert_eq!(client.recv().text(), "one");
    assert_eq!(client.recv(), pong(*b"two"));
    assert_eq!(client.recv().text(), "three");
}

/// A member that does not read, and as many messages as its sockets hold and a good part of its
/// queue: more waits for it than the kernel takes.
struct Stuck {
    server: Server,
    client: Client,
    speaker: Client,
    said: u64,
}

impl Stuck {
    fn in_room() -> Self {
        // Large enough for everything that the test sends.
        let set = ["--set", "client.queue_bytes=64MiB", "--set", "rooms.tick_bytes=256KiB"];
        let server = Server::start(&set);
        let mut client = Client::connect_small(server.address(), "/ws/lobby/stuck", 4096);
        client.recv_content("stuck has joined the room");
        let (mut speaker, _) = Client::join(server.address(), "lobby", "speaker");
        speaker.recv_content("speaker has joined the room");
        let mut stuck = Self { server, client, speaker, said: 0 };
        while stuck.server.counter("queue_bytes") < 1 << 20 {
            stuck.say_some();
        }
        stuck
    }

    fn say_some(&mut self) {
        for _ in 0..20 {
            self.said += 1;
            self.speaker.send_json(&json!({ "content": [self.said, "x".repeat(30_000)] }));
        }
        let last = self.said;
        self.speaker.recv_until(|message| message["content"][0] == last);
    }

    /// Waits until the server has decoded everything that the stuck member has sent, by something
    /// that it says last.
    fn wait_read(&mut self) {
        self.client.send_json(&json!({ "content": "read" }));
        self.said += 1;
        self.speaker.recv_content("read");
    }
}

#[test]
fn of_many_pings_to_a_blocked_queue_the_newest_is_answered() {
    let mut stuck = Stuck::in_room();
    let before = stuck.server.counter("queue_bytes");
    for n in 0..10_000 {
        stuck.client.send_ping(format!("{n:0125}").as_bytes());
    }
    stuck.wait_read();
    let after = stuck.server.counter("queue_bytes");
    assert!(after < before + 1000, "10 000 pongs of 127 bytes: {before} then {after}");
    // And now it reads: every message once and in order, and one pong.
    let (mut offset, mut pongs) = (0, Vec::new());
    while offset < stuck.said {
        let frame = stuck.client.recv();
        if frame.opcode == opcode::PONG {
            pongs.push(frame);
            continue;
        }
        let message = frame.json();
        if let Some(next) = message["offset"].as_u64() {
            offset += 1;
            assert_eq!(next, offset);
        }
    }
    assert_eq!(pongs, [pong(format!("{:0125}", 9999))]);
    stuck.server.wait_counter("queue_bytes", |bytes| bytes == 0);
    assert_eq!(stuck.server.counter("members"), 2, "nobody was cut");
}

#[test]
fn pings_that_are_never_read_cost_a_receives_worth_of_pongs() {
    let server = Server::start(&[]);
    let mut client = Client::connect_small(server.address(), "/ws/lobby/deaf", 4096);
    client.recv_content("deaf has joined the room");
    let mut bystander = Bystander::join(server.address(), "lobby");
    let pings = encode(true, 0, opcode::PING, true, &[7; 125]).repeat(1000);
    // More than sockets and queue together could hold.
    for _ in 0..200 {
        client.send_bytes(&pings);
    }
    client.send_json(&json!({ "content": "all pings are read" }));
    let heard = bystander.heard_until("all pings are read");
    assert!(heard.is_empty(), "{heard:?}");
    let held = server.counter("queue_bytes");
    assert!(held < 16 << 10, "one pong waits, and what fell short: {held}");
    assert_eq!(server.counter("members"), 2);
}

#[test]
fn a_reader_that_keeps_up_gets_a_pong_for_each_ping() {
    let server = Server::start(&[]);
    let mut client = Client::connect(server.address(), "/echo");
    client.send_bytes(&encode(true, 0, opcode::PING, true, b"p").repeat(2000));
    for n in 0..2000 {
        assert_eq!(client.recv(), pong(*b"p"), "{n}");
    }
}

/// Pings come faster than pongs could go out one by one, to a client that reads them.
#[test]
fn a_flood_of_pings_piles_up_no_pongs() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::join(server.address(), "lobby");
    let mut client = Client::connect(server.address(), "/ws/lobby/flood");
    client.recv_content("flood has joined the room");
    let mut reader = Client::over(client.stream().try_clone().expect("a second handle"));
    let sending = std::thread::spawn(move || {
        client.send_bytes(&encode(true, 0, opcode::PING, true, b"").repeat(300_000));
        client.send_json(&json!({ "content": "over" }));
    });
    let reading = std::thread::spawn(move || while reader.recv() == pong(*b"") {});
    while !reading.is_finished() {
        let held = server.counter("queue_bytes");
        // A receive's worth waits where a send falls short.
        assert!(held < 32 << 10, "{held} bytes wait");
    }
    sending.join().expect("all is sent");
    reading.join().expect("pongs, then something else");
    assert_eq!(bystander.heard_until_left("flood").len(), 1, "what was said last");
}

#[test]
fn an_echo_that_is_not_read_answers_its_ping_when_it_is() {
    let server = Server::start(&[]);
    let mut client = Client::connect_small(server.address(), "/echo", 4096);
    let message = vec![0x42; 1 << 20];
    // Until the server stops reading: then no more of them are taken.
    let taken = server.counter("messages_in");
    let mut sent = 0;
    client.stream().set_nonblocking(true).expect("a nonblocking socket");
    let frames = encode(true, 0, opcode::BINARY, true, &message);
    let mut rest: &[u8] = &[];
    eventually(DEADLINE, "the server stops reading, and the sockets are full", || {
        loop {
            if rest.is_empty() {
                rest = &frames;
                sent += 1;
            }
            match std::io::Write::write(&mut client.stream(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    return server.counter("pauses") > 0;
                }
            }
        }
    });
    client.stream().set_nonblocking(false).expect("a blocking socket");
    assert!(server.counter("messages_in") > taken);
    assert!(server.counter("queue_bytes") < 4 << 20, "an echo holds one message and its input");
    // The rest of the last message and the ping go out while the other half reads.
    let rest = [rest, &encode(true, 0, opcode::PING, true, b"at last")].concat();
    let mut writer = client.stream().try_clone().expect("a second handle");
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &rest));
    for n in 0..sent {
        assert_eq!(client.recv(), Frame::new(opcode::BINARY, &*message), "{n} of {sent}");
    }
    assert_eq!(client.recv(), pong(*b"at last"));
    writing.join().expect("no panic").expect("all is taken");
}

/// Short, and long enough for a client on a busy machine to answer within.
const HEARTBEAT: [&str; 4] =
    ["--set", "heartbeat.ping_after=100ms", "--set", "heartbeat.timeout=1s"];
const TIMEOUT: Duration = Duration::from_secs(1);

#[test]
fn who_is_silent_is_pinged_and_then_closed() {
    let server = Server::start(&HEARTBEAT);
    let mut room = Client::connect(server.address(), "/ws/lobby/silent");
    room.recv_content("silent has joined the room");
    let echo = Client::connect(server.address(), "/echo");
    for mut client in [room, echo] {
        assert_eq!(client.recv(), Frame::new(opcode::PING, *b""));
        assert_eq!(client.recv().close_code().0, 1011);
    }
    server.wait_closed("heartbeat_timeout", 2);
    assert_eq!(server.counter("pings"), 2);
    assert_eq!(server.counter("members"), 0);
}

#[test]
fn who_answers_stays_whatever_becomes_of_the_silent() {
    let server = Server::start(&HEARTBEAT);
    let mut alive = Client::connect(server.address(), "/ws/lobby/alive");
    let silent = Client::connect(server.address(), "/ws/lobby/silent");
    let (began, mut pings, mut left) = (Instant::now(), 0, 0);
    while began.elapsed() < 2 * TIMEOUT || left == 0 {
        let frame = alive.recv();
        match frame.opcode {
            opcode::PING => {
                pings += 1;
                alive.send_frame(true, 0, opcode::PONG, true, &frame.payload);
            }
            opcode::TEXT => {
                left += u32::from(frame.json()["content"] == "silent has left the room")
            }
            _ => panic!("{frame:?}"),
        }
    }
    assert!(pings > 1);
    alive.close();
    drop(silent);
    server.wait_closed("heartbeat_timeout", 1);
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let server = Server::start(&HEARTBEAT);
    let mut client = Client::connect(server.address(), "/echo");
    // A byte in answer to each ping: of a frame that is not complete for long.
    let ours = encode(true, 0, opcode::PING, true, &[7; 125]);
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < 2 * TIMEOUT {
        assert_eq!(client.recv(), Frame::new(opcode::PING, *b""));
        client.send_bytes(&ours[sent..=sent]);
        sent += 1;
    }
    client.send_bytes(&ours[sent..]);
    while client.recv() != pong([7; 125]) {}
    client.close();
    server.wait_closed("peer_closed", 1);
}
