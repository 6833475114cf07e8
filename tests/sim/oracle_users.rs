//! What the members of JSON rooms have to have heard of joins and leaves.
//!
//! In:    the clients' logs.
//! Out:   nothing, or a panic.
//! Never: looks into the server, but for who still has a socket there.
//!
//! Only where no policy drops frames: announcements that `drop_oldest` drops are told to nobody.
//!
//! # Invariants
//! - Between two messages, all members hear the same announcements in the same order; a newcomer
//!   hears the end of what those hear who were there before.
//! - Where the room never grows beyond `rooms.announce_max`: a user joins once before it leaves,
//!   and leaves once before it joins again. (Beyond, a summary may still wait when a room that has
//!   become small announces again.)
//! - A newcomer's own announcement, if there is one, is the first thing behind `joined`.
//! - At rest nobody is said to be in a room who is gone, or to be gone who is there.

use std::collections::BTreeMap;

use crate::client::Client;
use crate::log::Entry;
use crate::run::Sim;
use crate::script::Role;

/// What a member heard between two messages (or its join, or its end).
struct Interval<'a> {
    client: usize,
    heard: Vec<&'a Entry>,
    /// Heard from the first one on.
    from_start: bool,
    /// Heard to the last one.
    to_end: bool,
}

/// The best that is known of an interval.
struct Agreed<'a> {
    heard: Vec<&'a Entry>,
    from_start: bool,
    to_end: bool,
}

/// Judges everything that was heard; `at_rest` where nothing is under way any more.
pub fn check(sim: &Sim, at_rest: bool) {
    if sim.plan.may_lag() {
        return;
    }
    let mut epochs: BTreeMap<&str, Vec<&Client>> = BTreeMap::new();
    for client in &sim.clients {
        if let Some((epoch, _)) = &client.log.joined {
            check_own(client);
            epochs.entry(epoch).or_default().push(client);
        }
    }
    for members in epochs.values() {
        let mut intervals: BTreeMap<u64, Vec<Interval<'_>>> = BTreeMap::new();
        for member in members {
            for (offset, interval) in intervals_of(member, at_rest) {
                intervals.entry(offset).or_default().push(interval);
            }
        }
        let agreed = intervals.iter().map(|(offset, heard)| (*offset, agree(*offset, heard)));
        let agreed: BTreeMap<_, _> = agreed.collect();
        if sim.plan.all_limits().all(|limits| limits.announce_max >= sim.clients.len()) {
            check_users(sim, members, &agreed, at_rest);
        }
    }
}

/// The announcements that one member heard, by the offset behind which they stand. What an
/// `echo=false` member heard around its own messages cannot be told apart, and is left out.
fn intervals_of(member: &Client, at_rest: bool) -> Vec<(u64, Interval<'_>)> {
    let joined_at = member.log.joined.as_ref().map_or(0, |(_, offset)| *offset);
    let deaf = matches!(member.script.role, Role::Member { deaf: true, .. });
    let mut all = Vec::new();
    let mut at = joined_at;
    let new = |from_start| Interval { client: member.id, heard: vec![], from_start, to_end: true };
    let mut current = new(false);
    for entry in &member.log.entries {
        if let Entry::Said { offset, .. } = entry {
            let whole = !deaf || *offset == at + 1;
            let done = std::mem::replace(&mut current, new(true));
            if whole {
                all.push((at, done));
            }
            at = *offset;
        } else {
            current.heard.push(entry);
        }
    }
    current.to_end = at_rest && member.is_alive();
    if !deaf {
        all.push((at, current));
    }
    all
}

/// What was announced behind one message, by all who heard some of it.
fn agree<'a>(offset: u64, heard: &[Interval<'a>]) -> Agreed<'a> {
    let longest = |of: &dyn Fn(&&Interval<'a>) -> bool| {
        heard.iter().filter(of).max_by_key(|interval| interval.heard.len())
    };
    let whole = longest(&|interval| interval.from_start && interval.to_end);
    let from_start = longest(&|interval| interval.from_start);
    let to_end = longest(&|interval| interval.to_end);
    for interval in heard {
        let (id, mine) = (interval.client, &interval.heard);
        if let Some(whole) = whole {
            let fits = match (interval.from_start, interval.to_end) {
                (true, true) => *mine == whole.heard,
                (true, false) => whole.heard.starts_with(mine),
                (false, true) => whole.heard.ends_with(mine),
                (false, false) => true,
            };
            let theirs = &whole.heard;
            assert!(fits, "client {id} behind {offset}: {mine:?}, others {theirs:?}");
        }
        if let (Some(known), true) = (from_start, interval.from_start) {
            assert!(known.heard.starts_with(mine), "client {id}: {mine:?}, {:?}", known.heard);
        }
        if let (Some(known), true) = (to_end, interval.to_end) {
            assert!(known.heard.ends_with(mine), "client {id}: {mine:?}, {:?}", known.heard);
        }
    }
    let best = whole.or(from_start).or(to_end);
    Agreed {
        heard: best.map_or_else(Vec::new, |interval| interval.heard.clone()),
        from_start: best.is_some_and(|interval| interval.from_start),
        to_end: best.is_some_and(|interval| interval.to_end),
    }
}

/// A newcomer's own announcement comes first.
fn check_own(member: &Client) {
    let Role::Member { user, .. } = &member.script.role else { return };
    let mut is_in = false;
    for (at, entry) in member.log.entries.iter().enumerate() {
        match entry {
            Entry::Joined(joined) if joined == user => {
                assert!(at == 0 || !is_in, "client {} hears of its own join late", member.id);
                is_in = true;
            }
            // Another tab of the same user cannot be the last one while this one is open.
            Entry::Left(left) => assert!(left != user, "client {} is said to be gone", member.id),
            _ => is_in = true,
        }
    }
}

/// Users join and leave in turn; at rest those are in who are.
fn check_users(sim: &Sim, members: &[&Client], agreed: &BTreeMap<u64, Agreed<'_>>, at_rest: bool) {
    let mut is_in: BTreeMap<&str, bool> = BTreeMap::new();
    let mut expected = agreed.keys().next().copied().unwrap_or(0);
    let mut certain = true;
    for (offset, Agreed { heard, from_start, to_end }) in agreed {
        certain &= *offset == expected && *from_start;
        expected = offset + 1;
        if !certain {
            is_in.clear();
        }
        for entry in heard {
            let (user, joins) = match entry {
                Entry::Joined(user) => (user, true),
                Entry::Left(user) => (user, false),
                other => panic!("a summary in a small room: {other:?}"),
            };
            let before = is_in.insert(user, joins);
            assert!(before != Some(joins), "{user} joins or leaves twice: {heard:?}");
        }
        certain = *to_end;
    }
    let hears_all = |member: &&Client| {
        member.is_alive() && matches!(member.script.role, Role::Member { deaf: false, .. })
    };
    if !at_rest || !certain || !members.iter().any(hears_all) {
        return;
    }
    let world = sim.world.borrow();
    for (user, is_in) in is_in {
        let is_user = |client: &Client| match &client.script.role {
            Role::Member { user: name, .. } => name == user,
            _ => false,
        };
        if is_in {
            let has_socket = |client: &&Client| {
                client.socket.is_some_and(|socket| !world.sockets[socket].server_closed)
            };
            // Some who are in have not read so far that they know it.
            let mut here = sim.clients.iter().filter(|client| is_user(client));
            assert!(here.any(|client| has_socket(&client)), "{user} is gone, and nobody was told");
        } else {
            let is_here = members.iter().any(|member| is_user(member) && member.is_alive());
            assert!(!is_here, "{user} is said to be gone, and is in");
        }
    }
}
