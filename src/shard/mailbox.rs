//! Mail from other shards: what their members want of rooms here, what homes say to members here.
//!
//! In:    both lanes of every other shard, as far as they were filled when the turn looked.
//! Out:   seats, frames pending, payloads to fan out, answers by mail.
//! Never: waits for room in a lane, or lets one shard's mail pass another mail of the same lane.

use crate::conn::{Kind, Phase};
use crate::http::Route;
use crate::id::{ConnId, ConnKey, RoomKey, ShardId};
use crate::io::Io;
use crate::mesh::{Mail, Way};
use crate::payload::Payload;
use crate::room::JoinRefused;
use crate::room::epoch::Epoch;
use crate::room::hall::{HallId, Parked, Role};
use crate::room::users::UserId;
use crate::shard::bridge::Speech;
use crate::shard::{Shard, State};

/// What a home says to a new member elsewhere.
struct Welcome {
    home: HallId,
    user: UserId,
    epoch: Epoch,
    offset: u64,
    from: u32,
}

impl<I: Io> Shard<I> {
    /// Takes what is there; how many mails.
    pub(super) fn mailbox(&mut self) -> usize {
        let mut taken = 0;
        let shards = self.state.held_mail.len();
        for from in (0..).map(ShardId).take(shards) {
            taken += self.answers(from);
            taken += self.state.requests(from);
        }
        taken
    }

    /// Answers of one shard, until its lane is empty or a newcomer has to wait for the next turn;
    /// how many.
    fn answers(&mut self, from: ShardId) -> usize {
        let mut taken = 0;
        let mut next = self.state.held_welcome[from.index()].take();
        let arrived = self.state.mesh.arrived(from, Way::Down) + usize::from(next.is_some());
        for _ in 0..arrived {
            let mail = next.take().or_else(|| self.state.mesh.collect(from, Way::Down));
            let Some(mail) = mail else { break };
            if self.state.comes_too_early(&mail) {
                self.state.held_welcome[from.index()] = Some(mail);
                break;
            }
            taken += 1;
            self.answered(from, mail);
        }
        taken
    }

    /// Mail that is always taken.
    fn answered(&mut self, from: ShardId, mail: Mail) {
        match mail {
            Mail::Joined { who, hall, home, user, epoch, offset, from: start } => {
                let welcome = Welcome { home, user, epoch, offset, from: start };
                self.state.welcomed(from, who, hall, welcome);
                self.arm_if_open(who);
            }
            Mail::Refused { who, hall, why } => self.state.turned_away(who, hall, why),
            Mail::Unavailable { who, reference } => self.state.unavailable(who, reference),
            Mail::Payload { home, hall, batch } => {
                self.state.foreign_payload(from, home, hall, batch);
            }
            Mail::Done { home, hall } => self.state.acknowledged(from, home, hall),
            Mail::Join { .. } | Mail::Leave { .. } | Mail::Say { .. } => {
                unreachable!("requests go the other way")
            }
        }
    }
}

impl State {
    /// Whether a member would take its seat before a payload that it must not hear is fanned out:
    /// it was posted before the join, and goes out at the end of this turn.
    fn comes_too_early(&self, mail: &Mail) -> bool {
        let Mail::Joined { hall: joined, .. } = mail else { return false };
        self.foreign.iter().any(|(hall, _)| hall == joined)
    }

    /// Requests of one shard, until its lane is empty or a room cannot take more this turn.
    fn requests(&mut self, from: ShardId) -> usize {
        let mut taken = 0;
        let held = self.held_mail[from.index()].take();
        let arrived = self.mesh.arrived(from, Way::Up) + usize::from(held.is_some());
        let mut next = held;
        for _ in 0..arrived {
            let Some(mail) = next.take().or_else(|| self.mesh.collect(from, Way::Up)) else {
                break;
            };
            match self.request(from, mail) {
                Ok(()) => taken += 1,
                Err(mail) => {
                    self.held_mail[from.index()] = Some(mail);
                    break;
                }
            }
        }
        taken
    }

    /// Requests of shards whose first one had to wait; how many could be taken.
    pub(super) fn held_requests(&mut self) -> usize {
        let mut taken = 0;
        for from in 0..self.held_mail.len() {
            if self.held_mail[from].is_some() {
                taken += self.requests(ShardId(u16::try_from(from).unwrap_or(u16::MAX)));
            }
        }
        taken
    }

    /// Whether mail waits for its room.
    pub(super) fn holds_mail(&self) -> bool {
        self.held_mail.iter().any(Option::is_some)
    }

    fn request(&mut self, from: ShardId, mail: Mail) -> Result<(), Mail> {
        match mail {
            Mail::Join { key, user, who, hall } => self.join_by_mail(from, &key, user, who, hall),
            Mail::Leave { home, user } => {
                if self.halls.get(home).is_some() {
                    self.release_member(home.index, user, Some(from));
                }
            }
            Mail::Say { home, user, who, opcode, content, reference } => {
                let limit = self.limits.room_tick_bytes;
                let room = self.halls.get(home).and_then(|hall| hall.home_mut());
                let Some(room) = room else { return Ok(()) };
                if room.pending.bytes.len() >= limit {
                    return Err(Mail::Say { home, user, who, opcode, content, reference });
                }
                let speaker = ConnKey { shard: from, conn: who };
                if self.bridge.is_none() {
                    self.speak(home.index, user, speaker, opcode, &content);
                    return Ok(());
                }
                let speech = Speech {
                    user,
                    speaker,
                    opcode,
                    content: &content,
                    reference: reference.as_deref(),
                };
                if self.speak_to_cluster(home.index, &speech) {
                    self.mesh.post(from, Mail::Unavailable { who, reference });
                }
            }
            _ => unreachable!("answers go the other way"),
        }
        Ok(())
    }

    pub(super) fn join_by_mail(
        &mut self,
        from: ShardId,
        key: &RoomKey,
        user: Box<str>,
        who: ConnId,
        hall: HallId,
    ) {
        match self.opening(key) {
            Ok(None) => {}
            Ok(Some(opening)) => {
                opening.parked.push(Parked::There { shard: from, hall, who, user });
                return;
            }
            Err(why) => return self.mesh.post(from, Mail::Refused { who, hall, why }),
        }
        let answer = match self.admit_member(key, &user, Some((from, hall))) {
            Ok(entry) => Mail::Joined {
                who,
                hall,
                home: entry.hall,
                user: entry.user,
                epoch: entry.epoch,
                offset: entry.offset,
                from: entry.from,
            },
            Err(why) => Mail::Refused { who, hall, why },
        };
        self.mesh.post(from, answer);
    }

    fn welcomed(&mut self, from: ShardId, who: ConnId, hall: HallId, welcome: Welcome) {
        let Some(place) = self.halls.get(hall) else { return };
        if let Role::Outpost(outpost) = &mut place.role {
            outpost.joining -= 1;
            outpost.hall = Some(welcome.home);
        }
        let opens = self.drain.is_none();
        let upgrade = self.conns.get(who).filter(|conn| opens && conn.phase == Phase::Joining);
        let upgrade = upgrade.and_then(|conn| conn.cold().upgrade.take());
        let Some(upgrade) = upgrade else {
            // It went away while it waited, or is about to be refused for the shutdown: its
            // membership ends where it has just begun.
            self.mesh.post(from, Mail::Leave { home: welcome.home, user: welcome.user });
            return self.drop_hall_if_deserted(hall.index);
        };
        let Route::Room { room, user, hears_itself } = &upgrade.route else { return };
        if let Some(conn) = self.conns.get(who) {
            conn.cold().user = Some(user.clone());
        }
        self.sit(who, hall.index, welcome.user, welcome.from, *hears_itself);
        let joined = Some((welcome.epoch, welcome.offset));
        self.answer(who, &upgrade, Kind::Room(room.mode), joined);
    }

    fn turned_away(&mut self, who: ConnId, hall: HallId, why: JoinRefused) {
        if let Some(place) = self.halls.get(hall) {
            if let Role::Outpost(outpost) = &mut place.role {
                outpost.joining -= 1;
            }
            self.drop_hall_if_deserted(hall.index);
        }
        if self.conns.get(who).is_some_and(|conn| conn.phase == Phase::Joining) {
            self.refuse_join(who, why);
        }
    }

    fn foreign_payload(
        &mut self,
        from: ShardId,
        home: HallId,
        hall: HallId,
        batch: std::sync::Arc<crate::payload::Batch>,
    ) {
        if self.halls.get(hall).is_some() {
            self.foreign.push((hall, Payload::shared(batch)));
        }
        // Fanned out before this turn's mail goes out, so it is done when the home reads this. Also
        // where nobody sits here any more: the leave that says so may stand behind a message that
        // the home cannot take before it has this.
        self.mesh.post(from, Mail::Done { home, hall });
    }

    fn acknowledged(&mut self, from: ShardId, home: HallId, hall: HallId) {
        let Some(room) = self.halls.get(home).and_then(|place| place.home_mut()) else { return };
        let same =
            |known: &&mut crate::room::hall::Subscriber| known.shard == from && known.hall == hall;
        if let Some(subscriber) = room.subscribers.iter_mut().find(same) {
            subscriber.owes = false;
        }
        self.requeue(home.index);
    }
}
