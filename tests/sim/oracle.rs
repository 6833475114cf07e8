//! What the members of JSON rooms have to have heard, judged by all their logs together.
//!
//! In:    the clients' logs.
//! Out:   nothing, or a panic.
//! Never: looks into the server.
//!
//! # Invariants
//! - All members of an epoch agree on who said what at which offset; the bytes are what was said.
//! - Offsets follow each other without a gap from the one that `joined` named; a gap is told by a
//!   `lag` that counts it exactly, or consists of what an `echo=false` member said itself.
//! - A speaker's messages stand in the order in which they were said, each once.
//! - At rest, whoever reads has everything.

use std::collections::BTreeMap;

use crate::client::Client;
use crate::log::Entry;
use crate::run::Sim;
use crate::script::Role;

/// Speaker and number.
pub type Id = (usize, usize);

/// One numbering of one room.
struct Epoch<'a> {
    name: &'a str,
    room: usize,
    members: Vec<&'a Client>,
    order: BTreeMap<u64, Id>,
    newest: u64,
}

/// Judges everything that was heard; `at_rest` where nothing is under way any more.
pub fn check(sim: &Sim, at_rest: bool) {
    let mut epochs: BTreeMap<&str, Epoch<'_>> = BTreeMap::new();
    for client in &sim.clients {
        let Role::Member { room, .. } = client.script.role else { continue };
        let Some((name, _)) = &client.log.joined else { continue };
        assert_eq!(client.log.unavailable, 0, "client {}: one server is no broker", client.id);
        let again = |entry: &Entry| matches!(entry, Entry::Renumbered { .. });
        assert!(!client.log.entries.iter().any(again), "client {}: joined twice", client.id);
        let epoch = epochs.entry(name).or_insert_with(|| Epoch {
            name,
            room,
            members: Vec::new(),
            order: BTreeMap::new(),
            newest: 0,
        });
        assert_eq!(epoch.room, room, "epoch {name} names two rooms");
        epoch.members.push(client);
    }
    for epoch in epochs.values_mut() {
        epoch.agree(sim);
        epoch.check_speakers();
        for member in &epoch.members {
            epoch.check_gaps(member, sim.plan.may_lag());
            if at_rest && member.is_alive() {
                epoch.check_complete(member);
            }
        }
    }
}

impl Epoch<'_> {
    /// Gathers the room's order from everybody who heard of it.
    fn agree(&mut self, sim: &Sim) {
        let key = &sim.rooms[self.room];
        for member in &self.members {
            let Some((_, joined_at)) = member.log.joined else { continue };
            self.newest = self.newest.max(joined_at);
            for entry in &member.log.entries {
                let (offset, by, n, payload) = match entry {
                    Entry::Said { offset, by, n, payload } => (*offset, *by, *n, payload),
                    Entry::Lag { offset, .. } => {
                        self.newest = self.newest.max(*offset);
                        continue;
                    }
                    _ => continue,
                };
                self.newest = self.newest.max(offset);
                let wanted = sim.said_payload(self.room, &key.name, by, n, offset);
                assert!(
                    *payload == wanted,
                    "client {}: {} instead of {}",
                    member.id,
                    String::from_utf8_lossy(payload),
                    String::from_utf8_lossy(&wanted)
                );
                let known = *self.order.entry(offset).or_insert((by, n));
                assert_eq!(known, (by, n), "client {}: another message {offset}", member.id);
            }
        }
    }

    /// Each speaker's messages stand in the order in which it said them, each once.
    fn check_speakers(&self) {
        let mut next: BTreeMap<usize, usize> = BTreeMap::new();
        let mut expected = 1;
        let mut all_known = true;
        for (offset, (by, n)) in &self.order {
            all_known &= *offset == expected;
            expected = offset + 1;
            let next = next.entry(*by).or_default();
            let fits = if all_known { n == next } else { n >= next };
            assert!(fits, "epoch {}: client {by}'s message {n} at {offset}, not {next}", self.name);
            *next = n + 1;
        }
    }

    fn is_own(&self, member: &Client, offset: u64) -> bool {
        self.order.get(&offset).is_some_and(|(by, _)| *by == member.id)
    }

    /// Every gap in what a member heard is explained.
    fn check_gaps(&self, member: &Client, may_lag: bool) {
        let Role::Member { deaf, .. } = member.script.role else { return };
        let id = member.id;
        let Some((_, mut last)) = member.log.joined else { return };
        for entry in &member.log.entries {
            match entry {
                Entry::Said { offset, by, .. } => {
                    assert!(*offset > last, "client {id}: {offset} comes behind {last}");
                    assert!(!deaf || *by != id, "client {id} hears itself");
                    for missing in last + 1..*offset {
                        let unheard = deaf && self.may_be_own(member, missing);
                        assert!(unheard, "client {id} misses {missing}, and was not told");
                    }
                    last = *offset;
                }
                Entry::Lag { missed, offset } => {
                    assert!(may_lag, "client {id} is told of a lag, against the policy");
                    assert!(*offset > last, "client {id}: a lag up to {offset} behind {last}");
                    assert!(
                        !(deaf && self.is_own(member, *offset)),
                        "client {id} lags behind itself"
                    );
                    let gone = last + 1..=*offset;
                    let all = gone.clone().count() as u64;
                    let own = gone.clone().filter(|at| deaf && self.is_own(member, *at)).count();
                    let maybe = gone.filter(|at| deaf && self.may_be_own(member, *at)).count();
                    let (least, most) = (all - maybe as u64, all - own as u64);
                    assert!(
                        (least..=most).contains(missed),
                        "client {id}: lag says {missed}, and {least} to {most} are missing"
                    );
                    last = *offset;
                }
                _ => {}
            }
        }
    }

    /// Whether an offset belongs, or may belong where nobody knows, to a member itself.
    fn may_be_own(&self, member: &Client, offset: u64) -> bool {
        self.order.get(&offset).is_none_or(|(by, _)| *by == member.id)
    }

    /// A member that reads has heard everything there is.
    fn check_complete(&self, member: &Client) {
        let Role::Member { deaf, .. } = member.script.role else { return };
        let id = member.id;
        let last = member.log.entries.iter().rev().find_map(|entry| match entry {
            Entry::Said { offset, .. } | Entry::Lag { offset, .. } => Some(*offset),
            _ => None,
        });
        let joined_at = member.log.joined.as_ref().map_or(0, |(_, offset)| *offset);
        for missing in last.unwrap_or(joined_at) + 1..=self.newest {
            let unheard = deaf && self.may_be_own(member, missing);
            assert!(unheard, "client {id} waits for {missing} of epoch {} in vain", self.name);
        }
        let knows_all = (1..=self.newest).all(|offset| self.order.contains_key(&offset));
        let mine = self.order.values().filter(|(by, _)| *by == id).count();
        let lagged = member.log.entries.iter().any(|entry| matches!(entry, Entry::Lag { .. }));
        let hears_itself = !deaf && !lagged;
        let said = member.log.said.len();
        assert!(mine <= said, "client {id} is said to have said more than it did");
        if hears_itself || knows_all {
            let others_read = hears_itself || self.newest_is_certain();
            assert!(!others_read || mine == said, "client {id} said {said}, {mine} were relayed");
        }
    }

    /// Whether somebody is there who would have heard of every message.
    fn newest_is_certain(&self) -> bool {
        self.members.iter().any(|member| {
            let Role::Member { deaf, .. } = member.script.role else { return false };
            member.is_alive() && !deaf
        })
    }
}

impl Sim {
    /// What the room has to relay for a message.
    fn said_payload(&self, room: usize, name: &str, by: usize, n: usize, offset: u64) -> Vec<u8> {
        payload_of(&self.clients[by], room, name, n, offset)
    }
}

/// What a room has to relay for a client's message.
pub fn payload_of(speaker: &Client, room: usize, name: &str, n: usize, offset: u64) -> Vec<u8> {
    let by = speaker.id;
    let Role::Member { room: spoken_in, user, .. } = &speaker.script.role else {
        panic!("client {by} is in no room");
    };
    assert_eq!(*spoken_in, room, "client {by} said something in another room");
    let (_, content) = speaker.log.said.get(n).unwrap_or_else(|| {
        panic!("client {by} did not say {n}");
    });
    let text = |name: &str| serde_json::to_string(name).expect("a string is JSON");
    let mut payload = format!("{{\"room\":{},\"sender\":{},\"content\":", text(name), text(user));
    payload.push_str(std::str::from_utf8(content).expect("contents are text"));
    payload.push_str(&format!(",\"offset\":{offset}}}"));
    payload.into_bytes()
}
