//! Pins: a socket leaves the ring for ordinary code, and comes back, with its bytes.
//!
//! Why this test must never be deleted: a plain HTTP request leaves the ring with its socket, and
//! an upgrade on that kept-alive connection comes back. The ordinary descriptor is made
//! non-blocking by the runtime that serves it meanwhile, and receives must wait again afterwards.
//! And after a detach two descriptors hold one socket: closing the slot must neither end nor delay
//! it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use ringhall::io::{CloseHow, Completion, Errno, Io, Parcel, Patience};

#[path = "support/ring.rs"]
#[expect(dead_code, reason = "each kernel test uses a part of it")]
mod ring;
use ring::{Rig, conn, one};

fn detached(rig: &mut Rig) -> OwnedFd {
    rig.wait(|completion| match completion {
        Completion::Detached { fd, .. } => Some(std::mem::replace(fd, Err(Errno::BADF)).unwrap()),
        _ => None,
    })
}

fn adopted(rig: &mut Rig) -> Result<(u32, Vec<u8>), (Errno, Vec<u8>)> {
    rig.wait(|completion| match completion {
        Completion::Arrived { slot, parcel } => Some(Ok((*slot, parcel.0.clone()))),
        Completion::AdoptFailed { parcel, error, .. } => Some(Err((*error, parcel.0.clone()))),
        _ => None,
    })
}

#[test]
fn a_socket_leaves_and_comes_back_with_its_bytes() {
    let mut rig = Rig::new(8);
    rig.io.accept();
    let (mut client, first) = rig.connect();
    client.write_all(b"GET").unwrap();
    assert_eq!(rig.take(first), b"GET");
    client.write_all(b" / ").unwrap();
    rig.io.detach(first);
    let fd = detached(&mut rig);
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    rig.io.close(first, CloseHow::Orderly);
    rig.turn();

    // Ordinary code reads what the ring left, and answers: closing the slot ended nothing.
    let mut plain = TcpStream::from(fd);
    let mut bytes = [0; 3];
    plain.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b" / ");
    plain.write_all(b"200").unwrap();
    plain.set_nonblocking(true).unwrap();

    client.write_all(b"upgrade").unwrap();
    rig.io.adopt(plain.into(), Box::new(Parcel(vec![5])));
    let (slot, parcel) = adopted(&mut rig).unwrap();
    assert_eq!(parcel, [5]);
    let back = conn(slot);
    assert_eq!(rig.take(back), b"upgrade");
    // It waits, though the runtime had made it non-blocking.
    rig.io.recv(back, Patience::Wait);
    rig.turn();
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
    client.write_all(b"frame").unwrap();
    let input = rig.received(back).unwrap();
    assert_eq!(input.len, 5);
    rig.io.release(input.buffer.unwrap());
    rig.io.send(back, one(b"101"));
    rig.io.close(back, CloseHow::Orderly);
    rig.turn();
    // One descriptor was left, and it is gone: the client sees the end.
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"200101");
}

#[test]
fn a_full_table_gives_the_parcel_back_and_the_socket() {
    let mut rig = Rig::new(1);
    rig.io.accept();
    let (_client, _) = rig.connect();
    // The backlog takes this one; nobody accepts it, so that the table's one slot stays as it is.
    let listener = ring::listener();
    let mut other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    rig.io.adopt(socket.into(), Box::new(Parcel(vec![6])));
    let fd = rig.wait(|completion| match completion {
        Completion::AdoptFailed { fd, parcel, error } => {
            assert_eq!((*error, parcel.0.as_slice()), (Errno::NFILE, &[6][..]));
            Some(fd.try_clone().unwrap())
        }
        _ => None,
    });
    rig.seen.clear();
    // It can still be told something; and the ring holds nothing of it.
    let mut back = TcpStream::from(fd);
    back.write_all(b"full").unwrap();
    drop(back);
    let mut all = Vec::new();
    other.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"full");
}

#[test]
fn an_empty_slot_cannot_be_detached() {
    let mut rig = Rig::new(2);
    rig.io.detach(conn(1));
    let error = rig.wait(|completion| match completion {
        Completion::Detached { fd, .. } => fd.as_ref().err().copied(),
        _ => None,
    });
    assert_eq!(error, Errno::BADF);
}
