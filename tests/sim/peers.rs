//! The far end of the simulated wires: what clients do with their sockets.
//!
//! In:    connects, writes, reads, FINs and resets of the clients.
//! Out:   bytes and events for the shards' sockets.
//! Never: decides anything without the seed.

use std::net::IpAddr;

use crate::kernel::World;
use crate::socket::{Read, Socket, SocketId};

impl World {
    /// Connects to a shard's listener.
    pub fn connect(&mut self, shard: usize, up: usize, down: usize, address: IpAddr) -> SocketId {
        self.sockets.push(Socket::new(up, down, address));
        let id = self.sockets.len() - 1;
        self.rings[shard].backlog.push_back(id);
        id
    }

    /// A client writes; how much of it fits.
    pub fn client_write(&mut self, id: SocketId, bytes: &[u8]) -> usize {
        let socket = &mut self.sockets[id];
        if socket.server_closed {
            return bytes.len();
        }
        let fits = bytes.len().min(socket.up.room());
        socket.up.bytes.extend(&bytes[..fits]);
        if fits > 0 {
            self.wake(id);
        }
        fits
    }

    /// A client ends its stream.
    pub fn client_fin(&mut self, id: SocketId) {
        self.sockets[id].up.fin = true;
        self.wake(id);
    }

    /// A client sends RST.
    pub fn client_reset(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        socket.client_reset = true;
        socket.client_closed = true;
        socket.up.bytes.clear();
        self.wake(id);
    }

    /// A client closes its end.
    pub fn client_close(&mut self, id: SocketId) {
        if self.sockets[id].down.bytes.is_empty() {
            self.sockets[id].client_closed = true;
            self.client_fin(id);
        } else {
            self.client_reset(id);
        }
    }

    /// A client reads.
    pub fn client_read(&mut self, id: SocketId, at_most: usize) -> Read {
        let now = self.now;
        let socket = &mut self.sockets[id];
        let was_writable = socket.writable();
        let bytes = socket.down.take(at_most);
        if bytes.is_empty() {
            return match socket {
                Socket { server_reset: true, .. } => Read::Reset,
                Socket { down, .. } if down.fin && at_most > 0 => Read::Fin,
                _ => Read::Nothing,
            };
        }
        socket.drained_at = now;
        if !was_writable && socket.writable() {
            self.wake(id);
        }
        Read::Bytes(bytes)
    }
}
