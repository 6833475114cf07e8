//! From one shard's table to another's, and from plain HTTP back into a table.
//!
//! In:    connections that are to sit elsewhere; arrivals; sockets that plain HTTP has upgraded.
//! Out:   departures; connections that open here; sockets for which there was no slot.
//! Never: moves a connection twice, or one with anything in flight.
//!
//! # Invariants
//! - The counts (`limits.connections_max`, an address's) travel with the connection.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use crate::conn::disconnect::{Disconnect, Row};
use crate::conn::snapshot::Snapshot;
use crate::conn::{Conn, Flags, Origin, Phase};
use crate::counters::Counter;
use crate::http::{RefusalKind, Upgrade};
use crate::id::{ConnId, RoomKey, ShardId};
use crate::io::{CloseHow, Errno, Io, Parcel};
use crate::limits::{Spread, moves_reserve};
use crate::shard::{Placement, Shard, State, TurnedAway};
use crate::ws::encode::close_frame;

impl<I: Io> Shard<I> {
    /// Takes in a connection that plain HTTP has upgraded and answered; whoever judged its request
    /// has counted it.
    pub fn adopt(
        &mut self,
        fd: OwnedFd,
        upgrade: Upgrade,
        origin: Option<Origin>,
        leftover: Vec<u8>,
    ) {
        let upgrade = Some(upgrade);
        let snapshot =
            Snapshot { upgrade, answered: true, origin, leftover, ..Snapshot::default() };
        self.io.adopt(fd, snapshot.write());
    }

    pub(super) fn depart(&mut self, id: ConnId, to: ShardId, home: ShardId, upgrade: Upgrade) {
        let Some(conn) = self.state.conns.get(id) else { return };
        conn.phase = Phase::Parting;
        let answered = conn.flags.has(Flags::ANSWERED);
        let cold = conn.cold();
        let snapshot = Snapshot {
            upgrade: Some(upgrade),
            origin: cold.origin,
            leftover: std::mem::take(&mut cold.stash),
            answered,
            // Sent away from a saturated home: it stays where it is sent.
            placed: to != home,
            accepted: cold.accepted,
            ..Snapshot::default()
        };
        self.io.depart(id, to, snapshot.write());
    }

    pub(super) fn departed(&mut self, id: ConnId) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get(id) else { return };
        // The counts go with the connection.
        conn.flags.clear(Flags::ADMITTED);
        conn.cold().origin = None;
        state.count(Counter::departed);
        self.vacate(id, Disconnect::Departed, CloseHow::Orderly);
    }

    pub(super) fn stayed(&mut self, id: ConnId, parcel: &Parcel, error: Errno) {
        let state = &mut self.state;
        state.count(Counter::stayed);
        tracing::debug!(shard = state.id.0, %error, "a connection stays where it was accepted");
        let Some(conn) = state.conns.get(id) else { return };
        conn.phase = Phase::Head;
        conn.flags.set(Flags::PLACED);
        let Some(snapshot) = Snapshot::read(parcel) else {
            return state.end(id, Disconnect::Internal);
        };
        if let Some(upgrade) = snapshot.upgrade {
            self.upgrade(id, upgrade, snapshot.leftover);
        }
    }

    /// A connection from another shard, or back from plain HTTP.
    pub(super) fn arrived(&mut self, slot: u32, parcel: &Parcel) {
        let state = &mut self.state;
        state.count(Counter::arrived);
        let mut conn = Conn::new(state.wheel.tick_at(state.now));
        conn.flags.set(Flags::ADMITTED);
        let snapshot = Snapshot::read(parcel);
        if let Some(snapshot) = &snapshot {
            if snapshot.placed {
                conn.flags.set(Flags::PLACED);
            }
            if snapshot.answered {
                conn.flags.set(Flags::ANSWERED);
            }
            if snapshot.origin.is_some() {
                conn.cold().origin = snapshot.origin;
            }
            if snapshot.accepted.is_some() {
                conn.cold().accepted = snapshot.accepted;
            }
        }
        let id = state.conns.insert(slot, conn);
        let due = state.now.after(state.limits.handshake_timeout);
        state.wheel.set(&mut state.conns, slot, due);
        match snapshot.and_then(|snapshot| snapshot.upgrade.map(|to| (to, snapshot.leftover))) {
            Some((upgrade, leftover)) => self.upgrade(id, upgrade, leftover),
            None => state.end(id, Disconnect::Internal),
        }
        self.pause_accepting();
    }

    /// It has its 101 and never was anybody here: a close frame is all that can be said.
    pub(super) fn adopt_failed(&mut self, fd: OwnedFd, parcel: &Parcel, error: Errno) {
        let state = &mut self.state;
        state.shared.connections.fetch_sub(1, Ordering::Relaxed);
        state.shared.leave(Snapshot::read(parcel).and_then(|snapshot| snapshot.origin));
        state.counters.count_refused(RefusalKind::Full.index());
        if let Some(suppressed) = state.warnings.allow(state.now) {
            let shard = state.id.0;
            tracing::warn!(shard, %error, suppressed, "an upgraded connection found no slot");
        }
        let Row { code, text, .. } = Disconnect::Overloaded.row();
        let words = code.map_or_else(Vec::new, |code| close_frame(code, text));
        state.turned_away.push(TurnedAway { fd, words });
    }
}

impl State {
    /// The shard on which a newcomer is to sit; `None` where it can sit on none.
    ///
    /// A full shard still accepts, for the kernel does not ask which of them has room: whoever need
    /// not sit there is sent on.
    pub(super) fn place(
        &mut self,
        home: ShardId,
        room: &RoomKey,
        is_placed: bool,
    ) -> Option<ShardId> {
        let spread = self.limits.spread;
        let reserve = moves_reserve(self.table_slots);
        let is_full = self.free_slots() < reserve;
        let here = if is_full && !is_placed { self.idlest() } else { self.id };
        if home == self.id {
            return match spread {
                Spread::Never => (!is_full).then_some(home),
                Spread::Auto if !is_placed && self.is_spread(room) => Some(self.idlest()),
                _ => Some(here),
            };
        }
        let stays = is_placed || self.placement == Placement::Accept || spread == Spread::Always;
        let free = self.shared.neighbour(home).free_slots.load(Ordering::Relaxed);
        match (stays, free > reserve) {
            (false, true) => Some(home),
            (true, _) if spread != Spread::Never || self.placement == Placement::Accept => {
                Some(here)
            }
            (false, false) if spread != Spread::Never => Some(here),
            _ => None,
        }
    }
}
