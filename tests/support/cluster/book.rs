//! What was said and what was heard, as plain data.
//!
//! In:    what the load says, and the messages its members receive.
//! Out:   the book that the checker reads.
//! Never: judges.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

/// Microseconds since the load began.
pub type Micros = u64;

/// How a room's messages look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// JSON, with offsets and announcements.
    Json,
    /// Payloads as they come.
    Raw,
}

/// A room.
#[derive(Clone, Debug)]
pub struct Room {
    /// Its name.
    pub name: String,
    /// JSON or raw.
    pub mode: Mode,
}

/// A process: a node that was killed and started again is two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    /// When it was killed.
    pub until: Option<Micros>,
}

/// Which message: a speaker numbers what it says from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    /// Index in [`Book::speakers`].
    pub speaker: usize,
    /// Of the speaker's messages.
    pub number: usize,
}

/// A member that speaks.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// Index in [`Book::members`].
    pub member: usize,
    /// When it said its messages.
    pub said: Vec<Micros>,
    /// Those answered with `unavailable`.
    pub refused: BTreeSet<usize>,
}

/// A message as a member heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When.
    pub at: Micros,
    /// Which.
    pub message: Message,
    /// Index in the member's epochs; 0 in raw rooms.
    pub epoch: usize,
    /// 0 in raw rooms.
    pub offset: u64,
}

/// That a user came or went, as a member heard it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// When.
    pub at: Micros,
    /// Who.
    pub user: String,
    /// Came; else went.
    pub joined: bool,
}

/// A connection in a room.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Index in [`Book::rooms`].
    pub room: usize,
    /// Index in [`Book::nodes`].
    pub node: usize,
    /// Its name, its own in the room.
    pub user: String,
    /// Whether it hears itself.
    pub echo: bool,
    /// Index in [`Book::speakers`].
    pub speaker: Option<usize>,
    /// When it was in.
    pub joined: Option<Micros>,
    /// When its connection ended.
    pub ended: Option<Micros>,
    /// Epoch and offset of every `joined` that it was told, in order.
    pub epochs: Vec<(String, u64)>,
    /// What it heard, in order.
    pub heard: Vec<Heard>,
    /// Who came and went.
    pub crossings: Vec<Crossing>,
    /// The newest number heard of each speaker.
    pub newest: HashMap<usize, usize>,
    /// Anything that it should not have been told.
    pub strange: Vec<String>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Every room.
    pub rooms: Vec<Room>,
    /// Every process.
    pub nodes: Vec<Life>,
    /// Whoever speaks.
    pub speakers: Vec<Speaker>,
    /// Everybody.
    pub members: Vec<Member>,
}

/// The text of a message: JSON for a JSON room.
pub fn render(mode: Mode, message: Message) -> String {
    let Message { speaker, number } = message;
    match mode {
        Mode::Json => format!(r#"{{"content":[{speaker},{number}],"ref":"{number}"}}"#),
        Mode::Raw => format!("{speaker} {number}"),
    }
}

impl Book {
    /// Writes down that a speaker says its next message, and gives its text.
    pub fn say(&mut self, speaker: usize, at: Micros) -> (Message, String) {
        let member = &self.members[self.speakers[speaker].member];
        let mode = self.rooms[member.room].mode;
        let said = &mut self.speakers[speaker].said;
        let message = Message { speaker, number: said.len() };
        said.push(at);
        (message, render(mode, message))
    }

    /// Writes down a payload that a member received.
    pub fn hear(&mut self, member: usize, at: Micros, payload: &[u8]) {
        let taken = match self.rooms[self.members[member].room].mode {
            Mode::Raw => self.hear_raw(member, at, payload),
            Mode::Json => self.hear_json(member, at, payload),
        };
        if taken.is_none() {
            let text = String::from_utf8_lossy(payload).into_owned();
            self.members[member].strange.push(text);
        }
    }

    fn hear_raw(&mut self, member: usize, at: Micros, payload: &[u8]) -> Option<()> {
        let (speaker, number) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
        let message = Message { speaker: speaker.parse().ok()?, number: number.parse().ok()? };
        self.take(member, Heard { at, message, epoch: 0, offset: 0 })
    }

    fn hear_json(&mut self, member: usize, at: Micros, payload: &[u8]) -> Option<()> {
        let message: Value = serde_json::from_slice(payload).ok()?;
        if message["sender"] == "system" {
            return self.hear_crossing(member, at, message["content"].as_str()?);
        }
        match message["type"].as_str() {
            Some("joined") => {
                let epoch = message["epoch"].as_str()?.to_owned();
                let offset = message["offset"].as_u64()?;
                let member = &mut self.members[member];
                member.epochs.push((epoch, offset));
                member.joined.get_or_insert(at);
                Some(())
            }
            Some("error") if message["code"] == "unavailable" => {
                let number = message["ref"].as_str()?.parse().ok()?;
                let speaker = self.members[member].speaker?;
                self.speakers[speaker].refused.insert(number).then_some(())
            }
            Some(_) => None,
            None => {
                let content = message["content"].as_array()?;
                let number = |at: usize| usize::try_from(content.get(at)?.as_u64()?).ok();
                let message_said = Message { speaker: number(0)?, number: number(1)? };
                let offset = message["offset"].as_u64()?;
                let epoch = self.members[member].epochs.len().checked_sub(1)?;
                let speaker = self.speakers.get(message_said.speaker)?;
                if message["sender"] != self.members[speaker.member].user {
                    return None;
                }
                self.take(member, Heard { at, message: message_said, epoch, offset })
            }
        }
    }

    fn hear_crossing(&mut self, member: usize, at: Micros, text: &str) -> Option<()> {
        let joined = text.strip_suffix(" has joined the room");
        let left = text.strip_suffix(" has left the room");
        let user = joined.or(left)?.to_owned();
        self.members[member].crossings.push(Crossing { at, user, joined: joined.is_some() });
        Some(())
    }

    /// Takes what somebody said, where such a message was said in the member's room.
    fn take(&mut self, member: usize, heard: Heard) -> Option<()> {
        let speaker = self.speakers.get(heard.message.speaker)?;
        let same_room = self.members[speaker.member].room == self.members[member].room;
        if !same_room || heard.message.number >= speaker.said.len() {
            return None;
        }
        let member = &mut self.members[member];
        member.newest.insert(heard.message.speaker, heard.message.number);
        member.heard.push(heard);
        Some(())
    }

    /// A message as a failing test shows it.
    pub fn show(&self, message: Message) -> String {
        let Message { speaker, number } = message;
        let member = &self.members[self.speakers[speaker].member];
        let room = &self.rooms[member.room].name;
        let at = self.speakers[speaker].said[number];
        format!("{}#{number} in {room}, said on node {} at {at} us", member.user, member.node)
    }

    /// The node that a speaker speaks on.
    pub fn home(&self, speaker: usize) -> usize {
        self.members[self.speakers[speaker].member].node
    }

    /// The speakers of a room.
    pub fn speakers_of(&self, room: usize) -> impl Iterator<Item = usize> {
        let in_room =
            move |speaker: &usize| self.members[self.speakers[*speaker].member].room == room;
        (0..self.speakers.len()).filter(in_room)
    }

    /// The members of a room on a node.
    pub fn members_of(&self, room: usize, node: usize) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| (member.room, member.node) == (room, node))
    }
}
