//! Turns numbers into connections: opens them, upgrades them, sends, receives, closes.
//!
//! In:    numbers to open; bytes to send, gathered while a turn lasts.
//! Out:   calls of a `Handler`; sockets of its own on one or more rings of this thread.
//! Never: knows a frame, waits (but where it is told to sleep), or allocates for a message.
//!
//! # Why several rings
//! A ring's table holds as many sockets as a process may have descriptors, and every ring has one
//! of its own: 51 of them hold a million connections in a process that may open 20 000 files.
//!
//! # Invariants
//! - At most one send a connection between two submits: what comes besides, or while the socket
//!   takes no more, waits in `held`, in order.
//! - A link is vacant, or its `conn` is that of an open slot of its ring, or its socket is on its
//!   way there.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::id::ConnId;
use crate::io::{CloseHow, Completion, Errno, Input, Io, Parcel, Segments, Wait};
use crate::limits::{RingUse, SEND_SEGMENTS_MAX, TABLE_SLOTS_MAX};
use crate::payload::{Batch, Payload, Segment};
use crate::probe::Facts;
use crate::uring::{self, UringIo};

use super::answer::Upgrade;
use super::fault::Fault;
use super::routes::Routes;

/// Slots of a table that stay free: who comes may be there before who leaves is gone.
const SPARE_SLOTS: usize = 200;
/// Bytes of one turn's sends, beyond which they are submitted before more are gathered.
const OUTBOX_BYTES: usize = 64 << 20;
/// Bytes of receive buffers of all rings: what a core's cache may hold, where messages are short.
const BUFFERS_BYTES: usize = 8 << 20;
/// Most bytes that a ring may lock.
const RING_BYTES_MAX: usize = 1 << 20;
/// Answers that begin and are not complete; longer ones are refused by `answer`.
type Heads = HashMap<usize, Vec<u8>>;

/// What a pool is to hold.
#[derive(Debug)]
pub struct Setup {
    /// Connections that may be open at a time; they are numbered from 0.
    pub connections: usize,
    /// Bytes of one receive buffer, 1 KiB to 64 KiB.
    pub buffer_bytes: usize,
    /// Where to.
    pub routes: Routes,
    /// What is asked for.
    pub upgrade: Upgrade,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server's FIN.
    Closed,
    /// A reset, or another error.
    Failed(Errno),
}

/// What is to be done about connections. The pool is not at hand meanwhile: note what follows, and
/// do it after [`Pool::reap`].
pub trait Handler {
    /// The path that a connection asks for.
    fn put_path(&self, number: usize, path: &mut String);

    /// A connection is open.
    ///
    /// # Errors
    /// Ends the run.
    fn opened(&mut self, number: usize) -> Result<(), Fault>;

    /// Bytes of frames, cut anywhere.
    ///
    /// # Errors
    /// Ends the run.
    fn received(&mut self, number: usize, bytes: &[u8]) -> Result<(), Fault>;

    /// A connection that was open has ended, and its number is vacant.
    ///
    /// # Errors
    /// Ends the run.
    fn ended(&mut self, number: usize, end: End) -> Result<(), Fault>;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Vacant,
    /// The socket is on its way into a table.
    Coming,
    /// The request is sent.
    Asking,
    Open,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    conn: ConnId,
    /// The turn in which it sent last.
    sent_in: u32,
    phase: Phase,
    /// Something waits in `held`.
    holds: bool,
}

const NOBODY: ConnId = ConnId { slot: u32::MAX, generation: u32::MAX };
const VACANT: Link = Link { conn: NOBODY, sent_in: 0, phase: Phase::Vacant, holds: false };

/// What waits for a socket.
#[derive(Debug, Default)]
struct Held {
    segments: VecDeque<Segment>,
    /// A poll says when it takes bytes again.
    polled: bool,
}

/// Connections of this thread.
pub struct Pool {
    rings: Vec<UringIo>,
    /// Who is in a slot, a ring.
    tenants: Vec<Vec<u32>>,
    links: Vec<Link>,
    /// Links a ring.
    each: usize,
    generation: u32,
    turn: u32,
    routes: Routes,
    upgrade: Upgrade,
    heads: Heads,
    path: String,
    /// This turn's sends: bytes, and whose they are up to where.
    out: Vec<u8>,
    outs: Vec<(u32, u32, u32)>,
    payload: Payload,
    held: HashMap<u32, Held>,
    /// Numbers whose held segments may be sent.
    resuming: Vec<u32>,
    open: usize,
    reads: u64,
    /// What all rings ring while this thread sleeps.
    bell: OwnedFd,
}

impl Pool {
    /// Sets the rings up.
    ///
    /// # Errors
    /// Where descriptors or locked memory are too few.
    ///
    /// # Panics
    /// If `buffer_bytes` is out of its range.
    pub fn new(setup: Setup) -> Result<Self, Fault> {
        assert!((1 << 10..=1 << 16).contains(&setup.buffer_bytes), "{}", setup.buffer_bytes);
        let facts = Facts::read();
        let nofile = usize::try_from(facts.nofile.soft).unwrap_or(usize::MAX);
        let slots = nofile.min(TABLE_SLOTS_MAX).min(setup.connections + SPARE_SLOTS);
        let Some(each) = slots.checked_sub(SPARE_SLOTS).filter(|each| *each > 0) else {
            return Err(Fault::new(format!(
                "this process may open {nofile} files, too few for a table of sockets: raise \
                 `ulimit -n`"
            )));
        };
        let count = setup.connections.div_ceil(each).max(1);
        let memlock = usize::try_from(facts.memlock.soft).unwrap_or(usize::MAX);
        let buffers = BUFFERS_BYTES / count / setup.buffer_bytes;
        let buffers = buffers.clamp(64, 4096).next_power_of_two();
        let ring = || {
            let setup = uring::Setup {
                listeners: Vec::new(),
                table_slots: u32::try_from(slots).unwrap_or(u32::MAX),
                buffers: u16::try_from(buffers).unwrap_or(1 << 12),
                buffer_bytes: setup.buffer_bytes,
                entries: RingUse::default().entries as u32,
                stride: RingUse::default().stride,
                send: RingUse::default().send,
                ring_bytes_max: (memlock / 2 / count).min(RING_BYTES_MAX),
                defer_accept: false,
                enters_max: 1,
            };
            UringIo::new(setup).map_err(|error| Fault::new(error.to_string()))
        };
        let mut rings = (0..count).map(|_| ring()).collect::<Result<Vec<_>, _>>()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .and_then(|bell| {
                let told =
                    rings.iter_mut().try_for_each(|ring| ring.register_eventfd(bell.as_fd()));
                told.map(|()| bell)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })
            .map_err(|error| Fault::new(format!("no eventfd to sleep on: {error}")))?;
        Ok(Self {
            tenants: vec![vec![u32::MAX; slots]; count],
            rings,
            links: vec![VACANT; setup.connections],
            each,
            generation: 0,
            turn: 1,
            routes: setup.routes,
            upgrade: setup.upgrade,
            heads: Heads::new(),
            path: String::new(),
            out: Vec::new(),
            outs: Vec::new(),
            payload: Payload::own(Batch::default()),
            held: HashMap::new(),
            resuming: Vec::new(),
            open: 0,
            reads: 0,
            bell,
        })
    }

    /// Connections that are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open
    }

    /// Rings that hold them.
    #[must_use]
    pub fn rings(&self) -> usize {
        self.rings.len()
    }

    /// Receives that brought something, so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Whether a number's connection is open.
    #[must_use]
    pub fn is_open(&self, number: usize) -> bool {
        self.links[number].phase == Phase::Open
    }

    /// Begins to open the connection of a vacant number.
    ///
    /// # Errors
    /// Where the server is not there, or no socket or port is to be had.
    ///
    /// # Panics
    /// If the number is not vacant.
    pub fn connect(&mut self, number: usize) -> Result<(), Fault> {
        assert_eq!(self.links[number].phase, Phase::Vacant, "connection {number} exists");
        let socket = self.routes.connect()?;
        self.links[number].phase = Phase::Coming;
        let parcel = Parcel(number.to_le_bytes().to_vec());
        self.rings[number / self.each].adopt(socket, Box::new(parcel));
        Ok(())
    }

    /// Gathers bytes for a connection: all that one call of `put` appends goes in one piece.
    /// Nothing is sent to a number that is vacant.
    pub fn send(&mut self, number: usize, put: impl FnOnce(&mut Vec<u8>)) {
        if matches!(self.links[number].phase, Phase::Vacant | Phase::Coming) {
            return;
        }
        if self.out.len() > OUTBOX_BYTES {
            self.submit();
        }
        let start = place(&self.out);
        put(&mut self.out);
        let end = place(&self.out);
        let number = number as u32;
        match self.outs.last_mut() {
            Some(last) if last.0 == number => last.2 = end,
            _ => self.outs.push((number, start, end)),
        }
    }

    /// Closes a connection, which its handler is not told.
    pub fn close(&mut self, number: usize, how: CloseHow) {
        let link = &mut self.links[number];
        if matches!(link.phase, Phase::Vacant | Phase::Coming) {
            return;
        }
        self.open -= usize::from(link.phase == Phase::Open);
        self.rings[number / self.each].close(link.conn, how);
        if link.holds {
            self.held.remove(&(number as u32));
        }
        *link = Link { sent_in: link.sent_in, ..VACANT };
        self.heads.remove(&number);
    }

    /// Hands the kernel what was gathered, and takes over what it has to say. Returns whether there
    /// was anything to send.
    pub fn submit(&mut self) -> bool {
        let busy = !self.outs.is_empty() || !self.resuming.is_empty();
        if busy {
            self.turn = self.turn.wrapping_add(1);
            self.hand_over();
            self.resume();
        }
        for ring in &mut self.rings {
            ring.submit(Wait::No);
        }
        busy
    }

    /// Sleeps until something happens, at most so long: for whoever leaves the cores to the server
    /// while there is nothing to do. What was gathered goes first.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sleep(&mut self, at_most: Duration) -> Result<(), Fault> {
        self.submit();
        if self.resuming.is_empty() && self.rings.iter_mut().all(UringIo::prepare_sleep) {
            let at_most = Timespec::try_from(at_most).ok();
            let waited = poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], at_most.as_ref());
            if let Err(error) = waited
                && error != Errno::INTR
            {
                return Err(Fault::new(format!("cannot wait for the server: {error}")));
            }
            // Nothing to read says that the time is over.
            let _rung = rustix::io::read(&self.bell, &mut [0; 8]);
        }
        for ring in &mut self.rings {
            ring.wakeups(false);
        }
        Ok(())
    }

    /// The turn's bytes become one payload, and a segment of it a connection.
    fn hand_over(&mut self) {
        if self.payload.reclaim().is_none() {
            // A send that fell short still needs the last one.
            self.payload = Payload::own(Batch::default());
        }
        if let Some(batch) = self.payload.reclaim() {
            batch.bytes.clear();
            std::mem::swap(&mut batch.bytes, &mut self.out);
        }
        for (number, start, end) in self.outs.drain(..) {
            let link = &mut self.links[number as usize];
            if matches!(link.phase, Phase::Vacant | Phase::Coming) {
                continue;
            }
            let segment = Segment { payload: self.payload.clone(), start, end };
            if link.holds || link.sent_in == self.turn {
                let held = self.held.entry(number).or_default();
                if !link.holds {
                    link.holds = true;
                    self.resuming.push(number);
                }
                held.segments.push_back(segment);
            } else {
                link.sent_in = self.turn;
                self.rings[number as usize / self.each].send(link.conn, Segments::One(segment));
            }
        }
    }

    /// Sends what was held, one send a connection.
    fn resume(&mut self) {
        for number in std::mem::take(&mut self.resuming) {
            let link = &mut self.links[number as usize];
            let Some(held) = self.held.get_mut(&number) else { continue };
            if link.sent_in == self.turn || held.polled {
                if !held.polled {
                    self.resuming.push(number);
                }
                continue;
            }
            link.sent_in = self.turn;
            let count = held.segments.len().min(SEND_SEGMENTS_MAX);
            let segments: Vec<Segment> = held.segments.drain(..count).collect();
            if held.segments.is_empty() {
                self.held.remove(&number);
                link.holds = false;
            } else {
                self.resuming.push(number);
            }
            self.rings[number as usize / self.each].send(link.conn, Segments::Many(segments));
        }
    }

    /// Tells the handler what has happened; how much that was.
    ///
    /// # Errors
    /// The handler's; a server that refuses, or is not there.
    pub fn reap(&mut self, handler: &mut impl Handler) -> Result<usize, Fault> {
        let mut reaped = 0;
        for ring in 0..self.rings.len() {
            while let Some(completion) = self.rings[ring].reap() {
                reaped += 1;
                self.complete(ring, completion, handler)?;
            }
        }
        Ok(reaped)
    }

    fn complete(
        &mut self,
        ring: usize,
        completion: Completion,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        match completion {
            Completion::Received { conn, outcome, armed } => {
                self.received(ring, conn, outcome, armed, handler)
            }
            Completion::Arrived { slot, parcel } => {
                self.arrived(ring, slot, &parcel, handler);
                Ok(())
            }
            Completion::Fell { conn, rest, error } => {
                // A dead socket ends by its receive, which knows why: a send behind it does not.
                if let (Some(number), None) = (self.number(ring, conn), error) {
                    self.hold(number, rest);
                }
                Ok(())
            }
            Completion::Writable { conn } => {
                if let Some(number) = self.number(ring, conn)
                    && let Some(held) = self.held.get_mut(&(number as u32))
                {
                    held.polled = false;
                    self.resuming.push(number as u32);
                }
                Ok(())
            }
            Completion::AdoptFailed { error, .. } => Err(Fault::new(format!(
                "a table of sockets is full ({error}): fewer --connections"
            ))),
            _ => Ok(()),
        }
    }

    /// The tenant that a completion speaks of; `None` where it has left.
    fn number(&self, ring: usize, conn: ConnId) -> Option<usize> {
        let number = self.tenants[ring][conn.slot as usize] as usize;
        self.links.get(number).is_some_and(|link| link.conn == conn).then_some(number)
    }

    fn arrived(&mut self, ring: usize, slot: u32, parcel: &Parcel, handler: &impl Handler) {
        let number = parcel.0.first_chunk().map_or(0, |bytes| usize::from_le_bytes(*bytes));
        self.generation = (self.generation + 1) & ((1 << crate::id::GENERATION_BITS) - 1);
        let conn = ConnId { slot, generation: self.generation };
        self.tenants[ring][slot as usize] = number as u32;
        self.links[number] = Link { conn, phase: Phase::Asking, ..VACANT };
        self.rings[ring].recv_standing(conn);
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        handler.put_path(number, &mut path);
        let start = place(&self.out);
        self.upgrade.put_request(&mut self.out, &path);
        self.path = path;
        // Where the connect is still under way the socket takes nothing, and this is held.
        self.outs.push((number as u32, start, place(&self.out)));
    }

    fn hold(&mut self, number: usize, rest: Vec<Segment>) {
        let link = &mut self.links[number];
        let held = self.held.entry(number as u32).or_default();
        for segment in rest.into_iter().rev() {
            held.segments.push_front(segment);
        }
        link.holds = true;
        held.polled = true;
        self.rings[number / self.each].poll_writable(link.conn);
    }

    fn received(
        &mut self,
        ring: usize,
        conn: ConnId,
        outcome: Result<Input, Errno>,
        armed: bool,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        let number = self.number(ring, conn);
        match (number, outcome) {
            (Some(number), Ok(Input { buffer: Some(buffer), len, .. })) if len > 0 => {
                self.reads += 1;
                let taken = self.take(ring, number, buffer, len, handler);
                self.rings[ring].release(buffer);
                taken?;
                if !armed && self.links[number].conn == conn {
                    self.rings[ring].recv_standing(conn);
                }
                Ok(())
            }
            (number, Ok(input)) => {
                if let Some(buffer) = input.buffer {
                    self.rings[ring].release(buffer);
                }
                number.map_or(Ok(()), |number| self.end(number, End::Closed, handler))
            }
            // Buffers ran out; all that was lent before this turn is back by now, or will be soon.
            (Some(_), Err(Errno::NOBUFS | Errno::INTR | Errno::AGAIN)) => {
                self.rings[ring].recv_standing(conn);
                Ok(())
            }
            (Some(number), Err(error)) => self.end(number, End::Failed(error), handler),
            (None, Err(_)) => Ok(()),
        }
    }

    fn take(
        &mut self,
        ring: usize,
        number: usize,
        buffer: crate::io::BufferId,
        len: usize,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        let bytes = &*self.rings[ring].buffer(buffer, len);
        if self.links[number].phase == Phase::Open {
            return handler.received(number, bytes);
        }
        let held = self.heads.remove(&number);
        let head = match held {
            Some(mut head) => {
                head.extend_from_slice(bytes);
                head
            }
            None => bytes.to_vec(),
        };
        let Some(end) = self.upgrade.check(&head)? else {
            self.heads.insert(number, head);
            return Ok(());
        };
        self.links[number].phase = Phase::Open;
        self.open += 1;
        handler.opened(number)?;
        if end < head.len() { handler.received(number, &head[end..]) } else { Ok(()) }
    }

    fn end(&mut self, number: usize, end: End, handler: &mut impl Handler) -> Result<(), Fault> {
        let phase = self.links[number].phase;
        self.close(number, CloseHow::Orderly);
        match (phase, end) {
            (Phase::Open, _) => handler.ended(number, end),
            (_, End::Failed(error @ Errno::CONNREFUSED)) => {
                Err(Fault::connect(self.routes.to(), error))
            }
            (_, end) => Err(Fault::new(format!(
                "the server ended connection {number} before it was open ({end:?})"
            ))),
        }
    }
}

fn place(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
