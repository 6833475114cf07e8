//! Turns what members hear into counts and answers.
//!
//! In:    what the pool received, member by member.
//! Out:   counts; pongs, answers to closes; who has gone and may come back.
//! Never: begins anything by itself.

use std::fmt::Write as _;

use ringhall::bench::{End, Fault, Handler, Partial, Pool, Sink, put_control, read};
use ringhall::ws::Opcode;

use super::member::{self, Heard, Member, ROOM};
use crate::wire;

/// The code with which a member leaves, and with which a server restarts.
const NORMAL: u16 = 1000;
const RESTART: u16 = 1012;

/// What all members together have heard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Welcomes.
    pub joined: usize,
    /// Messages delivered.
    pub messages: usize,
    /// Announcements delivered.
    pub news: usize,
    /// Pings answered.
    pub pings: usize,
    /// Told of the shutdown.
    pub farewells: usize,
    /// Closed with 1012.
    pub restarts: usize,
    /// Connections ended by FIN, after a close frame.
    pub ended: usize,
}

/// All members.
#[derive(Debug)]
pub struct Crew {
    pub members: Vec<Member>,
    pub counts: Counts,
    /// Members that have left and whose connection has ended.
    pub gone: Vec<u32>,
    partials: Vec<Option<Box<Partial>>>,
    answers: Vec<(u32, Opcode, Vec<u8>)>,
}

impl Crew {
    /// So many, in rooms of ten.
    pub fn new(members: usize) -> Self {
        Self {
            members: vec![Member::default(); members],
            counts: Counts::default(),
            gone: Vec::new(),
            partials: std::iter::repeat_with(|| None).take(members).collect(),
            answers: Vec::new(),
        }
    }

    /// A member begins the closing handshake.
    pub fn leave(&mut self, pool: &mut Pool, number: u32) {
        self.members[number as usize].closing = true;
        pool.send(number as usize, |out| put_control(out, Opcode::Close, &NORMAL.to_be_bytes()));
    }

    /// A member says its one message.
    pub fn say(pool: &mut Pool, number: u32) {
        let message = member::message(number);
        pool.send(number as usize, |out| wire::put_masked(out, wire::TEXT, message.as_bytes()));
    }

    /// Answers what has to be answered.
    pub fn answer(&mut self, pool: &mut Pool) {
        for (number, opcode, payload) in self.answers.drain(..) {
            pool.send(number as usize, |out| put_control(out, opcode, &payload));
        }
    }

    /// Whether in each room everyone has heard of everyone who came later, and of nobody twice:
    /// the rooms are complete. From now on all count as present.
    ///
    /// # Errors
    /// The first member of whom that is not so.
    pub fn take_roll(&mut self) -> Result<(), String> {
        for (room, members) in self.members.chunks_mut(ROOM as usize).enumerate() {
            for one in 0..members.len() {
                let knows = |who: usize, of: usize| members[who].present & (1 << of) != 0;
                let wrong = (0..one).find(|&other| knows(one, other) == knows(other, one));
                if !knows(one, one) || wrong.is_some() {
                    return Err(format!("room {room}: {one} and {wrong:?}: {members:?}"));
                }
            }
            for member in members {
                member.assume_all();
                member.news = 0;
            }
        }
        Ok(())
    }
}

impl Handler for Crew {
    fn put_path(&self, number: usize, path: &mut String) {
        // Writing to a string does not fail.
        let _ = write!(path, "/ws/r{}/u{number}", number / ROOM as usize);
    }

    fn opened(&mut self, _number: usize) -> Result<(), Fault> {
        Ok(())
    }

    fn received(&mut self, number: usize, bytes: &[u8]) -> Result<(), Fault> {
        let mut ear = Ear {
            number: number as u32,
            member: &mut self.members[number],
            counts: &mut self.counts,
            answers: &mut self.answers,
        };
        read(&mut self.partials[number], bytes, &mut ear)
    }

    fn ended(&mut self, number: usize, end: End) -> Result<(), Fault> {
        let member = &self.members[number];
        if !member.closing || end != End::Closed {
            return Err(Fault::new(format!("member {number} was cut ({end:?}): {member:?}")));
        }
        self.counts.ended += 1;
        if !member.warned {
            self.gone.push(number as u32);
        }
        Ok(())
    }
}

/// One member, while it hears.
struct Ear<'a> {
    number: u32,
    member: &'a mut Member,
    counts: &'a mut Counts,
    answers: &'a mut Vec<(u32, Opcode, Vec<u8>)>,
}

impl Sink for Ear<'_> {
    // All that a member is sent is shorter: it comes whole, or kept whole.
    const KEPT: usize = 256;

    fn whole(&mut self, payload: &[u8]) -> Result<(), Fault> {
        match self.member.hear(self.number, payload).map_err(Fault::new)? {
            Heard::Joined => self.counts.joined += 1,
            Heard::Message => self.counts.messages += 1,
            Heard::News => self.counts.news += 1,
            Heard::Farewell => self.counts.farewells += 1,
        }
        Ok(())
    }

    fn piece(&mut self, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        let len = at + bytes.len();
        Err(Fault::new(format!("member {}: a message of {len} bytes or more", self.number)))
    }

    fn last(&mut self, kept: &[u8], _len: usize) -> Result<(), Fault> {
        self.whole(kept)
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        let Self { number, member, counts, answers } = self;
        match (opcode, code) {
            // RFC 6455 section 5.5.1: nothing follows the close frame that was sent.
            (Opcode::Ping, _) if member.closing => {}
            (Opcode::Ping, _) => {
                counts.pings += 1;
                answers.push((*number, Opcode::Pong, payload.to_vec()));
            }
            (Opcode::Close, Some(NORMAL)) if member.closing => {}
            (Opcode::Close, Some(RESTART)) if member.warned && !member.closing => {
                member.closing = true;
                counts.restarts += 1;
                answers.push((*number, Opcode::Close, payload[..2].to_vec()));
            }
            _ => {
                let what = format!("member {number} got {opcode:?} {code:?}: {member:?}");
                return Err(Fault::new(what));
            }
        }
        Ok(())
    }
}
