//! What `broker.delivery = "local_first"` promises.
//!
//! In:    a trial.
//! Out:   a verdict.
//! Never: lets a box's own members miss anything, whatever the broker does.

use std::collections::{HashMap, HashSet};

use super::book::{Member, Message, Mode};
use super::check::{Counted, Trial, Verdict};

/// Judges a load.
pub fn judge(trial: &Trial<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    trial.members(&mut verdict);
    trial.refusals(&mut verdict);
    offsets(trial, &mut verdict);
    at_home(trial, &mut verdict);
    let missed = elsewhere(trial, &mut verdict);
    trial.explained(&mut verdict, &missed);
    dropped(trial, &mut verdict, &missed);
    verdict
}

/// One epoch as long as the box lives, and offsets without a hole.
fn offsets(trial: &Trial<'_>, verdict: &mut Verdict) {
    let mut wrong = Vec::new();
    for member in &trial.book.members {
        if trial.book.rooms[member.room].mode == Mode::Raw {
            continue;
        }
        let name = trial.name(member);
        let [(_, begin)] = member.epochs[..] else {
            wrong.push(format!("{name} was told {} epochs", member.epochs.len()));
            continue;
        };
        wrong.extend(first_hole(member, begin).map(|hole| format!("{name}: {hole}")));
    }
    verdict.add("offsets", wrong);
}

fn first_hole(member: &Member, begin: u64) -> Option<String> {
    let mut before = begin;
    member.heard.iter().find_map(|heard| {
        let right = if member.echo { heard.offset == before + 1 } else { heard.offset > before };
        let hole = format!("offset {} after {before}", heard.offset);
        before = heard.offset;
        (!right).then_some(hole)
    })
}

/// Members on the speaker's box hear everything.
fn at_home(trial: &Trial<'_>, verdict: &mut Verdict) {
    let mut missed = Vec::new();
    for node in 0..trial.book.nodes.len() {
        for listener in trial.listeners(node) {
            let here = |speaker| trial.book.home(speaker) == node;
            let messages = trial.missed(listener, here, |member| std::ptr::eq(member, listener));
            missed.extend(messages.into_iter().map(|message| trial.book.show(message)));
        }
    }
    verdict.add("missed on the speaker's own box", missed);
}

/// What each box missed of others, against its counter.
fn elsewhere(trial: &Trial<'_>, verdict: &mut Verdict) -> Vec<(usize, Message)> {
    let mut all = Vec::new();
    for (node, counted) in trial.counted.iter().enumerate() {
        // A box that was killed has heard the rest with nobody to ask.
        let Some(counted) = counted else { continue };
        let there = |speaker| trial.book.home(speaker) != node;
        let lives = |member: &Member| trial.lives(member.node);
        let missed = trial.listeners(node).flat_map(|to| trial.missed(to, there, lives));
        let missed: Vec<_> = missed.collect();
        let (missed_here, gaps) = (missed.len() as u64, counted.gaps);
        verdict.account.push(format!("node {node} missed {missed_here}, gaps {gaps}"));
        verdict.hold(missed_here == gaps, || {
            let each = by_home(trial, &missed);
            format!("node {node} counted {gaps} gaps, its members missed {missed_here}: {each}")
        });
        all.extend(missed.into_iter().map(|message| (node, message)));
    }
    all
}

fn by_home(trial: &Trial<'_>, missed: &[Message]) -> String {
    let mut homes = std::collections::BTreeMap::<usize, usize>::new();
    for message in missed {
        *homes.entry(trial.book.home(message.speaker)).or_default() += 1;
    }
    let each = homes.iter().map(|(home, count)| format!("{count} of node {home}"));
    each.collect::<Vec<_>>().join(", ")
}

/// A message that no other box heard was dropped by its own, but for what was on its way.
fn dropped(trial: &Trial<'_>, verdict: &mut Verdict, missed: &[(usize, Message)]) {
    let mut missing_on: HashMap<Message, HashSet<usize>> = HashMap::new();
    for (node, message) in missed {
        missing_on.entry(*message).or_default().insert(*node);
    }
    for (home, counted) in trial.counted.iter().enumerate() {
        let Some(Counted { dropped, rejected, .. }) = *counted else { continue };
        let others =
            (0..trial.counted.len()).filter(|node| *node != home && trial.counted[*node].is_some());
        let others: Vec<usize> = others.collect();
        let unheard = missing_on.iter().filter(|(message, nodes)| {
            trial.book.home(message.speaker) == home
                && trial.in_fault(**message, home)
                && others.iter().all(|node| nodes.contains(node))
        });
        let unheard = unheard.count() as u64;
        let speakers = 0..trial.book.speakers.len();
        let here = speakers.filter(|speaker| trial.book.home(*speaker) == home);
        let in_flight = here
            .flat_map(|speaker| trial.accepted(speaker, |_| true))
            .filter(|message| trial.in_flight(*message))
            .count() as u64;
        verdict.account.push(format!(
            "node {home} dropped {dropped}; {unheard} of its messages no other box heard, up to \
             {in_flight} were on their way"
        ));
        verdict.hold(dropped.abs_diff(unheard) <= in_flight, || {
            format!(
                "node {home} counted {dropped} dropped; no other box heard {unheard} of its \
                 messages, and only {in_flight} were on their way when a fault struck"
            )
        });
        let refused = trial.refused_on(home);
        verdict.hold(rejected == refused, || {
            format!("node {home} counted {rejected} rejected, its speakers were told {refused}")
        });
    }
}
