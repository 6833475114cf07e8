//! Turns what members hear into deliveries, each checked to be the next one of its speaker.
//!
//! In:    the shape of the load; stamps and payloads.
//! Out:   counts, latencies, speakers that may speak on; a `Fault` where something is wrong.
//! Never: sends.

use std::ops::Range;

use crate::ws::Opcode;

use super::fault::{Fault, shown};
use super::latency::Latency;
use super::message::{NUMBER_END, STAMP_BYTES, Stamp};

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

    pub(super) fn speakers(&self) -> usize {
        self.rooms * self.publishers
    }

    /// The connection of a speaker.
    pub(super) fn connection(&self, speaker: usize) -> usize {
        speaker / self.publishers * self.members + speaker % self.publishers
    }
}

/// What was heard, and what is to be heard.
#[derive(Debug)]
pub(super) struct Score {
    pub(super) shape: Shape,
    pub(super) filler: Vec<u8>,
    pub(super) now: u64,
    pub(super) counted: Range<u64>,
    /// When an open loop began.
    pub(super) begun: u64,
    /// Messages that a member has heard of a speaker: `connection * publishers + speaker`.
    heard: Vec<u32>,
    /// By `speaker * window + sequence % window`: members that have not heard it; when it was sent.
    left: Vec<u32>,
    sent_at: Vec<u64>,
    /// Messages of each speaker under way.
    under_way: Vec<u32>,
    /// Speakers that may speak.
    pub(super) ready: Vec<u32>,
    /// The last offset that each member of a JSON room has seen.
    pub(super) offsets: Vec<u64>,
    pub(super) deliveries: u64,
    pub(super) latency: Latency,
    pub(super) pongs: Vec<(usize, Vec<u8>)>,
    pub(super) parting: bool,
}

/// How many messages of an open loop are due so many nanoseconds after its beginning.
pub(super) fn due_by(nanos: u64, rate: f64) -> u64 {
    (nanos as f64 * rate / 1e9) as u64
}

/// When the message is due that so many came before.
fn due_at(order: u64, rate: f64) -> u64 {
    ((order + 1) as f64 * 1e9 / rate) as u64
}

impl Score {
    /// Nobody has heard anything.
    pub(super) fn new(shape: Shape, filler: Vec<u8>) -> Self {
        let (connections, speakers) = (shape.connections(), shape.speakers());
        let window = if shape.rate.is_some() { 0 } else { shape.window };
        Self {
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
        }
    }

    /// How many messages a speaker may say now in a closed loop, after the `first` ones; they count
    /// as sent.
    pub(super) fn grant(&mut self, speaker: usize, first: usize) -> usize {
        let Shape { window, members, .. } = self.shape;
        let count = window - self.under_way[speaker] as usize;
        self.under_way[speaker] = window as u32;
        for sequence in first..first + count {
            let place = speaker * window + sequence % window;
            self.left[place] = members as u32;
            self.sent_at[place] = self.now;
        }
        count
    }

    /// A member has heard a message, all its bytes right.
    #[inline]
    pub(super) fn heard(
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
            self.begun + due_at(order, rate)
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
    pub(super) fn differs(&self, number: usize, payload: &[u8]) -> Fault {
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

    pub(super) fn control(
        &mut self,
        number: usize,
        opcode: Opcode,
        payload: &[u8],
    ) -> Result<(), Fault> {
        match opcode {
            Opcode::Ping => self.pongs.push((number, payload.to_vec())),
            Opcode::Close if !self.parting => {
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = shown(payload.get(2..).unwrap_or_default());
                let remedy = match code {
                    1009 => {
                        "; a smaller --bytes, or raise `client.message_bytes` (for /echo \
                             `echo.message_bytes`)"
                    }
                    1012 | 1001 => "; it was told to end",
                    1013 => {
                        "; this box is too slow to hear it all: fewer at a time, or raise \
                             `client.queue_bytes`"
                    }
                    _ => "",
                };
                return Err(Fault::new(format!(
                    "the server closed connection {number}: code {code}, reason {reason}{remedy}"
                )));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        format: Format::Raw,
        rooms: 2,
        members: 3,
        publishers: 2,
        window: 2,
        bytes: 16,
        rate: None,
    };

    #[test]
    fn a_message_is_due_when_it_is_counted_as_due() {
        for rate in [12.5, 1500.0, 999_999.9, 3e7] {
            for order in [0, 1, 7, 1000, 12_345_678] {
                let at = due_at(order, rate);
                assert!(due_by(at + 2, rate) > order, "{order} at {rate}");
                assert!(due_by(at.saturating_sub(2), rate) <= order, "{order} at {rate}");
            }
        }
    }

    #[test]
    fn latency_counts_from_the_time_a_message_was_due() {
        let mut score = Score::new(Shape { rate: Some(1000.0), ..SHAPE }, Vec::new());
        score.counted = 0..u64::MAX;
        // The first message of the first speaker, due after a millisecond and heard after 51.
        score.now = 51_000_000;
        let stamp = Stamp { speaker: 0, sequence: 0 };
        score.heard(0, 0, stamp, &[1, 1, 1, 1]).unwrap();
        let longest = score.latency.quantiles().max;
        assert!((49_000.0..=51_000.0).contains(&longest), "{longest}");
    }

    #[test]
    fn a_speaker_goes_on_when_every_member_has_heard_one_of_its_messages() {
        let mut score = Score::new(SHAPE, Vec::new());
        let sent = [0, 0, 2, 0];
        assert_eq!((score.grant(2, 0), score.grant(2, 2)), (2, 0));
        let heard = |score: &mut Score, number, sequence| {
            score.heard(number, 1, Stamp { speaker: 3, sequence }, &sent)
        };
        for number in [3, 4] {
            for sequence in [0, 1] {
                heard(&mut score, number, sequence).unwrap();
            }
        }
        assert!(score.ready.is_empty());
        heard(&mut score, 5, 0).unwrap();
        assert_eq!((score.ready.as_slice(), score.under_way[2]), (&[2][..], 1));
        assert!(heard(&mut score, 5, 0).unwrap_err().to_string().contains("twice"));
        assert!(heard(&mut score, 5, 2).unwrap_err().to_string().contains("lost"));
        heard(&mut score, 5, 1).unwrap();
        assert!(heard(&mut score, 5, 2).is_err(), "nobody has sent it yet");
    }
}
