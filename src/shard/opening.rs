//! From an accepted upgrade to a member, an echo, or a refusal.
//!
//! In:    upgrades, of heads that were read here and of connections from elsewhere.
//! Out:   connections in phase `Joining` or `Open`; refusals; connections that move on.
//! Never: reads a head or a frame.
//!
//! # Invariants
//! - The 101 is sent by the shard on which the connection stays, and after the room has taken it.

use crate::conn::disconnect::Disconnect;
use crate::conn::{Flags, Kind, Phase};
use crate::counters::Counter;
use crate::http::{Protocol, Refusal, RefusalKind, Route, Upgrade};
use crate::id::{ConnId, ShardId};
use crate::io::Io;
use crate::mesh::Mail;
use crate::room::JoinRefused;
use crate::room::hall::Parked;
use crate::shard::{Shard, State};
use crate::ws::handshake::accept_response;

impl<I: Io> Shard<I> {
    /// An accepted upgrade: stays here, or goes to the shard that is its room's home.
    pub(super) fn upgrade(&mut self, id: ConnId, upgrade: Upgrade, leftover: Vec<u8>) {
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
        if !self.state.stands() {
            self.watch_input(id);
        }
        // Where receives stand, this asks for one.
        self.state.feed_stash(id);
    }
}

impl State {
    /// Joins a room that lives here.
    pub(super) fn join_here(&mut self, id: ConnId, upgrade: Upgrade) {
        let Route::Room { room, user, hears_itself } = &upgrade.route else { return };
        match self.opening(room) {
            Ok(None) => {}
            Ok(Some(opening)) => {
                opening.parked.push(Parked::Here(id));
                return self.wait_to_join(id, upgrade);
            }
            Err(why) => return self.refuse_join(id, why),
        }
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
        self.wait_to_join(id, upgrade);
        self.mesh.post(home, Mail::Join { key, user, who: id, hall });
    }

    fn wait_to_join(&mut self, id: ConnId, upgrade: Upgrade) {
        if let Some(conn) = self.conns.get(id) {
            conn.phase = Phase::Joining;
            conn.cold().upgrade = Some(upgrade);
        }
        // Frames that came with the request wait for the answer, and weigh.
        self.weigh(id);
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
        let client = conn.client();
        if let Some(cold) = &mut conn.cold {
            // Nobody asks for it any more unless it is counted: an idle member keeps nothing.
            cold.origin = cold.origin.filter(|origin| origin.is_counted);
            if let Some(accepted) = cold.accepted.take() {
                self.meter.answer(accepted);
            }
        }
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
        tracing::debug!(
            shard = self.id.0,
            slot = id.slot,
            client = client.map(tracing::field::display),
            route = ?upgrade.route,
            "opened"
        );
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
            JoinRefused::ShuttingDown => return self.refuse_for_shutdown(id),
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
        let client = conn.client().map(tracing::field::display);
        tracing::debug!(shard = self.id.0, slot = id.slot, client, code, "refused");
        self.push_own(id, refusal.to_bytes());
        self.begin_closing(id, Disconnect::Refused);
    }
}
