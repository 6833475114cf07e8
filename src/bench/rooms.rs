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
use super::fault::{Fault, shown};
use super::frames::{Partial, Sink, read};
use super::json;
use super::latency::Latency;
use super::message::{NUMBER_END, STAMP_BYTES, Stamp, Template, filler, put_control};
use super::pool::{End, Handler, Pool};

/// What travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Back from `/echo`, byte for byte.
    Echo,
    /// Through a raw room, byte for byte.
    Raw,
    /// Through a JSON room, in an envelope.
    Json,
}

/// Who speaks to whom.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Where.
    pub format: Format,
    /// Rooms; for an echo, connections.
    pub rooms: usize,
    /// Members of each.
    pub members: usize,
    /// Speakers among them.
    pub publishers: usize,
    /// Messages of a speaker under way, in a closed loop.
    pub window: usize,
    /// Bytes of a payload, or of the content.
    pub bytes: usize,
    /// Messages a second over all speakers: an open loop.
    pub rate: Option<f64>,
}

impl Shape {
    /// Connections of all rooms.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.rooms * self.members
    }

    fn speakers(&self) -> usize {
        self.rooms * self.publishers
    }

    /// The connection of a speaker.
    fn connection(&self, speaker: usize) -> usize {
        speaker / self.publishers * self.members + speaker % self.publishers
    }
}

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

/// What was heard, and what is to be heard.
#[derive(Debug)]
struct Score {
    shape: Shape,
    filler: Vec<u8>,
    now: u64,
    counted: Range<u64>,
    /// When an open loop began.
    begun: u64,
    /// Messages that a member has heard of a speaker: `connection * publishers + speaker`.
    heard: Vec<u32>,
    /// By `speaker * window + sequence % window`: members that have not heard it; when it was sent.
    left: Vec<u32>,
    sent_at: Vec<u64>,
    /// Messages of each speaker under way.
    under_way: Vec<u32>,
    /// Speakers that may speak.
    ready: Vec<u32>,
    /// The last offset that each member of a JSON room has seen.
    offsets: Vec<u64>,
    deliveries: u64,
    latency: Latency,
    pongs: Vec<(usize, Vec<u8>)>,
    parting: bool,
}

impl Rooms {
    /// Nobody has spoken yet.
    ///
    /// # Panics
    /// If the payload is shorter than a stamp.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        assert!(shape.bytes >= STAMP_BYTES, "a payload of {} bytes", shape.bytes);
        let (connections, speakers) = (shape.connections(), shape.speakers());
        let filler = filler(shape.bytes);
        let template = match shape.format {
            Format::Json => Template::new(json::BEFORE, &filler, json::AFTER),
            Format::Echo | Format::Raw => Template::new(b"", &filler, b""),
        };
        let window = if shape.rate.is_some() { 0 } else { shape.window };
        let score = Score {
            filler,
            now: 0,
            counted: 0..0,
            begun: 0,
            heard: vec![0; connections * shape.publishers],
            left: vec![0; speakers * window],
            sent_at: vec![0; speakers * window],
            under_way: vec![0; speakers],
            ready: Vec::new(),
            offsets: if shape.format == Format::Json { vec![0; connections] } else { Vec::new() },
            deliveries: 0,
            latency: Latency::default(),
            pongs: Vec::new(),
            parting: false,
            shape,
        };
        let mut partials = Vec::new();
        partials.resize_with(connections, || None);
        Self { partials, score, template, sent: vec![0; speakers], sent_all: 0, speaking: false }
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
            let at = speaker as usize;
            let (window, score) = (self.score.shape.window, &mut self.score);
            let count = window - score.under_way[at] as usize;
            if count == 0 {
                continue;
            }
            score.under_way[at] = window as u32;
            let first = self.sent[at] as usize;
            for sequence in first..first + count {
                let place = at * window + sequence % window;
                score.left[place] = score.shape.members as u32;
                score.sent_at[place] = score.now;
            }
            self.speak(pool, at, count);
        }
    }

    /// Whatever is due by now is said, speaker after speaker: late, if it is, but not left out.
    fn speak_open(&mut self, pool: &mut Pool, rate: f64) {
        let score = &self.score;
        let due = ((score.now - score.begun) as f64 * rate / 1e9) as u64;
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

impl Score {
    /// A member has heard a message, all its bytes right.
    #[inline]
    fn heard(
        &mut self,
        number: usize,
        room: usize,
        stamp: Stamp,
        sent: &[u32],
    ) -> Result<(), Fault> {
        let Shape { publishers, members, window, rate, .. } = self.shape;
        let within = (stamp.speaker as usize).wrapping_sub(room * members);
        if within >= publishers {
            return Err(self.unexpected(number, room, stamp));
        }
        let place = number * publishers + within;
        let speaker = room * publishers + within;
        let sequence = self.heard[place];
        if stamp.sequence != sequence % NUMBER_END || sequence >= sent[speaker] {
            return Err(self.unexpected(number, room, stamp));
        }
        self.heard[place] = sequence + 1;
        self.deliveries += 1;
        let since = if let Some(rate) = rate {
            let order = u64::from(sequence) * sent.len() as u64 + speaker as u64;
            self.begun + ((order + 1) as f64 * 1e9 / rate) as u64
        } else {
            let place = speaker * window + sequence as usize % window;
            self.left[place] -= 1;
            if self.left[place] == 0 {
                self.under_way[speaker] -= 1;
                self.ready.push(speaker as u32);
            }
            self.sent_at[place]
        };
        if self.counted.contains(&since) {
            self.latency.record(self.now.saturating_sub(since));
        }
        Ok(())
    }

    /// The message of this number is not the next one of that speaker.
    #[cold]
    fn unexpected(&self, number: usize, room: usize, stamp: Stamp) -> Fault {
        let Shape { publishers, members, .. } = self.shape;
        let within = (stamp.speaker as usize).wrapping_sub(room * members);
        let Stamp { speaker, sequence } = stamp;
        if within >= publishers {
            return Fault::new(format!(
                "connection {number} (room {room}) heard message {sequence} of connection \
                 {speaker}, which does not speak there"
            ));
        }
        let next = self.heard[number * publishers + within] % NUMBER_END;
        let what = if sequence > next { "one before it was lost or comes late" } else { "twice" };
        Fault::new(format!(
            "connection {number} heard message {sequence} of connection {speaker} where {next} is \
             the next one: {what}"
        ))
    }

    /// What a payload should have been, as far as its stamp can be read.
    #[cold]
    fn differs(&self, number: usize, payload: &[u8]) -> Fault {
        let stamp = Stamp::read(payload).map_or([b'?'; STAMP_BYTES], Stamp::to_bytes);
        let at = payload.iter().skip(STAMP_BYTES).zip(&self.filler).position(|(a, b)| a != b);
        let at = at.map_or(0, |at| at + STAMP_BYTES).saturating_sub(STAMP_BYTES);
        let expected = [&stamp[..], &self.filler].concat();
        if at == 0 {
            return Fault::differs(number, &expected, payload);
        }
        let Fault(text) = Fault::differs(number, &expected[at..], &payload[at..]);
        Fault(format!("{text}\n  from byte {at} of {} on", expected.len()))
    }

    fn control(&mut self, number: usize, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        match opcode {
            Opcode::Ping => self.pongs.push((number, payload.to_vec())),
            Opcode::Close if !self.parting => {
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = shown(payload.get(2..).unwrap_or_default());
                return Err(Fault::new(format!(
                    "the server closed connection {number}: code {code}, reason {reason}"
                )));
            }
            _ => {}
        }
        Ok(())
    }
}

struct RawEar<'a> {
    score: &'a mut Score,
    sent: &'a [u32],
    number: usize,
    room: usize,
}

impl Sink for RawEar<'_> {
    const KEPT: usize = STAMP_BYTES;

    #[inline]
    fn whole(&mut self, payload: &[u8]) -> Result<(), Fault> {
        match (Stamp::read(payload), payload.get(STAMP_BYTES..)) {
            (Some(stamp), Some(rest)) if *rest == *self.score.filler => {
                self.score.heard(self.number, self.room, stamp, self.sent)
            }
            _ => Err(self.score.differs(self.number, payload)),
        }
    }

    fn piece(&mut self, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        let at = at - STAMP_BYTES;
        let expected = self.score.filler.get(at..at + bytes.len()).unwrap_or_default();
        match expected == bytes {
            true => Ok(()),
            false => Err(Fault::differs(self.number, expected, bytes)),
        }
    }

    fn last(&mut self, kept: &[u8], len: usize) -> Result<(), Fault> {
        match Stamp::read(kept) {
            Some(stamp) if len == self.score.shape.bytes => {
                self.score.heard(self.number, self.room, stamp, self.sent)
            }
            _ => Err(Fault::new(format!(
                "connection {} received {len} bytes, {} were sent: {}",
                self.number,
                self.score.shape.bytes,
                shown(kept)
            ))),
        }
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        self.score.control(self.number, opcode, payload)
    }
}

struct JsonEar<'a> {
    score: &'a mut Score,
    sent: &'a [u32],
    number: usize,
    room: usize,
}

impl JsonEar<'_> {
    /// The offset is the next one: everybody in the room hears all of it in one order.
    fn follows(&mut self, offset: u64) -> bool {
        let last = &mut self.score.offsets[self.number];
        let follows = offset == *last + 1;
        *last = offset;
        follows
    }
}

impl Sink for JsonEar<'_> {
    const KEPT: usize = usize::MAX;

    fn whole(&mut self, text: &[u8]) -> Result<(), Fault> {
        let content_bytes = self.score.shape.bytes;
        match json::read(text, content_bytes) {
            Some(json::Event::Said { room, sender, content, offset }) => {
                let stamp = Stamp::read(content);
                let right = room == self.room && content[STAMP_BYTES..] == *self.score.filler;
                let Some(stamp) = stamp.filter(|stamp| right && stamp.speaker == sender) else {
                    return Err(self.score.differs(self.number, content));
                };
                if !self.follows(offset) {
                    return Err(Fault::new(format!(
                        "connection {} heard offset {offset}, which does not follow its last one: \
                         {}",
                        self.number,
                        shown(text)
                    )));
                }
                self.score.heard(self.number, self.room, stamp, self.sent)
            }
            Some(json::Event::Joined { offset }) => {
                self.score.offsets[self.number] = offset;
                Ok(())
            }
            Some(json::Event::Announced) => Ok(()),
            None => Err(Fault::new(format!(
                "connection {} received what was not to come: {}",
                self.number,
                shown(text)
            ))),
        }
    }

    fn piece(&mut self, _at: usize, _bytes: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn last(&mut self, kept: &[u8], _len: usize) -> Result<(), Fault> {
        self.whole(kept)
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        self.score.control(self.number, opcode, payload)
    }
}
