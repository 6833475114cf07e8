//! Knows who is in which room on the other boxes, and who is here.
//!
//! In:    joins, leaves and snapshots of other boxes; joins and leaves here.
//! Out:   what changes for a room by it; one's own snapshot, in parts.
//! Never: knows whether a room is open here, or how a snapshot travels.
//!
//! # Invariants
//! - `elsewhere` is the sum of `boxes`: a user is in it as often as there are boxes with him.
//! - A room without members and users is not kept.

use std::collections::{HashMap, HashSet};

use crate::bridge::envelope::{self, Crossed, Node, Snapshot};

/// Bytes of users in one part of a snapshot.
const PART_BYTES_MAX: usize = 32 << 10;

/// Who is in one room of one box.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guests {
    /// Connections.
    pub members: u64,
    /// Users, each once.
    pub users: HashSet<Box<str>>,
}

impl Guests {
    fn cross(&mut self, user: &str, joined: bool, whole: bool, members: u64) {
        self.members = members;
        match (joined, whole) {
            (true, true) => {
                self.users.insert(user.into());
            }
            (false, true) => {
                self.users.remove(user);
            }
            (_, false) => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.members == 0 && self.users.is_empty()
    }
}

/// The rooms of one box.
pub type Rooms = HashMap<Box<str>, Guests>;

/// What changes for a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub room: Box<str>,
    /// What.
    pub what: What,
    /// Members on other boxes now.
    pub elsewhere: u64,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// This user was on no other box and is on one now.
    Entered(Box<str>),
    /// This user is on no other box any more.
    Left(Box<str>),
    /// The number of members alone.
    Counted,
}

#[derive(Debug, Default)]
struct Elsewhere {
    members: u64,
    /// Users, and on how many boxes each is.
    users: HashMap<Box<str>, u32>,
}

impl Elsewhere {
    fn add(&mut self, user: &str) -> bool {
        if let Some(boxes) = self.users.get_mut(user) {
            *boxes += 1;
            return false;
        }
        self.users.insert(user.into(), 1);
        true
    }

    fn remove(&mut self, user: &str) -> bool {
        let Some(boxes) = self.users.get_mut(user) else { return false };
        *boxes -= 1;
        if *boxes > 0 {
            return false;
        }
        self.users.remove(user);
        true
    }
}

/// Everybody on other boxes.
#[derive(Debug, Default)]
pub struct Presence {
    boxes: HashMap<Node, Rooms>,
    elsewhere: HashMap<Box<str>, Elsewhere>,
}

impl Presence {
    /// Somebody came or went there.
    pub fn crossed(&mut self, node: Node, crossed: &Crossed<'_>) -> Vec<Change> {
        let rooms = self.boxes.entry(node).or_default();
        let before = rooms.get(crossed.room);
        let members = before.map_or(0, |guests| guests.members);
        let was_there = before.is_some_and(|guests| guests.users.contains(crossed.user));
        let room = match rooms.get_mut(crossed.room) {
            Some(room) => room,
            None => rooms.entry(crossed.room.into()).or_default(),
        };
        room.cross(crossed.user, crossed.joined, crossed.whole, crossed.members);
        let is_there = room.users.contains(crossed.user);
        if room.is_empty() {
            rooms.remove(crossed.room);
        }
        let user = [crossed.user];
        let entered = if is_there && !was_there { &user[..] } else { &[] };
        let left = if was_there && !is_there { &user[..] } else { &[] };
        self.apply(crossed.room, entered, left, members, crossed.members)
    }

    /// Everything that is known of a box is this from now on.
    pub fn replace(&mut self, node: Node, rooms: Rooms) -> Vec<Change> {
        let (old, nobody) = (self.boxes.remove(&node).unwrap_or_default(), Guests::default());
        let gone = old.keys().filter(|room| !rooms.contains_key(*room));
        let mut changes = Vec::new();
        for room in rooms.keys().chain(gone) {
            let before = old.get(room).unwrap_or(&nobody);
            let after = rooms.get(room).unwrap_or(&nobody);
            let users = |of: &HashSet<Box<str>>, but: &HashSet<Box<str>>| -> Vec<String> {
                of.difference(but).map(|user| user.to_string()).collect()
            };
            let entered = users(&after.users, &before.users);
            let left = users(&before.users, &after.users);
            let entered: Vec<_> = entered.iter().map(String::as_str).collect();
            let left: Vec<_> = left.iter().map(String::as_str).collect();
            changes.extend(self.apply(room, &entered, &left, before.members, after.members));
        }
        if !rooms.is_empty() {
            self.boxes.insert(node, rooms);
        }
        changes
    }

    fn apply(
        &mut self,
        room: &str,
        entered: &[&str],
        left: &[&str],
        before: u64,
        after: u64,
    ) -> Vec<Change> {
        if entered.is_empty() && left.is_empty() && before == after {
            return Vec::new();
        }
        let all = match self.elsewhere.get_mut(room) {
            Some(all) => all,
            None => self.elsewhere.entry(room.into()).or_default(),
        };
        all.members = all.members.saturating_sub(before).saturating_add(after);
        let mut what = Vec::new();
        what.extend(entered.iter().filter(|u| all.add(u)).map(|u| What::Entered((*u).into())));
        what.extend(left.iter().filter(|u| all.remove(u)).map(|u| What::Left((*u).into())));
        if what.is_empty() && before != after {
            what.push(What::Counted);
        }
        let elsewhere = all.members;
        if all.members == 0 && all.users.is_empty() {
            self.elsewhere.remove(room);
        }
        what.into_iter().map(|what| Change { room: room.into(), what, elsewhere }).collect()
    }

    /// A room's users and members on other boxes.
    #[must_use]
    pub fn of(&self, room: &str) -> (Vec<Box<str>>, u64) {
        let all = self.elsewhere.get(room);
        all.map_or((Vec::new(), 0), |all| (all.users.keys().cloned().collect(), all.members))
    }
}

/// Everybody here, for the others.
#[derive(Debug, Default)]
pub struct Here(Rooms);

impl Here {
    /// Somebody came or went here.
    pub fn crossed(&mut self, crossed: &Crossed<'_>) {
        let room = match self.0.get_mut(crossed.room) {
            Some(room) => room,
            None => self.0.entry(crossed.room.into()).or_default(),
        };
        room.cross(crossed.user, crossed.joined, crossed.whole, crossed.members);
        if room.is_empty() {
            self.0.remove(crossed.room);
        }
    }

    /// The envelopes that tell all of it, in order; the last one says so.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Vec<u8>> {
        let mut parts = Vec::new();
        for (room, guests) in &self.0 {
            let mut users = guests.users.iter().map(|user| &**user).peekable();
            loop {
                let mut part = Vec::new();
                let mut bytes = 0;
                while let Some(user) = users.next_if(|user| bytes + user.len() < PART_BYTES_MAX) {
                    bytes += user.len() + 1;
                    part.push(user);
                }
                parts.push((&**room, guests.members, part));
                if users.peek().is_none() {
                    break;
                }
            }
        }
        if parts.is_empty() {
            parts.push(("", 0, Vec::new()));
        }
        let last = parts.len() - 1;
        let envelopes = parts.into_iter().enumerate().map(|(at, (room, members, users))| {
            let part = u32::try_from(at).unwrap_or(u32::MAX);
            envelope::snapshot(&Snapshot { part, last: at == last, room, members, users })
        });
        envelopes.collect()
    }
}

/// A snapshot whose parts are coming in.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The sender's presence sequence that it was taken at.
    pub sequence: u64,
    parts: u32,
    rooms: Rooms,
}

/// What a part did to an assembly.
#[derive(Debug)]
pub enum Assembled {
    /// More parts are to come.
    Partly(Assembly),
    /// That was the last.
    Whole(Rooms),
    /// A part is missing: it is worth nothing.
    Broken,
}

/// Adds a part.
#[must_use]
pub fn assemble(so_far: Option<Assembly>, sequence: u64, part: &Snapshot<'_>) -> Assembled {
    let so_far = match (so_far, part.part) {
        (_, 0) => Assembly { sequence, ..Assembly::default() },
        (Some(so_far), next) if so_far.sequence == sequence && so_far.parts == next => so_far,
        _ => return Assembled::Broken,
    };
    let mut so_far = Assembly { parts: so_far.parts + 1, ..so_far };
    if !part.room.is_empty() {
        let guests = so_far.rooms.entry(part.room.into()).or_default();
        guests.members = part.members;
        guests.users.extend(part.users.iter().map(|user| Box::from(*user)));
    }
    match part.last {
        true => Assembled::Whole(so_far.rooms),
        false => Assembled::Partly(so_far),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::envelope::Body;

    const A: Node = Node { id: 1, incarnation: 1 };
    const B: Node = Node { id: 2, incarnation: 1 };

    fn join<'a>(room: &'a str, user: &'a str, members: u64) -> Crossed<'a> {
        Crossed { joined: true, whole: true, members, room, user }
    }

    fn leave<'a>(room: &'a str, user: &'a str, members: u64) -> Crossed<'a> {
        Crossed { joined: false, ..join(room, user, members) }
    }

    fn seen(changes: Vec<Change>) -> Vec<(What, u64)> {
        changes.into_iter().map(|change| (change.what, change.elsewhere)).collect()
    }

    #[test]
    fn a_user_on_two_boxes_enters_once_and_leaves_once() {
        let mut all = Presence::default();
        let ann = || Box::from("ann");
        assert_eq!(seen(all.crossed(A, &join("r", "ann", 1))), [(What::Entered(ann()), 1)]);
        assert_eq!(seen(all.crossed(B, &join("r", "ann", 1))), [(What::Counted, 2)]);
        let tab = Crossed { whole: false, ..join("r", "ann", 2) };
        assert_eq!(seen(all.crossed(B, &tab)), [(What::Counted, 3)]);
        assert_eq!(all.of("r"), (vec![ann()], 3));
        assert_eq!(seen(all.crossed(A, &leave("r", "ann", 0))), [(What::Counted, 2)]);
        assert_eq!(seen(all.crossed(A, &leave("r", "ann", 0))), [], "told twice");
        assert_eq!(seen(all.crossed(B, &leave("r", "ann", 0))), [(What::Left(ann()), 0)]);
        assert!(all.elsewhere.is_empty() && all.boxes[&A].is_empty());
    }

    #[test]
    fn a_snapshot_tells_the_difference_alone() {
        let mut all = Presence::default();
        for (room, user) in [("r", "ann"), ("r", "bob"), ("gone", "eve"), ("same", "joe")] {
            let members = if user == "bob" { 2 } else { 1 };
            let _entered = all.crossed(A, &join(room, user, members));
        }
        let guests = |members, users: &[&str]| Guests {
            members,
            users: users.iter().map(|user| Box::from(*user)).collect(),
        };
        let rooms = [("r", guests(3, &["bob", "kim"])), ("same", guests(1, &["joe"]))];
        let rooms: Rooms = rooms.into_iter().map(|(room, who)| (room.into(), who)).collect();
        let mut changes = all.replace(A, rooms);
        changes.sort_by_key(|change| format!("{change:?}"));
        let change = |room: &str, what, elsewhere| Change { room: room.into(), what, elsewhere };
        let expected = [
            change("gone", What::Left("eve".into()), 0),
            change("r", What::Entered("kim".into()), 3),
            change("r", What::Left("ann".into()), 3),
        ];
        assert_eq!(changes, expected);
        let gone = all.replace(A, Rooms::new());
        assert_eq!(gone.len(), 3, "everybody leaves with the box: {gone:?}");
        assert!(all.elsewhere.is_empty());
    }

    fn assembled(parts: &[Vec<u8>]) -> Assembled {
        let mut so_far = None;
        for part in parts {
            let opened = envelope::read(part).unwrap();
            let Body::Snapshot(part) = opened.body else { panic!("{opened:?}") };
            match assemble(so_far.take(), 9, &part) {
                Assembled::Partly(partly) => so_far = Some(partly),
                over => return over,
            }
        }
        Assembled::Partly(so_far.unwrap())
    }

    #[test]
    fn a_snapshot_in_parts_comes_together_as_it_was() {
        let mut here = Here::default();
        let users: Vec<String> = (0..2000).map(|n| format!("{n}-{}", "x".repeat(100))).collect();
        for (n, user) in users.iter().enumerate() {
            here.crossed(&join("large", user, n as u64 + 1));
        }
        here.crossed(&join("small", "ann", 1));
        here.crossed(&join("left", "ann", 1));
        here.crossed(&leave("left", "ann", 0));
        let parts = here.snapshot();
        assert!(parts.len() > 6 && parts.iter().all(|part| part.len() < PART_BYTES_MAX + 512));
        let Assembled::Whole(rooms) = assembled(&parts) else { panic!("not whole") };
        assert_eq!(rooms, here.0);
        let mut holed = parts;
        holed.remove(3);
        assert!(matches!(assembled(&holed), Assembled::Broken));
    }

    #[test]
    fn an_empty_box_says_so() {
        let Assembled::Whole(rooms) = assembled(&Here::default().snapshot()) else { panic!() };
        assert!(rooms.is_empty());
    }
}
