//! Listening sockets that a supervisor has opened: used, one a shard, instead of `server.listen`.

mod support;

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringhall::net::{ListenOptions, listen_all};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;
use serde_json::json;
use support::{Client, DEADLINE, Server, get};

/// Sockets that are passed on would be passed to whatever another test starts meanwhile, too.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sockets as a socket unit with so many lines of one address makes them.
fn group(address: &str, count: usize) -> Vec<TcpListener> {
    let options = ListenOptions { backlog: 128, ..ListenOptions::default() };
    let address = address.parse().expect("an address");
    let listeners = listen_all(address, count, &options).expect("a free port");
    // systemd's own are; what it passes on is not, but others pass them as they are.
    for listener in &listeners {
        listener.set_nonblocking(true).expect("a socket of our own");
    }
    listeners
}

/// The command of a server that is given these descriptors from 3 on, as sd_listen_fds(3) says.
fn given<T: Into<OwnedFd>>(passed: Vec<T>) -> (Command, Vec<OwnedFd>) {
    let passed: Vec<OwnedFd> = passed.into_iter().map(Into::into).collect();
    let mut moves = String::new();
    for (fd, target) in passed.iter().zip(3..) {
        fcntl_setfd(fd.as_fd(), FdFlags::empty()).expect("a descriptor of our own");
        // By way of high numbers: a target may be a descriptor that is still to be moved.
        moves += &format!("exec {}<&{} {}<&-;", target + 100, fd.as_raw_fd(), fd.as_raw_fd());
    }
    for target in 3..3 + passed.len() {
        moves += &format!("exec {target}<&{0} {0}<&-;", target + 100);
    }
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{moves} LISTEN_PID=$$ exec \"$0\" \"$@\"")]);
    let mut command = Server::behind(shell);
    command.env("LISTEN_FDS", passed.len().to_string());
    command.args(["--admin", "127.0.0.1:0"]);
    (command, passed)
}

/// Starts a server that is given these sockets, and closes ours.
#[track_caller]
fn start(passed: Vec<TcpListener>, arguments: &[&str]) -> Server {
    let (mut command, passed) = given(passed);
    command.args(arguments);
    let server = Server::spawn(command);
    drop(passed);
    server
}

/// Starts one that must not start; what it said.
#[track_caller]
fn start_in_vain<T: Into<OwnedFd>>(passed: Vec<T>, arguments: &[&str]) -> String {
    let (mut command, passed) = given(passed);
    let Output { status, stderr, .. } = command.args(arguments).output().expect("it runs");
    drop(passed);
    let said = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

fn address_of(listeners: &[TcpListener]) -> SocketAddr {
    listeners[0].local_addr().expect("a bound socket")
}

#[test]
fn they_are_used_instead_of_the_configured_address() {
    let _alone = alone();
    let passed = group("127.0.0.1:0", 2);
    let address = address_of(&passed);
    // An address that could not be had.
    let server = start(passed, &["--shards", "2", "--listen", "192.0.2.1:80"]);
    assert_eq!(server.addresses(), [address]);
    server.wait_log("server.listen is not");
    for n in 0..20 {
        let room = format!("room{n}");
        let (mut ann, _) = Client::join(address, &room, "ann");
        let (mut bob, _) = Client::join(address, &room, "bob");
        ann.send_json(&json!({ "content": n }));
        bob.recv_content(n);
    }
    assert_eq!(get(address, "/").status, 200);
    assert_eq!(server.health()["dependencies"]["shards"]["alive"], 2);
}

#[test]
fn every_address_has_one_a_shard() {
    let _alone = alone();
    let (first, second) = (group("127.0.0.1:0", 3), group("127.0.0.1:0", 3));
    let addresses = [address_of(&first), address_of(&second)];
    let server = start([first, second].into_iter().flatten().collect(), &["--shards", "3"]);
    assert_eq!(server.addresses(), addresses);
    let (mut ann, _) = Client::join(addresses[0], "room", "ann");
    let (mut bob, _) = Client::join(addresses[1], "room", "bob");
    ann.send_json(&json!({ "content": "over there" }));
    bob.recv_content("over there");
}

#[test]
fn a_client_that_came_before_the_server_is_served() {
    let _alone = alone();
    let passed = group("127.0.0.1:0", 1);
    let mut early = TcpStream::connect(address_of(&passed)).expect("it listens already");
    let request = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut early, request).expect("it is connected");
    let _server = start(passed, &["--shards", "1"]);
    early.set_read_timeout(Some(DEADLINE)).expect("a time");
    let mut answer = String::new();
    early.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn clients_that_come_between_two_servers_wait_for_the_second() {
    let _alone = alone();
    let held = group("127.0.0.1:0", 2);
    let address = address_of(&held);
    let passed = || held.iter().map(|one| one.try_clone().expect("a copy")).collect::<Vec<_>>();
    let mut first = start(passed(), &["--shards", "2"]);
    Client::join(address, "room", "ann");
    first.signal(Signal::TERM);
    assert_eq!(first.wait(DEADLINE).code(), Some(0));
    let mut between: Vec<_> = (0..8).map(|_| Client::raw(address)).collect();
    let _second = start(passed(), &["--shards", "2"]);
    for client in &mut between {
        client.send_bytes(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.recv_response(false).status, 200);
    }
}

#[test]
fn what_a_socket_unit_cannot_set_is_set_on_them() {
    let _alone = alone();
    let passed = group("127.0.0.1:0", 1);
    let ours = passed[0].try_clone().expect("a copy");
    let server = start(passed, &["--shards", "1", "--set", "server.notsent_lowat=20KiB"]);
    let socket = socket2::SockRef::from(&ours);
    assert_eq!(socket.tcp_notsent_lowat().expect("an option"), 20 << 10);
    assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(Duration::from_secs(60)));
    assert!(!socket.nonblocking().expect("a flag"), "a ring waits for a client itself");
    Client::join(server.address(), "room", "ann");
}

#[test]
fn a_wrong_number_is_told_with_how_many_lines_to_write() {
    let _alone = alone();
    let passed = group("127.0.0.1:0", 3);
    let address = address_of(&passed);
    let said = start_in_vain(passed, &["--shards", "2"]);
    let last = said.lines().last().expect("it says something");
    for part in [
        format!("passed 3 sockets for {address}"),
        format!("write 2 lines `ListenStream={address}`"),
        "ReusePort=yes".to_owned(),
        "server.shards = 3".to_owned(),
    ] {
        assert!(last.starts_with("ringhall: ") && last.contains(&part), "{part}: {said}");
    }
}

#[test]
fn what_is_no_listening_tcp_socket_is_refused() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let local = UnixListener::bind(folder.path().join("socket")).expect("a socket");
    let said = start_in_vain(vec![local], &["--shards", "1"]);
    assert!(said.contains("no TCP socket") && said.contains("ListenStream="), "{said}");
    let listener = group("127.0.0.1:0", 1).remove(0);
    let client = TcpStream::connect(address_of(&[listener])).expect("it listens");
    let said = start_in_vain(vec![client], &["--shards", "1"]);
    assert!(said.contains("Accept=no"), "{said}");
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let _alone = alone();
    let server = Server::with(|command| {
        command.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
    });
    Client::join(server.address(), "room", "ann");
}
