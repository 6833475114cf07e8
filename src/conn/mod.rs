//! The state of one connection: what it is doing, what it still has to be sent, when it is due.
//!
//! In:    what the shard learned of the socket; segments to send.
//! Out:   flags that say what may be armed or sent; segments in order; a snapshot.
//! Never: touches a socket, reads a clock, knows JSON.
//!
//! ```text
//!  accepted ──► Head ──► Joining ──► Open ──► Closing ──► (slot free)
//!                │ │                            ▲
//!                │ └──► Parting (to another shard, or to plain HTTP)
//!                └──────────────────────────────┘ refused
//! ```
//!
//! # Invariants
//! - `Head` and `Parting` have nothing armed but one receive, or nothing at all.
//! - `egress` is `None` or holds bytes; an idle connection owns no buffer, in or out.
//! - `seat` is set exactly while the connection is a member of a hall.

pub mod disconnect;
pub mod egress;
pub mod snapshot;
pub mod table;

use crate::http::head::HeadProgress;
use crate::http::upgrade::Upgrade;
use crate::id::{ConnId, Mode, Seat};
use crate::io::Parcel;
use crate::time::Stamp;
use crate::ws::message::Assembler;
use disconnect::Disconnect;
use egress::Egress;
use table::Links;

/// What the connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reads the request head; before that, may ask for the peer's address.
    Head,
    /// On its way to another shard, or to plain HTTP.
    Parting,
    /// Waits for the room's home to answer.
    Joining,
    /// Upgraded.
    Open,
    /// Everything was said; sends the rest, then FIN, then waits for the peer's.
    Closing(Disconnect),
}

/// What the upgrade made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing yet.
    Undecided,
    /// `/echo`.
    Echo,
    /// A member of a room.
    Room(Mode),
}

/// One bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Readability is polled.
    pub const POLLED: Self = Self(1);
    /// A receive is in flight.
    pub const RECEIVING: Self = Self(1 << 1);
    /// There is something to receive: it waits in the shard's list of readable connections.
    pub const READY: Self = Self(1 << 2);
    /// Readiness was reported while a receive was in flight.
    pub const AGAIN: Self = Self(1 << 3);
    /// The peer has hung up: receive until that shows.
    pub const HANGUP: Self = Self(1 << 4);
    /// The socket is full; writability is polled.
    pub const BLOCKED: Self = Self(1 << 5);
    /// In the shard's list of connections with something to send.
    pub const DIRTY: Self = Self(1 << 6);
    /// Reading is paused; the rest of the input is stashed.
    pub const PAUSED: Self = Self(1 << 7);
    /// `echo=false`: is not sent what it said itself.
    pub const DEAF: Self = Self(1 << 8);
    /// Joined in the middle of a turn: the next payload starts for it at `late_from`.
    pub const LATE: Self = Self(1 << 9);
    /// A heartbeat ping is out.
    pub const PINGED: Self = Self(1 << 10);
    /// Counted against `limits.connections_max`.
    pub const ADMITTED: Self = Self(1 << 11);
    /// FIN was sent.
    pub const FINISHED: Self = Self(1 << 12);
    /// Has been moved: it stays where it is now.
    pub const PLACED: Self = Self(1 << 13);
    /// The upgrade was already answered (it came back from plain HTTP).
    pub const ANSWERED: Self = Self(1 << 14);
    /// Holds bytes that count against the process's queue budget.
    pub const HOLDING: Self = Self(1 << 15);
    /// The peer's FIN was received.
    pub const ENDED: Self = Self(1 << 16);
    /// Comes from a trusted proxy: a PROXY protocol header stands before the request.
    pub const PREFACED: Self = Self(1 << 17);
    /// Its input was taken in this turn: what else a standing receive brings waits for the next.
    pub const HEARD: Self = Self(1 << 18);
    /// Input waits for the next turn: nothing more is received until that is taken in.
    pub const AHEAD: Self = Self(1 << 19);

    /// Whether any of the bits is set.
    #[must_use]
    pub fn has(self, bits: Self) -> bool {
        self.0 & bits.0 != 0
    }

    /// Both sets.
    #[must_use]
    pub const fn with(self, bits: Self) -> Self {
        Self(self.0 | bits.0)
    }

    /// Sets bits.
    pub fn set(&mut self, bits: Self) {
        self.0 |= bits.0;
    }

    /// Clears bits.
    pub fn clear(&mut self, bits: Self) {
        self.0 &= !bits.0;
    }

    /// Clears bits; whether any was set.
    pub fn take(&mut self, bits: Self) -> bool {
        let had = self.has(bits);
        self.clear(bits);
        had
    }
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address: the peer's, or what a trusted proxy says. Until the request head is
    /// there, it may be that proxy's.
    pub address: std::net::IpAddr,
    /// Counted against `limits.connections_per_address`.
    pub is_counted: bool,
}

/// What only some connections have, and most only for a moment.
#[derive(Debug, Default)]
pub struct Cold {
    /// The head so far, while it came in pieces.
    pub head: Vec<u8>,
    /// How far the end of the head was searched.
    pub progress: HeadProgress,
    /// The accepted upgrade, while it waits for the room's home or for the other shard.
    pub upgrade: Option<Upgrade>,
    /// Input behind the place where reading was paused.
    pub stash: Vec<u8>,
    /// How much of `stash` was decoded.
    pub stash_start: usize,
    /// The user's name, where the room's names live on another shard.
    pub user: Option<Box<str>>,
    /// Whose it is: until the upgrade, where peers are asked; later only where it is counted.
    pub origin: Option<Origin>,
    /// Malformed messages in reserve are used up: how many, and when they were last counted.
    pub strikes: u32,
    /// Second of the last strike.
    pub strikes_at: u32,
    /// State on its way out.
    pub parcel: Option<Box<Parcel>>,
    /// When the turn began that accepted it, until it is answered.
    pub accepted: Option<Stamp>,
}

impl Cold {
    /// Input that waits to be decoded.
    #[must_use]
    pub fn stashed(&self) -> &[u8] {
        &self.stash[self.stash_start..]
    }

    fn is_needless(&self) -> bool {
        self.head.is_empty()
            && self.upgrade.is_none()
            && self.stash.is_empty()
            && self.user.is_none()
            && self.origin.is_none()
            && self.strikes == 0
            && self.parcel.is_none()
            && self.accepted.is_none()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    /// Which tenant of its slot it is.
    pub generation: u32,
    /// See [`Flags`].
    pub flags: Flags,
    /// What it is doing.
    pub phase: Phase,
    /// What the upgrade made of it.
    pub kind: Kind,
    /// Where it sits.
    pub seat: Option<Seat>,
    /// First byte of the room's next payload that is meant for it (`Flags::LATE`).
    pub late_from: u32,
    /// Tick of the timer wheel at which the last byte came.
    pub heard: u32,
    /// Its place in the timer wheel.
    pub links: Links,
    /// Frames to messages.
    pub assembler: Assembler,
    /// What it still has to be sent.
    pub egress: Option<Box<Egress>>,
    /// See [`Cold`].
    pub cold: Option<Box<Cold>>,
    /// Bytes that count against the process's queue budget.
    pub held: usize,
}

impl Conn {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(heard: u32) -> Self {
        Self {
            generation: 0,
            flags: Flags::default(),
            phase: Phase::Head,
            kind: Kind::Undecided,
            seat: None,
            late_from: 0,
            heard,
            links: Links::default(),
            assembler: Assembler::default(),
            egress: None,
            cold: None,
            held: 0,
        }
    }

    /// Its id, given its slot.
    #[must_use]
    pub fn id(&self, slot: u32) -> ConnId {
        ConnId { slot, generation: self.generation }
    }

    /// The rarely used part, made if need be.
    pub fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    /// Lets go of the rarely used part if nothing is in it.
    pub fn thaw(&mut self) {
        if self.cold.as_ref().is_some_and(|cold| cold.is_needless()) {
            self.cold = None;
        }
    }

    /// The queue, made if need be.
    pub fn egress(&mut self) -> &mut Egress {
        self.egress.get_or_insert_default()
    }

    /// Bytes queued for it.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.egress.as_ref().map_or(0, |egress| egress.cost())
    }

    /// Bytes that it makes the process hold: queue, half-received message, stashed input.
    #[must_use]
    pub fn weight(&self) -> usize {
        let waiting = |cold: &Cold| cold.stash.capacity() + cold.head.capacity();
        let waiting = self.cold.as_deref().map_or(0, waiting);
        self.queued_bytes() + self.assembler.held_bytes() + waiting
    }

    /// The client's address, where it is known.
    #[must_use]
    pub fn client(&self) -> Option<std::net::IpAddr> {
        self.cold.as_ref()?.origin.map(|origin| origin.address)
    }

    /// Whether it was told that it is over.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }
}

const _: () = assert!(size_of::<Conn>() <= 128, "a connection is two cache lines");
