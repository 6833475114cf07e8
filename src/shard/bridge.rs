//! Rooms that several boxes share: what a room's home tells the bridge, and what it hears from it.
//!
//! In:    speech, joins and leaves of rooms that live here; the bridge's lane.
//! Out:   mail for the bridge; frames pending, announcements due; `unavailable` to a speaker.
//! Never: runs where no broker is configured: every way in here is one look at `State::bridge`.
//!
//! # Invariants
//! - A message is heard by members here and goes to the bridge, or only goes there (`ordered`: it
//!   comes back with its place), or stays here and is counted, or is heard by nobody, and its
//!   speaker is told.
//! - Mail whose room can take no more this turn is held, and nothing behind it is read.

use crate::bridge::envelope::{self, Body, Said, partition};
use crate::bridge::{Delivery, Inbound, Outbound, Place, Verdict};
use crate::conn::{Kind, Phase};
use crate::counters::Counter;
use crate::id::{ConnId, ConnKey, Mode, RoomKey};
use crate::io::Io;
use crate::protocol::event::{self, Crossing};
use crate::protocol::{ErrorCode, Fault};
use crate::room::epoch::Epoch;
use crate::room::hall::{Hall, HallId, Home, Role};
use crate::room::users::UserId;
use crate::shard::ingress::Ended;
use crate::shard::{Shard, State};
use crate::ws::Opcode;
use crate::ws::encode::put_frame;

/// Something that a member says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speech<'a> {
    /// Who, by the room's numbering.
    pub(super) user: UserId,
    /// From which connection.
    pub(super) speaker: ConnKey,
    /// Text or binary.
    pub(super) opcode: Opcode,
    /// JSON, or the raw payload.
    pub(super) content: &'a [u8],
    /// The speaker's own mark, as JSON.
    pub(super) reference: Option<&'a str>,
}

impl<I: Io> Shard<I> {
    /// Takes what the bridge has told since the last turn; how much.
    pub(super) fn bridge_mail(&mut self) -> usize {
        match &self.state.bridge {
            // What is held was tried at the beginning of the turn.
            Some(end) if self.state.held_inbound.is_none() => {
                let arrived = end.arrived();
                self.take_inbound(arrived)
            }
            _ => 0,
        }
    }

    /// Goes on behind what its room could not take; how much was taken.
    pub(super) fn held_inbound(&mut self) -> usize {
        match &self.state.bridge {
            Some(end) if self.state.held_inbound.is_some() => {
                let arrived = end.arrived() + 1;
                self.take_inbound(arrived)
            }
            _ => 0,
        }
    }

    fn take_inbound(&mut self, arrived: usize) -> usize {
        for taken in 0..arrived {
            let state = &mut self.state;
            let held = state.held_inbound.take();
            let next = held.or_else(|| state.bridge.as_mut().and_then(|end| end.collect()));
            let Some(mail) = next else { return taken };
            if state.is_too_full_for(&mail) {
                state.held_inbound = Some(mail);
                return taken;
            }
            self.told(mail);
        }
        arrived
    }

    fn told(&mut self, mail: Inbound) {
        let state = &mut self.state;
        match mail {
            Inbound::Said { key, envelope, own, place } => {
                // The bridge has looked: whatever else it is came from no bridge.
                if let Ok(Body::Said(said)) = envelope::read(&envelope).map(|read| read.body) {
                    state.hear(&key, &said, own, place);
                }
            }
            Inbound::Entered { key, user, elsewhere } => state.entered(&key, &user, elsewhere),
            Inbound::Left { key, user, elsewhere } => state.left(&key, &user, elsewhere),
            Inbound::Counted { key, elsewhere } => {
                if let Some((_, home)) = state.open_home(&key) {
                    home.room.count_elsewhere(elsewhere);
                }
            }
            Inbound::Placed { hall, users, elsewhere, place, .. } => {
                self.placed(hall, users, elsewhere, place);
            }
            Inbound::Refused { speaker, reference, for_good: false } => {
                state.unavailable(speaker.conn, reference);
            }
            Inbound::Refused { speaker, reference, for_good: true } => {
                state.refuse_message(speaker.conn, reference);
            }
        }
    }
}

impl State {
    /// Whether the bridge has mail for this shard: it must not fall asleep then.
    #[must_use]
    pub fn has_bridge_mail(&self) -> bool {
        self.bridge.as_ref().is_some_and(|end| end.bridge().has_mail(self.id))
    }

    /// Whether mail for the bridge waits for room in the lane.
    pub(super) fn owes_bridge(&self) -> bool {
        self.bridge.as_ref().is_some_and(|end| end.waiting() > 0)
    }

    /// Says it to the members here, to the other boxes, or to both, as the delivery has it. Whether
    /// nobody hears it, and the speaker has to be told.
    pub(super) fn speak_to_cluster(&mut self, hall: u32, speech: &Speech<'_>) -> bool {
        let Some(end) = &mut self.bridge else { return false };
        let Some(Hall { key, role: Role::Home(home), .. }) = self.halls.at(hall) else {
            return false;
        };
        let Speech { user, speaker, opcode, content, reference } = *speech;
        let partition = partition(&key.name);
        let verdict = end.verdict();
        let delivery = end.bridge().delivery;
        match verdict {
            Verdict::Refused => {
                end.reject();
                return key.mode == Mode::Json;
            }
            Verdict::StaysHere => end.skip(partition),
            Verdict::Goes => {
                let (room, user) = (&*key.name, home.room.user(user));
                let said = Said { mode: key.mode, opcode, speaker, room, user, content };
                let envelope = envelope::said(&said);
                // What was handed over is refused later only where the broker decides.
                let reference = reference.filter(|_| delivery == Delivery::Ordered);
                let reference = reference.filter(|_| key.mode == Mode::Json).map(Box::from);
                end.post(Outbound::Said { partition, envelope, speaker, reference });
            }
        }
        if delivery == Delivery::LocalFirst {
            self.speak(hall, user, speaker, opcode, content);
        }
        false
    }

    /// Tells a speaker that nobody hears what it said.
    pub(super) fn push_unavailable(
        &mut self,
        id: ConnId,
        reference: Option<&str>,
    ) -> Option<Ended> {
        let message = "the message was delivered to nobody; send it again later";
        self.push_error(
            id,
            &Fault { code: ErrorCode::Unavailable, message: message.into(), reference },
        )
    }

    /// As [`State::push_unavailable`], where the connection may be gone and is not being decoded.
    pub(super) fn unavailable(&mut self, who: ConnId, reference: Option<Box<str>>) {
        if !self.hears_errors(who) {
            return;
        }
        if let Some(Ended::Over(reason)) = self.push_unavailable(who, reference.as_deref()) {
            self.end(who, reason);
        }
    }

    /// Tells a speaker that his message is one that the broker never takes. `unavailable` would
    /// have him send it again for ever. It costs nothing of what a client may do wrong: the bound
    /// is the broker's, which he cannot know.
    fn refuse_message(&mut self, who: ConnId, reference: Option<Box<str>>) {
        if !self.hears_errors(who) {
            return;
        }
        let message = "the broker between the servers does not take this message, mostly for its \
                       length; it was delivered to nobody; send a shorter one";
        let reference = reference.as_deref();
        let fault = Fault { code: ErrorCode::BadMessage, message: message.into(), reference };
        if let Some(Ended::Over(reason)) = self.push_error(who, &fault) {
            self.end(who, reason);
        }
    }

    fn hears_errors(&mut self, who: ConnId) -> bool {
        let hears = |conn: &&mut crate::conn::Conn| {
            conn.phase == Phase::Open && conn.kind == Kind::Room(Mode::Json)
        };
        self.conns.get(who).filter(hears).is_some()
    }

    /// Tells the bridge who came to a room of which this is the home, or went.
    pub(super) fn tell_crossing(
        &mut self,
        key: &RoomKey,
        user: &str,
        crossing: Crossing,
        whole: bool,
        members: usize,
    ) {
        let Some(end) = &mut self.bridge else { return };
        if key.mode == Mode::Json {
            let joined = crossing == Crossing::Joined;
            let (key, user) = (key.clone(), user.into());
            end.post(Outbound::Crossed { key, user, joined, whole, members });
        }
    }

    /// The room's home here, if it is open.
    fn open_home(&mut self, key: &RoomKey) -> Option<(HallId, &mut Home)> {
        let id = self.halls.find(key)?;
        let home = self.halls.get(id)?.home_mut()?;
        home.opening.is_none().then_some((id, home))
    }

    /// Whether a room has as many frames as one turn may have, and this would be one more.
    fn is_too_full_for(&mut self, mail: &Inbound) -> bool {
        let Inbound::Said { key, .. } = mail else { return false };
        let limit = self.limits.room_tick_bytes;
        self.open_home(key).is_some_and(|(_, home)| home.pending.bytes.len() >= limit)
    }

    /// What somebody said, on another box or (ordered) anywhere.
    fn hear(&mut self, key: &RoomKey, said: &Said<'_>, own: bool, place: Option<Place>) {
        let Some(id) = self.halls.find(key) else { return };
        let Some(home) = self.halls.get(id).and_then(Hall::home_mut) else { return };
        if let Some(opening) = &mut home.opening {
            // Nobody is in yet: whoever comes in now comes behind it.
            if let Some(place) = place {
                opening.newest = Some((place.epoch, place.offset));
            }
            return;
        }
        let offset = match place {
            None => home.room.apply_say(),
            Some(Place { epoch, offset }) => {
                if epoch != *home.room.epoch() {
                    renumber(home, key, epoch, offset.saturating_sub(1));
                }
                if !home.room.apply_placed(offset) {
                    return;
                }
                offset
            }
        };
        let out = &mut home.pending.bytes;
        match key.mode {
            Mode::Raw => put_frame(out, said.opcode, said.content),
            Mode::Json => event::put_said(out, &key.name, said.user, said.content, offset),
        }
        home.pending.mark(offset, own.then_some(said.speaker));
        self.counters.add(Counter::said, 1);
        self.mark_hall_dirty(id.index);
    }

    fn entered(&mut self, key: &RoomKey, user: &str, elsewhere: usize) {
        let (limits, now) = (self.limits.clone(), self.now);
        let Some((id, home)) = self.open_home(key) else { return };
        let notice = home.room.enter_elsewhere(user, elsewhere, &limits, now);
        self.announce(id, user, notice, Crossing::Joined);
    }

    fn left(&mut self, key: &RoomKey, user: &str, elsewhere: usize) {
        let (limits, now) = (self.limits.clone(), self.now);
        let Some((id, home)) = self.open_home(key) else { return };
        let notice = home.room.leave_elsewhere(user, elsewhere, &limits, now);
        self.announce(id, user, notice, Crossing::Left);
    }
}

/// The room's messages are numbered anew: every member is told, behind what it was told so far.
fn renumber(home: &mut Home, key: &RoomKey, epoch: Epoch, offset: u64) {
    if key.mode == Mode::Json {
        let out = &mut home.pending.bytes;
        event::put_joined(out, &key.name, epoch.as_str(), offset);
        home.pending.mark_kept();
    }
    home.room.renumber(epoch, offset);
}
