//! One turn: everything that happened since the last one, in one pass. The server on one screen.
//!
//! In:    `now`, and what the kernel, the other shards and the main thread have to say.
//! Out:   one submission; whether there is more to do, and until when the host may sleep.
//! Never: waits, but for the little wait of a busy shard (`Wait::Gather`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::counters::Counter;
use crate::io::{Completion, Io, Wait};
use crate::shard::Shard;
use crate::time::Now;

/// What the host should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another turn: there is work.
    Turn,
    /// Sleep until something happens, or until then.
    Sleep(Option<Now>),
    /// Nothing will ever happen again: the shutdown is complete.
    End,
}

/// How soon to look again whether another shard has made room for mail.
const MAIL_RETRY: Duration = Duration::from_millis(1);

impl<I: Io> Shard<I> {
    /// Runs one turn.
    pub fn turn(&mut self, now: Now) -> Next {
        self.state.now = now;
        let is_last = self.state.are_all_vacant();
        (self.state.sends, self.state.largest_fan_out) = (0, 0);
        self.state.meter.begin();
        self.orders(); //                     limits, shutdown
        let mut work = self.resume(); //      what had to wait for its room, before anything new
        let reaped = self.reap(); //          who is readable, what arrived, what fell short
        self.note_completions(reaped);
        self.note_sent_bytes(); //            what is known to have gone out
        work += reaped;
        work += self.finish_ended(); //       FIN behind the last bytes of those that end
        work += self.mailbox(); //            what other shards' members say, what other homes said
        work += self.bridge_mail(); //        what other boxes' members say, and who comes and goes
        work += self.state.resume_echoes(); // input that had to wait for its own reader
        work += self.receive(); //            bytes in -> frame -> message -> command -> room
        work += self.timers(); //             heartbeats and other deadlines, summaries
        work += self.drain(); //              a shutdown's next few farewells
        self.keep_budget(); //                the slowest pay if all queues together are too much
        work += self.fan_out(None); //        rooms x members -> one payload -> sends
        self.send_back(); //                  echoes, out of the buffers that they came in
        self.flush(); //                      whoever has anything else to be sent
        self.post(); //                       mail out, bells
        self.settle(work);
        self.io.submit(self.patience());
        self.next(work, is_last)
    }

    pub(super) fn reap(&mut self) -> usize {
        let mut reaped = 0;
        while let Some(completion) = self.io.reap() {
            reaped += 1;
            match completion {
                Completion::Accepted { slot } => self.accepted(slot),
                Completion::AcceptStopped { error } => self.accept_stopped(error),
                Completion::Peer { conn, address } => self.peer_known(conn, address),
                Completion::Readable { conn, hangup, armed } => self.readable(conn, hangup, armed),
                Completion::Writable { conn } => self.writable(conn),
                Completion::Received { conn, outcome, armed } => {
                    self.received(conn, outcome, armed);
                }
                Completion::Fell { conn, rest, error } => self.fell(conn, rest, error),
                Completion::Arrived { slot, parcel } => self.arrived(slot, &parcel),
                Completion::Departed { conn } => self.departed(conn),
                Completion::Stayed { conn, parcel, error } => self.stayed(conn, &parcel, error),
                Completion::Detached { conn, fd } => self.detached(conn, fd),
                Completion::AdoptFailed { fd, parcel, error } => {
                    self.adopt_failed(fd, &parcel, error);
                }
                Completion::Doorbell => {}
            }
        }
        reaped
    }

    /// How many completions a turn begins with, of late: what a busy shard waits for.
    fn note_completions(&mut self, reaped: usize) {
        let recent = self.state.recent_completions;
        self.state.recent_completions = reaped.max(recent * 7 / 8);
    }

    /// What fell short of all sends so far is known, and none has been made since.
    fn note_sent_bytes(&self) {
        self.state.counters.set(Counter::sent_bytes, self.state.sent_bytes);
    }

    fn post(&mut self) {
        let io = &mut self.io;
        let mailed = self.state.mesh.flush(|shard| io.doorbell(shard));
        self.state.counters.add(Counter::mesh_messages, mailed as u64);
        if let Some(bridge) = &mut self.state.bridge {
            bridge.flush();
        }
    }

    fn settle(&mut self, work: usize) {
        let state = &mut self.state;
        if work > 0 {
            state.count(Counter::turns);
            state.meter.worked = true;
        }
        state.counters.add(Counter::sends, state.sends as u64);
        state.counters.set(Counter::connections, state.conns.len() as u64);
        let lent = state.buffers.saturating_sub(self.io.buffers_free());
        state.counters.set(Counter::buffers_lent, lent as u64);
        let low = state.buffers_free_low.note(state.now, self.io.buffers_free_low());
        state.counters.set(Counter::buffers_free_low, low as u64);
        state.counters.set(Counter::completion_overflows, self.io.overflows());
        let free = state.free_slots();
        let neighbour = state.shared.neighbour(state.id);
        neighbour.free_slots.store(free, Ordering::Relaxed);
        neighbour.moved_at.store(state.now.0, Ordering::Relaxed);
        self.note_vacancy();
        self.look_after_gate();
    }

    /// A turn that fanned out to a large room waits a little, so that the next has more to join:
    /// for as many completions as recent turns began with. Small rooms would only wait.
    fn patience(&self) -> Wait {
        let limits = &self.state.limits;
        if self.state.largest_fan_out < limits.gather_sends || limits.gather_wait.is_zero() {
            return Wait::No;
        }
        let count = self.state.recent_completions.clamp(1, limits.gather_max.max(1));
        Wait::Gather { count, at_most: limits.gather_wait }
    }

    /// `is_last`: before the turn began, all shards had nothing left to do.
    fn next(&mut self, work: usize, is_last: bool) -> Next {
        let state = &mut self.state;
        if let Some(drain) = state.drain.as_ref().filter(|drain| drain.is_over())
            && state.conns.is_empty()
        {
            if drain.is_cut() || (is_last && work == 0 && state.are_all_vacant()) {
                return Next::End;
            }
            if !is_last && state.are_all_vacant() {
                return Next::Turn;
            }
        }
        let more =
            !state.ready.is_empty() || !state.dirty.is_empty() || !state.finishing.is_empty();
        let more = more || !state.drained.is_empty() || !state.inbox.is_empty();
        if work > 0 || more || !state.dirty_halls.is_empty() {
            return Next::Turn;
        }
        let mut until = state.wheel.next_due();
        let summary = state.summaries.front().map(|(due, _)| *due);
        let drain = state.drain.as_ref().and_then(|drain| drain.next_due());
        let waits = !state.paused.is_empty() || state.mesh.waiting() > 0 || state.holds_mail();
        let waits = waits || state.owes_bridge() || state.held_inbound.is_some();
        let retry = waits.then(|| state.now.after(MAIL_RETRY));
        for due in [summary, drain, retry, state.gate_due()].into_iter().flatten() {
            until = Some(until.map_or(due, |until| until.min(due)));
        }
        Next::Sleep(until)
    }
}
