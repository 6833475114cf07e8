//! A shutdown tells everyone, sends what is queued, closes, and ends in time.

mod support;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use support::{Client, DEADLINE, End, Frame, Server, eventually, get, opcode, open_folder};

const RAW: [(&str, &str); 1] = [("Sec-WebSocket-Protocol", "ringhall.raw")];

/// Takes everything up to the end, answering the close frame; gives the frames.
fn take_leave(client: &mut Client) -> Vec<Frame> {
    let mut frames = Vec::new();
    loop {
        let frame = client.recv();
        let is_close = frame.opcode == opcode::CLOSE;
        frames.push(frame);
        if is_close {
            client.send_close(frames[frames.len() - 1].close_code().0);
            assert_eq!(client.expect_end(), (End::Eof, Vec::new()), "nothing behind a close");
            client.shutdown_write();
            return frames;
        }
    }
}

fn system_notice() -> serde_json::Value {
    json!({ "type": "system", "message": "Server is shutting down" })
}

/// The wait in milliseconds that a close frame's reason asks for.
#[track_caller]
fn retry_ms(close: &Frame) -> u64 {
    let (code, reason) = close.close_code();
    assert_eq!(code, 1012, "{reason}");
    let wait = reason.strip_prefix("retry_ms=").unwrap_or_else(|| panic!("{reason}"));
    wait.parse().expect("a number of milliseconds")
}

#[test]
fn sigterm_tells_closes_1012_with_a_wait_drawn_for_each_and_ends_with_0() {
    let mut server = Server::start(&["--set", "shutdown.grace=60s"]);
    let mut members: Vec<_> =
        (0..20).map(|n| Client::join(server.address(), "room", &format!("u{n}")).0).collect();
    let mut echo = Client::connect(server.address(), "/echo");
    let mut raw = Client::connect_with(server.address(), "/ws/room/u0", &RAW);
    members.iter_mut().for_each(|member| drop(member.sync()));
    server.signal(Signal::TERM);
    let mut waits = HashSet::new();
    for member in &mut members {
        let frames = take_leave(member);
        let [.., notice, close] = frames.as_slice() else { panic!("{frames:?}") };
        // Others may have left between the two: that is announced as ever.
        let notices = frames.iter().filter(|frame| frame.opcode == opcode::TEXT);
        let notices: Vec<_> = notices.filter(|frame| frame.json() == system_notice()).collect();
        assert_eq!(notices.len(), 1, "told once: {notice:?}");
        waits.insert(retry_ms(close));
    }
    assert!(waits.len() > 5, "drawn for each: {waits:?}");
    assert!(waits.iter().all(|wait| (200..10_000).contains(wait)), "{waits:?}");
    for other in [&mut echo, &mut raw] {
        let frames = take_leave(other);
        assert_eq!(frames.len(), 1, "no word but the close frame: {frames:?}");
        retry_ms(&frames[0]);
    }
    assert_eq!(server.wait(DEADLINE).code(), Some(0), "well before the grace is over");
    server.wait_log("0 connections were cut");
}

#[test]
fn sigint_closes_1001() {
    let mut server = Server::start(&["--set", "shutdown.grace=60s"]);
    let (mut member, _) = Client::join(server.address(), "room", "ann");
    member.sync();
    server.signal(Signal::INT);
    let frames = take_leave(&mut member);
    assert_eq!(frames[0].json(), system_notice());
    assert_eq!(frames[1].close_code().0, 1001);
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
}

#[test]
fn what_is_queued_comes_before_the_close() {
    let sets = ["--set", "shutdown.grace=60s", "--set", "client.close_timeout=60s"];
    let mut server = Server::start(&[&sets[..], &["--set", "client.queue_bytes=64MiB"]].concat());
    let mut slow = Client::connect_small(server.address(), "/ws/room/slow", 4 << 10);
    let (mut speaker, _) = Client::join(server.address(), "room", "speaker");
    let padding = "x".repeat(20_000);
    for n in 0..50 {
        speaker.send_json(&json!({ "content": [n, padding] }));
        speaker.recv_content(json!([n, padding]));
    }
    assert!(server.counter("queue_bytes") > 100_000, "much of it waits for the slow one");
    server.signal(Signal::TERM);
    take_leave(&mut speaker);
    for n in 0..50 {
        assert_eq!(slow.recv_content(json!([n, padding]))["offset"], n + 1);
    }
    let frames = take_leave(&mut slow);
    assert_eq!(frames[0].json(), system_notice());
    retry_ms(frames.last().expect("the close"));
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
}

#[test]
fn nobody_new_is_let_in_meanwhile() {
    let sets = ["--set", "shutdown.grace=60s", "--set", "client.close_timeout=60s"];
    let mut server = Server::start(&sets);
    let (mut member, _) = Client::join(server.address(), "room", "ann");
    // A connection that was accepted before, and asks only now.
    let mut early = Client::raw(server.address());
    server.wait_counter("connections", |connections| connections == 2);
    server.signal(Signal::TERM);
    member.expect_close(1012);
    let refused = early.recv_response(false);
    refused.expect_refusal(503, "shutting_down");
    let retry: u32 = refused.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((1..=10).contains(&retry));
    eventually(DEADLINE, "the port is closed", || {
        let refused = TcpStream::connect(server.address());
        refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    let ready = get(server.admin(), "/ready");
    assert_eq!((ready.status, &ready.json()["reason"]), (503, &json!("draining")));
    member.send_close(1012);
    member.expect_end();
    drop((member, early));
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
}

#[test]
fn who_never_answers_is_cut_and_counted() {
    let sets = ["--set", "shutdown.grace=500ms", "--set", "client.close_timeout=60s"];
    let mut server = Server::start(&sets);
    let mut silent: Vec<_> =
        (0..3).map(|n| Client::join(server.address(), "room", &format!("u{n}")).0).collect();
    let (mut polite, _) = Client::join(server.address(), "room", "polite");
    let began = Instant::now();
    server.signal(Signal::TERM);
    take_leave(&mut polite);
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(500), "they had their time");
    let line = server.wait_log("ended");
    assert!(line.contains("3 connections were cut"), "{line}");
    for client in &mut silent {
        client.expect_close(1012);
    }
}

#[test]
fn a_client_that_does_not_read_cannot_hold_the_shutdown_up() {
    let sets = ["--set", "shutdown.grace=300ms", "--set", "client.queue_bytes=64MiB"];
    let mut server = Server::start(&sets);
    let mut stalled = Client::connect_small(server.address(), "/ws/room/stalled", 4 << 10);
    let (mut speaker, _) = Client::join(server.address(), "room", "speaker");
    let padding = "x".repeat(20_000);
    for n in 0..50 {
        speaker.send_json(&json!({ "content": [n, padding] }));
        speaker.recv_content(json!([n, padding]));
    }
    let _half_open = Client::raw(server.address());
    server.signal(Signal::TERM);
    take_leave(&mut speaker);
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
    assert_eq!(stalled.expect_end().0, End::Reset);
}

#[test]
fn a_second_signal_ends_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let sets = ["--set", "shutdown.grace=600s", "--set", "client.close_timeout=300s"];
        let mut server = Server::start(&sets);
        let (mut silent, _) = Client::join(server.address(), "room", "silent");
        server.signal(Signal::TERM);
        silent.expect_close(1012);
        server.signal(second);
        assert_eq!(server.wait(DEADLINE).code(), Some(0));
        server.wait_log("second signal");
    }
}

#[test]
fn a_download_under_way_is_finished() {
    let folder = open_folder();
    let bytes: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(folder.path().join("large.bin"), &bytes).expect("a file in it");
    let dir = format!("static.dir={}", folder.path().display());
    let mut server = Server::start(&["--set", &dir, "--set", "shutdown.grace=60s"]);
    let mut download = Client::raw_small(server.address(), 64 << 10);
    download.send_bytes(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = download.take_until(b"\r\n\r\n").expect("a head");
    assert!(head.starts_with(b"HTTP/1.1 200 "));
    let first = download.take(100_000).expect("the beginning");
    // A connection that is kept alive and asks for nothing is closed at once.
    let mut idle = Client::raw(server.address());
    idle.send_bytes(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.recv_response(false).status, 200);
    server.signal(Signal::TERM);
    assert_eq!(idle.expect_end(), (End::Eof, Vec::new()));
    server.wait_log("shutting down");
    let rest = download.take(bytes.len() - first.len()).expect("all the rest");
    assert!(first == bytes[..first.len()] && rest == bytes[first.len()..], "byte for byte");
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
}

#[test]
fn a_download_that_nobody_reads_ends_with_the_grace() {
    let folder = open_folder();
    std::fs::write(folder.path().join("large.bin"), vec![7; 20_000_000]).expect("a file in it");
    let dir = format!("static.dir={}", folder.path().display());
    let mut server = Server::start(&["--set", &dir, "--set", "shutdown.grace=300ms"]);
    let mut download = Client::raw_small(server.address(), 64 << 10);
    download.send_bytes(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n");
    download.take_until(b"\r\n\r\n").expect("a head");
    server.signal(Signal::TERM);
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
}

#[test]
fn a_server_without_clients_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&["--set", "shutdown.grace=600s", "--shards", "3"]);
        server.signal(signal);
        assert_eq!(server.wait(DEADLINE).code(), Some(0));
    }
}
