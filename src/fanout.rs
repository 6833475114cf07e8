//! One payload, every member of a hall: the inner loop of the product.
//!
//! In:    a room's payload of this turn, the hall's members, their connections.
//! Out:   sends for members that wait for nothing; the payload queued for those that do.
//! Never: copies the payload; knows rooms of other shards, JSON, or a socket.
//!
//! # Cost
//! - A member: one look at its connection, one reference, one send. No allocation.

use crate::conn::egress::Egress;
use crate::conn::table::Table;
use crate::conn::{Conn, Flags};
use crate::id::{ConnId, ConnKey, ShardId};
use crate::payload::{Payload, Segment};
use crate::room::hall::Member;

/// What has become of one member's share of a payload.
#[derive(Debug)]
pub enum Share {
    /// To be sent at once: nothing else waits for this member.
    Send(ConnId, Segment),
    /// Was queued behind what waits; the queue held this much before.
    Queued(ConnId, usize),
}

/// Gives every member its share; how many there were.
pub fn fan_out(
    payload: &Payload,
    members: &[Member],
    conns: &mut Table,
    shard: ShardId,
    mut give: impl FnMut(Share),
) {
    let whole = payload.whole();
    for member in members {
        let Some(conn) = conns.at(member.slot) else { continue };
        let id = conn.id(member.slot);
        if conn.flags.has(Flags::LATE.with(Flags::DEAF)) {
            give_choosy(&whole, conn, ConnKey { shard, conn: id }, &mut give);
        } else if let Some(egress) = &mut conn.egress {
            give(queue(egress, id, whole.clone()));
        } else {
            give(Share::Send(id, whole.clone()));
        }
    }
}

/// A member that joined in the middle of the turn, or does not want to hear itself.
fn give_choosy(whole: &Segment, conn: &mut Conn, key: ConnKey, give: &mut impl FnMut(Share)) {
    let from = if conn.flags.take(Flags::LATE) { conn.late_from } else { 0 };
    let rest = Segment { start: from, ..whole.clone() };
    let frames = &whole.payload.batch().frames;
    let is_deaf = conn.flags.has(Flags::DEAF);
    if !is_deaf || !frames.iter().any(|frame| frame.speaker == Some(key)) {
        if rest.is_empty() {
            return;
        }
        match &mut conn.egress {
            Some(egress) => give(queue(egress, key.conn, rest)),
            None => give(Share::Send(key.conn, rest)),
        }
        return;
    }
    let queued = conn.queued_bytes();
    let mut start = from;
    let mut ranges = 0;
    let first = frames.partition_point(|frame| frame.end <= from);
    for (at, frame) in frames.iter().enumerate().skip(first) {
        let frame_start = if at == 0 { 0 } else { frames[at - 1].end };
        if frame.speaker == Some(key) {
            ranges += usize::from(push_range(conn, whole, start, frame_start));
            start = frame.end;
        }
    }
    ranges += usize::from(push_range(conn, whole, start, whole.end));
    if ranges > 0 {
        give(Share::Queued(key.conn, queued));
    }
}

fn push_range(conn: &mut Conn, whole: &Segment, start: u32, end: u32) -> bool {
    if start >= end {
        return false;
    }
    conn.egress().push(Segment { payload: whole.payload.clone(), start, end });
    true
}

fn queue(egress: &mut Egress, id: ConnId, segment: Segment) -> Share {
    let before = egress.cost();
    egress.push(segment);
    Share::Queued(id, before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Batch;
    use crate::room::users::UserId;

    const SHARD: ShardId = ShardId(3);

    fn hall(table: &mut Table, count: u32) -> (Vec<Member>, Vec<ConnId>) {
        let ids: Vec<_> = (0..count).map(|slot| table.insert(slot, Conn::new(0))).collect();
        let members = (0..count).map(|slot| Member { slot, user: UserId(slot) }).collect();
        (members, ids)
    }

    /// Frames "a", "b", ... with these speakers.
    fn payload(speakers: &[Option<ConnId>]) -> Payload {
        let mut batch = Batch::default();
        for (at, speaker) in speakers.iter().enumerate() {
            batch.bytes.push(b'a' + u8::try_from(at).unwrap());
            let key = speaker.map(|conn| ConnKey { shard: SHARD, conn });
            batch.mark(1, key);
        }
        Payload::own(batch)
    }

    fn heard(payload: &Payload, members: &[Member], table: &mut Table) -> Vec<(u32, String)> {
        let mut got = vec![String::new(); members.len()];
        let mut queued = Vec::new();
        fan_out(payload, members, table, SHARD, |share| match share {
            Share::Send(id, segment) => {
                got[id.slot as usize].push_str(std::str::from_utf8(segment.bytes()).unwrap());
            }
            Share::Queued(id, _) => queued.push(id),
        });
        for id in queued {
            while let Some(segments) = table.get(id).unwrap().egress().take() {
                for segment in segments.as_slice() {
                    let text = std::str::from_utf8(segment.bytes()).unwrap();
                    got[id.slot as usize].push_str(text);
                }
            }
        }
        (0..).zip(got).collect()
    }

    #[test]
    fn who_does_not_want_to_hear_itself_hears_all_others() {
        let mut table = Table::default();
        let (members, ids) = hall(&mut table, 3);
        table.get(ids[0]).unwrap().flags.set(Flags::DEAF);
        table.get(ids[1]).unwrap().flags.set(Flags::DEAF);
        let payload = payload(&[Some(ids[0]), None, Some(ids[2]), Some(ids[0])]);
        let got = heard(&payload, &members, &mut table);
        assert_eq!(got, [(0, "bc".into()), (1, "abcd".into()), (2, "abcd".into())]);
    }

    #[test]
    fn who_joined_late_hears_from_there_on_once() {
        let mut table = Table::default();
        let (members, ids) = hall(&mut table, 2);
        let conn = table.get(ids[1]).unwrap();
        conn.flags.set(Flags::LATE.with(Flags::DEAF));
        conn.late_from = 2;
        let payload = payload(&[Some(ids[1]), None, None, Some(ids[1])]);
        let got = heard(&payload, &members, &mut table);
        assert_eq!(got, [(0, "abcd".into()), (1, "c".into())]);
        let got = heard(&payload, &members, &mut table);
        assert_eq!(got[1], (1, "bc".into()));
    }

    #[test]
    fn who_waits_is_queued_for() {
        let mut table = Table::default();
        let (members, ids) = hall(&mut table, 1);
        table.get(ids[0]).unwrap().egress().push(payload(&[None]).whole());
        let got = heard(&payload(&[None, None]), &members, &mut table);
        assert_eq!(got, [(0, "aab".into())]);
    }
}
