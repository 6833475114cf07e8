//! Turns members into sockets on many rings of one thread: more than one table may hold.
//!
//! In:    members to connect, bytes for them to send, connections to close.
//! Out:   to an `Ear`: what opened, what was received, what ended.
//! Never: knows what the bytes mean.
//!
//! # Invariants
//! - A member has at most one connection, and sends at most once between two submits.
//! - Sockets are bound to addresses and ports of their own, at most 4 000 a destination: a kernel
//!   that has to look for a port spends most of its time doing so.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use ringhall::id::ConnId;
use ringhall::io::{CloseHow, Completion, Errno, Input, Io, Parcel, Patience, Segments, Wait};
use ringhall::payload::{Batch, Payload};
use ringhall::uring::{Setup, UringIo};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

/// Sockets of one ring: what an unprivileged process's table may hold, less a few.
const TABLE: usize = 19_900;
/// Receive buffers of a ring, and bytes of each.
const BUFFERS: u16 = 64;
const BUFFER_BYTES: usize = 4096;
/// Locked memory of a ring.
const RING_BYTES: usize = 256 << 10;
/// Connections to one destination address.
const PER_ADDRESS: usize = 4000;
/// First source port; each return of a member takes the next block of `PER_ADDRESS`, since the
/// server's end of the last connection may linger.
const FIRST_PORT: usize = 10_000;
const RETURNS_MAX: usize = (65_536 - FIRST_PORT) / PER_ADDRESS;

/// Who listens to the members.
pub trait Ear {
    /// The member's socket is connected, and says this first.
    fn opened(&mut self, member: u32) -> Vec<u8>;
    /// So many of the bytes were understood; the rest is heard again, with more behind it.
    ///
    /// # Errors
    /// What is wrong with them.
    fn hear(&mut self, member: u32, bytes: &[u8], out: &mut Outbox) -> io::Result<usize>;
    /// The server has sent FIN; the connection is closed.
    ///
    /// # Errors
    /// If it should not have.
    fn ended(&mut self, member: u32) -> io::Result<()>;
}

/// What members say, in order.
#[derive(Debug, Default)]
pub struct Outbox(VecDeque<(u32, Vec<u8>)>);

impl Outbox {
    /// Queues bytes.
    pub fn say(&mut self, member: u32, bytes: Vec<u8>) {
        self.0.push_back((member, bytes));
    }
}

/// Where a member's connection is.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    ring: u8,
    returns: u8,
    receiving: bool,
    /// Readable while a receive was in flight.
    again: bool,
    /// The end of the stream is near: receive until it shows.
    hangup: bool,
    /// The round in which it was last sent to.
    sent: u32,
    slot: u32,
}

/// One ring and who has its slots.
struct Deck {
    io: UringIo,
    /// Member and generation.
    tenants: Vec<(u32, u32)>,
    generation: u32,
    ready: VecDeque<ConnId>,
    sockets: usize,
}

/// All rings.
pub struct Fleet {
    decks: Vec<Deck>,
    links: Vec<Link>,
    /// What was received and not understood yet.
    rests: HashMap<u32, Vec<u8>>,
    outbox: Outbox,
    round: u32,
    port: u16,
    bell: OwnedFd,
}

impl Fleet {
    /// Rings for so many members of the server on `port`.
    ///
    /// # Errors
    /// If the box does not allow the rings.
    pub fn new(members: usize, port: u16) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let decks =
            (0..members.div_ceil(TABLE)).map(|_| Deck::new(&bell)).collect::<Result<_, _>>();
        let links = vec![Link::default(); members];
        Ok(Self {
            decks: decks?,
            links,
            rests: HashMap::new(),
            outbox: Outbox::default(),
            round: 1,
            port,
            bell,
        })
    }

    /// How many rings.
    pub fn rings(&self) -> usize {
        self.decks.len()
    }

    /// Connects a member; blocks for the time of a handshake on loopback.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(&mut self, member: u32) -> io::Result<()> {
        let number = member as usize;
        let link = &mut self.links[number];
        let (block, place) = (number / PER_ADDRESS, number % PER_ADDRESS);
        let returns = usize::from(link.returns) % RETURNS_MAX;
        let [.., high, low] = (block as u32 + 1).to_be_bytes();
        let from = Ipv4Addr::new(127, 2, high, low);
        let from_port = FIRST_PORT + returns * PER_ADDRESS + place;
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(from, from_port as u16))?;
        connect(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 1, high, low), self.port))?;
        link.ring = (number / TABLE) as u8;
        link.returns = link.returns.wrapping_add(1);
        let deck = &mut self.decks[number / TABLE];
        deck.sockets += 1;
        deck.io.adopt(socket, Box::new(Parcel(member.to_le_bytes().to_vec())));
        Ok(())
    }

    /// Lets a member say something with the next turn.
    pub fn say(&mut self, member: u32, bytes: Vec<u8>) {
        self.outbox.say(member, bytes);
    }

    /// Sends, submits, and hears what has come; how much happened.
    ///
    /// # Errors
    /// What the kernel or the ear says.
    pub fn turn(&mut self, ear: &mut impl Ear) -> io::Result<usize> {
        self.send();
        let mut happened = 0;
        for index in 0..self.decks.len() {
            let deck = &mut self.decks[index];
            deck.receive(&mut self.links);
            deck.io.submit(Wait::No);
            while let Some(completion) = self.decks[index].io.reap() {
                happened += 1;
                self.happened(index, completion, ear)?;
            }
        }
        self.round = self.round.wrapping_add(1);
        Ok(happened)
    }

    /// Sleeps until something happens, at most so long.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sleep(&mut self, at_most: Duration) -> io::Result<()> {
        let queued =
            !self.outbox.0.is_empty() || self.decks.iter().any(|deck| !deck.ready.is_empty());
        if !queued && self.decks.iter_mut().all(|deck| deck.io.prepare_sleep()) {
            let at_most = Timespec::try_from(at_most).ok();
            poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], at_most.as_ref())?;
            let mut count = [0; 8];
            // Nothing to read says that the time is over.
            let _ = rustix::io::read(&self.bell, &mut count);
        }
        for deck in &mut self.decks {
            deck.io.wakeups(false);
        }
        Ok(())
    }

    /// Everyone who may send in this round does.
    fn send(&mut self) {
        for _ in 0..self.outbox.0.len() {
            let Some((member, bytes)) = self.outbox.0.pop_front() else { break };
            let link = &mut self.links[member as usize];
            if link.sent == self.round {
                self.outbox.0.push_back((member, bytes));
                continue;
            }
            link.sent = self.round;
            let deck = &mut self.decks[usize::from(link.ring)];
            if let Some(conn) = deck.conn(link.slot, member) {
                let payload = Payload::own(Batch { bytes, frames: Vec::new() });
                deck.io.send(conn, Segments::One(payload.whole()));
            }
        }
    }

    fn happened(
        &mut self,
        index: usize,
        completion: Completion,
        ear: &mut impl Ear,
    ) -> io::Result<()> {
        let deck = &mut self.decks[index];
        match completion {
            Completion::Arrived { slot, parcel } => {
                let number = parcel.0.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
                let member = number.ok_or_else(|| io::Error::other("a parcel without a member"))?;
                let conn = deck.let_in(slot, member);
                let link = &mut self.links[member as usize];
                *link = Link { slot, returns: link.returns, ring: link.ring, ..Link::default() };
                deck.io.poll_readable(conn);
                self.outbox.say(member, ear.opened(member));
            }
            Completion::Readable { conn, hangup, armed } => {
                let Some(member) = deck.tenant(conn) else { return Ok(()) };
                if !armed {
                    deck.io.poll_readable(conn);
                }
                let link = &mut self.links[member as usize];
                link.hangup |= hangup;
                if link.receiving {
                    link.again = true;
                } else {
                    link.receiving = true;
                    deck.ready.push_back(conn);
                }
            }
            Completion::Received { conn, outcome } => self.received(index, conn, outcome, ear)?,
            Completion::Fell { conn, rest, error } => {
                let member = deck.tenant(conn);
                let left: usize = rest.iter().map(|segment| segment.len()).sum();
                let said = format!("{left} bytes of member {member:?} were not taken: {error:?}");
                return Err(io::Error::other(said));
            }
            Completion::AdoptFailed { error, .. } => return Err(error.into()),
            _ => {}
        }
        Ok(())
    }

    fn received(
        &mut self,
        index: usize,
        conn: ConnId,
        outcome: Result<Input, Errno>,
        ear: &mut impl Ear,
    ) -> io::Result<()> {
        let deck = &mut self.decks[index];
        let Some(member) = deck.tenant(conn) else {
            if let Ok(Input { buffer: Some(buffer), .. }) = outcome {
                deck.io.release(buffer);
            }
            return Ok(());
        };
        let link = &mut self.links[member as usize];
        match outcome {
            Ok(Input { len: 0, .. }) => {
                deck.leave(conn);
                self.rests.remove(&member);
                return ear.ended(member);
            }
            Ok(Input { buffer: Some(buffer), len, more }) => {
                let bytes = deck.io.buffer(buffer, len);
                let heard = match self.rests.remove(&member) {
                    Some(mut rest) => {
                        rest.extend_from_slice(bytes);
                        hear(ear, member, &rest, &mut self.outbox)
                    }
                    None => hear(ear, member, bytes, &mut self.outbox),
                };
                deck.io.release(buffer);
                if let Some(rest) = heard? {
                    self.rests.insert(member, rest);
                }
                let again = more || link.hangup || std::mem::take(&mut link.again);
                link.receiving = again;
                if again {
                    deck.ready.push_back(conn);
                }
            }
            Err(Errno::NOBUFS) => deck.ready.push_back(conn),
            Err(Errno::AGAIN) => {
                link.receiving = std::mem::take(&mut link.again);
                if link.receiving {
                    deck.ready.push_back(conn);
                }
            }
            Ok(_) => return Err(io::Error::other("bytes without a buffer")),
            Err(error) => {
                return Err(io::Error::other(format!("member {member} was cut: {error}")));
            }
        }
        Ok(())
    }
}

/// Lets the ear have the bytes; what it leaves.
fn hear(
    ear: &mut impl Ear,
    member: u32,
    bytes: &[u8],
    out: &mut Outbox,
) -> io::Result<Option<Vec<u8>>> {
    let used = ear.hear(member, bytes, out)?;
    Ok((used < bytes.len()).then(|| bytes[used..].to_vec()))
}

impl Deck {
    fn new(bell: &OwnedFd) -> io::Result<Self> {
        let setup = Setup {
            listeners: Vec::new(),
            table_slots: TABLE as u32,
            buffers: BUFFERS,
            buffer_bytes: BUFFER_BYTES,
            ring_bytes_max: RING_BYTES,
        };
        let mut io = UringIo::new(setup).map_err(io::Error::other)?;
        io.register_eventfd(bell.as_fd())?;
        let tenants = vec![(u32::MAX, 0); TABLE];
        Ok(Self { io, tenants, generation: 0, ready: VecDeque::new(), sockets: 0 })
    }

    fn let_in(&mut self, slot: u32, member: u32) -> ConnId {
        self.generation = (self.generation + 1) & ((1 << ringhall::id::GENERATION_BITS) - 1);
        self.tenants[slot as usize] = (member, self.generation);
        ConnId { slot, generation: self.generation }
    }

    /// Whose connection it is, unless it is gone.
    fn tenant(&self, conn: ConnId) -> Option<u32> {
        let (member, generation) = self.tenants[conn.slot as usize];
        (member != u32::MAX && generation == conn.generation).then_some(member)
    }

    /// A member's connection, unless it is gone.
    fn conn(&self, slot: u32, member: u32) -> Option<ConnId> {
        let (tenant, generation) = self.tenants[slot as usize];
        (tenant == member).then_some(ConnId { slot, generation })
    }

    fn leave(&mut self, conn: ConnId) {
        self.tenants[conn.slot as usize].0 = u32::MAX;
        self.sockets -= 1;
        self.io.close(conn, CloseHow::Orderly);
    }

    /// Receives from whoever is readable, as far as there are buffers.
    fn receive(&mut self, links: &mut [Link]) {
        let mut buffers = self.io.buffers_free();
        while buffers > 0 {
            let Some(conn) = self.ready.pop_front() else { break };
            let Some(member) = self.tenant(conn) else { continue };
            links[member as usize].again = false;
            self.io.recv(conn, Patience::DontWait);
            buffers -= 1;
        }
    }
}
