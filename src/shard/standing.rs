//! Turns what standing receives bring into input, one piece of a connection a turn.
//!
//! In:    completions of receives that stand (`ring.receive = "standing"`).
//! Out:   input of open connections; stashes of those that wait; receives that are stopped.
//! Never: polls for input; stands by a connection whose head is not complete.
//!
//! The kernel receives from whoever sends, as long as there are buffers, and does not ask whether
//! its room can take more. So input goes through the inbox: one piece of each connection a turn,
//! the rest waits, and the receive is stopped until that is taken in. What still comes for a
//! connection that waits for its room (or for its own reader) is copied behind its stash: buffers
//! are never kept by who has to wait.
//!
//! # Invariants
//! - `RECEIVING` is what the last completion said. `PAUSED` and `AHEAD` arm nothing.
//! - The inbox keeps a connection's order, and the end of its stream behind its bytes.
//! - What waits for one connection is at most what the ring's buffers hold.

use crate::conn::disconnect::Disconnect;
use crate::conn::{Flags, Phase};
use crate::counters::Counter;
use crate::id::ConnId;
use crate::io::{BufferId, CloseHow, Errno, Input, Io};
use crate::shard::Shard;

/// What a standing receive has brought.
#[derive(Debug)]
pub(crate) struct Arrival {
    conn: ConnId,
    outcome: Result<Input, Errno>,
}

impl<I: Io> Shard<I> {
    /// Takes note of what a receive has brought; it is taken in with the turn's other input.
    pub(super) fn received_standing(
        &mut self,
        id: ConnId,
        outcome: Result<Input, Errno>,
        armed: bool,
    ) {
        let conn = self.state.conns.get(id);
        let Some(conn) = conn.filter(|conn| matches!(conn.phase, Phase::Open | Phase::Closing(_)))
        else {
            // A head, which is received once, or nobody any more.
            return self.received_once(id, outcome);
        };
        conn.flags.clear(Flags::RECEIVING.with(Flags::AGAIN));
        if armed {
            conn.flags.set(Flags::RECEIVING);
        }
        match outcome {
            Err(error @ (Errno::NOBUFS | Errno::CANCELED | Errno::AGAIN | Errno::INTR)) => {
                if error == Errno::NOBUFS {
                    self.state.count(Counter::buffers_exhausted);
                }
                if !armed {
                    self.state.mark_ready(id);
                }
            }
            outcome => {
                if outcome.is_ok_and(|it| it.more || it.len == self.state.ring.buffer_bytes) {
                    conn.flags.set(Flags::AGAIN);
                }
                self.state.inbox.push(Arrival { conn: id, outcome });
            }
        }
    }

    /// Takes in what has arrived, one piece a connection; how many there were.
    pub(super) fn take_arrivals(&mut self) -> usize {
        if self.state.inbox.is_empty() {
            return 0;
        }
        let mut arrivals = std::mem::take(&mut self.state.inbox);
        let mut heard = std::mem::take(&mut self.state.heard);
        let work = arrivals.len();
        for arrival in arrivals.drain(..) {
            let id = arrival.conn;
            let Some(conn) = self.state.conns.get(id) else {
                self.let_go(arrival.outcome);
                continue;
            };
            if conn.flags.has(Flags::HEARD) {
                conn.flags.set(Flags::AHEAD);
                self.state.inbox.push(arrival);
            } else {
                conn.flags.set(Flags::HEARD);
                conn.flags.clear(Flags::AHEAD);
                heard.push(id);
                self.take_arrival(id, arrival.outcome);
            }
        }
        for id in heard.drain(..) {
            self.listen_on(id);
        }
        // The lists' memory is kept for the turns to come.
        arrivals.append(&mut self.state.inbox);
        (self.state.inbox, self.state.heard) = (arrivals, heard);
        work
    }

    fn take_arrival(&mut self, id: ConnId, outcome: Result<Input, Errno>) {
        let Some(conn) = self.state.conns.get(id) else { return };
        let (phase, is_paused) = (conn.phase, conn.flags.has(Flags::PAUSED));
        match outcome {
            // The socket says so again when what it has sent before is taken in.
            Err(_) | Ok(Input { len: 0, .. }) if is_paused => self.let_go(outcome),
            Err(_) => self.vacate(id, Disconnect::PeerGone, CloseHow::Reset),
            Ok(Input { len: 0, .. }) => {
                self.let_go(outcome);
                self.peer_ended(id);
            }
            Ok(Input { buffer: Some(buffer), len, .. }) if is_paused => {
                self.stash_behind(id, buffer, len);
            }
            Ok(Input { buffer: Some(buffer), len, .. }) => {
                if !self.take_in(id, phase, buffer, len) {
                    self.io.release(buffer);
                }
            }
            Ok(Input { buffer: None, .. }) => {}
        }
    }

    /// Gives back the buffer of what nobody takes in.
    fn let_go(&mut self, outcome: Result<Input, Errno>) {
        if let Ok(Input { buffer: Some(buffer), .. }) = outcome {
            self.io.release(buffer);
        }
    }

    /// Copies what came for a connection that waits behind what it waits with.
    fn stash_behind(&mut self, id: ConnId, buffer: BufferId, len: usize) {
        let bytes = self.io.buffer(buffer, len);
        if let Some(conn) = self.state.conns.get(id) {
            conn.cold().stash.extend_from_slice(bytes);
        }
        self.io.release(buffer);
        self.state.weigh(id);
    }

    /// After a connection's input: sees to it that more is received, or that no more is.
    fn listen_on(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get(id) else { return };
        conn.flags.clear(Flags::HEARD);
        let waits = conn.flags.has(Flags::PAUSED.with(Flags::AHEAD));
        match (waits, conn.flags.has(Flags::RECEIVING)) {
            (true, true) => self.io.stop_receiving(id),
            (false, false) if !conn.flags.has(Flags::ENDED) => {
                // It may have been passed over while it was ahead.
                conn.flags.clear(Flags::READY);
                self.state.mark_ready(id);
            }
            _ => {}
        }
    }
}
