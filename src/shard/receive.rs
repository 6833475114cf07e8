//! Turns readable connections into received bytes, a stride at a time, room by room.
//!
//! In:    connections that were readable when the turn began; buffers.
//! Out:   receives; what they brought, taken in within the same turn; answers and payloads of the
//!        stride before, on their way while their sockets are still in the cache.
//! Never: takes input twice from one connection in a turn.
//!
//! With standing receives (`standing.rs`) the strides arm those who have none; their input is taken
//! in before.
//!
//! # Why in strides
//! A socket is kilobytes of the kernel's memory, so hundreds of them are more than a core's cache
//! holds: sent to by the same submission as the next stride's receives, it is still there.
//! # Why room by room
//! A room is one payload a turn, so it can go only when all its readable members were heard. Where
//! these are neighbours, that is soon.

use crate::conn::Flags;
use crate::id::ConnId;
use crate::io::{Io, Patience, Wait};
use crate::shard::{Shard, State};

impl<I: Io> Shard<I> {
    /// Receives from everybody who was readable when the turn began; how much there was to do.
    pub(super) fn receive(&mut self) -> usize {
        let mut work = self.take_arrivals();
        let readable = self.state.readable_by_room();
        for (at, stride) in readable.chunks(self.state.ring.stride).enumerate() {
            if at > 0 {
                // The last room of the stride before may go on in this one.
                let still_heard = self.state.room_of(stride[0]);
                work += self.fan_out(still_heard);
            }
            self.send_back();
            self.queue_receives(stride);
            self.io.submit(Wait::No);
            work += self.reap();
        }
        self.state.reuse(readable);
        work
    }

    /// Gives each a buffer, as long as there are any; the others stay readable.
    fn queue_receives(&mut self, stride: &[ConnId]) {
        let mut buffers = self.io.buffers_free();
        let stands = self.state.stands();
        for id in stride {
            let Some(conn) = self.state.conns.get(*id) else { continue };
            if conn.flags.has(Flags::PAUSED.with(Flags::RECEIVING).with(Flags::AHEAD)) {
                continue;
            }
            if buffers == 0 {
                self.state.ready.push(*id);
                continue;
            }
            buffers -= 1;
            conn.flags.clear(Flags::READY);
            conn.flags.set(Flags::RECEIVING);
            match stands {
                false => self.io.recv(*id, Patience::DontWait),
                true => self.io.recv_standing(*id),
            }
        }
    }
}

impl State {
    /// Who is readable; where these are more than a stride, members of a room side by side.
    fn readable_by_room(&mut self) -> Vec<ConnId> {
        let mut readable = std::mem::take(&mut self.ready);
        if readable.len() > self.ring.stride {
            // Whose room was readable first is first.
            let first = self.room_of(readable[0]).unwrap_or(0);
            readable.sort_by_cached_key(|id| {
                self.room_of(*id).map_or(u32::MAX, |hall| hall.wrapping_sub(first))
            });
        }
        readable
    }

    /// Keeps the list's memory for the turns to come.
    fn reuse(&mut self, mut readable: Vec<ConnId>) {
        readable.clear();
        readable.append(&mut self.ready);
        self.ready = readable;
    }

    fn room_of(&mut self, id: ConnId) -> Option<u32> {
        self.conns.get(id)?.seat.map(|seat| seat.hall)
    }
}
