//! What became dirty goes out: rooms to their members, queues to their sockets.
//!
//! In:    rooms with frames, payloads of rooms elsewhere, connections with something queued.
//! Out:   at most one send a connection and turn; payloads for other shards.
//! Never: makes anything to be sent, but the notice that a slow reader missed something.
//!
//! # Invariants
//! - A room is flushed only while no other shard owes it an acknowledgement.
//! - A connection with a queue gets everything new behind that queue.

use std::sync::Arc;

use crate::conn::disconnect::Disconnect;
use crate::conn::{Flags, Kind, Phase};
use crate::counters::Counter;
use crate::fanout::{Share, fan_out};
use crate::id::ConnId;
use crate::io::{CloseHow, Errno, Io, Segments};
use crate::limits::SlowPolicy;
use crate::mesh::Mail;
use crate::payload::{Batch, Payload, Segment};
use crate::protocol::event::put_lag;
use crate::room::hall::{Hall, HallId, Role};
use crate::shard::{Shard, State};

impl<I: Io> Shard<I> {
    /// Fans out every room that spoke, but for one that is still being heard, and every payload
    /// from elsewhere; how many these were.
    pub(super) fn fan_out(&mut self, but: Option<u32>) -> usize {
        let mut flushed = 0;
        let mut queued = Vec::new();
        let mut halls = std::mem::take(&mut self.state.dirty_halls);
        let mut later = None;
        for index in halls.drain(..) {
            if but == Some(index) {
                later = but;
            } else if let Some(payload) = self.state.flush_hall(index) {
                flushed += 1;
                self.give_hall(index, &payload, &mut queued);
            }
        }
        // The list keeps its memory; nothing so far has made another room speak.
        self.state.dirty_halls = halls;
        self.state.dirty_halls.extend(later);
        for (hall, payload) in std::mem::take(&mut self.state.foreign) {
            flushed += 1;
            if self.state.halls.get(hall).is_some() {
                self.give_hall(hall.index, &payload, &mut queued);
            }
        }
        for (id, before) in queued {
            self.state.judge(id, before);
        }
        flushed
    }

    fn give_hall(&mut self, index: u32, payload: &Payload, queued: &mut Vec<(ConnId, usize)>) {
        let Self { io, state } = self;
        let Some(hall) = state.halls.at(index) else { return };
        let frames = payload.batch().frames.len();
        let mut sends = 0;
        let mut bytes = 0;
        fan_out(payload, &hall.members, &mut state.conns, state.id, |share| match share {
            Share::Send(id, segment) => {
                sends += 1;
                bytes += segment.len();
                io.send(id, Segments::One(segment));
            }
            Share::Queued(id, before) => queued.push((id, before)),
        });
        state.sends += sends;
        state.sent_bytes += bytes as u64;
        state.largest_fan_out = state.largest_fan_out.max(sends);
        let deliveries = (frames * hall.members.len()) as u64;
        if let Some(home) = hall.home_mut() {
            home.deliveries += deliveries;
        }
        state.counters.add(Counter::deliveries, deliveries);
    }

    /// Sends what else is queued: replies, backlogs that may go on, last words.
    pub(super) fn flush(&mut self) {
        for id in std::mem::take(&mut self.state.dirty) {
            let Some(conn) = self.state.conns.get(id) else { continue };
            conn.flags.clear(Flags::DIRTY);
            if conn.flags.has(Flags::BLOCKED) {
                // What was queued behind the backlog weighs, too.
                self.state.weigh(id);
                continue;
            }
            let limit = self.state.limits.queue_bytes;
            if conn.egress.as_ref().is_some_and(|queue| queue.owes_notice(limit)) {
                self.state.notify_lag(id);
            }
            let Some(conn) = self.state.conns.get(id) else { continue };
            let is_closing = conn.is_closing();
            let Some(egress) = &mut conn.egress else {
                self.finish_soon(id);
                continue;
            };
            if let Some(segments) = egress.take() {
                self.state.sends += 1;
                self.state.sent_bytes += segments.bytes();
                if is_closing && egress.is_empty() {
                    self.io.send_last(id, segments);
                } else {
                    self.io.send(id, segments);
                }
            }
            if egress.is_empty() {
                conn.egress = None;
                if conn.kind == Kind::Echo && conn.flags.has(Flags::PAUSED) {
                    // Go on with what it had sent, one turn later, when it is known whether the
                    // socket took all.
                    self.state.drained.push(id);
                }
                self.finish_soon(id);
            } else {
                self.state.mark_dirty(id);
            }
            self.state.weigh(id);
        }
    }

    /// FIN to those whose last bytes the kernel has taken; before the deadlines are looked at, for
    /// a shard that was kept from its core for seconds blames itself. How many.
    pub(super) fn finish_ended(&mut self) -> usize {
        let ended = std::mem::take(&mut self.state.finishing);
        for id in &ended {
            self.finish(*id);
        }
        ended.len()
    }

    /// FIN follows the last bytes, once it is known that the kernel took them all.
    fn finish_soon(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get(id) else { return };
        if conn.is_closing() && !conn.flags.has(Flags::FINISHED) {
            self.state.finishing.push(id);
        }
    }

    fn finish(&mut self, id: ConnId) {
        let stands = self.state.stands();
        let Some(conn) = self.state.conns.get(id) else { return };
        if conn.egress.is_some() || conn.flags.has(Flags::FINISHED) || !conn.is_closing() {
            return;
        }
        // The kernel hands a SHUTDOWN to a worker thread. Where the peer's close frame was its last
        // word and nothing of it is unread, the close itself is the FIN.
        let unread = Flags::READY.with(Flags::AGAIN).with(match stands {
            // It is always in flight there, and brings what comes by itself.
            true => Flags::AHEAD,
            false => Flags::RECEIVING,
        });
        let last_word = conn.phase == Phase::Closing(Disconnect::PeerClosed);
        if conn.flags.has(Flags::ENDED) || (last_word && !conn.flags.has(unread)) {
            return self.vacate(id, Disconnect::PeerClosed, CloseHow::Orderly);
        }
        conn.flags.set(Flags::FINISHED);
        self.io.shutdown(id);
        self.drain_input(id);
    }

    /// A send fell short: the rest waits until the socket takes bytes again.
    pub(super) fn fell(&mut self, id: ConnId, rest: Vec<Segment>, error: Option<Errno>) {
        let state = &mut self.state;
        state.sent_bytes -= rest.iter().map(|segment| segment.len() as u64).sum::<u64>();
        let Some(conn) = state.conns.get(id) else { return };
        if error.is_some() {
            return self.vacate(id, Disconnect::PeerGone, CloseHow::Reset);
        }
        state.counters.add(Counter::sends_short, 1);
        conn.egress().restore(rest);
        if !conn.flags.has(Flags::BLOCKED) {
            conn.flags.set(Flags::BLOCKED);
            self.io.poll_writable(id);
        }
        state.weigh(id);
    }

    pub(super) fn writable(&mut self, id: ConnId) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get(id) else { return };
        conn.flags.clear(Flags::BLOCKED);
        if conn.kind == Kind::Echo {
            // It is not read from while it does not read: this is its sign of life.
            conn.heard = state.wheel.tick_at(state.now);
        }
        state.mark_dirty(id);
    }
}

impl State {
    /// Takes a room's frames of this turn, and mails them to the other shards with members.
    fn flush_hall(&mut self, index: u32) -> Option<Payload> {
        let hall = self.halls.at(index);
        let Some(Hall { generation, role: Role::Home(home), .. }) = hall else { return None };
        let id = HallId { index, generation: *generation };
        if !home.dirty || home.owed() {
            // `requeue` brings it back when the last acknowledgement has come.
            return None;
        }
        home.dirty = false;
        let since = home.since;
        let batch = std::mem::take(&mut home.pending);
        if batch.is_empty() {
            return None;
        }
        self.meter.publish(since, batch.frames.len());
        if home.subscribers.is_empty() {
            return Some(Payload::own(batch));
        }
        let batch = Arc::new(batch);
        for subscriber in &mut home.subscribers {
            subscriber.owes = true;
            let (hall, batch) = (subscriber.hall, batch.clone());
            let mail = Mail::Payload { home: id, hall, batch };
            self.mesh.post(subscriber.shard, mail);
        }
        Some(Payload::shared(batch))
    }

    /// A payload was queued for a reader that had `before` bytes waiting already.
    ///
    /// Judged by what was there before: one large payload never cuts a reader that keeps up.
    fn judge(&mut self, id: ConnId, before: usize) {
        if before > self.limits.queue_bytes {
            match self.limits.policy {
                SlowPolicy::Disconnect => {
                    self.end(id, Disconnect::SlowConsumer);
                    return;
                }
                SlowPolicy::DropOldest => {
                    let keep = self.limits.queue_bytes;
                    if let Some(conn) = self.conns.get(id) {
                        let dropped = conn.egress().drop_oldest(keep);
                        self.counters.add(Counter::dropped, dropped);
                    }
                }
            }
        }
        self.mark_dirty(id);
        self.weigh(id);
    }

    /// Tells a reader that catches up, or whose last words are to follow, what it has missed.
    pub(super) fn notify_lag(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let (kind, seat) = (conn.kind, conn.seat);
        let Some(egress) = &mut conn.egress else { return };
        let Some(missed) = egress.take_missed() else { return };
        let Kind::Room(crate::id::Mode::Json) = kind else { return };
        let Some(hall) = seat.and_then(|seat| self.halls.at(seat.hall)) else { return };
        let mut bytes = Vec::new();
        put_lag(&mut bytes, &hall.key.name, missed.messages, missed.offset);
        let notice = Payload::own(Batch { bytes, frames: Vec::new() }).whole();
        egress.insert_notice(notice, missed);
    }
}
