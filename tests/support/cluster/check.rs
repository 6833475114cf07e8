//! Whether what was heard is what was promised, and where it was not, whether that is explained.
//!
//! In:    the book of a load, what the boxes counted meanwhile, the faults that the test made.
//! Out:   a verdict: problems, a line each, and the account of what was missed and why.
//! Never: takes a hole for granted: each missed message lies in a fault, and in a counter.

use std::collections::HashSet;
use std::fmt;

use super::book::{Book, Heard, Member, Message, Micros, Mode};

/// A message said so long before a fault may still be on its way when that strikes: brokers that
/// are slow, readers that wait for what a log does not show yet.
const ON_ITS_WAY: Micros = 1_500_000;
/// How much later than it happened the end of a fault may be seen.
const EDGE: Micros = 200_000;
/// Problems of one kind that a verdict names; the rest is counted.
const SHOWN: usize = 6;

/// What a box counted from the load's beginning to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Messages of others that never came.
    pub gaps: u64,
    /// Messages from here that were not handed to the broker.
    pub dropped: u64,
    /// Messages answered with `unavailable`.
    pub rejected: u64,
}

/// A time in which a box may lose messages to others and miss messages of others.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// For people.
    pub what: &'static str,
    /// The box.
    pub node: usize,
    /// Messages said before this are safe, but for those that are still on their way, with all
    /// that their speaker said later, when the fault strikes.
    pub from: Micros,
    /// When it strikes.
    pub struck: Micros,
    /// Messages said from here on the box does not hand over: its breaker is open. What was said
    /// before is on its way when the fault strikes, and counted by receivers alone.
    pub noticed: Micros,
    /// Messages said after this are safe again.
    pub until: Micros,
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// What was said and heard.
    pub book: &'a Book,
    /// By node; `None` for one that was killed: nobody can ask it.
    pub counted: &'a [Option<Counted>],
    /// In any order.
    pub faults: &'a [Fault],
}

/// The outcome.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What is wrong.
    pub problems: Vec<String>,
    /// What was missed, and why.
    pub account: Vec<String>,
}

impl Verdict {
    /// Adds problems of one kind, the first few by name.
    pub fn add(&mut self, kind: &str, found: Vec<String>) {
        let more = found.len().saturating_sub(SHOWN);
        self.problems.extend(found.into_iter().take(SHOWN).map(|each| format!("{kind}: {each}")));
        if more != 0 {
            self.problems.push(format!("{kind}: and {more} more"));
        }
    }

    /// Adds one problem where something does not hold.
    pub fn hold(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.account {
            writeln!(f, "  {line}")?;
        }
        for problem in &self.problems {
            writeln!(f, "  WRONG {problem}")?;
        }
        Ok(())
    }
}

impl<'a> Trial<'a> {
    /// A member as a failing test shows it.
    pub fn name(&self, member: &Member) -> String {
        let room = &self.book.rooms[member.room].name;
        format!("{} of {room} on node {}", member.user, member.node)
    }

    /// Whether a message was said while something was broken that concerns the node.
    pub fn in_fault(&self, message: Message, node: usize) -> bool {
        let at = self.said_at(message);
        let mut faults = self.faults.iter().filter(|fault| fault.node == node);
        faults.any(|fault| (fault.from..=fault.until).contains(&at))
    }

    /// Whether a message may be lost to a node: it was said in a fault of either end, or had not
    /// come when one struck.
    pub fn excused(&self, message: Message, node: usize) -> bool {
        let home = self.book.home(message.speaker);
        self.in_fault(message, node)
            || self.in_fault(message, home)
            || self.not_yet_there(message, node, home)
    }

    /// Whether a message said shortly before a fault had yet to come to the node when it struck:
    /// nothing that its speaker said later had come there either.
    fn not_yet_there(&self, message: Message, node: usize, home: usize) -> bool {
        let at = self.said_at(message);
        let concern = |fault: &&Fault| fault.node == node || fault.node == home;
        let mut struck = self.faults.iter().filter(concern).map(|fault| fault.struck);
        struck.any(|struck| {
            at <= struck && struck - at <= ON_ITS_WAY && !self.overtaken(message, node, struck)
        })
    }

    /// Whether something that the speaker said after this message had come to the node by then.
    fn overtaken(&self, message: Message, node: usize, by: Micros) -> bool {
        let room = self.book.members[self.book.speakers[message.speaker].member].room;
        let mut heard = self.listener(room, node).into_iter().flat_map(|member| &member.heard);
        heard.any(|heard| {
            let Message { speaker, number } = heard.message;
            heard.at < by && speaker == message.speaker && number > message.number
        })
    }

    /// Whether a message was on its way from its box when a fault struck there; or when it ended.
    pub fn in_flight(&self, message: Message) -> bool {
        let (at, home) = (self.said_at(message), self.book.home(message.speaker));
        let mut faults = self.faults.iter().filter(|fault| fault.node == home);
        faults.any(|fault| {
            let end = fault.until.saturating_sub(EDGE)..=fault.until;
            (fault.from..=fault.noticed).contains(&at) || end.contains(&at)
        })
    }

    /// When a message was said.
    pub fn said_at(&self, message: Message) -> Micros {
        self.book.speakers[message.speaker].said[message.number]
    }

    /// Whether a node lives to the end.
    pub fn lives(&self, node: usize) -> bool {
        self.book.nodes[node].until.is_none()
    }

    /// What a speaker said and its box did not refuse. Of a speaker whose box was killed, what is
    /// known to have been taken: up to the last that one of these `witnesses` heard.
    pub fn accepted(&self, speaker: usize, witnesses: impl Fn(&Member) -> bool) -> Vec<Message> {
        let book = self.book;
        let log = &book.speakers[speaker];
        let room = book.members[log.member].room;
        let end = if self.lives(book.home(speaker)) {
            log.said.len()
        } else {
            let members = book.members.iter().filter(|member| member.room == room);
            let heard = members.filter(|member| witnesses(member));
            heard.filter_map(|member| member.newest.get(&speaker)).max().map_or(0, |at| at + 1)
        };
        (0..end)
            .filter(|number| !log.refused.contains(number))
            .map(|number| Message { speaker, number })
            .collect()
    }

    /// The member that stands for a room on a node: the first that hears itself, too.
    pub fn listener(&self, room: usize, node: usize) -> Option<&'a Member> {
        self.book.members_of(room, node).find(|member| member.echo)
    }

    /// Messages of a room that a listener should have heard and did not, of those that `speakers`
    /// said after it had joined.
    pub fn missed(
        &self,
        listener: &Member,
        speakers: impl Fn(usize) -> bool,
        witnesses: impl Fn(&Member) -> bool,
    ) -> Vec<Message> {
        let joined = listener.joined.unwrap_or(Micros::MAX);
        let heard: HashSet<Message> = listener.heard.iter().map(|heard| heard.message).collect();
        let wanted = self.book.speakers_of(listener.room).filter(|speaker| speakers(*speaker));
        wanted
            .flat_map(|speaker| self.accepted(speaker, &witnesses))
            .filter(|message| self.said_at(*message) > joined && !heard.contains(message))
            .collect()
    }

    /// The members that stand for the rooms of a node.
    pub fn listeners(&self, node: usize) -> impl Iterator<Item = &'a Member> {
        let book = self.book;
        let member = move |room| book.members_of(room, node).find(|member| member.echo);
        (0..book.rooms.len()).filter_map(member)
    }

    /// What every member is promised, whatever the delivery: nothing strange, each message at most
    /// once, each sender's in order, none of its own where it asked for that; and that all members
    /// of a room on one box hear the same.
    pub fn members(&self, verdict: &mut Verdict) {
        let (mut strange, mut ended, mut order) = (Vec::new(), Vec::new(), Vec::new());
        for member in &self.book.members {
            let name = self.name(member);
            strange.extend(member.strange.iter().map(|what| format!("{name} was told {what}")));
            if member.joined.is_none() {
                ended.push(format!("{name} never was in"));
            }
            if let (Some(at), true) = (member.ended, self.lives(member.node)) {
                ended.push(format!("{name} lost its connection at {at} us"));
            }
            order.extend(self.out_of_order(member).map(|what| format!("{name}: {what}")));
        }
        verdict.add("strange", strange);
        verdict.add("connection", ended);
        verdict.add("at most once and in order", order);
        let mut differ = Vec::new();
        for room in 0..self.book.rooms.len() {
            for node in 0..self.book.nodes.len() {
                let Some(listener) = self.listener(room, node) else { continue };
                let others = self.book.members_of(room, node);
                differ.extend(others.filter_map(|other| self.differs(listener, other)));
            }
        }
        verdict.add("one order on a box", differ);
    }

    fn out_of_order(&self, member: &'a Member) -> impl Iterator<Item = String> {
        let mut next = std::collections::HashMap::new();
        member.heard.iter().filter_map(move |heard| {
            let Message { speaker, number } = heard.message;
            let due = next.get(&speaker).copied().unwrap_or(0);
            next.insert(speaker, due.max(number + 1));
            let own = member.speaker == Some(speaker) && !member.echo;
            if own {
                return Some(format!("heard itself: {}", self.book.show(heard.message)));
            }
            let twice_or_late = number < due;
            twice_or_late.then(|| {
                let before = due - 1;
                format!("heard {} after #{before} of the same", self.book.show(heard.message))
            })
        })
    }

    /// Where a member heard something else than the listener of its room, from the moment it had
    /// joined, its own words aside where it asked for that.
    pub fn differs(&self, listener: &Member, member: &Member) -> Option<String> {
        let wanted = |heard: &&Heard| member.echo || member.speaker != Some(heard.message.speaker);
        let mut whole: Vec<&Heard> = listener.heard.iter().filter(wanted).collect();
        let name = self.name(member);
        if !self.lives(member.node) {
            // A box that was killed: its members heard the beginning, one more, another less.
            let until = whole.len().min(member.heard.len());
            whole.truncate(until);
            return self.first_difference(listener, &whole, member, &member.heard[..until]);
        }
        // One that joined while others spoke begins later, with nothing said after it was in.
        let until = whole.len().min(member.heard.len());
        let (early, rest) = whole.split_at(whole.len() - until);
        let joined = member.joined.unwrap_or(Micros::MAX);
        if let Some(missed) = early.iter().find(|heard| self.said_at(heard.message) > joined) {
            let missed = self.book.show(missed.message);
            return Some(format!("{name} did not hear {missed}, which others of its room did"));
        }
        let (early, mine) = member.heard.split_at(member.heard.len() - until);
        let joined = listener.joined.unwrap_or(Micros::MAX);
        if let Some(missed) = early.iter().find(|heard| self.said_at(heard.message) > joined) {
            let missed = self.book.show(missed.message);
            return Some(format!(
                "{} did not hear {missed}, which {name} did",
                self.name(listener)
            ));
        }
        self.first_difference(listener, rest, member, mine)
    }

    /// Where two members heard something else, of as many messages of each.
    fn first_difference(
        &self,
        listener: &Member,
        theirs: &[&Heard],
        member: &Member,
        mine: &[Heard],
    ) -> Option<String> {
        let same = |one: &Heard, other: &Heard| {
            (one.message, one.offset) == (other.message, other.offset)
                && epoch(listener, one) == epoch(member, other)
        };
        let mut pairs = theirs.iter().zip(mine);
        let (one, other) = pairs.find(|(one, other)| !same(one, other))?;
        Some(format!(
            "{} heard {} (offset {}) where {} heard {} (offset {})",
            self.name(member),
            self.book.show(other.message),
            other.offset,
            self.name(listener),
            self.book.show(one.message),
            one.offset,
        ))
    }

    /// Nothing is missed outside of a fault.
    pub fn explained(&self, verdict: &mut Verdict, missed: &[(usize, Message)]) {
        let unexplained = missed.iter().filter(|(node, message)| !self.excused(*message, *node));
        let lines = unexplained
            .map(|(node, message)| format!("node {node} missed {}", self.book.show(*message)));
        verdict.add("missed while all was well", lines.collect());
        for fault in self.faults {
            verdict.account.push(format!(
                "node {}: {} from {} to {} us, noticed by {} us",
                fault.node, fault.what, fault.from, fault.until, fault.noticed
            ));
        }
    }

    /// Nobody heard what its speaker was told nobody would.
    pub fn refusals(&self, verdict: &mut Verdict) {
        let mut heard = Vec::new();
        for member in &self.book.members {
            for one in &member.heard {
                let Message { speaker, number } = one.message;
                if self.book.speakers[speaker].refused.contains(&number) {
                    let (name, what) = (self.name(member), self.book.show(one.message));
                    heard.push(format!("{name} heard {what}"));
                }
            }
        }
        verdict.add("refused and yet heard", heard);
        let mut early = Vec::new();
        for (speaker, log) in self.book.speakers.iter().enumerate() {
            let refused = log.refused.iter().map(|&number| Message { speaker, number });
            let home = self.book.home(speaker);
            let safe = refused.filter(|message| !self.excused(*message, home));
            early.extend(safe.map(|message| self.book.show(message)));
        }
        verdict.add("refused while all was well", early);
    }

    /// Messages of JSON rooms that a node refused.
    pub fn refused_on(&self, node: usize) -> u64 {
        let speakers = self.book.speakers.iter();
        let here = speakers.filter(|speaker| self.book.members[speaker.member].node == node);
        here.map(|speaker| speaker.refused.len() as u64).sum()
    }

    /// Whether a speaker's room is a JSON room.
    pub fn speaks_json(&self, speaker: usize) -> bool {
        let member = &self.book.members[self.book.speakers[speaker].member];
        self.book.rooms[member.room].mode == Mode::Json
    }
}

/// The name of the epoch in which a member heard something; empty in raw rooms.
pub fn epoch<'m>(member: &'m Member, heard: &Heard) -> &'m str {
    member.epochs.get(heard.epoch).map_or("", |(epoch, _)| epoch)
}
