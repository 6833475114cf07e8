//! The server as `tuning/systemd/ringhall.service` confines it, and a shard that hangs.
//!
//! Needs root, systemd-analyze and python3-seccomp: tests/run installs them, runs this by name, and
//! then the server's other tests behind the same `tests/systemd/confined`.

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use support::{Client, DEADLINE, Notices, Server, get, open_folder};

fn tool(name: &str) -> Command {
    Command::new(format!("{}/tests/systemd/{name}", env!("CARGO_MANIFEST_DIR")))
}

/// The binary with the unit's list of system calls, less these.
fn binary_without(calls: &[&str]) -> Command {
    let server = Server::command();
    let mut command = tool("confined");
    for call in calls {
        command.args(["--without", call]);
    }
    command.arg(server.get_program());
    for (name, _) in server.get_envs() {
        command.env_remove(name);
    }
    command
}

/// The server, the same way.
fn confined_without(calls: &[&str]) -> Command {
    let mut command = binary_without(calls);
    command.args(["--shards", "2", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command
}

/// A line of `/proc/PID/status`.
#[track_caller]
fn status(server: &Server, field: &str) -> String {
    let path = format!("/proc/{}/status", server.pid());
    let text = std::fs::read_to_string(path).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}: {text}")).trim().to_owned()
}

#[test]
fn nobody_without_capabilities_serves_under_the_units_own_list() {
    let mut server = Server::spawn(confined_without(&[]));
    assert!(status(&server, "Uid").starts_with("65534"), "{}", status(&server, "Uid"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(&server, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(&server, "NoNewPrivs"), "1");
    assert_eq!(status(&server, "Seccomp"), "2", "a filter");
    let own = std::fs::read_link("/proc/self/ns/user").expect("a namespace");
    let its = std::fs::read_link(format!("/proc/{}/ns/user", server.pid()));
    assert_ne!(its.expect("a namespace"), own);
    assert_eq!(server.log().len(), 1, "no complaint: {:#?}", server.log());
    for n in 0..10 {
        let room = format!("room{n}");
        let (mut ann, _) = Client::join(server.address(), &room, "ann");
        let (mut bob, _) = Client::join(server.address(), &room, "bob");
        ann.send_json(&json!({ "content": n }));
        bob.recv_content(n);
    }
    assert_eq!(get(server.address(), "/").status, 200);
    server.signal(Signal::HUP);
    server.wait_log("limits reloaded");
    server.signal(Signal::TERM);
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
}

#[test]
fn without_aio_it_does_not_start_and_says_what_is_missing() {
    let output = confined_without(&["@aio"]).output().expect("the launcher runs");
    let Output { status, stderr, .. } = output;
    let said = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(1), "{said}");
    for part in ["ringhall: ", "forbids io_uring", "SystemCallFilter=", "@aio"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn the_units_preflight_lets_it_start_and_says_before_it_what_is_missing() {
    let folder = open_folder();
    let toml = folder.path().join("ringhall.toml");
    std::fs::write(&toml, "[rooms]\nmax = 7\n").expect("a file");
    let preflight = |calls: &[&str]| {
        let mut command = binary_without(calls);
        command.args(["doctor", "--preflight", "--config"]).arg(&toml);
        let Output { status, stdout, stderr } = command.output().expect("the launcher runs");
        let said = [stdout, stderr].concat();
        (status.code(), String::from_utf8(said).expect("UTF-8"))
    };
    let (code, said) = preflight(&[]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = preflight(&["@aio"]);
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("FAIL") && said.contains("io_uring"), "{said}");
}

#[test]
fn what_is_refused_and_can_be_done_without_is_a_warning() {
    let server = Server::spawn(confined_without(&["sched_setaffinity"]));
    server.wait_log("the thread is not pinned");
    Client::join(server.address(), "room", "ann");
}

#[test]
fn a_shard_that_hangs_is_noticed_and_the_watchdog_hears_nothing() {
    let notices = Notices::new();
    let server = Server::with(|command| {
        notices.name_to(command);
        command.args(["--shards", "3"]).env("WATCHDOG_USEC", "400000");
    });
    notices.wait("WATCHDOG=1");
    let pid = server.pid().to_string();
    let mut freezer = tool("freeze")
        .args([&pid, "shard-1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut said = String::new();
    let stdout = freezer.stdout.take().expect("it was asked for");
    BufReader::new(stdout).read_line(&mut said).expect("UTF-8");
    assert_eq!(said, "frozen\n");
    // What it had shown before counts once more at most.
    notices.wait("STATUS=shard 1 does not move");
    server.wait_log("the shard does not move");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let notice = notices.next();
        assert!(!notice.contains("WATCHDOG=1"), "{notice}");
    }
    freezer.stdin.take().expect("it was asked for").write_all(b"\n").expect("it waits");
    assert!(freezer.wait().expect("our own child").success());
    notices.wait("WATCHDOG=1");
    Client::join(server.address(), "room", "ann");
}
