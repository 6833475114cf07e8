//! How far each partition's log was read, over sessions, and what the log is called.
//!
//! In:    the topic's id and, a partition, the offset of the mark that a new session has put into
//!        it; then every record's offset and face.
//! Out:   where to read from; whether a record is new; the place of the newest one taken.
//! Never: asks a broker. What brokers say of a log's end is not believed: one was seen to fall up
//!        to a batch short. The offset that a produced record was given is.
//!
//! # Invariants
//! - Within one epoch of a partition, offsets that are called new only grow.
//! - A log that is not the one that was read, whatever the broker calls it, is another epoch and is
//!   read from its start: another topic id, a mark below our position, or another record where the
//!   last one was.

use std::time::Duration;

use super::gap::Gap;
use crate::limits::PARTITIONS;
use crate::room::epoch::{Epoch, base36};

/// Bytes by which a record is known again: an envelope's header (node, incarnation, sequence) is
/// no other's, and so is what a mark begins with.
pub(super) const FACE_BYTES: usize = 24;
/// What a record begins with.
pub(super) type Face = [u8; FACE_BYTES];
/// A topic's id; all zeros where the broker has none.
pub(super) type TopicId = [u8; 16];

/// A record's face.
pub(super) fn face(value: &[u8]) -> Face {
    let mut face = [0; FACE_BYTES];
    let len = value.len().min(FACE_BYTES);
    face[..len].copy_from_slice(&value[..len]);
    face
}

/// A record in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) offset: u64,
    pub(super) face: Face,
}

/// Where a session begins to read a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At this offset.
    At(u64),
    /// At the oldest record there is.
    Beginning,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Not taken yet: [`Positions::took`] says when it was.
    New,
    /// Taken before.
    Known,
    /// Of another log: read again from the beginning.
    Again,
    /// New, but records before it are missing: read again from there, after a pause.
    Early {
        /// The first offset that is missing.
        missing: u64,
        /// How long to wait.
        pause: Duration,
    },
}

#[derive(Debug, Default)]
struct Log {
    /// How often the log was found to be another, under this topic id.
    cuts: u64,
    last: Option<Seen>,
    gap: Gap,
}

impl Log {
    fn cut(&mut self) {
        *self = Self { cuts: self.cuts + 1, ..Self::default() };
    }

    fn begin(&mut self, mark: Seen) -> Start {
        self.last = Some(mark);
        Start::At(mark.offset)
    }

    fn resume(&mut self, mark: Seen) -> Start {
        self.gap.begin();
        match self.last {
            // The last record itself, to see whether it is still that one.
            Some(last) if mark.offset > last.offset => return Start::At(last.offset),
            Some(_) => self.cut(),
            None => {}
        }
        Start::Beginning
    }

    fn renew(&mut self) -> Start {
        *self = Self::default();
        Start::Beginning
    }
}

/// The logs of all partitions.
#[derive(Debug)]
pub(super) struct Positions {
    topic: Option<TopicId>,
    logs: [Log; PARTITIONS],
}

impl Positions {
    /// Nothing was read yet.
    pub(super) fn new() -> Self {
        Self { topic: None, logs: std::array::from_fn(|_| Log::default()) }
    }

    /// A session begins that has put a mark into each partition. The first ever reads from its
    /// marks; every later one goes on, from the last record that was taken.
    pub(super) fn resume(&mut self, topic: TopicId, marks: &[Seen; PARTITIONS]) -> Vec<Start> {
        let known = self.topic.replace(topic);
        let each = self.logs.iter_mut().zip(marks);
        match known {
            None => each.map(|(log, mark)| log.begin(*mark)).collect(),
            Some(known) if known == topic => each.map(|(log, mark)| log.resume(*mark)).collect(),
            Some(_) => each.map(|(log, _)| log.renew()).collect(),
        }
    }

    /// What a record of a partition is.
    pub(super) fn step(&mut self, partition: usize, record: Seen) -> Step {
        let log = &mut self.logs[partition];
        let Some(last) = log.last else { return Step::New };
        if record.offset > last.offset {
            // Where the last one itself has been cleared away, a successor has to do in the end.
            let missing = last.offset + 1;
            return match log.gap.judge(missing, record.offset) {
                Some(pause) => Step::Early { missing, pause },
                None => Step::New,
            };
        }
        if record == last {
            return Step::Known;
        }
        log.cut();
        Step::Again
    }

    /// A record is done with: the next session goes on behind it. How many offsets before it are
    /// given up, after all patience.
    pub(super) fn took(&mut self, partition: usize, record: Seen) -> u64 {
        let log = &mut self.logs[partition];
        let Some(last) = log.last.replace(record) else { return 0 };
        let next = last.offset + 1;
        if log.gap.settle(next, record.offset) { record.offset - next } else { 0 }
    }

    /// The name of a partition's log: the same on every box that has read the same.
    pub(super) fn epoch(&self, partition: usize) -> Epoch {
        let topic = u128::from_be_bytes(self.topic.unwrap_or_default());
        let mut name = format!("k{}", base36(topic));
        let cuts = self.logs[partition].cuts;
        if cuts > 0 {
            name.push('c');
            name.push_str(&base36(cuts.into()));
        }
        // Always a name: 26 letters and digits, and a count.
        Epoch::parse(&name).unwrap_or_default()
    }

    /// The newest offset taken; 0 in a log of which nothing was.
    pub(super) fn newest(&self, partition: usize) -> u64 {
        self.logs[partition].last.map_or(0, |last| last.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TopicId = [7; 16];

    fn seen(offset: u64, face: u8) -> Seen {
        Seen { offset, face: [face; FACE_BYTES] }
    }

    fn marks(offset: u64) -> [Seen; PARTITIONS] {
        [seen(offset, 255); PARTITIONS]
    }

    /// Read up to offset 20 in the first session.
    fn read() -> Positions {
        let mut positions = Positions::new();
        let starts = positions.resume(ID, &marks(9));
        assert_eq!(starts, vec![Start::At(9); PARTITIONS]);
        assert_eq!(positions.step(3, seen(9, 255)), Step::Known);
        for offset in 10..=20 {
            assert_eq!(positions.step(3, seen(offset, 1)), Step::New);
            positions.took(3, seen(offset, 1));
        }
        positions
    }

    #[test]
    fn the_next_session_goes_on_behind_what_was_taken() {
        let mut positions = read();
        let epoch = positions.epoch(3);
        let starts = positions.resume(ID, &marks(50));
        assert_eq!((starts[3], starts[4]), (Start::At(20), Start::At(9)));
        assert_eq!(positions.step(3, seen(20, 1)), Step::Known);
        assert_eq!(positions.step(3, seen(21, 2)), Step::New);
        assert_eq!((positions.newest(3), positions.newest(4)), (20, 9));
        assert_eq!(positions.epoch(3), epoch);
    }

    #[test]
    fn what_was_offered_and_not_taken_is_new_again() {
        let mut positions = read();
        assert_eq!(positions.step(3, seen(21, 2)), Step::New);
        positions.resume(ID, &marks(50));
        assert_eq!(positions.step(3, seen(20, 1)), Step::Known);
        assert_eq!(positions.step(3, seen(21, 2)), Step::New);
    }

    #[test]
    fn a_log_cleared_beyond_our_position_goes_on_in_the_same_epoch() {
        let mut positions = read();
        let epoch = positions.epoch(3);
        positions.resume(ID, &marks(50));
        let mut looks = 0;
        while let Step::Early { missing, .. } = positions.step(3, seen(40, 3)) {
            assert_eq!(missing, 21);
            looks += 1;
        }
        assert!(looks > 1);
        assert_eq!(positions.step(3, seen(40, 3)), Step::New);
        assert_eq!(positions.took(3, seen(40, 3)), 19);
        assert_eq!(positions.step(3, seen(41, 3)), Step::New);
        assert_eq!(positions.took(3, seen(41, 3)), 0);
        assert_eq!(positions.epoch(3), epoch);
    }

    #[test]
    fn a_record_that_is_shown_before_an_earlier_one_waits_for_it() {
        let mut positions = read();
        let early = positions.step(3, seen(22, 2));
        assert!(matches!(early, Step::Early { missing: 21, .. }), "{early:?}");
        assert_eq!(positions.newest(3), 20);
        for offset in [21, 22] {
            assert_eq!(positions.step(3, seen(offset, 2)), Step::New);
            assert_eq!(positions.took(3, seen(offset, 2)), 0);
        }
    }

    #[test]
    fn another_topic_id_is_another_epoch_from_the_start() {
        let mut positions = read();
        let epoch = positions.epoch(3);
        let starts = positions.resume([8; 16], &marks(50));
        assert_eq!(starts, vec![Start::Beginning; PARTITIONS]);
        assert_eq!(positions.newest(3), 0);
        assert_ne!(positions.epoch(3), epoch);
        assert_eq!(positions.step(3, seen(0, 1)), Step::New);
        // Nothing of it was taken: the next session reads it from the start, too.
        assert_eq!(positions.resume([8; 16], &marks(60))[4], Start::Beginning);
    }

    #[test]
    fn a_log_that_ends_below_our_position_is_another_epoch_from_the_start() {
        let mut positions = read();
        let epoch = positions.epoch(3);
        let starts = positions.resume(ID, &marks(15));
        assert_eq!((starts[3], starts[4]), (Start::Beginning, Start::At(9)));
        assert_ne!(positions.epoch(3), epoch);
        assert_eq!(positions.epoch(4), epoch);
        assert_eq!(positions.step(3, seen(12, 1)), Step::New);
    }

    #[test]
    fn a_log_that_grew_beyond_our_position_with_other_records_is_another_epoch() {
        let mut positions = read();
        let epoch = positions.epoch(3);
        assert_eq!(positions.resume(ID, &marks(50))[3], Start::At(20));
        assert_eq!(positions.step(3, seen(20, 9)), Step::Again);
        assert_ne!(positions.epoch(3), epoch);
        assert_eq!(positions.step(3, seen(2, 9)), Step::New);
    }

    #[test]
    fn boxes_that_have_read_the_same_name_it_alike_in_at_most_32_letters_and_digits() {
        let named = |cuts: u64| {
            let mut positions = Positions { topic: Some([255; 16]), ..Positions::new() };
            positions.logs[0].cuts = cuts;
            positions.epoch(0)
        };
        assert_eq!(named(1), named(1));
        assert_ne!(named(0), named(1));
        let longest = named(1_000_000);
        assert!(longest.as_str().len() <= 32, "{}", longest.as_str());
        assert!(longest.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(longest, named(1_000_001));
    }
}
