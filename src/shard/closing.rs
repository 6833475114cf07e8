//! The end of a connection: the close frame, FIN, the peer's last bytes, the free slot.
//!
//! In:    reasons to end.
//! Out:   connections in phase `Closing`, then free slots; counts by reason.
//! Never: lets a RST overtake a close frame: input is drained before the socket is closed.

use std::sync::atomic::Ordering;

use crate::conn::disconnect::Disconnect;
use crate::conn::{Conn, Flags, Phase};
use crate::counters::Counter;
use crate::id::ConnId;
use crate::io::{CloseHow, Io};
use crate::shard::{Shard, State};
use crate::ws::encode::close_frame;

/// Where messages are counted that go with a connection which ends for that reason.
const fn drop_counter(reason: Disconnect) -> Counter {
    match reason {
        Disconnect::SlowConsumer => Counter::dropped_disconnect,
        _ => Counter::dropped_overload,
    }
}

impl State {
    /// Ends a connection: says why in a close frame, as far as one can still be sent.
    pub(super) fn end(&mut self, id: ConnId, reason: Disconnect) {
        self.end_saying(id, reason, reason.row().text);
    }

    /// As [`State::end`], with words of its own.
    pub(super) fn end_saying(&mut self, id: ConnId, reason: Disconnect, text: &str) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.is_closing() {
            return;
        }
        if matches!(reason, Disconnect::SlowConsumer | Disconnect::Overloaded) {
            // What waits is let go; a frame once begun is finished.
            if let Some(egress) = &mut conn.egress {
                let dropped = egress.drop_oldest(0);
                egress.take_missed();
                self.counters.add(drop_counter(reason), dropped);
            }
        }
        // Plain HTTP may have answered an upgrade that finds no place here.
        let upgraded = conn.phase == Phase::Open || conn.flags.has(Flags::ANSWERED);
        self.notify_lag(id);
        if let (Some(code), true) = (reason.row().code, upgraded) {
            self.push_own(id, close_frame(code, text));
        }
        if reason.row().loud
            && let Some(suppressed) = self.warnings.allow(self.now)
        {
            let label = reason.row().label;
            tracing::warn!(shard = self.id.0, reason = label, suppressed, "connection ended");
        }
        self.begin_closing(id, reason);
    }

    /// Everything has been said: what is queued goes out, then FIN.
    pub(super) fn begin_closing(&mut self, id: ConnId, reason: Disconnect) {
        let due = self.now.after(self.limits.close_timeout);
        let Some(conn) = self.conns.get(id) else { return };
        if conn.is_closing() {
            return;
        }
        let was_open = conn.phase == Phase::Open;
        self.leave(id);
        let Some(conn) = self.conns.get(id) else { return };
        conn.phase = Phase::Closing(reason);
        conn.flags.clear(Flags::PAUSED);
        conn.assembler = crate::ws::Assembler::default();
        if let Some(cold) = &mut conn.cold {
            cold.head = Vec::new();
            cold.stash = Vec::new();
            cold.stash_start = 0;
            cold.upgrade = None;
        }
        self.count(Counter::closing);
        if was_open {
            self.counters.sub(Counter::websockets, 1);
        }
        self.wheel.set(&mut self.conns, id.slot, due);
        self.mark_dirty(id);
        self.weigh(id);
    }

    /// Takes a connection's counts back.
    fn uncount(&mut self, conn: &Conn, reason: Disconnect) {
        self.counters.count_closed(reason.index());
        match conn.phase {
            Phase::Open => self.counters.sub(Counter::websockets, 1),
            Phase::Closing(_) => self.counters.sub(Counter::closing, 1),
            Phase::Head | Phase::Parting | Phase::Joining => {}
        }
        if conn.flags.has(Flags::ADMITTED) {
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.leave(conn.cold.as_ref().and_then(|cold| cold.origin));
        self.unweigh(conn);
    }
}

impl<I: Io> Shard<I> {
    /// Closes the socket and frees the slot. A connection that was closing keeps its reason.
    pub(super) fn vacate(&mut self, id: ConnId, reason: Disconnect, how: CloseHow) {
        let state = &mut self.state;
        state.leave(id);
        state.wheel.take(&mut state.conns, id.slot);
        let Some(conn) = state.conns.remove(id) else { return };
        let reason = match conn.phase {
            Phase::Closing(known) => known,
            _ => reason,
        };
        state.uncount(&conn, reason);
        tracing::debug!(
            shard = state.id.0,
            slot = id.slot,
            client = conn.client().map(tracing::field::display),
            reason = reason.row().label,
            code = reason.row().code,
            "closed"
        );
        self.io.close(id, how);
    }

    /// Reads and drops what a peer still sends, until its FIN.
    pub(super) fn drain_input(&mut self, id: ConnId) {
        if !self.state.stands() {
            self.watch_input(id);
        }
        let Some(conn) = self.state.conns.get(id) else { return };
        conn.flags.clear(Flags::READY);
        self.state.mark_ready(id);
    }
}
