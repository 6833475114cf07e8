//! Whoever stalls or floods delays nobody else: not in its room, not on its shard.
//!
//! No clock judges here. The others make so many round trips while the disturbance lasts, and the
//! disturbance lasts until they are done: were they held up by it, the test would never end.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, ScopedJoinHandle};

use serde_json::json;
use support::{Client, DEADLINE, Frame, Server, encode, eventually, opcode};

/// Round trips of the undisturbed.
const ROUND_TRIPS: u64 = 200;

/// Two members of a room who answer each other.
struct Pair(Client, Client);

impl Pair {
    fn join(server: &Server, room: &str) -> Self {
        let (ann, _) = Client::join(server.address(), room, "ann");
        let (bob, _) = Client::join(server.address(), room, "bob");
        Self(ann, bob)
    }

    /// Each message is heard before it is answered, whatever others say in between.
    #[track_caller]
    fn talk(&mut self, round_trips: u64) {
        for n in 0..round_trips {
            self.0.send_json(&json!({ "content": ["ping", n] }));
            self.1.recv_content(json!(["ping", n]));
            self.1.send_json(&json!({ "content": ["pong", n] }));
            self.0.recv_content(json!(["pong", n]));
        }
    }
}

/// Sends what it is told to, as fast as the server takes it, and reads whatever comes, until told
/// to stop. Gives the bytes that the server has taken.
fn flood(mut client: Client, bytes: Vec<u8>, stop: &AtomicBool) -> (Client, u64) {
    let mut reader = client.stream().try_clone().expect("a second handle");
    let reading = std::thread::spawn(move || {
        let mut chunk = [0; 64 << 10];
        while let Ok(1..) = reader.read(&mut chunk) {}
    });
    let mut taken = 0;
    while !stop.load(Ordering::Relaxed) && client.try_send_bytes(&bytes).is_ok() {
        taken += bytes.len() as u64;
    }
    client.shutdown_write();
    reading.join().expect("the reader does not panic");
    (client, taken)
}

/// Sends what the server takes without reading a byte, until it stops reading. Gives how much.
fn stuff(server: &Server, client: &Client, bytes: &[u8]) -> usize {
    let mut stream = client.stream();
    stream.set_nonblocking(true).expect("a socket");
    let mut taken = 0;
    eventually(DEADLINE, "the server stops reading from it", || {
        loop {
            match stream.write(&bytes[taken % bytes.len()..]) {
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("not read any more, but not closed either: {error}"),
            }
        }
        server.counter("pauses") > 0
    });
    stream.set_nonblocking(false).expect("a socket");
    taken
}

#[test]
fn a_flood_in_another_room_delays_nobody() {
    let server = Server::start(&["--shards", "1"]);
    let mut pair = Pair::join(&server, "quiet");
    let stop = AtomicBool::new(false);
    let message = encode(true, 0, opcode::TEXT, true, br#"{"content":"flood"}"#).repeat(500);
    std::thread::scope(|scope| {
        let floods: Vec<ScopedJoinHandle<'_, _>> = (0..3)
            .map(|n| {
                let (client, _) = Client::join(server.address(), "loud", &format!("f{n}"));
                let (message, stop) = (message.clone(), &stop);
                scope.spawn(move || flood(client, message, stop))
            })
            .collect();
        server.wait_counter("said", |said| said > 1000);
        let before = server.counter("said");
        pair.talk(ROUND_TRIPS);
        let said = server.counter("said") - before;
        assert!(said > 2 * ROUND_TRIPS, "the flood went on meanwhile: {said}");
        stop.store(true, Ordering::Relaxed);
        for flood in floods {
            let (_, taken) = flood.join().expect("no panic");
            assert!(taken > 0);
        }
    });
    pair.talk(3);
}

#[test]
fn a_flood_in_the_same_room_lets_others_have_their_say() {
    let server = Server::start(&["--shards", "1", "--set", "client.queue_bytes=64MiB"]);
    let mut pair = Pair::join(&server, "room");
    let stop = AtomicBool::new(false);
    let burst = encode(true, 0, opcode::TEXT, true, br#"{"content":"flood"}"#).repeat(100);
    std::thread::scope(|scope| {
        let (mut flooder, _) = Client::join(server.address(), "room", "flooder");
        let stop = &stop;
        let flood = scope.spawn(move || {
            // As fast as it hears itself: all hear all of it, so all can keep up with it.
            for burst_number in 0u64.. {
                flooder.send_bytes(&burst);
                flooder.send_json(&json!({ "content": burst_number }));
                flooder.recv_content(burst_number);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        pair.talk(20);
        stop.store(true, Ordering::Relaxed);
        flood.join().expect("no panic");
    });
    pair.talk(3);
    assert_eq!(server.counter("dropped"), 0);
}

#[test]
fn a_stalled_member_delays_nobody_in_its_room() {
    let sets = ["--set", "client.policy=drop_oldest", "--set", "client.queue_bytes=64KiB"];
    let tick = ["--set", "rooms.tick_bytes=32KiB"];
    let server = Server::start(&[&["--shards", "1"], &sets[..], &tick].concat());
    let stalled = Client::connect_small(server.address(), "/ws/room/stalled", 4 << 10);
    let mut pair = Pair::join(&server, "room");
    let padding = "x".repeat(8 << 10);
    for n in 0..ROUND_TRIPS {
        pair.0.send_json(&json!({ "content": [n, padding] }));
        pair.1.recv_content(json!([n, padding]));
    }
    assert!(server.counter("dropped") > 0, "it was stalled");
    assert_eq!(server.counter("members"), 3, "and still is a member");
    drop(stalled);
    server.wait_counter("members", |members| members == 2);
}

#[test]
fn an_echo_that_nobody_reads_stops_being_read_and_delays_nobody() {
    let server = Server::start(&["--shards", "1"]);
    let mut other = Client::connect(server.address(), "/echo");
    let mut stuffed = Client::connect_small(server.address(), "/echo", 64 << 10);
    let message = encode(true, 0, opcode::BINARY, true, &[7; 10_000]);
    let taken = stuff(&server, &stuffed, &message);
    let queued = server.counter("queue_bytes");
    assert!(queued < 64 << 10, "never a second message of the queue's: {queued} of {taken} bytes");
    for n in 0..ROUND_TRIPS {
        let payload = n.to_string().into_bytes();
        other.send_binary(&payload);
        assert_eq!(other.recv(), Frame::new(opcode::BINARY, payload));
    }
    // The last message may be cut short: its end is sent when there is room again.
    let whole = taken.div_ceil(message.len());
    let rest = whole * message.len() - taken;
    let mut writer = Client::over(stuffed.stream().try_clone().expect("a second handle"));
    let tail = message[message.len() - rest..].to_vec();
    let writing: JoinHandle<()> = std::thread::spawn(move || writer.send_bytes(&tail));
    for n in 0..whole {
        assert_eq!(stuffed.recv(), Frame::new(opcode::BINARY, [7; 10_000]), "{n} of {whole}");
    }
    writing.join().expect("no panic");
    assert_eq!(stuffed.sync(), [], "each came back once");
    stuffed.close();
}

#[test]
fn a_speaker_who_never_reads_delays_nobody_and_is_handled_by_its_policy() {
    let server = Server::start(&["--shards", "1"]);
    let mut pair = Pair::join(&server, "quiet");
    let mut deaf = Client::connect_small(server.address(), "/ws/loud/deaf", 4 << 10);
    let message = encode(true, 0, opcode::TEXT, true, br#"{"content":"hear me"}"#).repeat(500);
    // It is cut in the middle of its flood: what it sends then is drained, and in the end refused.
    let sending = std::thread::spawn(move || {
        while deaf.try_send_bytes(&message).is_ok() {}
        deaf
    });
    pair.talk(ROUND_TRIPS);
    server.wait_closed("slow_consumer", 1);
    drop(sending.join().expect("no panic"));
    pair.talk(3);
}

#[test]
fn half_a_request_and_half_a_message_delay_nobody() {
    let server = Server::start(&["--shards", "1"]);
    let mut slow_head = Client::raw(server.address());
    slow_head.send_bytes(b"GET /ws/room/slow HTTP/1.1\r\nHost: x\r\n");
    let mut slow_message = Client::connect(server.address(), "/ws/room/half");
    let frame = encode(true, 0, opcode::TEXT, true, br#"{"content":"at last"}"#);
    slow_message.send_bytes(&frame[..10]);
    let mut pair = Pair::join(&server, "room");
    pair.talk(ROUND_TRIPS);
    slow_message.send_bytes(&frame[10..]);
    pair.0.recv_content("at last");
    slow_head.send_bytes(
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(slow_head.recv_response(false).status, 101);
    slow_head.recv_type("joined");
}
