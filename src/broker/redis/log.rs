//! The log of each partition: a stream, and a numbering of each room beside it.
//!
//! In:    envelopes of a partition, in order; what `XREAD` answers.
//! Out:   one script call a partition and batch; entries with their places; where to read on.
//! Never: loses its position with a connection, or gives a room's numbering a name twice.
//!
//! An entry is `p` (epoch), `n` (offset in the room), `e` (envelope). The room's hash is `e`
//! (epoch) and `n` (last offset), and outlives its last message by a day at least.
//!
//! # Invariants
//! - All messages of one partition and batch are one call: a server has taken all of them or none,
//!   so a call that is made again keeps the order.
//! - A position moves when the inlet has taken an entry, never before.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use redis::{Script, Value};

use crate::bridge::Place;
use crate::limits::PARTITIONS;
use crate::room::epoch::{Epoch, Epochs};

/// Entries that a partition's log keeps, if they are not too old: beyond them the oldest go. A box
/// that was away for longer than this much talk misses the rest, and sees it by the senders'
/// sequences.
const LOG_ENTRIES: usize = 65_536;
/// Entries of a partition that are remembered as taken: more than a server loses that writes its
/// log down once a second, or a replica that takes over.
const REMEMBERED: usize = 1024;
/// Least that a room's numbering outlives its last message: a new one costs every member a
/// `joined`.
const ROOM_KEEP_MIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Least that a log keeps a message, and outlives its last one: a box must be able to come back.
const LOG_KEEP_MIN: Duration = Duration::from_secs(60);

/// KEYS: the log, then the room of each message. ARGV: an epoch for rooms that have none, keep of a
/// room and of the log (ms), entries, then the envelope of each message.
const SAY: &str = r"
local log, rooms = KEYS[1], {}
for i = 2, #KEYS do
  local key = KEYS[i]
  local room = rooms[key]
  if not room then
    local known = redis.call('HMGET', key, 'e', 'n')
    room = { e = known[1] or ARGV[1], n = tonumber(known[2]) or 0 }
    rooms[key] = room
  end
  room.n = room.n + 1
  redis.call('XADD', log, 'MAXLEN', '~', ARGV[4], '*', 'p', room.e, 'n', room.n, 'e', ARGV[i + 3])
end
for key, room in pairs(rooms) do
  redis.call('HSET', key, 'e', room.e, 'n', room.n)
  redis.call('PEXPIRE', key, ARGV[2])
end
local now = redis.call('TIME')
redis.call('XTRIM', log, 'MINID', '~', string.format('%.0f', now[1] * 1000 - ARGV[3]))
redis.call('PEXPIRE', log, ARGV[3])
return #KEYS - 1
";

/// KEYS: a room. ARGV: an epoch for it where it has none, its keep (ms).
const PLACE: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'e')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[1], 'e', epoch, 'n', 0)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {epoch, tonumber(redis.call('HGET', KEYS[1], 'n'))}
";

/// An entry's id: grows from entry to entry of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    milliseconds: u64,
    sequence: u64,
}

impl EntryId {
    /// Reads `milliseconds-sequence`.
    #[must_use]
    pub fn parse(id: &[u8]) -> Option<Self> {
        let (milliseconds, sequence) = std::str::from_utf8(id).ok()?.split_once('-')?;
        Some(Self { milliseconds: milliseconds.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

/// What outlives a session: scripts, positions, names for numberings.
#[derive(Debug)]
pub struct Log {
    /// Says messages of one partition.
    pub say: Script,
    /// Reads or makes a room's numbering.
    pub place: Script,
    room_keep: Duration,
    log_keep: Duration,
    epochs: RefCell<Epochs>,
    positions: RefCell<[Option<Position>; PARTITIONS]>,
}

/// How far a partition was read.
#[derive(Debug, Default)]
struct Position {
    last: EntryId,
    /// The latest that were taken.
    taken: VecDeque<EntryId>,
}

impl Position {
    fn at(last: EntryId) -> Self {
        Self { last, ..Self::default() }
    }
}

impl Log {
    /// A log whose partitions were never read; `keep` as in [`crate::broker::Options`].
    #[must_use]
    pub fn new(keep: Duration) -> Self {
        Self {
            say: Script::new(SAY),
            place: Script::new(PLACE),
            room_keep: keep.max(ROOM_KEEP_MIN),
            log_keep: keep.max(LOG_KEEP_MIN),
            // No shard has this number: no room that numbers for itself takes such a name.
            epochs: RefCell::new(Epochs::new(fastrand::u64(..), u16::MAX)),
            positions: RefCell::new(std::array::from_fn(|_| None)),
        }
    }

    /// A name for a numbering that is made now.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        self.epochs.borrow_mut().next_epoch()
    }

    /// Milliseconds for which a room's numbering is kept.
    #[must_use]
    pub fn room_keep_ms(&self) -> u64 {
        u64::try_from(self.room_keep.as_millis()).unwrap_or(u64::MAX)
    }

    /// The call that says these messages (room's key, envelope) in a partition's log.
    #[must_use]
    pub fn call(&self, log: &str, messages: &[(String, &[u8])]) -> redis::Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(self.say.get_hash()).arg(1 + messages.len()).arg(log);
        for (room, _) in messages {
            call.arg(room);
        }
        let log_keep = u64::try_from(self.log_keep.as_millis()).unwrap_or(u64::MAX);
        call.arg(self.next_epoch().as_str()).arg(self.room_keep_ms()).arg(log_keep);
        call.arg(LOG_ENTRIES);
        for (_, envelope) in messages {
            call.arg(*envelope);
        }
        call
    }

    /// From where a partition is read in this session, given the last entry that its log has.
    ///
    /// `true`: it is another log than before, and is read from its start. One that came back
    /// shorter, but ends with an entry that was taken, is the same: what it kept is not heard
    /// again.
    pub fn begin(&self, partition: usize, last: Option<EntryId>) -> bool {
        let position = &mut self.positions.borrow_mut()[partition];
        let last = last.unwrap_or_default();
        let Some(known) = position else {
            *position = Some(Position::at(last));
            return false;
        };
        if last >= known.last {
            return false;
        }
        if known.taken.contains(&last) {
            known.taken.retain(|id| *id <= last);
            known.last = last;
            return false;
        }
        *position = Some(Position::default());
        true
    }

    /// The last entry of a partition that was taken.
    #[must_use]
    pub fn position(&self, partition: usize) -> EntryId {
        self.positions.borrow()[partition].as_ref().map_or_else(EntryId::default, |at| at.last)
    }

    /// The entry was taken.
    pub fn advance(&self, partition: usize, id: EntryId) {
        let position = &mut self.positions.borrow_mut()[partition];
        let position = position.get_or_insert_default();
        if position.taken.len() == REMEMBERED {
            position.taken.pop_front();
        }
        position.taken.push_back(id);
        position.last = id;
    }
}

/// An entry of a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// Place and envelope; `None` where whoever wrote it is none of us.
    pub said: Option<(Place, Vec<u8>)>,
}

impl Entry {
    /// Bytes of the envelope.
    #[must_use]
    pub fn len(&self) -> usize {
        self.said.as_ref().map_or(0, |(_, envelope)| envelope.len())
    }
}

/// Reads an answer of `XREAD` (RESP3): each stream with its entries.
#[must_use]
pub fn read_streams(answer: Value) -> Vec<(Vec<u8>, Vec<Entry>)> {
    let Value::Map(streams) = answer else { return Vec::new() };
    let named = streams.into_iter().filter_map(|(name, entries)| match name {
        Value::BulkString(name) => Some((name, read_entries(entries))),
        _ => None,
    });
    named.collect()
}

/// Reads the entries of one stream.
#[must_use]
pub fn read_entries(entries: Value) -> Vec<Entry> {
    let Value::Array(entries) = entries else { return Vec::new() };
    entries.into_iter().filter_map(read_entry).collect()
}

fn read_entry(entry: Value) -> Option<Entry> {
    let Value::Array(entry) = entry else { return None };
    let Ok([Value::BulkString(id), fields]) = <[Value; 2]>::try_from(entry) else { return None };
    let id = EntryId::parse(&id)?;
    Some(Entry { id, said: read_fields(fields) })
}

fn read_fields(fields: Value) -> Option<(Place, Vec<u8>)> {
    let Value::Array(fields) = fields else { return None };
    let (mut epoch, mut offset, mut envelope) = (None, None, None);
    let mut fields = fields.into_iter();
    while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) =
        (fields.next(), fields.next())
    {
        match &name[..] {
            b"p" => epoch = std::str::from_utf8(&value).ok().and_then(Epoch::parse),
            b"n" => offset = std::str::from_utf8(&value).ok().and_then(|n| n.parse().ok()),
            b"e" => envelope = Some(value),
            _ => {}
        }
    }
    Some((Place { epoch: epoch?, offset: offset? }, envelope?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(milliseconds: u64, sequence: u64) -> EntryId {
        EntryId { milliseconds, sequence }
    }

    #[test]
    fn ids_grow_by_number_not_by_text() {
        assert_eq!(EntryId::parse(b"9-10"), Some(id(9, 10)));
        assert_eq!(id(9, 10).to_string(), "9-10");
        assert!(id(9, 10) > id(9, 9) && id(10, 0) > id(9, 10));
        assert_eq!(EntryId::parse(b"9"), None);
    }

    #[test]
    fn reading_goes_on_where_it_was_and_a_log_that_came_back_shorter_is_read_from_its_start() {
        let log = Log::new(Duration::ZERO);
        assert!(!log.begin(3, Some(id(5, 0))), "the first session begins at the end");
        assert_eq!(log.position(3), id(5, 0));
        assert!(!log.begin(4, None));
        assert_eq!(log.position(4), id(0, 0));
        log.advance(3, id(7, 1));
        assert!(!log.begin(3, Some(id(9, 0))));
        assert_eq!(log.position(3), id(7, 1), "the next goes on");
        assert!(log.begin(3, Some(id(7, 0))), "shorter");
        assert_eq!(log.position(3), id(0, 0));
        log.advance(3, id(7, 1));
        assert!(log.begin(3, None), "empty");
        assert_eq!(log.position(3), id(0, 0));
        assert!(!log.begin(4, None), "there was nothing before");
    }

    #[test]
    fn a_log_that_lost_its_latest_entries_goes_on_behind_those_it_kept() {
        let log = Log::new(Duration::ZERO);
        assert!(!log.begin(0, None));
        for number in 1..=2000 {
            log.advance(0, id(number, 0));
        }
        assert!(!log.begin(0, Some(id(1990, 0))));
        assert_eq!(log.position(0), id(1990, 0));
        assert!(log.begin(0, Some(id(1989, 1))), "never taken");
        for number in 1..=2000 {
            log.advance(0, id(number, 0));
        }
        assert!(log.begin(0, Some(id(900, 0))), "too long ago to be remembered");
        assert_eq!(log.position(0), id(0, 0));
    }

    #[test]
    fn an_entry_of_somebody_else_has_an_id_and_no_message() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entry = |fields: &[&str]| {
            let fields = fields.iter().copied().map(text).collect();
            Value::Array(vec![text("1-2"), Value::Array(fields)])
        };
        let entries = read_entries(Value::Array(vec![
            entry(&["p", "ep", "n", "7", "e", "bytes"]),
            entry(&["p", "ep", "n", "seven", "e", "bytes"]),
            entry(&["hello", "world"]),
        ]));
        let place = Place { epoch: Epoch::parse("ep").expect("good"), offset: 7 };
        assert_eq!(entries[0], Entry { id: id(1, 2), said: Some((place, b"bytes".to_vec())) });
        assert_eq!(
            entries[1..],
            [const { Entry { id: EntryId { milliseconds: 1, sequence: 2 }, said: None } }; 2]
        );
        let streams = Value::Map(vec![(text("s"), Value::Array(vec![entry(&[])]))]);
        assert_eq!(read_streams(streams)[0].0, b"s");
    }
}
