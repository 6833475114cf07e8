//! What the members of raw rooms have to have heard: no offsets here, so order is all there is.
//!
//! In:    the clients' logs.
//! Out:   nothing, or a panic.
//! Never: looks into the server.
//!
//! # Invariants
//! - What is heard is what was said, byte for byte, opcode included, each message at most once.
//! - There is one order that contains everybody's; without `drop_oldest`, everybody's is a piece of
//!   it without holes (an `echo=false` member's own messages left out).

use std::collections::{BTreeMap, BTreeSet};

use ringhall::id::Mode;

use crate::client::Client;
use crate::oracle::Id;
use crate::run::Sim;
use crate::script::Role;

/// Judges everything that was heard; `at_rest` where nothing is under way any more.
pub fn check(sim: &Sim, at_rest: bool) {
    for (index, key) in sim.rooms.iter().enumerate() {
        if key.mode != Mode::Raw {
            continue;
        }
        let is_here = |client: &&Client| match client.script.role {
            Role::Member { room, .. } => room == index,
            _ => false,
        };
        let members: Vec<_> = sim.clients.iter().filter(is_here).collect();
        for member in &members {
            check_bytes(sim, index, member);
            check_speakers(member, sim.plan.may_lag());
        }
        check_one_order(&members);
        if !sim.plan.may_lag() {
            let next = successors(&members);
            for member in &members {
                check_holes(member, &next);
                if at_rest && member.is_alive() {
                    check_complete(member, &next);
                }
            }
        }
    }
}

fn is_deaf(member: &Client) -> bool {
    matches!(member.script.role, Role::Member { deaf: true, .. })
}

fn ids(member: &Client) -> impl Iterator<Item = Id> + '_ {
    member.log.heard.iter().map(|entry| (entry.by, entry.n))
}

fn check_bytes(sim: &Sim, room: usize, member: &Client) {
    let id = member.id;
    for heard in &member.log.heard {
        let speaker = &sim.clients[heard.by];
        let Role::Member { room: spoken_in, .. } = speaker.script.role else {
            panic!("client {} is in no room", heard.by);
        };
        assert_eq!(spoken_in, room, "client {id} hears another room");
        let said = speaker.log.said.get(heard.n).map(|(opcode, bytes)| (*opcode, bytes));
        assert_eq!(said, Some((heard.opcode, &heard.payload)), "client {id}: other bytes");
        assert!(!is_deaf(member) || heard.by != id, "client {id} hears itself");
    }
}

/// Each speaker's messages in the order in which it said them, each once.
fn check_speakers(member: &Client, may_lag: bool) {
    let mut next: BTreeMap<usize, usize> = BTreeMap::new();
    for (by, n) in ids(member) {
        let next = next.entry(by).or_insert(n);
        let fits = if may_lag { n >= *next } else { n == *next };
        assert!(fits, "client {}: message {n} of client {by}, not {next}", member.id);
        *next = n + 1;
    }
}

/// There is an order that contains everybody's.
pub fn check_one_order(members: &[&Client]) {
    let mut behind: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
    let mut before: BTreeMap<Id, usize> = BTreeMap::new();
    for member in members {
        let heard: Vec<_> = ids(member).collect();
        for id in &heard {
            before.entry(*id).or_default();
        }
        for pair in heard.windows(2) {
            if behind.entry(pair[0]).or_default().insert(pair[1]) {
                *before.entry(pair[1]).or_default() += 1;
            }
        }
    }
    let mut ready: Vec<_> = before.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id).collect();
    let mut placed = 0;
    while let Some(id) = ready.pop() {
        placed += 1;
        for next in behind.get(&id).into_iter().flatten() {
            let left = before.get_mut(next).expect("every message is known");
            *left -= 1;
            if *left == 0 {
                ready.push(*next);
            }
        }
    }
    assert_eq!(placed, before.len(), "members of a raw room heard its messages in two orders");
}

/// What follows each message, by those who hear everything.
fn successors(members: &[&Client]) -> BTreeMap<Id, Id> {
    let mut next = BTreeMap::new();
    let mut previous = BTreeMap::new();
    for member in members.iter().filter(|member| !is_deaf(member)) {
        let heard: Vec<_> = ids(member).collect();
        for pair in heard.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let known = (*next.entry(a).or_insert(b), *previous.entry(b).or_insert(a));
            assert_eq!(known, (b, a), "client {} misses something around {a:?}", member.id);
        }
    }
    next
}

/// Between two messages that an `echo=false` member heard lie its own at most.
fn check_holes(member: &Client, next: &BTreeMap<Id, Id>) {
    let heard: Vec<_> = ids(member).collect();
    for pair in heard.windows(2) {
        let mut at = pair[0];
        while let Some(following) = next.get(&at) {
            at = *following;
            if at == pair[1] {
                break;
            }
            assert_eq!(at.0, member.id, "client {} misses {at:?}", member.id);
        }
    }
}

/// A member that reads has heard everything there is.
fn check_complete(member: &Client, next: &BTreeMap<Id, Id>) {
    let id = member.id;
    if let Some(mut at) = ids(member).last() {
        while let Some(following) = next.get(&at) {
            at = *following;
            let own = is_deaf(member) && at.0 == id;
            assert!(own, "client {id} waits for {at:?} in vain");
        }
    }
    if !is_deaf(member) {
        let mine = ids(member).filter(|(by, _)| *by == id).count();
        assert_eq!(mine, member.log.said.len(), "client {id} does not hear all that it said");
    }
}
