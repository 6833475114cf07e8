//! A reader that stops is handled by its policy; those who keep up get everything.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Client, End, Frame, Server, opcode};

/// `client.queue_bytes` of these tests.
const QUEUE_BYTES: u64 = 64 << 10;
/// Receive buffer of a reader that is to be too slow: little fits the kernel.
const SMALL: usize = 4 << 10;
/// Messages after which a reader who stops must have been noticed: more than what any buffer takes.
const MANY: u64 = 2000;

/// A server whose queues are soon full.
fn server(policy: &str, more: &[&str]) -> Server {
    let policy = format!("client.policy={policy}");
    let sets = ["client.queue_bytes=64KiB", "rooms.tick_bytes=32KiB", &policy];
    let sets = sets.iter().chain(more).flat_map(|set| ["--set", set]);
    Server::start(&[&["--shards", "2"][..], &sets.collect::<Vec<_>>()].concat())
}

/// Message number `n`, `bytes` long.
fn content(n: u64, bytes: usize) -> String {
    let digits = n.to_string();
    "0".repeat(bytes.saturating_sub(digits.len())) + &digits
}

/// A speaker and a listener who both keep up, in the room of the slow one.
struct Pair {
    speaker: Client,
    listener: Client,
    /// Messages said so far, which are their offsets too.
    said: u64,
}

impl Pair {
    fn join(server: &Server) -> Self {
        let (speaker, _) = Client::join(server.address(), "lobby", "speaker");
        let (listener, _) = Client::join(server.address(), "lobby", "listener");
        Self { speaker, listener, said: 0 }
    }

    /// Says one message, which both of them get, next in order.
    #[track_caller]
    fn say(&mut self, bytes: usize) {
        self.said += 1;
        let content = content(self.said, bytes);
        self.speaker.send_json(&json!({ "content": content }));
        for client in [&mut self.speaker, &mut self.listener] {
            // Of what else may come, such as announcements, nothing has an offset.
            let next = client.recv_until(|message| message["offset"].as_u64() > Some(0));
            let next = next.last().expect("the last one");
            assert_eq!(next["offset"], self.said);
            assert_eq!(next["content"], content);
        }
    }

    #[track_caller]
    fn say_many(&mut self, count: u64, bytes: usize) {
        for _ in 0..count {
            self.say(bytes);
        }
    }

    /// Says messages until the room has so many members; gives the most that was ever queued.
    #[track_caller]
    fn say_until_members(&mut self, server: &Server, members: u64, bytes: usize) -> u64 {
        let mut queued_max = 0;
        for _ in 0..MANY {
            self.say(bytes);
            queued_max = queued_max.max(server.counter("queue_bytes"));
            if server.counter("members") == members {
                return queued_max;
            }
        }
        panic!("not noticed after {MANY} messages of {bytes} bytes");
    }
}

/// What a slow reader has been given, which must be complete, or explained by `lag`.
#[derive(Default)]
struct Ledger {
    offset: u64,
    missed: u64,
    lags: u64,
}

impl Ledger {
    #[track_caller]
    fn enter(&mut self, message: &Value) {
        let offset = message["offset"].as_u64().unwrap_or(0);
        if message["type"] == "lag" {
            let missed = message["missed"].as_u64().expect("a number");
            assert_eq!(message["room"], "lobby");
            assert!(missed > 0, "{message}");
            assert_eq!(self.offset + missed, offset, "the gap behind {}: {message}", self.offset);
            self.missed += missed;
            self.lags += 1;
            self.offset = offset;
        } else if offset > 0 && message["type"] != "joined" {
            assert_eq!(offset, self.offset + 1, "no gap without a lag");
            let content = message["content"].as_str().expect("a string");
            assert_eq!(content.trim_start_matches('0'), offset.to_string(), "its own content");
            self.offset = offset;
        }
    }

    #[track_caller]
    fn read(&mut self, client: &mut Client, frames: u64) {
        for _ in 0..frames {
            self.enter(&client.recv_json());
        }
    }

    /// Reads until message number `last` is there.
    #[track_caller]
    fn read_to(&mut self, client: &mut Client, last: u64) {
        while self.offset < last {
            self.read(client, 1);
        }
    }
}

/// Takes everything up to the close frame, which is the last.
#[track_caller]
fn messages_and_close(client: &mut Client) -> (Vec<Value>, (u16, String)) {
    let mut messages = Vec::new();
    loop {
        let frame: Frame = client.recv();
        if frame.opcode == opcode::CLOSE {
            return (messages, frame.close_code());
        }
        messages.push(frame.json());
    }
}

#[test]
fn a_stalled_reader_is_closed_1013_and_the_others_get_everything() {
    // It may take its time to read the close frame.
    let server = server("disconnect", &["client.close_timeout=60s"]);
    let mut stalled = Client::connect_small(server.address(), "/ws/lobby/stalled", SMALL);
    let mut pair = Pair::join(&server);
    let payload = 8 << 10;
    let queued_max = pair.say_until_members(&server, 2, payload);
    // Judged by what was queued before: one payload more than the bound, and that one.
    let bound = QUEUE_BYTES + 2 * (payload as u64 + 200);
    assert!(queued_max <= bound, "{queued_max} bytes were queued, {bound} may be");

    let (messages, close) = messages_and_close(&mut stalled);
    assert_eq!(close, (1013, "slow consumer".to_owned()));
    let mut ledger = Ledger::default();
    messages.iter().for_each(|message| ledger.enter(message));
    assert!(ledger.offset > 0 && ledger.lags == 0, "what it was given is whole and in order");
    assert!(ledger.offset < pair.said, "and not everything");
    stalled.send_close(1013);
    assert_eq!(stalled.expect_end(), (End::Eof, Vec::new()));
    drop(stalled);
    server.wait_closed("slow_consumer", 1);

    pair.say_many(20, payload);
    server.wait_counter("queue_bytes", |bytes| bytes == 0);
    assert_eq!(server.counter("dropped"), 0);
    assert!(server.counter("dropped_disconnect") > 0, "what it was not given is counted");
}

#[test]
fn a_stalled_reader_that_does_not_even_read_its_close_frame_is_reset() {
    let server = server("disconnect", &["client.close_timeout=200ms"]);
    let mut stalled = Client::connect_small(server.address(), "/ws/lobby/stalled", SMALL);
    let mut pair = Pair::join(&server);
    pair.say_until_members(&server, 2, 8 << 10);
    server.wait_closed("slow_consumer", 1);
    server.wait_counter("connections", |connections| connections == 2);
    server.wait_counter("queue_bytes", |bytes| bytes == 0);
    let (end, frames) = stalled.expect_end();
    assert_eq!(end, End::Reset);
    assert!(frames.iter().all(|frame| frame.opcode == opcode::TEXT), "the close did not fit");
    pair.say_many(20, 8 << 10);
}

#[test]
fn a_frame_that_has_begun_is_finished_before_the_close() {
    // Those who keep up have a message and, behind it, the word that the stalled one has left.
    let sets = ["client.close_timeout=60s", "client.message_bytes=1MiB", "client.queue_bytes=1MiB"];
    let server = server("disconnect", &sets);
    let mut stalled = Client::connect_small(server.address(), "/ws/lobby/stalled", SMALL);
    let mut pair = Pair::join(&server);
    // Far more than the kernel takes of it: some is sent, the rest waits.
    pair.say_until_members(&server, 2, 400_000);
    let (messages, close) = messages_and_close(&mut stalled);
    assert_eq!(close.0, 1013);
    let last = messages.last().expect("what had begun");
    assert_eq!(last["content"], content(1, 400_000), "whole");
    let mut ledger = Ledger::default();
    messages.iter().for_each(|message| ledger.enter(message));
    assert_eq!(ledger.offset, 1, "what had not begun is let go");
    pair.say(400_000);
}

#[test]
fn with_drop_oldest_each_lag_explains_exactly_what_is_missing() {
    for spread in ["rooms.spread=auto", "rooms.spread=always"] {
        let server = server("drop_oldest", &[spread]);
        let mut slow = Client::connect_small(server.address(), "/ws/lobby/slow", SMALL);
        let mut pair = Pair::join(&server);
        let mut ledger = Ledger::default();
        for round in 0..6 {
            // Some of it is read while more is queued: there may be a lag that itself has to wait.
            for frames in [1, 0, 3, 2] {
                pair.say_many(60, 4 << 10);
                ledger.read(&mut slow, frames);
            }
            if round % 2 == 1 {
                ledger.read_to(&mut slow, pair.said);
            }
        }
        assert!(ledger.missed > 0 && ledger.lags > 0, "{spread}: it was too slow");
        assert_eq!(ledger.offset, pair.said, "and has caught up");
        assert_eq!(server.counter("dropped"), ledger.missed, "{spread}");
        pair.say_many(3, 10);
        ledger.read_to(&mut slow, pair.said);
        assert_eq!(server.counter("dropped"), ledger.missed, "{spread}: it keeps up now");
        assert_eq!(server.counter("members"), 3);
    }
}

#[test]
fn with_drop_oldest_a_frame_that_has_begun_is_finished() {
    let server = server("drop_oldest", &["client.message_bytes=1MiB"]);
    let mut slow = Client::connect_small(server.address(), "/ws/lobby/slow", SMALL);
    let mut pair = Pair::join(&server);
    pair.say_many(8, 400_000);
    server.wait_counter("dropped", |dropped| dropped > 0);
    let mut ledger = Ledger::default();
    ledger.read_to(&mut slow, 1);
    assert_eq!(ledger.lags, 0, "the first had begun before the second came");
    ledger.read_to(&mut slow, pair.said);
    assert_eq!((ledger.missed, ledger.lags), (server.counter("dropped"), 1));
}

#[test]
fn lags_that_had_to_wait_behind_a_frame_come_in_their_order() {
    // Where the frame alone is more than the queue may hold, they come as one.
    for (queue_bytes, bytes, one) in [("512KiB", 400_000, false), ("64KiB", 900_000, true)] {
        let queue_bytes = format!("client.queue_bytes={queue_bytes}");
        let server = server("drop_oldest", &["client.message_bytes=1MiB", &queue_bytes]);
        let mut slow = Client::connect_small(server.address(), "/ws/lobby/slow", SMALL);
        let mut pair = Pair::join(&server);
        for _ in 0..3 {
            pair.say_many(4, bytes);
            // The socket takes a little more of the first frame: each time a lag may be queued.
            let sends = server.counter("sends_short");
            slow.receive(50_000).expect("more of the first frame");
            server.wait_counter("sends_short", |now| now > sends);
        }
        let mut ledger = Ledger::default();
        ledger.read_to(&mut slow, pair.said);
        assert_eq!(ledger.missed, server.counter("dropped"), "{queue_bytes}");
        assert_eq!(ledger.lags == 1, one, "{queue_bytes}: {} lags", ledger.lags);
    }
}

#[test]
fn one_payload_larger_than_the_queue_never_cuts_a_reader_that_keeps_up() {
    for policy in ["disconnect", "drop_oldest"] {
        let server = server(
            policy,
            &["client.queue_bytes=4KiB", "rooms.tick_bytes=2KiB", "client.message_bytes=1MiB"],
        );
        let mut reader = Client::connect_small(server.address(), "/ws/lobby/reader", 64 << 10);
        let mut pair = Pair::join(&server);
        let mut ledger = Ledger::default();
        for _ in 0..5 {
            pair.say(900_000);
            ledger.read_to(&mut reader, pair.said);
        }
        assert_eq!((ledger.lags, server.counter("dropped")), (0, 0), "{policy}");
        assert_eq!(server.number("closed", "slow_consumer"), 0, "{policy}");
        assert!(server.counter("sends_short") > 0, "{policy}: it had to be queued");
    }
}

#[test]
fn a_raw_reader_gets_close_codes_and_gaps_without_a_word() {
    let raw = [("Sec-WebSocket-Protocol", "ringhall.raw")];
    let server = server("drop_oldest", &[]);
    let mut speaker = Client::connect_with(server.address(), "/ws/lobby/speaker", &raw);
    let mut slow = Client::raw_small(server.address(), SMALL);
    assert_eq!(slow.upgrade("/ws/lobby/slow", &raw).status, 101);
    let mut said: u64 = 0;
    while server.counter("dropped") == 0 {
        assert!(said < MANY, "never too slow");
        said += 1;
        let bytes = content(said, 8 << 10).into_bytes();
        speaker.send_binary(&bytes);
        assert_eq!(speaker.recv(), Frame::new(opcode::BINARY, bytes));
    }
    let (mut last, mut got) = (0, 0);
    while last < said {
        let frame = slow.recv();
        assert_eq!(frame.opcode, opcode::BINARY, "no lag, no other word");
        let text = String::from_utf8(frame.payload).expect("digits");
        let number = text.trim_start_matches('0').parse().expect("a number");
        assert!(number > last, "in order");
        (last, got) = (number, got + 1);
    }
    assert_eq!(server.counter("dropped"), said - got);
    slow.set_deadline(Duration::from_secs(5));
    slow.close();
}
