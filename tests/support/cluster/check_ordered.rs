//! What `broker.delivery = "ordered"` promises.
//!
//! In:    a trial; whether the broker's log was emptied meanwhile.
//! Out:   a verdict.
//! Never: lets a message be heard on one box and not on another, unless the log itself was lost.

use std::collections::{HashMap, HashSet};

use super::book::{Heard, Member, Message, Mode};
use super::check::{Trial, Verdict, epoch};

/// Judges a load. `emptied`: the broker came back without its log, so what it had taken and not yet
/// given to everybody is lost.
pub fn judge(trial: &Trial<'_>, emptied: bool) -> Verdict {
    let mut verdict = Verdict::default();
    trial.members(&mut verdict);
    trial.refusals(&mut verdict);
    places(trial, emptied, &mut verdict);
    for room in 0..trial.book.rooms.len() {
        one_order(trial, room, emptied, &mut verdict);
    }
    let missed = missed(trial, emptied, &mut verdict);
    trial.explained(&mut verdict, &missed);
    refused(trial, emptied, &mut verdict);
    verdict
}

/// Offsets grow within an epoch, and there is a new epoch only where the log was lost.
fn places(trial: &Trial<'_>, emptied: bool, verdict: &mut Verdict) {
    let mut wrong = Vec::new();
    for member in &trial.book.members {
        if trial.book.rooms[member.room].mode == Mode::Raw {
            continue;
        }
        let name = trial.name(member);
        if member.epochs.len() > 1 && !emptied {
            wrong.push(format!("{name} was told of {} epochs", member.epochs.len()));
        }
        let mut before = (usize::MAX, 0);
        for heard in &member.heard {
            let floor = if before.0 == heard.epoch { before.1 } else { begin(member, heard) };
            if heard.offset <= floor {
                wrong.push(format!("{name}: offset {} after {floor}", heard.offset));
            }
            before = (heard.epoch, heard.offset);
        }
    }
    verdict.add("offsets", wrong);
}

/// The offset that a `joined` said to begin behind.
fn begin(member: &Member, heard: &Heard) -> u64 {
    member.epochs.get(heard.epoch).map_or(0, |(_, offset)| *offset)
}

/// The order of a room is the same on all boxes, with the same places.
fn one_order(trial: &Trial<'_>, room: usize, emptied: bool, verdict: &mut Verdict) {
    let nodes = 0..trial.book.nodes.len();
    let listeners = nodes.flat_map(|node| trial.listeners(node));
    let of_room: Vec<_> = listeners.filter(|listener| listener.room == room).collect();
    let Some(first) = of_room.iter().find(|listener| trial.lives(listener.node)) else { return };
    let differ = of_room.iter().filter_map(|listener| {
        if emptied { contradicts(trial, first, listener) } else { trial.differs(first, listener) }
    });
    verdict.add("one order on all boxes", differ.collect());
}

/// Where two members heard the same messages in different orders or at different places.
fn contradicts(trial: &Trial<'_>, one: &Member, other: &Member) -> Option<String> {
    let place = |member: &Member, heard: &Heard| (epoch(member, heard).to_owned(), heard.offset);
    let known: HashMap<Message, (usize, (String, u64))> = one
        .heard
        .iter()
        .enumerate()
        .map(|(at, heard)| (heard.message, (at, place(one, heard))))
        .collect();
    let mut before = None;
    for heard in &other.heard {
        let Some((at, there)) = known.get(&heard.message) else { continue };
        let (name, what) = (trial.name(other), trial.book.show(heard.message));
        if before.is_some_and(|before| before > at) {
            return Some(format!("{name} heard {what} in another order"));
        }
        if *there != place(other, heard) {
            return Some(format!(
                "{name} heard {what} at {:?}, not {there:?}",
                place(other, heard)
            ));
        }
        before = Some(at);
    }
    None
}

/// What a box missed: whatever anybody heard it has to hear. Where the log was lost, what the
/// broker had taken may be missing too, and is counted.
fn missed(trial: &Trial<'_>, emptied: bool, verdict: &mut Verdict) -> Vec<(usize, Message)> {
    let mut all = Vec::new();
    let heard = heard_by_anybody(trial);
    for (node, counted) in trial.counted.iter().enumerate() {
        let Some(counted) = counted else { continue };
        let missed = trial.listeners(node).flat_map(|to| trial.missed(to, |_| true, |_| true));
        let missed: Vec<_> = missed.filter(|message| heard.contains(message)).collect();
        verdict.account.push(format!(
            "node {node} missed {} that others heard, gaps {}",
            missed.len(),
            counted.gaps
        ));
        if !emptied {
            let shown = missed.iter().map(|message| trial.book.show(*message));
            verdict.add(&format!("node {node} missed"), shown.collect());
            verdict.hold(counted.gaps == 0, || {
                format!("node {node} counted {} gaps in a log that has none", counted.gaps)
            });
        }
        all.extend(missed.into_iter().map(|message| (node, message)));
    }
    all
}

fn heard_by_anybody(trial: &Trial<'_>) -> HashSet<Message> {
    let members = trial.book.members.iter();
    members.flat_map(|member| member.heard.iter().map(|heard| heard.message)).collect()
}

/// Whatever nobody heard was refused, and counted: in a JSON room its speaker was told, in a raw
/// room nobody can be.
fn refused(trial: &Trial<'_>, emptied: bool, verdict: &mut Verdict) {
    let heard = heard_by_anybody(trial);
    for (node, counted) in trial.counted.iter().enumerate() {
        let Some(counted) = counted else { continue };
        let speakers = 0..trial.book.speakers.len();
        let here = speakers.filter(|speaker| trial.book.home(*speaker) == node);
        let unheard = here.flat_map(|speaker| trial.accepted(speaker, |_| true));
        let unheard = unheard.filter(|message| !heard.contains(message));
        let (json, raw): (Vec<_>, Vec<_>) =
            unheard.partition(|message| trial.speaks_json(message.speaker));
        let told = trial.refused_on(node);
        let (lost, silent) = (json.len() as u64, raw.len() as u64);
        verdict.account.push(format!(
            "node {node} rejected {}: {told} told, {silent} unheard in raw rooms; lost with the \
             log {lost}",
            counted.rejected
        ));
        let early: Vec<_> = json
            .iter()
            .chain(&raw)
            .filter(|message| !trial.in_fault(**message, node))
            .map(|message| trial.book.show(*message))
            .collect();
        verdict.add("heard by nobody while all was well", early);
        if emptied {
            let bounds = told..=told + silent;
            verdict.hold(bounds.contains(&counted.rejected), || {
                format!("node {node} counted {} rejected, not {bounds:?}", counted.rejected)
            });
            let known = json.iter().chain(&raw).filter(|message| !trial.in_flight(**message));
            let known = known.filter(|message| trial.speaks_json(message.speaker));
            let shown = known.map(|message| trial.book.show(*message));
            verdict.add("neither refused, nor heard, nor on its way", shown.collect());
        } else {
            let shown = json.iter().map(|message| trial.book.show(*message)).collect();
            verdict.add("neither refused nor heard", shown);
            verdict.hold(counted.rejected == told + silent, || {
                format!(
                    "node {node} counted {} rejected; {told} were told, and {silent} of raw rooms \
                     nobody heard",
                    counted.rejected
                )
            });
        }
    }
}
