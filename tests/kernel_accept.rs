//! Pins: one multishot accept fills direct slots until it is stopped; a full table loses a client.
//!
//! Why this test must never be deleted: the server stops accepting *before* its table is full
//! only because a full table does not leave the client in the backlog, it accepts and drops it.
//! Should a kernel ever do otherwise, the margin may go; should one end a multishot accept
//! differently, a shard would stop accepting for ever and nobody would notice but its clients.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use ringhall::io::{CloseHow, Completion, Errno, Io, Patience};
use ringhall::net::{ListenOptions, listen};
use ringhall::uring::{Setup, UringIo};

#[path = "support/ring.rs"]
#[expect(dead_code, reason = "each kernel test uses a part of it")]
mod ring;
use ring::{DEADLINE, Rig};

fn stopped(rig: &mut Rig) -> Errno {
    rig.wait(|completion| match completion {
        Completion::AcceptStopped { error } => Some(*error),
        _ => None,
    })
}

#[test]
fn one_accept_fills_slots_until_it_is_stopped() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let clients: Vec<_> = (0..5).map(|_| rig.connect()).collect();
    let mut slots: Vec<u32> = clients.iter().map(|(_, conn)| conn.slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3, 4]);

    rig.io.stop_accepting();
    assert_eq!(stopped(&mut rig), Errno::CANCELED);
    // Nobody accepts now: the client waits in the backlog, and is there when accepting goes on.
    let late = TcpStream::connect(rig.address).unwrap();
    rig.turn();
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
    rig.io.accept();
    assert_eq!(rig.accepted().slot, 5);
    drop(late);
}

#[test]
fn stopping_and_starting_in_one_turn_leaves_one_accept() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    rig.turn();
    rig.io.stop_accepting();
    rig.io.accept();
    let (_client, _) = rig.connect();
    assert!(rig.seen.is_empty(), "the end of the old accept is nobody's news: {:?}", rig.seen);
}

#[test]
fn single_accepts_take_as_many_as_were_asked_for_and_leave_the_rest_in_the_backlog() {
    let mut rig = Rig::new(16);
    rig.io.accept_some(1);
    rig.io.accept_some(2);
    let mut waiting: Vec<_> = (0..5).map(|_| TcpStream::connect(rig.address).unwrap()).collect();
    rig.accepted();
    rig.accepted();
    rig.turn();
    assert!(rig.seen.is_empty(), "two, those of the first call included: {:?}", rig.seen);
    rig.io.accept_some(1);
    rig.accepted();
    rig.turn();
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
    // Two are there, two are waited for.
    rig.io.accept_some(4);
    rig.accepted();
    rig.accepted();
    rig.io.stop_accepting();
    assert_eq!((stopped(&mut rig), stopped(&mut rig)), (Errno::CANCELED, Errno::CANCELED));
    waiting.push(TcpStream::connect(rig.address).unwrap());
    rig.turn();
    assert!(rig.seen.is_empty(), "nobody accepts: {:?}", rig.seen);
    // From single ones to a standing one within a turn, and back.
    rig.io.accept_some(4);
    rig.io.stop_accepting();
    rig.io.accept();
    rig.accepted();
    rig.io.stop_accepting();
    rig.io.accept_some(1);
    let (_client, _) = rig.connect();
    rig.turn();
    let ends = |seen: &Completion| matches!(seen, Completion::AcceptStopped { .. });
    assert!(rig.seen.iter().all(ends), "{:?}", rig.seen);
}

#[test]
fn a_full_table_drops_the_accepted_connection() {
    let mut rig = Rig::new(2);
    rig.io.accept();
    let (_a, a) = rig.connect();
    let (_b, _) = rig.connect();
    let mut lost = TcpStream::connect(rig.address).unwrap();
    lost.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(stopped(&mut rig), Errno::NFILE);
    // Not refused, not left waiting: accepted, and closed at once.
    assert!(matches!(lost.read(&mut [0]), Ok(0) | Err(_)));
    // A slot that is free again is used again.
    rig.io.close(a, CloseHow::Orderly);
    rig.io.accept();
    let (_c, c) = rig.connect();
    assert_eq!(c.slot, a.slot);
}

#[test]
fn a_closed_listener_refuses() {
    let mut rig = Rig::new(4);
    rig.io.accept();
    let (_client, _) = rig.connect();
    rig.io.stop_accepting();
    assert_eq!(stopped(&mut rig), Errno::CANCELED);
    rig.io.close_listeners();
    let refused = TcpStream::connect(rig.address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_ring_without_listener_says_so() {
    let setup = Setup {
        listeners: Vec::new(),
        table_slots: 2,
        buffers: 1,
        buffer_bytes: 64,
        entries: 4096,
        stride: 64,
        send: ringhall::limits::SendMode::Send,
        ring_bytes_max: 0,
        defer_accept: false,
        enters_max: ringhall::uring::ENTERS_MAX,
    };
    let mut io = UringIo::new(setup).unwrap();
    io.accept();
    assert!(matches!(io.reap(), Some(Completion::AcceptStopped { error: Errno::BADF })));
}

#[test]
fn who_has_something_to_say_is_accepted_before_who_came_first_and_is_silent() {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), &ListenOptions::default());
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    let setup = Setup {
        listeners: vec![listener],
        table_slots: 4,
        buffers: 1,
        buffer_bytes: 64,
        entries: 4096,
        stride: 64,
        send: ringhall::limits::SendMode::Send,
        ring_bytes_max: 0,
        defer_accept: true,
        enters_max: ringhall::uring::ENTERS_MAX,
    };
    let mut rig = Rig { io: UringIo::new(setup).unwrap(), address, seen: Default::default() };
    rig.io.accept();
    rig.turn();
    let _silent = TcpStream::connect(address).unwrap();
    let mut speaks = TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut speaks, b"hello").unwrap();
    let accepted = |completion: &mut Completion| match completion {
        Completion::Accepted { slot } => Some(ring::conn(*slot)),
        _ => None,
    };
    let first = rig.wait(accepted);
    rig.io.recv(first, Patience::DontWait);
    let said = rig.wait(|completion| match completion {
        Completion::Received { conn, outcome: Ok(input), .. } if *conn == first => Some(input.len),
        _ => None,
    });
    assert_eq!(said, 5, "it is there already");
    // The silent one comes when the kernel has waited for it: nobody is kept out for ever.
    rig.wait(accepted);
}

fn peer_of(listening: SocketAddr, connecting: SocketAddr) -> Option<IpAddr> {
    let listener = listen(listening, &ListenOptions::default()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let setup = Setup {
        listeners: vec![listener],
        table_slots: 4,
        buffers: 1,
        buffer_bytes: 64,
        entries: 4096,
        stride: 64,
        send: ringhall::limits::SendMode::Send,
        ring_bytes_max: 0,
        defer_accept: false,
        enters_max: ringhall::uring::ENTERS_MAX,
    };
    let address = SocketAddr::new(connecting.ip(), port);
    let mut rig = Rig { io: UringIo::new(setup).unwrap(), address, seen: Default::default() };
    rig.io.accept();
    let mut peers = Vec::new();
    // Twice: the second is asked with what the first has taught.
    for _ in 0..2 {
        let (_client, of) = rig.connect();
        rig.io.ask_peer(of);
        peers.push(rig.wait(|completion| match completion {
            Completion::Peer { conn, address } if *conn == of => Some(*address),
            _ => None,
        }));
    }
    assert_eq!(peers[0], peers[1]);
    peers[0]
}

#[test]
fn a_peers_address_is_known_whatever_its_family() {
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let local = SocketAddr::from((v4, 0));
    assert_eq!(peer_of(local, local), Some(IpAddr::V4(v4)));
    if std::net::TcpListener::bind((v6, 0)).is_err() {
        println!("this box has no IPv6: peers of that family are not asked for");
        return;
    }
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    assert_eq!(peer_of(everywhere, local), Some(IpAddr::V4(v4)));
    assert_eq!(peer_of(everywhere, SocketAddr::from((v6, 0))), Some(IpAddr::V6(v6)));
}
