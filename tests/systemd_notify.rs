//! What a supervisor hears: ready, how things are, alive, reloading, stopping.

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use support::{Client, DEADLINE, Notices, Server, get, open_folder};

/// A server with a supervisor that listens, and watches with such a time if any.
fn start(arguments: &[&str], watchdog_usec: Option<u64>) -> (Server, Notices) {
    let notices = Notices::new();
    let server = Server::with(|command| {
        notices.name_to(command);
        command.args(arguments);
        if let Some(micros) = watchdog_usec {
            command.env("WATCHDOG_USEC", micros.to_string());
        }
    });
    (server, notices)
}

fn monotonic_usec() -> u128 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)).as_micros()
}

#[test]
fn ready_is_the_first_word_and_true() {
    let (server, notices) = start(&[], None);
    assert_eq!(notices.next(), "READY=1\nSTATUS=0 connections, 0 rooms\n");
    assert_eq!(get(server.admin(), "/ready").status, 200);
    Client::join(server.address(), "room", "ann");
}

#[test]
fn the_status_says_how_many_and_how_much() {
    let (server, notices) = start(&[], None);
    notices.wait("READY=1");
    let (mut ann, _) = Client::join(server.address(), "room", "ann");
    let (_bob, _) = Client::join(server.address(), "room", "bob");
    let spoken = Instant::now();
    loop {
        ann.send_json(&json!({ "content": "on and on" }));
        ann.recv_content("on and on");
        let status = notices.waiting().into_iter().find(|notice| notice.contains("2 connections"));
        let Some(status) = status else {
            assert!(spoken.elapsed() < DEADLINE, "no status came");
            continue;
        };
        assert!(status.starts_with("STATUS=2 connections, 1 rooms, "), "{status}");
        let rate = |unit: &str| -> u64 {
            let (before, _) = status.split_once(unit).unwrap_or_else(|| panic!("{status}"));
            let (_, number) = before.rsplit_once(", ").unwrap_or_else(|| panic!("{status}"));
            number.parse().unwrap_or_else(|_| panic!("{status}"))
        };
        assert!(rate(" messages a second in") > 0, "{status}");
        // Each is delivered to two.
        assert!(rate(" out\n") > rate(" messages a second in"), "{status}");
        break;
    }
}

#[test]
fn a_watchdog_hears_pings_while_shards_sleep_and_nobody_else_does() {
    let (server, notices) = start(&["--shards", "3"], Some(400_000));
    notices.wait("READY=1");
    let began = Instant::now();
    for _ in 0..5 {
        notices.wait("WATCHDOG=1\n");
    }
    // Five halves of its time, but for the first, which counts from the start.
    assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
    drop(server);
    // Not asked for, meant for another process, or switched off.
    let other_pid = std::process::id().to_string();
    for (micros, pid) in [(None, None), (Some("1000"), Some(other_pid)), (Some("0"), None)] {
        let notices = Notices::new();
        let _server = Server::with(|command| {
            notices.name_to(command);
            micros.iter().for_each(|micros| drop(command.env("WATCHDOG_USEC", micros)));
            pid.iter().for_each(|pid| drop(command.env("WATCHDOG_PID", pid)));
        });
        assert!(notices.next().starts_with("READY=1"));
        let next = notices.next();
        assert!(next.starts_with("STATUS="), "{micros:?}: {next}");
    }
}

#[test]
fn a_reload_is_told_with_its_moment_and_its_outcome() {
    let folder = open_folder();
    let path = folder.path().join("ringhall.toml");
    std::fs::write(&path, "[rooms]\nmax = 7\n").expect("a file");
    let (server, notices) = start(&["--config", path.to_str().expect("UTF-8")], None);
    notices.wait("READY=1");
    let before = monotonic_usec();
    server.signal(Signal::HUP);
    let notice = notices.wait("RELOADING=1\n");
    let at = notice.split_once("MONOTONIC_USEC=").expect("its moment").1.trim_end();
    let at: u128 = at.parse().expect("a number");
    assert!((before..=monotonic_usec()).contains(&at), "{notice}");
    let ready = notices.wait("READY=1\n");
    assert!(ready.contains("STATUS=0 connections"), "{ready}");
    std::fs::write(&path, "[rooms]\nmax = \"many\"\n").expect("a file");
    server.signal(Signal::HUP);
    notices.wait("RELOADING=1\n");
    // The old limits hold, and it serves: a supervisor that waits must not give it up.
    let ready = notices.wait("READY=1\n");
    assert!(ready.contains("reload refused"), "{ready}");
}

#[test]
fn stopping_asks_for_the_grace_and_pings_go_on() {
    let arguments = ["--set", "shutdown.grace=300s", "--set", "client.close_timeout=60s"];
    let (mut server, notices) = start(&arguments, Some(100_000));
    let (mut silent, _) = Client::join(server.address(), "room", "silent");
    server.signal(Signal::TERM);
    let notice = notices.wait("STOPPING=1\n");
    let time = notice.split_once("EXTEND_TIMEOUT_USEC=").expect("a time").1.trim_end();
    assert!(time.parse::<u64>().expect("a number") > 300_000_000, "{notice}");
    silent.expect_close(1012);
    for _ in 0..5 {
        notices.wait("WATCHDOG=1\n");
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
}

#[test]
fn a_start_in_vain_says_why_and_never_ready() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("a bound socket").to_string();
    let notices = Notices::new();
    let mut command = Server::command();
    notices.name_to(&mut command);
    let output = command.args(["--listen", &taken, "--admin", "127.0.0.1:0"]).output();
    assert_eq!(output.expect("the binary runs").status.code(), Some(1));
    let said = notices.waiting();
    let [status] = said.as_slice() else { panic!("{said:?}") };
    assert!(status.starts_with("STATUS=cannot listen on"), "{status}");
}

#[test]
fn a_supervisor_that_is_deaf_or_gone_holds_nothing_up() {
    // A ping a millisecond fills its queue at once.
    let (mut server, notices) = start(&[], Some(2_000));
    server.wait_log("does not take a notice");
    Client::join(server.address(), "room", "ann");
    drop(notices);
    Client::join(server.address(), "room", "bob");
    server.signal(Signal::TERM);
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
    let complaints = server.log().into_iter().filter(|line| line.contains("does not take"));
    assert_eq!(complaints.count(), 1);
}
