//! Turns rooms of members into load: speakers that speak, members that check what they hear.
//!
//! In:    the shape of the load; frames.
//! Out:   messages to send; deliveries, counted and timed.
//! Never: lets a wrong byte pass: every member hears each message once, in its speaker's order.
//!
//! `/echo` is a room of one member that speaks to itself.
//!
//! # Invariants
//! - Connection `room * members + k` is the `k`th member of its room; the first ones speak.
//! - A closed loop has at most `window` messages of a speaker that not every member has heard.

use std::ops::Range;

use crate::ws::Opcode;

use super::drive::Load;
use super::ears::{JsonEar, RawEar};
use super::fault::Fault;
use super::frames::{Partial, read};
use super::json;
use super::latency::Latency;
use super::message::{NUMBER_END, STAMP_BYTES, Stamp, Template, filler, put_control};
use super::pool::{End, Handler, Pool};
use super::score::{Format, Score, Shape, due_by};

/// The load.
#[derive(Debug)]
pub struct Rooms {
    partials: Vec<Option<Box<Partial>>>,
    score: Score,
    template: Template,
    /// Messages that each speaker has sent.
    sent: Vec<u32>,
    /// Messages that were sent, and that the open loop has sent.
    sent_all: u64,
    speaking: bool,
}

impl Rooms {
    /// Nobody has spoken yet.
    ///
    /// # Panics
    /// If the payload is shorter than a stamp.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        assert!(shape.bytes >= STAMP_BYTES, "a payload of {} bytes", shape.bytes);
        let filler = filler(shape.bytes);
        let template = match shape.format {
            Format::Json => Template::new(json::BEFORE, &filler, json::AFTER),
            Format::Echo | Format::Raw => Template::new(b"", &filler, b""),
        };
        let mut partials = Vec::new();
        partials.resize_with(shape.connections(), || None);
        let sent = vec![0; shape.speakers()];
        let score = Score::new(shape, filler);
        Self { partials, score, template, sent, sent_all: 0, speaking: false }
    }

    /// Messages that were sent.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.sent_all
    }

    /// The latencies of what was sent, or due, in the window.
    pub fn latency(&mut self) -> &mut Latency {
        &mut self.score.latency
    }

    fn speak(&mut self, pool: &mut Pool, speaker: usize, count: usize) {
        let shape = &self.score.shape;
        let connection = shape.connection(speaker);
        let first = self.sent[speaker];
        self.sent[speaker] = first.wrapping_add(count as u32);
        self.sent_all += count as u64;
        let template = &self.template;
        pool.send(connection, |out| {
            for sequence in first..first + count as u32 {
                let sequence = sequence % NUMBER_END;
                template.put(out, Stamp { speaker: connection as u32, sequence });
            }
        });
    }

    /// Everyone whose messages all have heard says the next ones.
    fn speak_closed(&mut self, pool: &mut Pool) {
        while let Some(speaker) = self.score.ready.pop() {
            let speaker = speaker as usize;
            let count = self.score.grant(speaker, self.sent[speaker] as usize);
            if count > 0 {
                self.speak(pool, speaker, count);
            }
        }
    }

    /// Whatever is due by now is said, speaker after speaker: late, if it is, but not left out.
    fn speak_open(&mut self, pool: &mut Pool, rate: f64) {
        let score = &self.score;
        let due = due_by(score.now - score.begun, rate);
        let (from, speakers) = (self.sent_all, score.shape.speakers() as u64);
        for at in 0..(due.saturating_sub(from)).min(speakers) {
            let count = (due - from - at).div_ceil(speakers);
            self.speak(pool, ((from + at) % speakers) as usize, count as usize);
        }
    }
}

impl Handler for Rooms {
    fn put_path(&self, number: usize, path: &mut String) {
        use std::fmt::Write as _;
        let shape = &self.score.shape;
        // Writing to a string cannot fail.
        let _ = match shape.format {
            Format::Echo => write!(path, "/echo"),
            Format::Raw | Format::Json => {
                write!(path, "/ws/r{}/u{number}", number / shape.members)
            }
        };
    }

    fn opened(&mut self, _number: usize) -> Result<(), Fault> {
        Ok(())
    }

    fn received(&mut self, number: usize, bytes: &[u8]) -> Result<(), Fault> {
        let Self { partials, score, sent, .. } = self;
        let room = number / score.shape.members;
        match score.shape.format {
            Format::Echo | Format::Raw => {
                read(&mut partials[number], bytes, &mut RawEar { score, sent, number, room })
            }
            Format::Json => {
                read(&mut partials[number], bytes, &mut JsonEar { score, sent, number, room })
            }
        }
    }

    fn ended(&mut self, number: usize, end: End) -> Result<(), Fault> {
        match self.score.parting {
            true => Ok(()),
            false => Err(Fault::new(format!("the server ended connection {number} ({end:?})"))),
        }
    }
}

impl Load for Rooms {
    fn at(&mut self, now: u64) {
        self.score.now = now;
    }

    fn begin(&mut self, now: u64) {
        self.score.begun = now;
        self.speaking = true;
        self.score.ready = (0..self.sent.len() as u32).rev().collect();
    }

    fn count(&mut self, window: Range<u64>) {
        self.score.counted = window;
    }

    fn act(&mut self, pool: &mut Pool) -> Result<(), Fault> {
        for (number, payload) in self.score.pongs.drain(..) {
            pool.send(number, |out| put_control(out, Opcode::Pong, &payload));
        }
        match self.score.shape.rate {
            _ if !self.speaking => {}
            None => self.speak_closed(pool),
            Some(rate) => self.speak_open(pool, rate),
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.speaking = false;
    }

    fn operations(&self) -> u64 {
        self.score.deliveries
    }

    fn outstanding(&self) -> u64 {
        self.sent_all * self.score.shape.members as u64 - self.score.deliveries
    }

    fn part(&mut self) {
        self.score.parting = true;
    }
}
