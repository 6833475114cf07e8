//! Turns what boxes tell each other into bytes, and such bytes back into words.
//!
//! In:    words (`put_*`), or bytes from a broker, whoever wrote them ([`read`]).
//! Out:   one envelope, or the words in it, borrowed.
//! Never: trusts a length, or knows which broker carries it.
//!
//! ```text
//!  0  version (1)   1  kind   2..10  node   10..14  incarnation   14..22  sequence   22..  body
//!
//!  Said       mode, opcode, shard (2), connection (8), room, user, content to the end
//!  Crossed    crossing (0 joined, 1 left), whole, members (8), room, user to the end
//!  Snapshot   part (4), last, room, members (8), users: each a name, to the end
//!  Heartbeat  64 times the last sequence (8), the presence's (8), ordered, name to the end
//!  Ask        node (8), incarnation (4)
//!  Bye, Probe nothing
//! ```
//! Numbers are little-endian; a name is a byte of length and so many bytes of UTF-8.
//!
//! # Invariants
//! - Whoever writes a field of a fixed place ([`stamp`]) writes bytes that were reserved for it.
//! - An envelope of another version is refused as a whole: no box guesses.

use crate::id::{ConnId, ConnKey, Mode, RoomKey, ShardId};
use crate::limits::{NAME_BYTES_MAX, PARTITIONS};
use crate::ws::frame::Opcode;

/// Version of this layout.
pub const VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 22;

/// A process among those that share a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// The box: the same at every start of one server.
    pub id: u64,
    /// Which of its starts: a restart is another node to the others.
    pub incarnation: u32,
}

/// An envelope, opened.
#[derive(Debug, PartialEq)]
pub struct Envelope<'a> {
    /// Who sent it.
    pub node: Node,
    /// Its place among the sender's: of the partition (`Said`), of the sender's presence
    /// (`Crossed`, `Snapshot`), or the probe's number (`Probe`).
    pub sequence: u64,
    /// What it says.
    pub body: Body<'a>,
}

/// What an envelope says.
#[derive(Debug, PartialEq)]
pub enum Body<'a> {
    /// Somebody said something in a room.
    Said(Said<'a>),
    /// A user's connection came or went.
    Crossed(Crossed<'a>),
    /// Who is in one room of the sender, in answer to `Ask`.
    Snapshot(Snapshot<'a>),
    /// The sender lives.
    Heartbeat(Box<Heartbeat<'a>>),
    /// The sender wants that node's snapshot: it has missed something.
    Ask(Node),
    /// The sender ends.
    Bye,
    /// The sender wants to hear itself.
    Probe,
}

/// What somebody said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// JSON or raw room.
    pub mode: Mode,
    /// Text or binary.
    pub opcode: Opcode,
    /// The speaking connection, on the sender's box.
    pub speaker: ConnKey,
    /// The room.
    pub room: &'a str,
    /// The speaker.
    pub user: &'a str,
    /// JSON, or the raw payload.
    pub content: &'a [u8],
}

/// Who came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossed<'a> {
    /// Joined; else left.
    pub joined: bool,
    /// It was the user's first connection to the room on the sender's box, or the last.
    pub whole: bool,
    /// Members that the room has on the sender's box now.
    pub members: u64,
    /// The room (JSON rooms alone have presence).
    pub room: &'a str,
    /// The user.
    pub user: &'a str,
}

/// One room of a node's presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<'a> {
    /// Which part it is, from 0: a part that was lost makes the others worthless.
    pub part: u32,
    /// Nothing follows: rooms that were not named since the first part are empty.
    pub last: bool,
    /// The room; empty in a last part that names none.
    pub room: &'a str,
    /// Members that it has on the sender's box.
    pub members: u64,
    /// Its users there, or some of them: a large room comes in several parts.
    pub users: Vec<&'a str>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat<'a> {
    /// The last sequence of each partition; 0 before the first.
    pub sequences: [u64; PARTITIONS],
    /// The last sequence of its presence.
    pub presence: u64,
    /// Its `broker.delivery` is `ordered`.
    pub ordered: bool,
    /// What people call the box: host name and listening address.
    pub name: &'a str,
}

/// Why bytes are no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Another version's; this one.
    Version(u8),
    /// Shorter than it says, of an unknown kind, or with a name that is none.
    Malformed,
}

const SAID: u8 = 1;
const CROSSED: u8 = 2;
const SNAPSHOT: u8 = 3;
const HEARTBEAT: u8 = 4;
const ASK: u8 = 5;
const BYE: u8 = 6;
const PROBE: u8 = 7;

/// Which of the partitions carries a room: the same on every box and in every version.
///
/// FNV-1a (64 bit) of the name, its upper half folded into the lower; a raw room and a JSON room of
/// one name share theirs.
#[must_use]
pub fn partition(room: &str) -> usize {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = room.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    ((hash ^ (hash >> 32)) % PARTITIONS as u64) as usize
}

/// The room of a `Said`.
impl Said<'_> {
    /// Its key in this process.
    #[must_use]
    pub fn key(&self) -> RoomKey {
        RoomKey { mode: self.mode, name: self.room.into() }
    }
}

/// Writes the sender and the sequence into an envelope whose body is there.
///
/// # Panics
/// If the bytes are shorter than a header: they come from a `put_*` or a function like [`said`].
pub fn stamp(envelope: &mut [u8], node: Node, sequence: u64) {
    envelope[2..10].copy_from_slice(&node.id.to_le_bytes());
    envelope[10..14].copy_from_slice(&node.incarnation.to_le_bytes());
    envelope[14..22].copy_from_slice(&sequence.to_le_bytes());
}

fn begin(kind: u8, body_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + body_bytes);
    out.extend_from_slice(&[VERSION, kind]);
    out.resize(HEADER_BYTES, 0);
    out
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    let bytes = &name.as_bytes()[..name.floor_char_boundary(u8::MAX.into())];
    out.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(bytes);
}

/// An envelope for something said; to be stamped.
#[must_use]
pub fn said(said: &Said<'_>) -> Vec<u8> {
    let names = said.room.len() + said.user.len();
    let mut out = begin(SAID, 14 + names + said.content.len());
    out.push(matches!(said.mode, Mode::Raw).into());
    out.push(said.opcode as u8);
    out.extend_from_slice(&said.speaker.shard.0.to_le_bytes());
    out.extend_from_slice(&said.speaker.conn.pack().to_le_bytes());
    put_name(&mut out, said.room);
    put_name(&mut out, said.user);
    out.extend_from_slice(said.content);
    out
}

/// An envelope for a join or a leave; to be stamped.
#[must_use]
pub fn crossed(crossed: &Crossed<'_>) -> Vec<u8> {
    let mut out = begin(CROSSED, 12 + crossed.room.len() + crossed.user.len());
    out.extend_from_slice(&[u8::from(!crossed.joined), crossed.whole.into()]);
    out.extend_from_slice(&crossed.members.to_le_bytes());
    put_name(&mut out, crossed.room);
    put_name(&mut out, crossed.user);
    out
}

/// An envelope for a part of a snapshot; to be stamped.
#[must_use]
pub fn snapshot(snapshot: &Snapshot<'_>) -> Vec<u8> {
    let users: usize = snapshot.users.iter().map(|user| user.len() + 1).sum();
    let mut out = begin(SNAPSHOT, 14 + snapshot.room.len() + users);
    out.extend_from_slice(&snapshot.part.to_le_bytes());
    out.push(snapshot.last.into());
    put_name(&mut out, snapshot.room);
    out.extend_from_slice(&snapshot.members.to_le_bytes());
    for user in &snapshot.users {
        put_name(&mut out, user);
    }
    out
}

/// An envelope for a sign of life; to be stamped.
#[must_use]
pub fn heartbeat(heartbeat: &Heartbeat<'_>) -> Vec<u8> {
    let mut out = begin(HEARTBEAT, 8 * (PARTITIONS + 1) + 2 + heartbeat.name.len());
    for sequence in heartbeat.sequences {
        out.extend_from_slice(&sequence.to_le_bytes());
    }
    out.extend_from_slice(&heartbeat.presence.to_le_bytes());
    out.push(heartbeat.ordered.into());
    put_name(&mut out, heartbeat.name);
    out
}

/// An envelope that asks a node for its snapshot; to be stamped.
#[must_use]
pub fn ask(node: Node) -> Vec<u8> {
    let mut out = begin(ASK, 12);
    out.extend_from_slice(&node.id.to_le_bytes());
    out.extend_from_slice(&node.incarnation.to_le_bytes());
    out
}

/// An envelope that says farewell; to be stamped.
#[must_use]
pub fn bye() -> Vec<u8> {
    begin(BYE, 0)
}

/// An envelope that its sender wants to hear; to be stamped.
#[must_use]
pub fn probe() -> Vec<u8> {
    begin(PROBE, 0)
}

/// Who sent an envelope and its sequence, without looking at the body: enough to drop one's own.
///
/// # Errors
/// [`Unreadable`].
pub fn sender(bytes: &[u8]) -> Result<(Node, u64), Unreadable> {
    let mut reader = Reader(bytes);
    let version = reader.byte()?;
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let _kind = reader.byte()?;
    Ok((reader.node()?, reader.number()?))
}

/// Opens an envelope.
///
/// # Errors
/// [`Unreadable`]; nothing of it may be used then.
pub fn read(bytes: &[u8]) -> Result<Envelope<'_>, Unreadable> {
    let (node, sequence) = sender(bytes)?;
    let mut reader = Reader(&bytes[HEADER_BYTES..]);
    let body = match bytes[1] {
        SAID => Body::Said(reader.said()?),
        CROSSED => Body::Crossed(reader.crossed()?),
        SNAPSHOT => Body::Snapshot(reader.snapshot()?),
        HEARTBEAT => Body::Heartbeat(Box::new(reader.heartbeat()?)),
        ASK => Body::Ask(reader.node()?),
        BYE => Body::Bye,
        PROBE => Body::Probe,
        _ => return Err(Unreadable::Malformed),
    };
    Ok(Envelope { node, sequence, body })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Unreadable::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        self.bytes(N)?.try_into().map_err(|_| Unreadable::Malformed)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        Ok(self.array::<1>()?[0])
    }

    fn number(&mut self) -> Result<u64, Unreadable> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn node(&mut self) -> Result<Node, Unreadable> {
        Ok(Node { id: self.number()?, incarnation: u32::from_le_bytes(self.array()?) })
    }

    fn text(&mut self) -> Result<&'a str, Unreadable> {
        let len = self.byte()?;
        std::str::from_utf8(self.bytes(len.into())?).map_err(|_| Unreadable::Malformed)
    }

    /// A room's or a user's name.
    fn name(&mut self) -> Result<&'a str, Unreadable> {
        self.name_or_none().and_then(|name| match name {
            "" => Err(Unreadable::Malformed),
            name => Ok(name),
        })
    }

    fn name_or_none(&mut self) -> Result<&'a str, Unreadable> {
        let name = self.text()?;
        let fits = name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
        fits.then_some(name).ok_or(Unreadable::Malformed)
    }

    fn said(&mut self) -> Result<Said<'a>, Unreadable> {
        let mode = if self.byte()? == 0 { Mode::Json } else { Mode::Raw };
        let opcode = Opcode::from_bits(self.byte()?).filter(|opcode| {
            matches!((opcode, mode), (Opcode::Text, _) | (Opcode::Binary, Mode::Raw))
        });
        let opcode = opcode.ok_or(Unreadable::Malformed)?;
        let shard = ShardId(u16::from_le_bytes(self.array()?));
        let speaker = ConnKey { shard, conn: ConnId::unpack(self.number()?) };
        let (room, user) = (self.name()?, self.name()?);
        let content = std::mem::take(&mut self.0);
        if mode == Mode::Json && std::str::from_utf8(content).is_err() {
            return Err(Unreadable::Malformed);
        }
        Ok(Said { mode, opcode, speaker, room, user, content })
    }

    fn crossed(&mut self) -> Result<Crossed<'a>, Unreadable> {
        let (joined, whole) = (self.byte()? == 0, self.byte()? != 0);
        let members = self.number()?;
        Ok(Crossed { joined, whole, members, room: self.name()?, user: self.name()? })
    }

    fn snapshot(&mut self) -> Result<Snapshot<'a>, Unreadable> {
        let part = u32::from_le_bytes(self.array()?);
        let last = self.byte()? != 0;
        let (room, members) = (self.name_or_none()?, self.number()?);
        let mut users = Vec::new();
        while !self.0.is_empty() {
            users.push(self.name()?);
        }
        Ok(Snapshot { part, last, room, members, users })
    }

    fn heartbeat(&mut self) -> Result<Heartbeat<'a>, Unreadable> {
        let mut sequences = [0; PARTITIONS];
        for sequence in &mut sequences {
            *sequence = self.number()?;
        }
        let (presence, ordered) = (self.number()?, self.byte()? != 0);
        Ok(Heartbeat { sequences, presence, ordered, name: self.text()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Node = Node { id: 0x0102_0304_0506_0708, incarnation: 9 };

    fn opened(mut envelope: Vec<u8>) -> Vec<u8> {
        stamp(&mut envelope, NODE, 77);
        envelope
    }

    #[test]
    fn every_kind_comes_back_as_it_was_put() {
        let conn = ConnId { slot: 7, generation: 1 << 20 };
        let speaker = ConnKey { shard: ShardId(3), conn };
        let words = Said {
            mode: Mode::Json,
            opcode: Opcode::Text,
            speaker,
            room: "lobby",
            user: "ann",
            content: b"{\"a\":1}",
        };
        let raw = Said { mode: Mode::Raw, opcode: Opcode::Binary, content: &[0, 255], ..words };
        let came = Crossed { joined: true, whole: true, members: 3, room: "r", user: "u" };
        let rooms = Snapshot { part: 7, last: true, room: "r", members: 2, users: vec!["a", "b"] };
        let mut sequences = [0; PARTITIONS];
        sequences[63] = u64::MAX;
        let life = Heartbeat { sequences, presence: 5, ordered: true, name: "box-1:8000" };
        let all = [
            (said(&words), Body::Said(words)),
            (said(&raw), Body::Said(raw)),
            (crossed(&came), Body::Crossed(came)),
            (snapshot(&rooms), Body::Snapshot(rooms)),
            (heartbeat(&life), Body::Heartbeat(Box::new(life))),
            (ask(NODE), Body::Ask(NODE)),
            (bye(), Body::Bye),
            (probe(), Body::Probe),
        ];
        for (envelope, body) in all {
            let envelope = opened(envelope);
            assert_eq!(read(&envelope), Ok(Envelope { node: NODE, sequence: 77, body }));
        }
    }

    #[test]
    fn what_is_cut_short_or_of_another_version_is_refused() {
        let came = Crossed { joined: false, whole: true, members: 3, room: "r", user: "u" };
        let whole = opened(crossed(&came));
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), Err(Unreadable::Malformed), "{len}");
        }
        let mut other = whole;
        other[0] = 2;
        assert_eq!(read(&other), Err(Unreadable::Version(2)));
    }

    #[test]
    fn a_name_that_no_client_could_have_is_refused() {
        for user in ["", "a\nb", &"x".repeat(129)] {
            let came = Crossed { joined: true, whole: true, members: 1, room: "r", user };
            assert_eq!(read(&opened(crossed(&came))), Err(Unreadable::Malformed), "{user:?}");
        }
    }

    #[test]
    fn json_content_is_utf8() {
        let words = Said {
            mode: Mode::Json,
            opcode: Opcode::Text,
            speaker: ConnKey { shard: ShardId(0), conn: ConnId { slot: 0, generation: 0 } },
            room: "r",
            user: "u",
            content: &[b'"', 0xff, b'"'],
        };
        assert_eq!(read(&opened(said(&words))), Err(Unreadable::Malformed));
    }

    /// A change here parts the boxes of one cluster while it is upgraded.
    #[test]
    fn a_room_keeps_its_partition_for_ever() {
        let of = ["lobby", "", "r1", "r2", "\u{1F600}"].map(partition);
        assert_eq!(of, [5, 1, 43, 2, 48]);
    }

    #[test]
    fn rooms_are_dealt_evenly() {
        let mut rooms = [0; PARTITIONS];
        for n in 0..6400 {
            rooms[partition(&format!("room-{n}"))] += 1;
        }
        assert!(rooms.iter().all(|rooms| (60..=140).contains(rooms)), "{rooms:?}");
    }
}
