//! Silence is asked about and then ends; whoever is heard, or not read from, is left in peace.
//!
//! `ping_pong.rs` has who answers, and who does not. Here is when: clocks judge only what may not
//! be early, and a connection that answers pings is the metronome of the rest.

mod support;

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Client, DEADLINE, End, Frame, Server, encode, eventually, opcode};

/// Resolution of the server's deadlines, a byte's moment rounded down to it.
const TICK: Duration = Duration::from_millis(32);

fn server(ping_after: &str, timeout: &str) -> Server {
    let ping_after = format!("heartbeat.ping_after={ping_after}");
    let timeout = format!("heartbeat.timeout={timeout}");
    Server::start(&["--shards", "2", "--set", &ping_after, "--set", &timeout])
}

/// Waits for the server's next ping, and answers it.
#[track_caller]
fn beat(metronome: &mut Client) {
    assert_eq!(metronome.recv(), Frame::new(opcode::PING, *b""));
    metronome.send_frame(true, 0, opcode::PONG, true, b"");
}

#[test]
fn neither_the_ping_nor_the_close_is_early() {
    let server = server("300ms", "2500ms");
    let mut other = Client::connect(server.address(), "/echo");
    let before = Instant::now();
    let mut silent = Client::connect(server.address(), "/ws/room/silent");
    silent.recv_content("silent has joined the room");
    assert_eq!(silent.recv(), Frame::new(opcode::PING, *b""));
    assert!(before.elapsed() >= Duration::from_millis(300) - TICK, "{:?}", before.elapsed());
    beat(&mut other);
    let (code, reason) = silent.recv().close_code();
    assert_eq!((code, reason.as_str()), (1011, "no answer to the heartbeat"));
    assert!(before.elapsed() >= Duration::from_millis(2500) - TICK, "{:?}", before.elapsed());
    assert_eq!(silent.try_recv(), Err(End::Eof));
    drop(silent);
    server.wait_closed("heartbeat_timeout", 1);
    beat(&mut other);
}

#[test]
fn an_answer_starts_the_silence_anew() {
    let server = server("300ms", "30s");
    let mut client = Client::connect(server.address(), "/echo");
    for n in 1..=3 {
        let before = Instant::now();
        beat(&mut client);
        if n > 1 {
            let pause = before.elapsed();
            assert!(pause >= Duration::from_millis(300) - TICK, "{pause:?}");
        }
        assert_eq!(server.counter("pings"), n);
    }
    // Without an answer it is asked once, not again and again.
    assert_eq!(client.recv(), Frame::new(opcode::PING, *b""));
    let mut other = Client::connect(server.address(), "/echo");
    beat(&mut other);
    beat(&mut other);
    assert_eq!(client.sync(), []);
    beat(&mut client);
}

#[test]
fn who_talks_is_never_pinged() {
    const PING_AFTER: Duration = Duration::from_millis(1000);
    let server = server("1s", "60s");
    let (mut talker, _) = Client::join(server.address(), "room", "talker");
    talker.recv_content("talker has joined the room");
    let (mut began, mut last, mut said) = (Instant::now(), Instant::now(), 0u64);
    while began.elapsed() < 2 * PING_AFTER {
        said += 1;
        talker.send_json(&json!({ "content": said }));
        let frame = talker.recv();
        if last.elapsed() > PING_AFTER / 2 {
            // A busy machine held this test up: it was silent, and may be pinged. Once more.
            (talker, _) = Client::join(server.address(), "room", &format!("talker{said}"));
            talker.recv_content(format!("talker{said} has joined the room"));
            began = Instant::now();
        } else {
            assert_eq!(frame.json()["content"], said);
        }
        last = Instant::now();
    }
    talker.close();
}

/// Sends an echo messages until the server stops reading from it. Gives what is left of the last
/// one, and how many were sent with it.
fn stuff(server: &Server, client: &Client, message: &[u8]) -> (Vec<u8>, usize) {
    let mut stream = client.stream();
    stream.set_nonblocking(true).expect("a socket");
    let mut taken = 0;
    eventually(DEADLINE, "the server stops reading from it", || {
        loop {
            match stream.write(&message[taken % message.len()..]) {
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        server.counter("pauses") > 0
    });
    stream.set_nonblocking(false).expect("a socket");
    (message[taken % message.len()..].to_vec(), taken.div_ceil(message.len()))
}

#[test]
fn an_echo_that_reads_slowly_is_not_punished_for_what_is_not_read_from_it() {
    let server = server("400ms", "2s");
    let mut metronome = Client::connect(server.address(), "/echo");
    let mut slow = Client::connect_small(server.address(), "/echo", 16 << 10);
    let payload = vec![7; 1 << 20];
    let (rest, sent) = stuff(&server, &slow, &encode(true, 0, opcode::BINARY, true, &payload));
    // It says nothing for longer than the timeout: nobody would hear it. But it takes a little.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        beat(&mut metronome);
        slow.receive(100_000).expect("more of the echo");
    }
    let mut writer = slow.stream().try_clone().expect("a second handle");
    let writing = std::thread::spawn(move || writer.write_all(&rest));
    let mut echoes = 0;
    while echoes < sent {
        let frame = slow.recv();
        if frame.opcode == opcode::PING {
            // Not into the middle of the last message: that itself is heard.
            if writing.is_finished() {
                slow.send_frame(true, 0, opcode::PONG, true, b"");
            }
            continue;
        }
        assert!(
            frame == Frame::new(opcode::BINARY, payload.as_slice()),
            "{echoes} of {sent}: {frame:?}"
        );
        echoes += 1;
    }
    writing.join().expect("no panic").expect("all was taken");
    assert_eq!(server.number("closed", "heartbeat_timeout"), 0);
}

#[test]
fn an_echo_that_takes_nothing_at_all_is_closed() {
    let server = server("200ms", "1s");
    let mut metronome = Client::connect(server.address(), "/echo");
    let stuck = Client::connect_small(server.address(), "/echo", 4 << 10);
    stuff(&server, &stuck, &encode(true, 0, opcode::BINARY, true, &vec![7; 1 << 20]));
    while server.counter("websockets") > 1 {
        beat(&mut metronome);
    }
    drop(stuck);
    server.wait_closed("heartbeat_timeout", 1);
    server.wait_counter("queue_bytes", |bytes| bytes == 0);
    beat(&mut metronome);
}
