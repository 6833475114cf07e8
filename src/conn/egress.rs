//! What one connection still has to be sent, in order.
//!
//! In:    segments behind what is queued; what a short send left, in front.
//! Out:   the next batch of segments for one send; what was dropped for a slow reader.
//! Never: sends; builds frames.
//!
//! A segment of a room's payload may be dropped, frame by frame, by policy. What was made for this
//! connection alone (its payload has no marks) may not, except that only the newest pong waits; nor
//! may a frame that is marked as kept.
//!
//! # Invariants
//! - `bytes` is the sum of the queue's segments.
//! - A frame once begun is finished, whatever the policy.

use std::collections::VecDeque;

use crate::io::Segments;
use crate::limits::{SEGMENT_BYTES, SEND_BYTES_MAX, SEND_SEGMENTS_MAX};
use crate::payload::Segment;

/// First byte of an unfragmented pong.
const PONG: u8 = 0x8a;

/// The queue.
#[derive(Debug, Default)]
pub struct Egress {
    queue: VecDeque<Segment>,
    bytes: usize,
    missed: Missed,
    /// Where in the queue a pong waits that a newer one may replace.
    pong_at: Option<usize>,
}

/// Messages dropped that the reader has not been told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// How many.
    pub messages: u64,
    /// Offset of the newest of them.
    pub offset: u64,
    /// It belongs behind a kept frame that was passed.
    pub behind_kept: bool,
}

impl Egress {
    /// What the queue costs, in bytes: its payload, and what keeping each piece of it takes. Two
    /// bytes a piece would else be a hundred times what they count.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.bytes + self.queue.len() * SEGMENT_BYTES
    }

    /// Whether nothing is queued and nothing has to be told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.missed.messages == 0
    }

    /// Queues a segment.
    pub fn push(&mut self, segment: Segment) {
        if !segment.is_empty() {
            if is_own(&segment) {
                // There may be a pong in it, which a newer one must not pass.
                self.pong_at = None;
            }
            self.bytes += segment.len();
            self.queue.push_back(segment);
        }
    }

    /// Queues a pong in place of one that has not begun.
    ///
    /// RFC 6455 section 5.5.3: "If an endpoint receives a Ping frame and has not yet sent Pong
    /// frame(s) in response to previous Ping frame(s), the endpoint MAY elect to send a Pong frame
    /// for only the most recently processed Ping frame."
    pub fn push_pong(&mut self, pong: Segment) {
        match self.pong_at.and_then(|at| self.queue.get_mut(at)) {
            Some(old) => {
                self.bytes = self.bytes - old.len() + pong.len();
                *old = pong;
            }
            None => {
                self.push(pong);
                self.pong_at = self.queue.len().checked_sub(1);
            }
        }
    }

    /// Puts back what a send left: the reader does not keep up, so of pongs that wait alone only
    /// the newest stays.
    pub fn restore(&mut self, rest: Vec<Segment>) {
        // What stands behind, or goes together, may have a pong among it, which a newer one must
        // not pass.
        let mut own_is_newer = !self.queue.is_empty();
        for segment in rest.into_iter().rev() {
            let is_lone_pong = is_waiting_pong(&segment);
            if is_lone_pong && self.pong_at.is_some() {
                continue;
            }
            if is_lone_pong && !own_is_newer {
                self.pong_at = Some(0);
            } else {
                self.pong_at = self.pong_at.map(|at| at + 1);
            }
            own_is_newer |= is_own(&segment);
            self.bytes += segment.len();
            self.queue.push_front(segment);
        }
    }

    fn insert(&mut self, at: usize, segment: Segment) {
        self.pong_at = self.pong_at.map(|pong| pong + usize::from(pong >= at));
        self.queue.insert(at, segment);
    }

    /// Takes what the next send carries.
    pub fn take(&mut self) -> Option<Segments> {
        let first = self.queue.pop_front()?;
        let mut taken = first.len();
        let mut many = Vec::new();
        while many.len() + 1 < SEND_SEGMENTS_MAX && taken < SEND_BYTES_MAX {
            let Some(next) = self.queue.pop_front() else { break };
            taken += next.len();
            many.push(next);
        }
        self.bytes -= taken;
        self.pong_at = self.pong_at.and_then(|at| at.checked_sub(many.len() + 1));
        if many.is_empty() {
            return Some(Segments::One(first));
        }
        many.insert(0, first);
        Some(Segments::Many(many))
    }

    /// Drops the oldest frames of the room until the queue costs at most `keep`, or none is left to
    /// drop. How many messages that were.
    pub fn drop_oldest(&mut self, keep: usize) -> u64 {
        let before = self.missed.messages;
        let mut at = 0;
        let mut behind_kept = false;
        while self.cost() > keep && at < self.queue.len() {
            if is_own(&self.queue[at]) || self.split_begun(at) || self.split_kept(at) {
                behind_kept |= is_kept(&self.queue[at]);
                at += 1;
                continue;
            }
            let mut cost = self.cost();
            let segment = &mut self.queue[at];
            let frames = &segment.payload.batch().frames;
            let first = frames.partition_point(|frame| frame.end <= segment.start);
            let (mut start, end) = (segment.start, segment.end);
            for frame in frames[first..].iter().take_while(|frame| frame.end <= end) {
                if cost <= keep || frame.kept {
                    break;
                }
                let dropped = (frame.end - start) as usize;
                cost -= dropped;
                self.bytes -= dropped;
                start = frame.end;
                if frame.offset > 0 {
                    self.missed.messages += 1;
                    self.missed.offset = frame.offset;
                    self.missed.behind_kept = behind_kept;
                }
            }
            segment.start = start;
            if segment.is_empty() {
                self.queue.remove(at);
                self.pong_at = self.pong_at.map(|pong| pong - usize::from(pong > at));
            }
        }
        self.missed.messages - before
    }

    /// What the reader has to be told it missed; the notice goes to [`Egress::insert_notice`].
    pub fn take_missed(&mut self) -> Option<Missed> {
        let missed = std::mem::take(&mut self.missed);
        (missed.messages > 0).then_some(missed)
    }

    /// Whether the reader has to be told now that it missed something. A notice cannot be dropped:
    /// while the queue costs more than `limit` and nothing of the room waits in it, a notice has
    /// nothing to stand in front of, and a reader that takes less than one at a time would be
    /// queued one each time. It waits until the reader has taken some.
    #[must_use]
    pub fn owes_notice(&self, limit: usize) -> bool {
        let fits = || self.cost() <= limit || self.queue.iter().any(is_unbegun_of_room);
        self.missed.messages > 0 && fits()
    }

    /// Queues a notice of what was missed where frames of the room were dropped: in front of the
    /// oldest that is left, and behind everything older, an earlier notice included.
    pub fn insert_notice(&mut self, notice: Segment, missed: Missed) {
        if !self.queue.is_empty() {
            self.split_begun(0);
        }
        let kept = self.queue.iter().rposition(is_kept).filter(|_| missed.behind_kept);
        let first = kept.map_or(0, |at| at + 1);
        let ahead = self.queue.iter().skip(first).position(is_unbegun_of_room);
        let at = ahead.map_or(self.queue.len(), |ahead| first + ahead);
        self.bytes += notice.len();
        self.insert(at, notice);
    }

    /// Separates the frame that has begun, at the front of segment `at`, from the frames behind it.
    /// Whether segment `at` is now such a frame alone.
    fn split_begun(&mut self, at: usize) -> bool {
        let segment = &mut self.queue[at];
        if is_own(segment) || !is_begun(segment) {
            return false;
        }
        let frames = &segment.payload.batch().frames;
        let current = frames.partition_point(|frame| frame.end <= segment.start);
        let end = frames[current].end;
        if end < segment.end {
            let behind = Segment { payload: segment.payload.clone(), start: end, end: segment.end };
            segment.end = end;
            self.insert(at + 1, behind);
        }
        true
    }

    /// Separates a kept frame at the front of segment `at` from the frames behind it. Whether
    /// segment `at` is now such a frame alone.
    fn split_kept(&mut self, at: usize) -> bool {
        let segment = &mut self.queue[at];
        let frames = &segment.payload.batch().frames;
        let first = frames.partition_point(|frame| frame.end <= segment.start);
        let Some(kept) = frames.get(first).filter(|frame| frame.kept) else { return false };
        let end = kept.end;
        if end < segment.end {
            let behind = Segment { payload: segment.payload.clone(), start: end, end: segment.end };
            segment.end = end;
            self.insert(at + 1, behind);
        }
        true
    }
}

/// A frame alone that no reader may miss, or the rest of one.
fn is_kept(segment: &Segment) -> bool {
    let frames = &segment.payload.batch().frames;
    let last = frames.binary_search_by_key(&segment.end, |frame| frame.end);
    last.is_ok_and(|last| frames[last].kept && (last == 0 || frames[last - 1].end <= segment.start))
}

/// A pong alone that has not begun. What answered one input together, echoes among it, is none.
fn is_waiting_pong(queued: &Segment) -> bool {
    let bytes = queued.bytes();
    let is_pong = |[first, len]: [u8; 2]| first == PONG && bytes.len() == 2 + usize::from(len);
    is_own(queued) && queued.start == 0 && bytes.first_chunk().copied().is_some_and(is_pong)
}

/// Made for this connection alone.
fn is_own(segment: &Segment) -> bool {
    segment.payload.batch().frames.is_empty()
}

/// Frames of the room, none of which has begun.
fn is_unbegun_of_room(segment: &Segment) -> bool {
    !is_own(segment) && !is_begun(segment)
}

/// Some of the first frame was sent.
fn is_begun(segment: &Segment) -> bool {
    if is_own(segment) {
        return segment.start > 0;
    }
    let frames = &segment.payload.batch().frames;
    segment.start > 0 && frames.binary_search_by_key(&segment.start, |frame| frame.end).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Batch, Payload};

    /// A room payload of frames of ten bytes, with these offsets.
    fn room(offsets: &[u64]) -> Segment {
        let mut batch = Batch::default();
        for &offset in offsets {
            batch.bytes.extend_from_slice(&[0x81; 10]);
            batch.mark(offset, None);
        }
        Payload::own(batch).whole()
    }

    fn own(bytes: &[u8]) -> Segment {
        Payload::own(Batch { bytes: bytes.to_vec(), frames: Vec::new() }).whole()
    }

    fn missed(messages: u64, offset: u64) -> Missed {
        Missed { messages, offset, behind_kept: false }
    }

    fn drain(egress: &mut Egress) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(segments) = egress.take() {
            for segment in segments.as_slice() {
                all.extend_from_slice(segment.bytes());
            }
        }
        all
    }

    #[test]
    fn order_survives_a_short_send() {
        let mut egress = Egress::default();
        egress.push(own(b"abc"));
        egress.push(own(b"def"));
        let rest = egress.take().unwrap().rest(4);
        egress.push(own(b"g"));
        egress.restore(rest);
        assert_eq!(egress.cost(), 3 + 2 * SEGMENT_BYTES);
        assert_eq!(drain(&mut egress), b"efg");
    }

    #[test]
    fn only_the_newest_pong_waits_and_a_begun_one_is_finished() {
        let mut egress = Egress::default();
        let together = [PONG, 0, PONG, 0];
        egress.push(own(&together));
        for n in 0..100 {
            egress.push_pong(own(&[PONG, 1, n]));
        }
        assert_eq!(egress.cost(), 7 + 2 * SEGMENT_BYTES);
        // A begun one is finished.
        let rest = egress.take().unwrap().rest(5);
        egress.restore(rest);
        egress.push_pong(own(&[PONG, 1, 100]));
        assert_eq!(drain(&mut egress), [1, 99, PONG, 1, 100]);
        egress.push_pong(own(&[PONG, 1, 101]));
        let rest = egress.take().unwrap().rest(0);
        egress.push_pong(own(&[PONG, 1, 102]));
        egress.restore(rest);
        assert_eq!(drain(&mut egress), [PONG, 1, 102]);
    }

    #[test]
    fn a_newer_pong_does_not_pass_an_older_one() {
        let mut egress = Egress::default();
        egress.push_pong(own(&[PONG, 1, 1]));
        egress.push(room(&[1]));
        // The answer to a ping that came while the socket took bytes.
        egress.push(own(&[PONG, 1, 2]));
        egress.push_pong(own(&[PONG, 1, 3]));
        let rest = egress.take().unwrap().rest(0);
        egress.restore(rest);
        let sent = drain(&mut egress);
        assert_eq!(sent[sent.len() - 3..], [PONG, 1, 3]);
    }

    #[test]
    fn the_oldest_whole_frames_are_dropped_and_counted() {
        let mut egress = Egress::default();
        egress.push(room(&[1, 2, 0, 3]));
        egress.push(own(b"own"));
        egress.push(room(&[4, 5]));
        // Four bytes of message 1 are gone: it has to be finished.
        let rest = egress.take().unwrap().rest(4);
        egress.restore(rest);
        let keep = 29 + 3 * SEGMENT_BYTES;
        assert_eq!(egress.drop_oldest(keep), 2);
        assert_eq!(egress.cost(), keep);
        assert_eq!(egress.take_missed(), Some(missed(2, 3)));
        assert_eq!(egress.take_missed(), None);
        egress.insert_notice(own(b"lag"), Missed::default());
        let mut wanted = vec![0x81; 6];
        wanted.extend_from_slice(b"ownlag");
        wanted.extend_from_slice(&[0x81; 20]);
        assert_eq!(drain(&mut egress), wanted);
    }

    #[test]
    fn notices_come_in_the_order_of_what_they_tell_of() {
        let mut egress = Egress::default();
        egress.push(room(&[1, 2]));
        let rest = egress.take().unwrap().rest(5);
        egress.restore(rest);
        assert_eq!(egress.drop_oldest(0), 1);
        assert_eq!(egress.take_missed(), Some(missed(1, 2)));
        egress.insert_notice(own(b"first"), Missed::default());
        egress.push(room(&[3, 4]));
        assert_eq!(egress.drop_oldest(20 + 3 * SEGMENT_BYTES), 1);
        assert_eq!(egress.take_missed(), Some(missed(1, 3)));
        egress.insert_notice(own(b"second"), Missed::default());
        assert_eq!(drain(&mut egress)[5..16], *b"firstsecond");
    }

    #[test]
    fn everything_droppable_goes_if_it_must() {
        let mut egress = Egress::default();
        egress.push(room(&[1, 2, 3]));
        egress.push(own(b"own"));
        assert_eq!(egress.drop_oldest(0), 3);
        assert_eq!(drain(&mut egress), b"own");
        assert_eq!(egress.cost(), 0);
        assert!(!egress.is_empty(), "the reader has to be told");
    }

    #[test]
    fn notices_that_wait_stay_in_order() {
        let mut egress = Egress::default();
        egress.push(room(&[1, 2, 3, 4]));
        let rest = egress.take().unwrap().rest(5);
        egress.restore(rest);
        // Separates the frame that has begun.
        egress.insert_notice(own(b"lag1"), Missed::default());
        for notice in [b"lag2", b"lag3"] {
            assert_eq!(egress.drop_oldest(egress.cost() - 1), 1);
            egress.insert_notice(own(notice), Missed::default());
        }
        let mut wanted = vec![0x81; 5];
        wanted.extend_from_slice(b"lag1lag2lag3");
        wanted.extend_from_slice(&[0x81; 10]);
        assert_eq!(drain(&mut egress), wanted);
    }

    #[test]
    fn a_notice_goes_behind_a_begun_frame_and_before_the_next() {
        let mut egress = Egress::default();
        egress.push(room(&[1, 2]));
        let rest = egress.take().unwrap().rest(5);
        egress.restore(rest);
        egress.insert_notice(own(b"lag"), Missed::default());
        let sent = drain(&mut egress);
        assert_eq!((sent.len(), &sent[5..8]), (18, &b"lag"[..]));
    }

    #[test]
    fn a_queue_full_of_what_cannot_be_dropped_gets_no_further_notice() {
        let mut egress = Egress::default();
        egress.push(room(&[1, 2]));
        assert!(!egress.owes_notice(0), "nothing was missed");
        egress.push(own(b"lag"));
        assert_eq!(egress.drop_oldest(13 + 2 * SEGMENT_BYTES), 1);
        assert!(egress.owes_notice(0), "message 2 waits behind it");
        assert_eq!(egress.drop_oldest(0), 1);
        assert!(!egress.owes_notice(egress.cost() - 1));
        assert!(egress.owes_notice(egress.cost()));
    }

    #[test]
    fn a_kept_frame_is_never_dropped_and_notices_stand_on_its_side() {
        let kept_between = || {
            let mut batch = Batch::default();
            for (byte, offset) in [(1, 8), (2, 9), (3, 0), (4, 1), (5, 2)] {
                batch.bytes.extend_from_slice(&[byte; 1000]);
                if offset == 0 { batch.mark_kept() } else { batch.mark(offset, None) }
            }
            let mut egress = Egress::default();
            egress.push(Payload::own(batch).whole());
            egress
        };
        let firsts =
            |egress: &mut Egress| drain(egress).into_iter().step_by(1000).collect::<Vec<_>>();
        let mut egress = kept_between();
        assert_eq!(egress.drop_oldest(0), 4);
        let before = Missed { messages: 4, offset: 2, behind_kept: true };
        assert_eq!(egress.take_missed(), Some(before));
        egress.insert_notice(own(&[9; 1000]), before);
        assert_eq!(firsts(&mut egress), [3, 9]);

        let mut egress = kept_between();
        assert_eq!(egress.drop_oldest(4000 + SEGMENT_BYTES), 1);
        let before = egress.take_missed().unwrap();
        assert_eq!(before, missed(1, 8));
        egress.insert_notice(own(&[9; 1000]), before);
        assert_eq!(firsts(&mut egress), [9, 2, 3, 4, 5]);

        let mut egress = kept_between();
        assert_eq!(egress.drop_oldest(2000 + 2 * SEGMENT_BYTES), 3);
        let behind = egress.take_missed().unwrap();
        egress.insert_notice(own(&[9; 1000]), behind);
        assert_eq!(firsts(&mut egress), [3, 9, 5]);
    }
}
