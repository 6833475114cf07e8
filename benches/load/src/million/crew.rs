//! Turns what members hear into counts and answers.
//!
//! In:    what the fleet received, member by member.
//! Out:   counts; pongs, answers to closes; who has gone and may come back.
//! Never: begins anything by itself.

use std::io;

use super::fleet::{Ear, Outbox};
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
}

impl Crew {
    /// So many, in rooms of ten.
    pub fn new(members: usize) -> Self {
        let members = vec![Member::default(); members];
        Self { members, counts: Counts::default(), gone: Vec::new() }
    }

    /// A member's close frame.
    pub fn leave(&mut self, number: u32) -> Vec<u8> {
        self.members[number as usize].closing = true;
        masked(wire::CLOSE, &NORMAL.to_be_bytes())
    }

    /// A member's message.
    pub fn word(number: u32) -> Vec<u8> {
        masked(wire::TEXT, member::message(number).as_bytes())
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

    fn heard(
        &mut self,
        number: u32,
        heard: Heard,
        frame: &[u8],
        out: &mut Outbox,
    ) -> io::Result<()> {
        let member = &mut self.members[number as usize];
        let counts = &mut self.counts;
        match heard {
            Heard::Joined => counts.joined += 1,
            Heard::Message => counts.messages += 1,
            Heard::News => counts.news += 1,
            Heard::Farewell => counts.farewells += 1,
            // RFC 6455 section 5.5.1: nothing follows the close frame that was sent.
            Heard::Ping if member.closing => {}
            Heard::Ping => {
                counts.pings += 1;
                let ping = wire::frame(frame).map_or(&[][..], |ping| ping.payload);
                out.say(number, masked(wire::PONG, ping));
            }
            Heard::Close(NORMAL) if member.closing => {}
            Heard::Close(RESTART) if member.warned && !member.closing => {
                member.closing = true;
                counts.restarts += 1;
                out.say(number, masked(wire::CLOSE, &RESTART.to_be_bytes()));
            }
            Heard::Close(code) => {
                return Err(io::Error::other(format!("member {number} closed: {code} {member:?}")));
            }
        }
        Ok(())
    }
}

impl Ear for Crew {
    fn opened(&mut self, number: u32) -> Vec<u8> {
        wire::upgrade(&member::path(number))
    }

    fn hear(&mut self, number: u32, bytes: &[u8], out: &mut Outbox) -> io::Result<usize> {
        let mut used = 0;
        while used < bytes.len() {
            let member = &mut self.members[number as usize];
            let next = member.hear(number, &bytes[used..]).map_err(io::Error::other)?;
            let Some((heard, len)) = next else { break };
            self.heard(number, heard, &bytes[used..used + len], out)?;
            used += len;
        }
        Ok(used)
    }

    fn ended(&mut self, number: u32) -> io::Result<()> {
        let member = &self.members[number as usize];
        if !member.closing {
            return Err(io::Error::other(format!("member {number} got FIN without a close frame")));
        }
        self.counts.ended += 1;
        if !member.warned {
            self.gone.push(number);
        }
        Ok(())
    }
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 6);
    wire::put_masked(&mut frame, first, payload);
    frame
}
