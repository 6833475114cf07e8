//! Turns what one box's members are sent into what came through of what another's have said.
//!
//! In:    when messages were due; what the pool received.
//! Out:   messages that came, how long each took.
//! Never: lets a byte pass that nobody sent; takes a message twice or out of order.

use std::collections::VecDeque;
use std::fmt::Write as _;

use ringhall::bench::{End, Fault, Handler, Latency, Partial, STAMP_BYTES, Sink, Stamp, read};
use ringhall::ws::Opcode;

/// Payload of a message, in bytes.
pub const MESSAGE_BYTES: usize = 64;

/// What follows the stamp, the same in all messages.
pub fn filler() -> Vec<u8> {
    (STAMP_BYTES..MESSAGE_BYTES).map(|at| b'a' + (at * 7 % 26) as u8).collect()
}

/// Pings that are to be answered: whose, and their payload.
pub type Pongs = Vec<(usize, Vec<u8>)>;

/// One connection a room on the box that speaks. They want to hear nothing of it themselves.
#[derive(Debug)]
pub struct Speakers {
    /// To be answered.
    pub pongs: Pongs,
    partials: Vec<Option<Box<Partial>>>,
    is_over: bool,
}

/// One connection a room on the box that listens.
#[derive(Debug)]
pub struct Listeners {
    /// To be answered.
    pub pongs: Pongs,
    /// Messages that came, by room.
    pub heard: Vec<u32>,
    /// All of them.
    pub heard_all: u64,
    /// Rooms that have heard something since this was looked at last.
    pub news: Vec<u32>,
    /// When the messages on their way were due, by room; nothing where nobody asks.
    pub due: Vec<VecDeque<u64>>,
    /// From due to heard.
    pub latency: Latency,
    /// The time that what comes now belongs to, in nanoseconds.
    pub now: u64,
    filler: Vec<u8>,
    partials: Vec<Option<Box<Partial>>>,
    is_over: bool,
}

fn put_path(number: usize, query: &str, path: &mut String) {
    // Writing to a string does not fail.
    let _ = write!(path, "/ws/r{number}/u{number}{query}");
}

fn partials(rooms: usize) -> Vec<Option<Box<Partial>>> {
    std::iter::repeat_with(|| None).take(rooms).collect()
}

fn may_end(is_over: bool, box_name: &str, number: usize, end: End) -> Result<(), Fault> {
    match is_over {
        true => Ok(()),
        false => Err(Fault(format!("{box_name} ended connection {number} ({end:?})"))),
    }
}

fn control(pongs: &mut Pongs, number: usize, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
    match opcode {
        Opcode::Ping => {
            pongs.push((number, payload.to_vec()));
            Ok(())
        }
        _ => Err(Fault(format!("connection {number} got {opcode:?} {payload:?}"))),
    }
}

impl Speakers {
    /// So many rooms.
    pub fn new(rooms: usize) -> Self {
        Self { pongs: Vec::new(), partials: partials(rooms), is_over: false }
    }

    /// From now on connections may end.
    pub fn part(&mut self) {
        self.is_over = true;
    }
}

impl Handler for Speakers {
    fn put_path(&self, number: usize, path: &mut String) {
        put_path(number, "?echo=false", path);
    }

    fn opened(&mut self, _number: usize) -> Result<(), Fault> {
        Ok(())
    }

    fn received(&mut self, number: usize, bytes: &[u8]) -> Result<(), Fault> {
        let mut ear = Deaf { number, pongs: &mut self.pongs };
        read(&mut self.partials[number], bytes, &mut ear)
    }

    fn ended(&mut self, number: usize, end: End) -> Result<(), Fault> {
        may_end(self.is_over, "the box that speaks", number, end)
    }
}

impl Listeners {
    /// So many rooms.
    pub fn new(rooms: usize) -> Self {
        Self {
            pongs: Vec::new(),
            heard: vec![0; rooms],
            heard_all: 0,
            news: Vec::new(),
            due: vec![VecDeque::new(); rooms],
            latency: Latency::default(),
            now: 0,
            filler: filler(),
            partials: partials(rooms),
            is_over: false,
        }
    }

    /// From now on connections may end.
    pub fn part(&mut self) {
        self.is_over = true;
    }

    /// Takes a whole message that a room's member was sent.
    fn hear(&mut self, room: usize, payload: &[u8]) -> Result<(), Fault> {
        let next = Stamp { speaker: room as u32, sequence: self.heard[room] };
        if payload.get(STAMP_BYTES..) != Some(&self.filler[..])
            || Stamp::read(payload) != Some(next)
        {
            return Err(Fault(format!(
                "room {room}: message {} is the next one, but this came: {}",
                next.sequence,
                String::from_utf8_lossy(payload)
            )));
        }
        self.heard[room] += 1;
        self.heard_all += 1;
        if self.news.last() != Some(&next.speaker) {
            self.news.push(next.speaker);
        }
        if let Some(due) = self.due[room].pop_front() {
            self.latency.record(self.now.saturating_sub(due));
        }
        Ok(())
    }
}

impl Handler for Listeners {
    fn put_path(&self, number: usize, path: &mut String) {
        put_path(number, "", path);
    }

    fn opened(&mut self, _number: usize) -> Result<(), Fault> {
        Ok(())
    }

    fn received(&mut self, number: usize, bytes: &[u8]) -> Result<(), Fault> {
        let mut partial = std::mem::take(&mut self.partials[number]);
        let result = read(&mut partial, bytes, &mut Ear { number, listeners: self });
        self.partials[number] = partial;
        result
    }

    fn ended(&mut self, number: usize, end: End) -> Result<(), Fault> {
        may_end(self.is_over, "the box that listens", number, end)
    }
}

/// Who is to hear nothing.
struct Deaf<'a> {
    number: usize,
    pongs: &'a mut Pongs,
}

impl Sink for Deaf<'_> {
    const KEPT: usize = 0;

    fn whole(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let payload = String::from_utf8_lossy(payload);
        Err(Fault(format!("speaker {} wants to hear nothing and got {payload}", self.number)))
    }

    fn piece(&mut self, _at: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.whole(bytes)
    }

    fn last(&mut self, kept: &[u8], _len: usize) -> Result<(), Fault> {
        self.whole(kept)
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        control(self.pongs, self.number, opcode, payload)
    }
}

struct Ear<'a> {
    number: usize,
    listeners: &'a mut Listeners,
}

impl Sink for Ear<'_> {
    const KEPT: usize = MESSAGE_BYTES;

    fn whole(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.listeners.hear(self.number, payload)
    }

    fn piece(&mut self, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        let len = at + bytes.len();
        Err(Fault(format!("room {}: a message of {len} bytes or more", self.number)))
    }

    fn last(&mut self, kept: &[u8], _len: usize) -> Result<(), Fault> {
        self.whole(kept)
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        control(&mut self.listeners.pongs, self.number, opcode, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(speaker: u32, sequence: u32) -> Vec<u8> {
        let mut frame = vec![0x81, MESSAGE_BYTES as u8];
        frame.extend_from_slice(&Stamp { speaker, sequence }.to_bytes());
        frame.extend_from_slice(&filler());
        frame
    }

    fn hears(frames: &[Vec<u8>]) -> Result<u64, String> {
        let mut listeners = Listeners::new(3);
        for piece in frames.concat().chunks(50) {
            listeners.received(2, piece).map_err(|fault| fault.to_string())?;
        }
        Ok(listeners.heard_all)
    }

    #[test]
    fn the_next_message_is_heard_however_it_is_cut() {
        assert_eq!(hears(&[frame(2, 0), frame(2, 1), frame(2, 2)]), Ok(3));
    }

    #[test]
    fn a_lost_a_repeated_a_strange_and_a_spoilt_message_are_found() {
        let mut spoilt = frame(2, 1);
        spoilt[60] ^= 1;
        for wrong in [frame(2, 2), frame(2, 0), frame(1, 1), spoilt] {
            let error = hears(&[frame(2, 0), wrong]).unwrap_err();
            assert!(error.contains("room 2: message 1 is the next one"), "{error}");
        }
        let mut short = frame(2, 0);
        (short[1], _) = (MESSAGE_BYTES as u8 - 1, short.pop());
        assert!(hears(&[short]).is_err());
    }

    #[test]
    fn who_speaks_hears_nothing_and_answers_pings() {
        let mut speakers = Speakers::new(1);
        assert!(speakers.received(0, &[0x89, 1, 7]).is_ok());
        assert_eq!(speakers.pongs, [(0, vec![7])]);
        assert!(speakers.received(0, &frame(0, 0)).is_err());
        assert!(speakers.ended(0, End::Closed).is_err());
        speakers.part();
        assert!(speakers.ended(0, End::Closed).is_ok());
    }
}
