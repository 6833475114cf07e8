//! Ordinary descriptors of the simulation: sockets that leave for plain HTTP and come back.
//!
//! In:    detachments, adoptions, closes.
//! Out:   real descriptors (one end of a pair each), completions.
//! Never: loses track: a descriptor that a shard drops is noticed by the other end of its pair.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ringhall::id::ConnId;
use ringhall::io::{Completion, Errno, Parcel};

use crate::kernel::World;
use crate::socket::SocketId;

impl World {
    /// Makes an ordinary descriptor.
    pub fn detach(&mut self, shard: usize, conn: ConnId) {
        let socket = self.socket_of(shard, conn);
        if self.chance(self.chaos.detach_errors) {
            return self.post(shard, Completion::Detached { conn, fd: Err(Errno::MFILE) });
        }
        let (ours, theirs) = UnixStream::pair().expect("a test may have descriptors");
        let fd = OwnedFd::from(theirs);
        self.sockets[socket].holders += 1;
        self.descriptors.insert(fd.as_raw_fd(), (socket, ours));
        self.post(shard, Completion::Detached { conn, fd: Ok(fd) });
    }

    /// The socket behind an ordinary descriptor.
    pub fn socket_behind(&self, fd: &OwnedFd) -> SocketId {
        self.descriptors[&fd.as_raw_fd()].0
    }

    /// An ordinary descriptor is closed.
    pub fn drop_descriptor(&mut self, fd: OwnedFd) {
        let (socket, _) = self.descriptors.remove(&fd.as_raw_fd()).expect("it was given out");
        drop(fd);
        self.let_go(socket);
    }

    /// Takes an ordinary socket into the table.
    pub fn adopt(&mut self, shard: usize, fd: OwnedFd, parcel: Box<Parcel>) {
        let socket = self.socket_behind(&fd);
        let completion = match self.place(shard, socket) {
            Some(slot) => {
                self.drop_descriptor(fd);
                Completion::Arrived { slot, parcel }
            }
            None => Completion::AdoptFailed { fd, parcel, error: Errno::NFILE },
        };
        self.post(shard, completion);
    }

    /// Notices ordinary descriptors that a shard has dropped; how many are left.
    pub fn descriptors_left(&mut self) -> usize {
        let is_closed = |end: &UnixStream| {
            end.set_nonblocking(true).expect("a socket can be made non-blocking");
            matches!(std::io::Read::read(&mut &*end, &mut [0]), Ok(0))
        };
        let closed: Vec<_> = self
            .descriptors
            .iter()
            .filter(|(_, (_, end))| is_closed(end))
            .map(|(fd, (socket, _))| (*fd, *socket))
            .collect();
        for (fd, socket) in closed {
            self.descriptors.remove(&fd);
            self.let_go(socket);
        }
        self.descriptors.len()
    }
}
