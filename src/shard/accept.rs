//! From an accepted socket to a member, an echo, a refusal, another shard, or plain HTTP.
//!
//! In:    accepted slots, request heads, arrivals from other shards.
//! Out:   connections in phase `Joining` or `Open`; refusals; departures; handoffs.
//! Never: reads a frame.
//!
//! # Invariants
//! - Until the upgrade, one receive is all that is ever armed: so nothing is in flight when a
//!   connection departs or is detached.
//! - The 101 is sent by the shard on which the connection stays, and after the room has taken it.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::conn::disconnect::{Disconnect, Row};
use crate::conn::snapshot::Snapshot;
use crate::conn::{Conn, Flags, Kind, Phase};
use crate::counters::Counter;
use crate::http::{
    HeadLimits, HeadVerdict, Protocol, Refusal, RefusalKind, Route, Upgrade, read_head,
};
use crate::id::{ConnId, RoomKey, ShardId};
use crate::io::{CloseHow, Errno, Io, Parcel, Patience};
use crate::limits::{Spread, accept_reserve, moves_reserve};
use crate::mesh::Mail;
use crate::room::JoinRefused;
use crate::shard::shared::take_one;
use crate::shard::{Handoff, Placement, Shard, State, TurnedAway};
use crate::ws::encode::close_frame;
use crate::ws::handshake::accept_response;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl<I: Io> Shard<I> {
    /// Begins to accept connections.
    pub fn start(&mut self) {
        self.state.accepting = true;
        self.io.accept();
    }

    /// Takes in a connection that plain HTTP has upgraded and answered; whoever judged its request
    /// has counted it.
    pub fn adopt(
        &mut self,
        fd: OwnedFd,
        upgrade: Upgrade,
        address: Option<IpAddr>,
        leftover: Vec<u8>,
    ) {
        let upgrade = Some(upgrade);
        let snapshot =
            Snapshot { upgrade, answered: true, address, leftover, ..Snapshot::default() };
        self.io.adopt(fd, snapshot.write());
    }

    pub(super) fn accepted(&mut self, slot: u32) {
        let state = &mut self.state;
        state.count(Counter::accepted);
        let id = state.conns.insert(slot, Conn::new(state.wheel.tick_at(state.now)));
        let due = state.now.after(state.limits.handshake_timeout);
        state.wheel.set(&mut state.conns, id.slot, due);
        if state.drain.is_some() {
            return state.refuse_for_shutdown(id);
        }
        if !state.shared.admit(state.limits.connections_max) {
            let message = "the server holds as many connections as limits.connections_max allows; \
                           try again later";
            let retry = state.random.u32(1..=10);
            return state.refuse(id, Refusal::for_now(RefusalKind::Full, message, retry));
        }
        if let Some(conn) = state.conns.get(id) {
            conn.flags.set(Flags::ADMITTED);
        }
        if state.limits.connections_per_address.is_some() {
            self.io.ask_peer(id);
        } else {
            self.await_head(id);
        }
        self.pause_accepting();
    }

    /// A full table drops what the kernel accepts for it: stop before it is full.
    fn pause_accepting(&mut self) {
        let state = &mut self.state;
        if state.accepting && state.free_slots() <= accept_reserve(state.table_slots) {
            state.accepting = false;
            state.count(Counter::accept_paused);
            self.io.stop_accepting();
            if let Some(suppressed) = state.warnings.allow(state.now) {
                tracing::warn!(shard = state.id.0, suppressed, "the table is full: not accepting");
            }
        }
    }

    pub(super) fn accept_stopped(&mut self, error: Errno) {
        let state = &mut self.state;
        if error == Errno::CANCELED {
            // We asked for it; where we accept, that was begun anew since.
            return;
        }
        if state.drain.is_some() || !state.accepting {
            state.accepting = false;
            return;
        }
        let full = matches!(error, Errno::NFILE | Errno::MFILE | Errno::NOMEM | Errno::NOBUFS);
        if full {
            // Accepting again at once would spin.
            state.accepting = false;
            state.accept_after = state.now.after(ACCEPT_PAUSE);
            state.count(Counter::accept_paused);
        } else {
            self.io.accept();
        }
        if error != Errno::AGAIN
            && let Some(suppressed) = state.warnings.allow(state.now)
        {
            tracing::warn!(shard = state.id.0, %error, suppressed, "accepting was interrupted");
        }
    }

    pub(super) fn resume_accepting(&mut self) {
        let state = &mut self.state;
        if state.accepting || state.drain.is_some() || state.now < state.accept_after {
            return;
        }
        if state.free_slots() > 2 * accept_reserve(state.table_slots) {
            self.start();
        }
    }

    pub(super) fn peer_known(&mut self, id: ConnId, address: Option<IpAddr>) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get(id) else { return };
        if conn.phase != Phase::Head {
            return;
        }
        if let (Some(address), Some(limit)) = (address, state.limits.connections_per_address) {
            if !state.shared.addresses.enter(address, limit) {
                let message = "too many connections from this address \
                               (limits.connections_per_address); close some or try again later";
                let retry = state.random.u32(1..=10);
                let refusal = Refusal::for_now(RefusalKind::TooManyConnections, message, retry);
                return state.refuse(id, refusal);
            }
            conn.cold().address = Some(address);
        }
        self.await_head(id);
    }

    fn await_head(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get(id) else { return };
        conn.flags.set(Flags::RECEIVING);
        self.io.recv(id, Patience::Wait);
    }

    /// Bytes of a request head have come.
    pub(super) fn head_received(&mut self, id: ConnId, bytes: &mut [u8]) {
        let state = &mut self.state;
        let limits = HeadLimits { head_bytes: state.limits.head_bytes };
        let Some(conn) = state.conns.get(id) else { return };
        let cold = conn.cold();
        // Nearly always the whole head comes at once and is read where it lies.
        let in_pieces = !cold.head.is_empty();
        if in_pieces {
            cold.head.extend_from_slice(bytes);
        }
        let all: &[u8] = if in_pieces { &cold.head } else { bytes };
        let verdict = read_head(all, &mut cold.progress, limits);
        match verdict {
            HeadVerdict::Incomplete => {
                if !in_pieces {
                    cold.head = bytes.to_vec();
                }
                state.weigh(id);
                self.await_head(id);
            }
            HeadVerdict::Upgrade { request, consumed } => {
                let leftover = all[consumed..].to_vec();
                cold.head = Vec::new();
                state.weigh(id);
                self.upgrade(id, request, leftover);
            }
            HeadVerdict::Plain => {
                if !in_pieces {
                    cold.head = bytes.to_vec();
                }
                state.weigh(id);
                self.leave_for_http(id);
            }
            HeadVerdict::Refuse(refusal) => state.refuse(id, refusal),
        }
    }

    fn leave_for_http(&mut self, id: ConnId) {
        let state = &mut self.state;
        if !take_one(&state.shared.http_connections, state.limits.http_connections) {
            let message = "too many plain HTTP connections (limits.http_connections); try again";
            let retry = state.random.u32(1..=3);
            return state.refuse(id, Refusal::for_now(RefusalKind::HttpFull, message, retry));
        }
        if let Some(conn) = state.conns.get(id) {
            conn.phase = Phase::Parting;
        }
        self.io.detach(id);
    }

    pub(super) fn detached(&mut self, id: ConnId, fd: Result<OwnedFd, Errno>) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get(id) else { return };
        match fd {
            Ok(fd) => {
                let bytes = std::mem::take(&mut conn.cold().head);
                state.count(Counter::http);
                state.handoffs.push(Handoff { fd, bytes });
                self.vacate(id, Disconnect::PlainHttp, CloseHow::Orderly);
            }
            Err(error) => {
                state.shared.http_connections.fetch_sub(1, Ordering::Relaxed);
                if let Some(suppressed) = state.warnings.allow(state.now) {
                    tracing::warn!(
                        %error, suppressed,
                        "no descriptor for a plain HTTP request; raise LimitNOFILE"
                    );
                }
                let message = "the server is out of descriptors; try again later";
                let retry = state.random.u32(1..=3);
                state.refuse(id, Refusal::for_now(RefusalKind::Unavailable, message, retry));
            }
        }
    }

    /// An accepted upgrade: stays here, or goes to the shard that is its room's home.
    fn upgrade(&mut self, id: ConnId, upgrade: Upgrade, leftover: Vec<u8>) {
        let state = &mut self.state;
        if state.drain.is_some() {
            return state.refuse_for_shutdown(id);
        }
        let Some(conn) = state.conns.get(id) else { return };
        let is_placed = conn.flags.has(Flags::PLACED);
        conn.cold().stash = leftover;
        let Route::Room { room, .. } = &upgrade.route else { return self.open_echo(id, &upgrade) };
        let home = state.shared.home(room);
        let Some(target) = state.place(home, room, is_placed) else {
            let message = "the room's shard is full and rooms.spread is \"never\"; try again later";
            let retry = state.random.u32(1..=10);
            return state.refuse(id, Refusal::for_now(RefusalKind::Full, message, retry));
        };
        if target != state.id {
            return self.depart(id, target, home, upgrade);
        }
        if home == state.id {
            state.join_here(id, upgrade);
        } else {
            state.join_there(id, home, upgrade);
        }
        self.arm_if_open(id);
    }

    fn depart(&mut self, id: ConnId, to: ShardId, home: ShardId, upgrade: Upgrade) {
        let Some(conn) = self.state.conns.get(id) else { return };
        conn.phase = Phase::Parting;
        let cold = conn.cold();
        let snapshot = Snapshot {
            upgrade: Some(upgrade),
            address: cold.address,
            leftover: std::mem::take(&mut cold.stash),
            answered: conn.flags.has(Flags::ANSWERED),
            // Sent away from a saturated home: it stays where it is sent.
            placed: to != home,
            ..Snapshot::default()
        };
        self.io.depart(id, to, snapshot.write());
    }

    pub(super) fn departed(&mut self, id: ConnId) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get(id) else { return };
        // The counts go with the connection.
        conn.flags.clear(Flags::ADMITTED);
        conn.cold().address = None;
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
            if snapshot.address.is_some() {
                conn.cold().address = snapshot.address;
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
        if let Some(address) = Snapshot::read(parcel).and_then(|snapshot| snapshot.address) {
            state.shared.addresses.leave(address);
        }
        state.counters.count_refused(RefusalKind::Full.index());
        if let Some(suppressed) = state.warnings.allow(state.now) {
            let shard = state.id.0;
            tracing::warn!(shard, %error, suppressed, "an upgraded connection found no slot");
        }
        let Row { code, text, .. } = Disconnect::Overloaded.row();
        let words = code.map_or_else(Vec::new, |code| close_frame(code, text));
        state.turned_away.push(TurnedAway { fd, words });
    }

    fn open_echo(&mut self, id: ConnId, upgrade: &Upgrade) {
        if !self.state.limits.echo_enabled {
            let message = "/echo is switched off (echo.enabled = false)";
            return self.state.refuse(id, Refusal::new(RefusalKind::EchoDisabled, message));
        }
        self.state.answer(id, upgrade, Kind::Echo, None);
        self.arm_if_open(id);
    }

    /// After a join: the frames that came with the request, then whatever comes.
    pub(super) fn arm_if_open(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get(id) else { return };
        if conn.phase != Phase::Open {
            return;
        }
        conn.flags.set(Flags::POLLED);
        self.io.poll_readable(id);
        self.state.feed_stash(id);
    }
}

impl State {
    /// The shard on which a newcomer is to sit; `None` where it can sit on none.
    ///
    /// A full shard still accepts, for the kernel does not ask which of them has room: whoever need
    /// not sit there is sent on.
    fn place(&mut self, home: ShardId, room: &RoomKey, is_placed: bool) -> Option<ShardId> {
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

    /// Joins a room that lives here.
    fn join_here(&mut self, id: ConnId, upgrade: Upgrade) {
        let Route::Room { room, user, hears_itself } = &upgrade.route else { return };
        match self.admit_member(room, user, None) {
            Ok(entry) => {
                self.sit(id, entry.hall.index, entry.user, entry.from, *hears_itself);
                let joined = Some((entry.epoch, entry.offset));
                self.answer(id, &upgrade, Kind::Room(room.mode), joined);
            }
            Err(why) => self.refuse_join(id, why),
        }
    }

    /// Asks a room that lives elsewhere.
    fn join_there(&mut self, id: ConnId, home: ShardId, upgrade: Upgrade) {
        let Route::Room { room, user, .. } = &upgrade.route else { return };
        let (key, user) = (room.clone(), user.clone());
        let hall = self.outpost(&key, home);
        if let Some(conn) = self.conns.get(id) {
            conn.phase = Phase::Joining;
            conn.cold().upgrade = Some(upgrade);
        }
        // Frames that came with the request wait for the answer, and weigh.
        self.weigh(id);
        self.mesh.post(home, Mail::Join { key, user, who: id, hall });
    }

    /// Answers the upgrade and opens the connection.
    pub(super) fn answer(
        &mut self,
        id: ConnId,
        upgrade: &Upgrade,
        kind: Kind,
        joined: Option<(crate::room::epoch::Epoch, u64)>,
    ) {
        let ping_after = self.limits.ping_after;
        let Some(conn) = self.conns.get(id) else { return };
        conn.phase = Phase::Open;
        conn.kind = kind;
        conn.heard = self.wheel.tick_at(self.now);
        let mut bytes = if conn.flags.take(Flags::ANSWERED) {
            Vec::new()
        } else {
            accept_response(&upgrade.key, upgrade.protocol.map(Protocol::as_str))
        };
        if let (Kind::Room(crate::id::Mode::Json), Some((epoch, offset))) = (kind, joined) {
            let Route::Room { room, .. } = &upgrade.route else { return };
            crate::protocol::event::put_joined(&mut bytes, &room.name, epoch.as_str(), offset);
        }
        self.count(Counter::upgraded);
        self.counters.add(Counter::websockets, 1);
        self.push_own(id, bytes);
        let due = self.now.after(ping_after);
        self.wheel.set(&mut self.conns, id.slot, due);
        tracing::debug!(shard = self.id.0, slot = id.slot, route = ?upgrade.route, "opened");
    }

    pub(super) fn refuse_join(&mut self, id: ConnId, why: JoinRefused) {
        let (kind, message) = match why {
            JoinRefused::RoomFull => (
                RefusalKind::RoomFull,
                "the room has as many members as rooms.members_max allows; try again later",
            ),
            JoinRefused::RoomsFull => (
                RefusalKind::RoomsFull,
                "the server has as many rooms as rooms.max allows; join an existing one or try \
                 again later",
            ),
        };
        let retry = self.random.u32(1..=10);
        self.refuse(id, Refusal::for_now(kind, message, retry));
    }

    pub(super) fn refuse_for_shutdown(&mut self, id: ConnId) {
        let retry = self.random.u32(1..=10);
        let message = "the server is shutting down; come back";
        self.refuse(id, Refusal::for_now(RefusalKind::ShuttingDown, message, retry));
    }

    /// Answers a request with a refusal; the connection ends when the peer has had it.
    pub(super) fn refuse(&mut self, id: ConnId, refusal: Refusal) {
        let Some(conn) = self.conns.get(id) else { return };
        self.counters.count_refused(refusal.kind.index());
        if conn.flags.has(Flags::ANSWERED) {
            // It came from plain HTTP and has its 101: a close frame is all that can be said.
            return self.end(id, Disconnect::Overloaded);
        }
        let code = refusal.kind.code();
        tracing::debug!(shard = self.id.0, slot = id.slot, code, "refused");
        self.push_own(id, refusal.to_bytes());
        self.begin_closing(id, Disconnect::Refused);
    }
}
