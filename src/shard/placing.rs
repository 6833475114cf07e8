//! A room that is made here asks the cluster first: who is in it elsewhere, and where its order is.
//!
//! In:    joins of rooms that are being made; the bridge's answers.
//! Out:   `Open` and `Close` to the bridge; joins that go on, in order, or are refused.
//! Never: runs where no broker is configured.
//!
//! # Invariants
//! - A room has no member before it is placed: the first one already counts with those elsewhere.
//! - Every `Open` is followed by one `Close`, and nothing about the room is told behind that.
//! - No room is made during a shutdown, and none that was being made waits on.

use crate::bridge::{Outbound, Place};
use crate::conn::Phase;
use crate::id::RoomKey;
use crate::io::Io;
use crate::mesh::Mail;
use crate::room::JoinRefused;
use crate::room::epoch::Epoch;
use crate::room::hall::{Hall, HallId, Home, Opening, Parked};
use crate::shard::{Shard, State};

impl<I: Io> Shard<I> {
    /// The cluster has answered: the joins that wait for it go on.
    pub(super) fn placed(
        &mut self,
        hall: HallId,
        users: Vec<Box<str>>,
        elsewhere: usize,
        place: Option<Place>,
    ) {
        let Some(place_here) = self.state.halls.get(hall) else { return };
        let key = place_here.key.clone();
        let Some(home) = place_here.home_mut() else { return };
        let Some(opening) = home.opening.take() else { return };
        home.room.set_elsewhere(users, elsewhere);
        settle_place(home, place, opening.newest);
        for parked in opening.parked {
            match parked {
                Parked::Here(id) => {
                    let conn = self.state.conns.get(id).filter(|conn| conn.phase == Phase::Joining);
                    if let Some(upgrade) = conn.and_then(|conn| conn.cold().upgrade.take()) {
                        self.state.join_here(id, upgrade);
                        self.arm_if_open(id);
                    }
                }
                Parked::There { shard, hall, who, user } => {
                    self.state.join_by_mail(shard, &key, user, who, hall);
                }
            }
        }
        // They may all have gone meanwhile.
        if self.state.halls.get(hall).is_some() {
            self.state.drop_hall_if_deserted(hall.index);
        }
    }
}

/// Where the room's order goes on: what the bridge has asked for, or what has come by since.
fn settle_place(home: &mut Home, asked: Option<Place>, newest: Option<(Epoch, u64)>) {
    let asked = asked.map(|place| (place.epoch, place.offset));
    let (epoch, offset) = match (asked, newest) {
        (Some((epoch, offset)), Some((other, newest))) if epoch == other => {
            (epoch, offset.max(newest))
        }
        (Some(asked), _) => asked,
        (None, Some(newest)) => newest,
        // The room numbers for itself, until a message tells better.
        (None, None) => return,
    };
    home.room.renumber(epoch, offset);
}

impl State {
    /// Where a join of a room that lives here has to wait, if it has to: while the room is being
    /// made, which begins here if need be.
    ///
    /// # Errors
    /// Why there is no room to wait for.
    pub(super) fn opening(&mut self, key: &RoomKey) -> Result<Option<&mut Opening>, JoinRefused> {
        if self.bridge.is_none() {
            return Ok(None);
        }
        let hall = match self.halls.find(key) {
            Some(hall) => hall,
            None if self.drain.is_some() => return Err(JoinRefused::ShuttingDown),
            None => self.home_hall(key)?,
        };
        let home = self.halls.get(hall).and_then(Hall::home_mut);
        Ok(home.and_then(|home| home.opening.as_deref_mut()))
    }

    /// Tells the bridge of a room that is being made.
    pub(super) fn tell_open(&mut self, key: &RoomKey, hall: HallId) {
        if let Some(end) = &mut self.bridge {
            end.post(Outbound::Open { key: key.clone(), hall });
        }
    }

    /// Tells the bridge of a room that was dropped.
    pub(super) fn tell_closed(&mut self, key: RoomKey) {
        if let Some(end) = &mut self.bridge {
            end.post(Outbound::Close { key });
        }
    }

    /// A shutdown begins: nobody waits for a room any longer.
    pub(super) fn abandon_openings(&mut self) {
        if self.bridge.is_none() {
            return;
        }
        let mut halls = self.halls.indexes();
        // By the registry's order, which is drawn, no run could be repeated.
        halls.sort_unstable();
        for index in halls {
            let home = self.halls.at(index).and_then(Hall::home_mut);
            let Some(opening) = home.and_then(|home| home.opening.take()) else { continue };
            for parked in opening.parked {
                self.abandon(parked);
            }
            self.drop_hall_if_deserted(index);
        }
    }

    fn abandon(&mut self, parked: Parked) {
        let why = JoinRefused::ShuttingDown;
        match parked {
            Parked::Here(id) => {
                let conn = self.conns.get(id);
                if conn.is_some_and(|conn| conn.phase == Phase::Joining) {
                    self.refuse_join(id, why);
                }
            }
            Parked::There { shard, hall, who, .. } => {
                self.mesh.post(shard, Mail::Refused { who, hall, why });
            }
        }
    }
}
