//! A TCP connection as both ends see it: two bounded pipes, FIN and RST.
//!
//! In:    bytes from either end, ends of streams, resets.
//! Out:   what the other end may read, as the kernel would give it.
//! Never: wakes anybody; the kernel of the simulation does.

use std::collections::VecDeque;
use std::net::IpAddr;

/// A socket of the simulated world.
pub type SocketId = usize;

/// One direction: send buffer, network and receive buffer in one.
#[derive(Debug)]
pub struct Pipe {
    /// Bytes under way.
    pub bytes: VecDeque<u8>,
    /// Bytes that fit.
    pub capacity: usize,
    /// The stream ends behind these bytes.
    pub fin: bool,
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, fin: false }
    }

    /// Bytes that can be written now.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len())
    }

    /// Takes the oldest bytes.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        self.bytes.drain(..count.min(self.bytes.len())).collect()
    }
}

/// Both directions and what has become of either end.
#[derive(Debug)]
pub struct Socket {
    /// Client to server.
    pub up: Pipe,
    /// Server to client.
    pub down: Pipe,
    /// The client's address.
    pub address: IpAddr,
    /// The client has sent RST.
    pub client_reset: bool,
    /// The server has been told so (`ECONNRESET` is reported once).
    pub reset_reported: bool,
    /// The client has closed its end: whatever is sent to it is answered with RST.
    pub client_closed: bool,
    /// The server has sent RST.
    pub server_reset: bool,
    /// Slots, descriptors and messages under way that hold the server's end.
    pub holders: usize,
    /// `SO_LINGER` of zero seconds: the last close sends RST.
    pub lingers_not: bool,
    /// The server's end has been closed.
    pub server_closed: bool,
    /// It came back from plain HTTP and found the table full, and plain HTTP too.
    pub unplaced: bool,
    /// When the server last received something.
    pub heard_at: u64,
    /// When the client last read something.
    pub drained_at: u64,
    /// Slots of its tables: shard and slot.
    pub places: Vec<(usize, u32)>,
}

/// What a client's read gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Nothing yet.
    Nothing,
    /// Bytes.
    Bytes(Vec<u8>),
    /// The server's FIN.
    Fin,
    /// The server's RST.
    Reset,
}

impl Socket {
    /// A new connection.
    pub fn new(up: usize, down: usize, address: IpAddr) -> Self {
        Self {
            up: Pipe::new(up),
            down: Pipe::new(down),
            address,
            client_reset: false,
            reset_reported: false,
            client_closed: false,
            server_reset: false,
            holders: 0,
            lingers_not: false,
            server_closed: false,
            unplaced: false,
            heard_at: 0,
            drained_at: 0,
            places: Vec::new(),
        }
    }

    /// What a poll for input sees: something to read, and whether the peer has hung up.
    pub fn readable(&self) -> (bool, bool) {
        let hangup = self.client_reset || self.up.fin;
        (!self.up.bytes.is_empty() || hangup, hangup)
    }

    /// What a poll for output sees. The kernel wakes a writer when a good part is free.
    pub fn writable(&self) -> bool {
        self.client_reset || self.down.fin || self.down.room() * 2 >= self.down.capacity
    }

    /// What the client would read now.
    pub fn has_news_for_client(&self) -> bool {
        !self.down.bytes.is_empty() || self.down.fin || self.server_reset
    }

    /// The last holder is gone.
    pub fn close_server(&mut self, kept: usize) {
        self.server_closed = true;
        // The kernel answers with RST where input was left unread.
        if self.lingers_not || !self.up.bytes.is_empty() {
            self.server_reset = true;
            // What the network had not delivered yet is lost.
            self.down.bytes.truncate(kept);
        }
        self.down.fin = true;
    }
}
