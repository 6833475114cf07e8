//! Turns one `UringIo` into something a test can talk to: operations in, awaited completions out.
//!
//! In:    operations, through `io`.
//! Out:   the completion that a test waits for; a panic that lists what came instead.
//! Never: sleeps; a wait ends with an event, or fails after `DEADLINE`.

use std::collections::VecDeque;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ringhall::id::ConnId;
use ringhall::io::{Completion, Errno, Input, Io, Patience, Segments, Wait};
use ringhall::net::{ListenOptions, listen};
use ringhall::payload::{Batch, Payload};
use ringhall::uring::{ENTERS_MAX, Setup, UringIo};

/// Far beyond what any event of a loaded box takes.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A ring and what has come out of it.
pub struct Rig {
    pub io: UringIo,
    pub address: SocketAddr,
    /// Came, and no test has asked for it yet.
    pub seen: VecDeque<Completion>,
}

/// A ring of the smallest size, with a listener.
pub fn setup(table_slots: u32, buffers: u16, buffer_bytes: usize) -> (Setup, SocketAddr) {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let listeners = vec![listener];
    (
        Setup {
            listeners,
            table_slots,
            buffers,
            buffer_bytes,
            entries: 4096,
            stride: 64,
            send: ringhall::limits::SendMode::Send,
            ring_bytes_max: 0,
            defer_accept: false,
            enters_max: ENTERS_MAX,
        },
        address,
    )
}

pub fn listener() -> TcpListener {
    listen(SocketAddr::from(([127, 0, 0, 1], 0)), &ListenOptions::default()).unwrap()
}

pub fn conn(slot: u32) -> ConnId {
    ConnId { slot, generation: 1 }
}

pub fn payload(bytes: &[u8]) -> Payload {
    Payload::own(Batch { bytes: bytes.to_vec(), frames: Vec::new() })
}

pub fn one(bytes: &[u8]) -> Segments {
    Segments::One(payload(bytes).whole())
}

impl Rig {
    /// A table of `table_slots`, 16 buffers of 1 KiB.
    pub fn new(table_slots: u32) -> Self {
        Self::with(table_slots, 16, 1024)
    }

    pub fn with(table_slots: u32, buffers: u16, buffer_bytes: usize) -> Self {
        let (setup, address) = setup(table_slots, buffers, buffer_bytes);
        let io = UringIo::new(setup).unwrap();
        Self { io, address, seen: VecDeque::new() }
    }

    /// Submits what is queued and takes over what is there, without waiting.
    pub fn turn(&mut self) {
        self.io.submit(Wait::No);
        while let Some(completion) = self.io.reap() {
            self.seen.push_back(completion);
        }
    }

    /// Waits for the first completion of which `pick` makes something; others stay in `seen`.
    pub fn wait<T>(&mut self, mut pick: impl FnMut(&mut Completion) -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            for place in 0..self.seen.len() {
                if let Some(picked) = pick(&mut self.seen[place]) {
                    self.seen.remove(place);
                    return picked;
                }
            }
            assert!(since.elapsed() < DEADLINE, "waited in vain; there were {:?}", self.seen);
            self.io.submit(Wait::Gather { count: 1, at_most: Duration::from_secs(1) });
            while let Some(completion) = self.io.reap() {
                self.seen.push_back(completion);
            }
        }
    }

    /// Waits for a slot to be accepted into.
    pub fn accepted(&mut self) -> ConnId {
        self.wait(|completion| match completion {
            Completion::Accepted { slot } => Some(conn(*slot)),
            _ => None,
        })
    }

    /// A client, and its connection here. `io.accept` must have been called.
    pub fn connect(&mut self) -> (TcpStream, ConnId) {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.set_nodelay(true).unwrap();
        let conn = self.accepted();
        (client, conn)
    }

    /// Waits for the end of a receive.
    pub fn received(&mut self, of: ConnId) -> Result<Input, Errno> {
        self.wait(|completion| match completion {
            Completion::Received { conn, outcome, .. } if *conn == of => Some(*outcome),
            _ => None,
        })
    }

    /// Receives once and returns the bytes; the buffer is given back.
    pub fn take(&mut self, of: ConnId) -> Vec<u8> {
        self.io.recv(of, Patience::Wait);
        let input = self.received(of).unwrap();
        let Some(id) = input.buffer else { return Vec::new() };
        let bytes = self.io.buffer(id, input.len).to_vec();
        self.io.release(id);
        bytes
    }

    /// Receives until there are `len` bytes.
    pub fn take_exactly(&mut self, of: ConnId, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let more = self.take(of);
            assert!(!more.is_empty(), "the stream ended after {} of {len} bytes", bytes.len());
            bytes.extend(more);
        }
        bytes
    }

    /// Waits for a poll event: hangup, still armed.
    pub fn readable(&mut self, of: ConnId) -> (bool, bool) {
        self.wait(|completion| match completion {
            Completion::Readable { conn, hangup, armed } if *conn == of => Some((*hangup, *armed)),
            _ => None,
        })
    }

    /// Everything that the kernel had to say by the time that a connection made after this call
    /// has been accepted, served and closed.
    pub fn settled(&mut self) -> &VecDeque<Completion> {
        let (mut client, conn) = self.connect();
        self.io.send(conn, one(b"!"));
        self.turn();
        client.read_exact(&mut [0]).unwrap();
        self.io.close(conn, ringhall::io::CloseHow::Orderly);
        self.turn();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        self.turn();
        &self.seen
    }
}
