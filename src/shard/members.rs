//! Members take and leave seats; rooms are made, speak and are dropped.
//!
//! In:    joins, leaves and speech of local members and, by mail, of members elsewhere.
//! Out:   frames pending in the room; halls to fan out.
//! Never: sends, or knows how a member came here.

use std::sync::atomic::Ordering;

use crate::conn::{Flags, Kind};
use crate::counters::Counter;
use crate::id::{ConnId, ConnKey, Mode, RoomKey, Seat, ShardId};
use crate::mesh::Mail;
use crate::payload::Batch;
use crate::protocol::event::{self, Crossing};
use crate::room::epoch::Epoch;
use crate::room::hall::{Hall, HallId, Home, Member, Outpost, Role, Subscriber};
use crate::room::users::UserId;
use crate::room::{JoinRefused, Notice, Room};
use crate::shard::State;
use crate::time::Stamp;
use crate::ws::Opcode;
use crate::ws::encode::put_frame;

/// What a new member is told.
#[derive(Debug)]
pub struct Entry {
    /// The home's hall.
    pub hall: HallId,
    /// The user, by the home's numbering.
    pub user: UserId,
    /// The room's numbering.
    pub epoch: Epoch,
    /// The newest offset.
    pub offset: u64,
    /// First byte of the room's next payload that is meant for it.
    pub from: u32,
}

impl State {
    /// Lets a member into a room that lives here; `from` names the shard and hall where it sits, if
    /// that is not here.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub(super) fn admit_member(
        &mut self,
        key: &RoomKey,
        user: &str,
        from: Option<(ShardId, HallId)>,
    ) -> Result<Entry, JoinRefused> {
        let hall_id = self.home_hall(key)?;
        let (limits, now) = (self.limits.clone(), self.now);
        let hall = self.halls.at(hall_id.index).expect("the hall was just found or made");
        let Some(home) = hall.home_mut() else { return Err(JoinRefused::RoomsFull) };
        let joined = match home.room.apply_join(user, &limits, now) {
            Ok(joined) => joined,
            Err(why) => {
                self.drop_hall_if_deserted(hall_id.index);
                return Err(why);
            }
        };
        let members = home.room.members();
        if let Some((shard, hall)) = from {
            subscribe(home, shard, hall);
        }
        let entry = Entry {
            hall: hall_id,
            user: joined.user,
            epoch: home.room.epoch().clone(),
            offset: home.room.offset(),
            from: home.pending.len(),
        };
        self.announce(hall_id, user, joined.notice, Crossing::Joined);
        self.tell_crossing(key, user, Crossing::Joined, joined.is_first, members);
        Ok(entry)
    }

    /// Gives a local connection its seat.
    pub(super) fn sit(&mut self, id: ConnId, hall: u32, user: UserId, from: u32, hears: bool) {
        let Some(place) = self.halls.at(hall) else { return };
        let index = place.sit(Member { slot: id.slot, user });
        self.counters.add(Counter::members, 1);
        let Some(conn) = self.conns.get(id) else { return };
        conn.seat = Some(Seat { hall, index });
        if from > 0 {
            conn.flags.set(Flags::LATE);
            conn.late_from = from;
        }
        if !hears {
            conn.flags.set(Flags::DEAF);
        }
    }

    /// Takes a local connection out of its room.
    pub(super) fn leave(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some(seat) = conn.seat.take() else { return };
        conn.kind = Kind::Undecided;
        let Some(hall) = self.halls.at(seat.hall) else { return };
        let (member, moved) = hall.stand(seat.index);
        if let Some(moved) = moved.and_then(|member| self.conns.at(member.slot)) {
            moved.seat = Some(seat);
        }
        self.counters.sub(Counter::members, 1);
        match &hall.role {
            Role::Home(_) => self.release_member(seat.hall, member.user, None),
            Role::Outpost(Outpost { home, hall: Some(hall), .. }) => {
                self.mesh.post(*home, Mail::Leave { home: *hall, user: member.user });
                self.drop_hall_if_deserted(seat.hall);
            }
            Role::Outpost(_) => self.drop_hall_if_deserted(seat.hall),
        }
    }

    /// Takes a member out of a room that lives here; `from` is the shard where it sat, if not here.
    pub(super) fn release_member(&mut self, hall: u32, user: UserId, from: Option<ShardId>) {
        let (limits, now) = (self.limits.clone(), self.now);
        let Some(place) = self.halls.at(hall) else { return };
        let generation = place.generation;
        let Some(home) = place.home_mut() else { return };
        if let Some(shard) = from {
            unsubscribe(home, shard);
        }
        let owed = home.owed();
        let told = self.bridge.is_some().then(|| Box::<str>::from(home.room.user(user)));
        let (name, notice) = home.room.apply_leave(user, &limits, now);
        let (members, is_last) = (home.room.members(), name.is_some());
        if let Some(name) = name {
            self.announce(HallId { index: hall, generation }, &name, notice, Crossing::Left);
        }
        if let (Some(user), Some(place)) = (told, self.halls.at(hall)) {
            let key = place.key.clone();
            self.tell_crossing(&key, &user, Crossing::Left, is_last, members);
        }
        if from.is_some() && !owed {
            self.requeue(hall);
        }
        self.drop_hall_if_deserted(hall);
    }

    /// Appends what a member says to its room's frames of this turn, which members here hear.
    pub(super) fn speak(
        &mut self,
        hall: u32,
        user: UserId,
        speaker: ConnKey,
        opcode: Opcode,
        content: &[u8],
    ) {
        let Some(Hall { key, role: Role::Home(home), .. }) = self.halls.at(hall) else { return };
        let offset = home.room.apply_say();
        match key.mode {
            Mode::Raw => put_frame(&mut home.pending.bytes, opcode, content),
            Mode::Json => {
                let sender = home.room.user(user);
                event::put_said(&mut home.pending.bytes, &key.name, sender, content, offset);
            }
        }
        home.pending.mark(offset, Some(speaker));
        self.counters.add(Counter::said, 1);
        self.mark_hall_dirty(hall);
    }

    /// This shard's end of a room that lives elsewhere, one join further.
    pub(super) fn outpost(&mut self, key: &RoomKey, home: ShardId) -> HallId {
        let id = self.halls.find(key).unwrap_or_else(|| {
            let role = Role::Outpost(Outpost { home, hall: None, joining: 0 });
            self.halls.insert(key.clone(), role)
        });
        if let Some(Hall { role: Role::Outpost(outpost), .. }) = self.halls.at(id.index) {
            outpost.joining += 1;
        }
        id
    }

    pub(super) fn mark_hall_dirty(&mut self, hall: u32) {
        let Some(home) = self.halls.at(hall).and_then(Hall::home_mut) else { return };
        if !home.dirty {
            home.dirty = true;
            home.since = self.meter.began;
            self.dirty_halls.push(hall);
        }
    }

    /// Frames that waited for another shard's acknowledgement can go now.
    pub(super) fn requeue(&mut self, hall: u32) {
        let Some(home) = self.halls.at(hall).and_then(Hall::home_mut) else { return };
        if home.dirty && !home.owed() && !self.dirty_halls.contains(&hall) {
            self.dirty_halls.push(hall);
        }
    }

    pub(super) fn drop_hall_if_deserted(&mut self, hall: u32) {
        if let Some(Hall { key, role: Role::Home(_), .. }) = self.halls.drop_if_deserted(hall) {
            self.shared.rooms.fetch_sub(1, Ordering::Relaxed);
            self.counters.sub(Counter::rooms, 1);
            self.tell_closed(key);
        }
    }

    /// Summaries of joins and leaves whose time has come; how many.
    pub(super) fn summarise(&mut self) -> usize {
        let mut sent = 0;
        while let Some(&(due, hall)) = self.summaries.front() {
            if due > self.now {
                break;
            }
            self.summaries.pop_front();
            sent += 1;
            let now = self.now;
            let Some(Hall { key, role: Role::Home(home), .. }) = self.halls.get(hall) else {
                continue;
            };
            let summary = home.room.take_summary(now);
            let count = home.room.members_everywhere();
            let out = &mut home.pending.bytes;
            event::put_summary(out, &key.name, count, summary.joined, summary.left);
            home.pending.mark(0, None);
            self.mark_hall_dirty(hall.index);
        }
        sent
    }

    pub(super) fn home_hall(&mut self, key: &RoomKey) -> Result<HallId, JoinRefused> {
        if let Some(id) = self.halls.find(key) {
            return Ok(id);
        }
        if !self.shared.admit_room(self.limits.rooms_max) {
            return Err(JoinRefused::RoomsFull);
        }
        self.counters.add(Counter::rooms, 1);
        let home = Home {
            room: Room::new(self.epochs.next_epoch()),
            pending: Batch::default(),
            dirty: false,
            since: Stamp::default(),
            subscribers: Vec::new(),
            spread: false,
            deliveries: 0,
            opening: self.bridge.is_some().then(Box::default),
        };
        let hall = self.halls.insert(key.clone(), Role::Home(Box::new(home)));
        self.tell_open(key, hall);
        Ok(hall)
    }

    pub(super) fn announce(
        &mut self,
        hall: HallId,
        user: &str,
        notice: Notice,
        crossing: Crossing,
    ) {
        let Some(Hall { key, role: Role::Home(home), .. }) = self.halls.at(hall.index) else {
            return;
        };
        if key.mode == Mode::Raw || home.room.members() == 0 {
            return;
        }
        match notice {
            Notice::Nothing => {}
            Notice::Announce => {
                event::put_announcement(&mut home.pending.bytes, &key.name, user, crossing);
                home.pending.mark(0, None);
                self.mark_hall_dirty(hall.index);
            }
            Notice::Summarise => {
                let Some(due) = home.room.summary_due() else { return };
                let is_listed = self.summaries.iter().any(|(_, listed)| *listed == hall);
                if !is_listed {
                    let behind = self.summaries.partition_point(|(other, _)| *other <= due);
                    self.summaries.insert(behind, (due, hall));
                }
            }
        }
    }
}

fn subscribe(home: &mut Home, shard: ShardId, hall: HallId) {
    match home.subscribers.iter_mut().find(|known| known.shard == shard && known.hall == hall) {
        Some(known) => known.members += 1,
        None => home.subscribers.push(Subscriber { shard, hall, members: 1, owes: false }),
    }
}

fn unsubscribe(home: &mut Home, shard: ShardId) {
    let Some(at) = home.subscribers.iter().position(|known| known.shard == shard) else { return };
    home.subscribers[at].members -= 1;
    if home.subscribers[at].members == 0 {
        home.subscribers.remove(at);
    }
}
