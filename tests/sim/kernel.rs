//! The kernel of the simulation: sockets, a table of slots a shard, polls, buffers, accepts.
//!
//! In:    operations of the shards' `Io`, reads and writes of the clients.
//! Out:   completions in each shard's queue, as the real kernel would post them.
//! Never: decides anything without the seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use ringhall::id::ConnId;
use ringhall::io::{BufferId, Completion, Errno, Input, Parcel, Patience};
use ringhall::limits::RingUse;
use ringhall::payload::Segment;

use crate::chaos::{Chaos, Plant};
use crate::socket::{Socket, SocketId};

/// What one place of a table holds.
#[derive(Debug)]
struct Slot {
    socket: SocketId,
    /// The tenant, once an operation has named it.
    conn: Option<ConnId>,
    recv_waits: bool,
    recv_stands: bool,
    read_armed: bool,
    write_armed: bool,
}

/// An entry of a completion queue.
#[derive(Debug)]
pub struct Entry {
    /// What happened.
    pub completion: Completion,
    /// What was received.
    pub bytes: Vec<u8>,
}

/// One shard's ring, as the kernel sees it.
#[derive(Debug)]
pub struct Ring {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// Receive buffers that can be handed out.
    pub pool: Vec<u16>,
    accepting: bool,
    /// How many connections it accepts yet, where that is not left open.
    permits: Option<usize>,
    /// Connections that wait to be accepted.
    pub backlog: VecDeque<SocketId>,
    /// Posted and not yet collected.
    pub posted: VecDeque<Entry>,
    /// Slots with task work to run.
    woken: BTreeSet<u32>,
}

impl Ring {
    fn accepts(&self) -> bool {
        self.accepting && self.permits != Some(0)
    }
}

/// On its way between rings.
#[derive(Debug)]
enum Message {
    Depart { from: usize, conn: ConnId, socket: SocketId, to: usize, parcel: Box<Parcel> },
    Departed { from: usize, conn: ConnId },
    Bell { to: usize },
}

/// Everything outside of the shards.
#[derive(Debug)]
pub struct World {
    /// The seed's.
    pub random: fastrand::Rng,
    /// Steps since the beginning.
    pub step: u64,
    /// Milliseconds since the beginning.
    pub now: u64,
    /// See [`Chaos`].
    pub chaos: Chaos,
    /// Every connection there ever was.
    pub sockets: Vec<Socket>,
    /// One a shard.
    pub rings: Vec<Ring>,
    travelling: Vec<(u64, Message)>,
    /// Ordinary descriptors: the socket behind each, and an end that tells when it is closed.
    pub descriptors: BTreeMap<RawFd, (SocketId, UnixStream)>,
    /// Bytes of a receive buffer.
    pub buffer_bytes: usize,
    /// Bytes that a socket takes, either way: least and most.
    pub pipe_bytes: (usize, usize),
    /// When no descriptor is to be had for accepting: from and until.
    pub famine: (u64, u64),
    /// The planted bug, until it has struck; and how many chances it lets pass.
    pub plant: Option<(Plant, u32)>,
    /// Whether to tell what happens.
    pub trace: bool,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64, shards: usize, slots: usize, buffers: u16, chaos: Chaos) -> Self {
        let ring = |_| Ring {
            slots: (0..slots).map(|_| None).collect(),
            free: (0..u32::try_from(slots).expect("tables are small")).collect(),
            pool: (0..buffers).collect(),
            accepting: false,
            permits: None,
            backlog: VecDeque::new(),
            posted: VecDeque::new(),
            woken: BTreeSet::new(),
        };
        Self {
            random: fastrand::Rng::with_seed(seed),
            step: 0,
            now: 0,
            chaos,
            sockets: Vec::new(),
            rings: (0..shards).map(ring).collect(),
            travelling: Vec::new(),
            descriptors: BTreeMap::new(),
            buffer_bytes: RingUse::default().buffer_bytes,
            pipe_bytes: (4096, 4096),
            famine: (0, 0),
            plant: None,
            trace: false,
        }
    }

    /// Says what happens, where somebody wants to know.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            use std::io::Write as _;
            let (step, now) = (self.step, self.now);
            let _ = writeln!(std::io::stderr(), "{step:6} {now:7} ms  {}", what());
        }
    }

    /// Whether the seed says so, at this many percent.
    pub fn chance(&mut self, percent: u8) -> bool {
        self.random.u8(0..100) < percent
    }

    /// Whether the planted bug strikes now.
    pub fn strikes(&mut self, plant: Plant) -> bool {
        match &mut self.plant {
            Some((planted, 0)) if *planted == plant => {
                self.plant = None;
                self.note(|| format!("the planted bug strikes: {plant:?}"));
                true
            }
            Some((planted, left)) if *planted == plant => {
                *left -= 1;
                false
            }
            _ => false,
        }
    }

    /// Lets messages between rings arrive.
    pub fn tick(&mut self) {
        self.step += 1;
        while let Some(at) = self.travelling.iter().position(|(due, _)| *due <= self.step) {
            let (_, message) = self.travelling.remove(at);
            self.arrive(message);
        }
    }

    /// Whether messages between rings are under way.
    pub fn is_travelling(&self) -> bool {
        !self.travelling.is_empty()
    }

    fn send_off(&mut self, message: Message) {
        let due = self.step + self.random.u64(0..=self.chaos.travel);
        self.travelling.push((due, message));
    }

    fn arrive(&mut self, message: Message) {
        match message {
            Message::Depart { from, conn, socket, to, parcel } => {
                let is_full = self.chance(self.chaos.full_tables);
                let place = if is_full { None } else { self.place(to, socket) };
                let Some(slot) = place else {
                    self.sockets[socket].holders -= 1;
                    self.note(|| format!("{from}: {conn:?} stays, {to} is full"));
                    let error = Errno::NFILE;
                    return self.post(from, Completion::Stayed { conn, parcel, error });
                };
                self.sockets[socket].holders -= 1;
                self.note(|| format!("{from}: {conn:?} goes to {to}, slot {slot}"));
                self.post(to, Completion::Arrived { slot, parcel });
                self.send_off(Message::Departed { from, conn });
            }
            Message::Departed { from, conn } => self.post(from, Completion::Departed { conn }),
            Message::Bell { to } => self.post(to, Completion::Doorbell),
        }
    }

    /// Posts a completion without bytes.
    pub fn post(&mut self, shard: usize, completion: Completion) {
        self.rings[shard].posted.push_back(Entry { completion, bytes: Vec::new() });
    }

    /// Whether something would wake the shard.
    pub fn is_pending(&self, shard: usize) -> bool {
        let ring = &self.rings[shard];
        let accepts = ring.accepts() && !ring.backlog.is_empty();
        !ring.posted.is_empty() || !ring.woken.is_empty() || accepts
    }

    /// Slots of a shard that hold a socket.
    pub fn slots_taken(&self, shard: usize) -> usize {
        self.rings[shard].slots.iter().filter(|slot| slot.is_some()).count()
    }

    /// Gives a socket a slot of a table; none where it is full.
    pub fn place(&mut self, shard: usize, socket: SocketId) -> Option<u32> {
        let ring = &mut self.rings[shard];
        if ring.free.is_empty() {
            return None;
        }
        let slot = ring.free.swap_remove(self.random.usize(0..ring.free.len()));
        ring.slots[slot as usize] = Some(Slot {
            socket,
            conn: None,
            recv_waits: false,
            recv_stands: false,
            read_armed: false,
            write_armed: false,
        });
        self.sockets[socket].holders += 1;
        self.sockets[socket].places.push((shard, slot));
        Some(slot)
    }

    fn slot(&mut self, shard: usize, slot: u32) -> &mut Slot {
        let place = self.rings[shard].slots[slot as usize].as_mut();
        place.expect("the duties of a shard were checked before")
    }

    /// The socket behind a connection; names the slot's tenant.
    pub fn socket_of(&mut self, shard: usize, conn: ConnId) -> SocketId {
        let slot = self.slot(shard, conn.slot);
        slot.conn = Some(conn);
        slot.socket
    }

    // -- what the shards' operations do

    /// Starts accepting.
    pub fn accept(&mut self, shard: usize) {
        assert!(!self.rings[shard].accepting, "shard {shard} accepts twice");
        // Only the newest accept's end is reported.
        self.rings[shard]
            .posted
            .retain(|entry| !matches!(entry.completion, Completion::AcceptStopped { .. }));
        self.rings[shard].accepting = true;
        self.rings[shard].permits = None;
    }

    /// Accepts so many, those included that it accepts already.
    pub fn accept_some(&mut self, shard: usize, count: usize) {
        let ring = &mut self.rings[shard];
        let is_open = ring.accepting && ring.permits.is_none();
        assert!(!is_open, "shard {shard} accepts some while it accepts all");
        let before = ring.permits.filter(|_| ring.accepting).unwrap_or(0);
        ring.permits = Some(before.max(count));
        ring.accepting = true;
    }

    /// Stops accepting.
    pub fn stop_accepting(&mut self, shard: usize) {
        if std::mem::take(&mut self.rings[shard].accepting) {
            self.post(shard, Completion::AcceptStopped { error: Errno::CANCELED });
        }
    }

    /// Answers with the peer's address.
    pub fn ask_peer(&mut self, shard: usize, conn: ConnId) {
        let socket = self.socket_of(shard, conn);
        let socket = &self.sockets[socket];
        let address = (!socket.client_reset).then_some(socket.address);
        self.post(shard, Completion::Peer { conn, address });
    }

    /// Receives, or arms a receive that waits.
    pub fn recv(&mut self, shard: usize, conn: ConnId, patience: Patience) {
        let socket = self.socket_of(shard, conn);
        let (readable, _) = self.sockets[socket].readable();
        if readable || patience == Patience::DontWait {
            return self.receive(shard, conn, socket);
        }
        self.slot(shard, conn.slot).recv_waits = true;
    }

    /// Arms a receive that stands, where none does.
    pub fn recv_standing(&mut self, shard: usize, conn: ConnId) {
        let socket = self.socket_of(shard, conn);
        self.slot(shard, conn.slot).recv_stands = true;
        if self.sockets[socket].readable().0 {
            self.receive_standing(shard, conn, socket);
        }
    }

    /// Receives until nothing is left, or until the standing receive ends.
    fn receive_standing(&mut self, shard: usize, conn: ConnId, id: SocketId) {
        loop {
            let mut bytes = Vec::new();
            let outcome = self.receive_into(shard, id, &mut bytes);
            let brought = outcome.is_ok_and(|input| input.len > 0);
            if outcome == Err(Errno::AGAIN) || self.strikes(Plant::LostEdge) {
                return;
            }
            let goes_on = brought && !self.chance(self.chaos.multishot_ends);
            self.note(|| format!("{shard}: {conn:?} is brought {outcome:?}, goes on: {goes_on}"));
            self.slot(shard, conn.slot).recv_stands = goes_on;
            let completion = Completion::Received { conn, outcome, armed: goes_on };
            self.rings[shard].posted.push_back(Entry { completion, bytes });
            if !goes_on {
                return;
            }
            if self.chance(self.chaos.lulls) {
                // The rest of it is another piece of task work.
                self.rings[shard].woken.insert(conn.slot);
                return;
            }
        }
    }

    /// Ends a receive that stands. What was posted stays posted.
    pub fn stop_receiving(&mut self, shard: usize, conn: ConnId) {
        if std::mem::take(&mut self.slot(shard, conn.slot).recv_stands) {
            let outcome = Err(Errno::CANCELED);
            self.post(shard, Completion::Received { conn, outcome, armed: false });
        }
    }

    fn receive(&mut self, shard: usize, conn: ConnId, id: SocketId) {
        let mut bytes = Vec::new();
        let outcome = self.receive_into(shard, id, &mut bytes);
        self.note(|| format!("{shard}: {conn:?} receives {outcome:?}"));
        let completion = Completion::Received { conn, outcome, armed: false };
        self.rings[shard].posted.push_back(Entry { completion, bytes });
    }

    fn receive_into(
        &mut self,
        shard: usize,
        id: SocketId,
        bytes: &mut Vec<u8>,
    ) -> Result<Input, Errno> {
        let socket = &mut self.sockets[id];
        if socket.client_reset && !socket.reset_reported {
            socket.reset_reported = true;
            return Err(Errno::CONNRESET);
        }
        // The kernel picks a buffer before it looks at the socket.
        let pool = &mut self.rings[shard].pool;
        if pool.is_empty() {
            return Err(Errno::NOBUFS);
        }
        let there = socket.up.bytes.len().min(self.buffer_bytes);
        if there == 0 {
            if !socket.up.fin && !socket.client_reset {
                return Err(Errno::AGAIN);
            }
            let with_buffer = self.random.bool();
            let buffer = with_buffer.then(|| pool.swap_remove(self.random.usize(0..pool.len())));
            return Ok(Input { buffer: buffer.map(BufferId), len: 0, more: false });
        }
        let buffer = pool.swap_remove(self.random.usize(0..pool.len()));
        let is_short = self.random.u8(0..100) < self.chaos.short_reads;
        let len = if is_short { self.random.usize(1..=there) } else { there };
        *bytes = socket.up.take(len);
        socket.heard_at = self.now;
        let more = !socket.up.bytes.is_empty();
        Ok(Input { buffer: Some(BufferId(buffer)), len, more })
    }

    /// Arms the poll for input, in place of an earlier one. Arming looks at the level.
    pub fn poll_readable(&mut self, shard: usize, conn: ConnId) {
        let socket = self.socket_of(shard, conn);
        self.slot(shard, conn.slot).read_armed = true;
        if self.sockets[socket].readable().0 {
            self.report_readable(shard, conn);
        }
    }

    fn report_readable(&mut self, shard: usize, conn: ConnId) {
        let ends = self.chance(self.chaos.multishot_ends);
        let slot = self.slot(shard, conn.slot);
        slot.read_armed = !ends;
        let socket = slot.socket;
        let (_, hangup) = self.sockets[socket].readable();
        if self.strikes(Plant::LostEdge) {
            return;
        }
        self.post(shard, Completion::Readable { conn, hangup, armed: !ends });
    }

    /// Arms the poll for output, once.
    pub fn poll_writable(&mut self, shard: usize, conn: ConnId) {
        let socket = self.socket_of(shard, conn);
        self.slot(shard, conn.slot).write_armed = true;
        if self.sockets[socket].writable() {
            self.report_writable(shard, conn);
        }
    }

    fn report_writable(&mut self, shard: usize, conn: ConnId) {
        self.slot(shard, conn.slot).write_armed = false;
        if !self.strikes(Plant::LostWritable) {
            self.post(shard, Completion::Writable { conn });
        }
    }

    /// Ends whatever is armed. What was posted stays posted.
    pub fn disarm(&mut self, shard: usize, conn: ConnId) {
        let slot = self.slot(shard, conn.slot);
        slot.read_armed = false;
        slot.write_armed = false;
        self.stop_receiving(shard, conn);
        let slot = self.slot(shard, conn.slot);
        if std::mem::take(&mut slot.recv_waits) {
            let outcome = Err(Errno::CANCELED);
            self.post(shard, Completion::Received { conn, outcome, armed: false });
        }
    }

    /// Takes as many bytes as the socket takes at once; how many, or why none.
    pub fn send(
        &mut self,
        shard: usize,
        conn: ConnId,
        segments: &[Segment],
    ) -> Result<usize, Errno> {
        let id = self.socket_of(shard, conn);
        let is_short = self.chance(self.chaos.short_sends);
        let socket = &mut self.sockets[id];
        if socket.client_reset || socket.down.fin {
            return Err(if self.random.bool() { Errno::PIPE } else { Errno::CONNRESET });
        }
        let all: usize = segments.iter().map(Segment::len).sum();
        let fits = all.min(socket.down.room());
        let sent = if is_short { self.random.usize(0..=fits) } else { fits };
        let mut left = sent;
        for segment in segments {
            let now = left.min(segment.len());
            socket.down.bytes.extend(&segment.bytes()[..now]);
            left -= now;
        }
        if sent > 0 && self.strikes(Plant::StaleByte) {
            let last = self.sockets[id].down.bytes.back_mut();
            *last.expect("something was sent") ^= 1;
        }
        if self.sockets[id].client_closed && sent > 0 {
            // The peer answers what it does not want with RST.
            self.client_reset(id);
        }
        self.note(|| format!("{shard}: {conn:?} sends {sent} of {all}"));
        Ok(sent)
    }

    /// Sends FIN.
    pub fn shutdown(&mut self, shard: usize, conn: ConnId) {
        let socket = self.socket_of(shard, conn);
        self.note(|| format!("{shard}: {conn:?} sends FIN"));
        self.sockets[socket].down.fin = true;
    }

    /// Frees the slot.
    pub fn close(&mut self, shard: usize, conn: ConnId, reset: bool) {
        let id = self.socket_of(shard, conn);
        self.note(|| format!("{shard}: {conn:?} closes socket {id}, reset: {reset}"));
        self.disarm(shard, conn);
        let ring = &mut self.rings[shard];
        ring.slots[conn.slot as usize] = None;
        ring.free.push(conn.slot);
        ring.woken.remove(&conn.slot);
        let socket = &mut self.sockets[id];
        socket.lingers_not |= reset;
        socket.places.retain(|place| *place != (shard, conn.slot));
        self.let_go(id);
    }

    /// One holder of the server's end is gone.
    pub fn let_go(&mut self, id: SocketId) {
        let kept = self.random.usize(0..=self.sockets[id].down.bytes.len());
        let socket = &mut self.sockets[id];
        socket.holders -= 1;
        if socket.holders == 0 {
            socket.close_server(kept);
        }
    }

    /// Hands the socket to another ring, some steps later.
    pub fn depart(&mut self, from: usize, conn: ConnId, to: usize, parcel: Box<Parcel>) {
        let socket = self.socket_of(from, conn);
        self.sockets[socket].holders += 1;
        self.send_off(Message::Depart { from, conn, socket, to, parcel });
    }

    /// Rings another shard, some steps later.
    pub fn doorbell(&mut self, to: usize) {
        if !self.strikes(Plant::LostBell) {
            self.send_off(Message::Bell { to });
        }
    }

    /// The socket in a slot.
    pub fn socket_at(&self, shard: usize, slot: u32) -> Option<&Socket> {
        let slot = self.rings[shard].slots[slot as usize].as_ref()?;
        Some(&self.sockets[slot.socket])
    }

    /// Runs what the kernel has put off until the shard enters it.
    pub fn task_work(&mut self, shard: usize) {
        let woken: Vec<_> = self.rings[shard].woken.iter().copied().collect();
        for slot in woken {
            if self.chance(self.chaos.lulls) {
                continue;
            }
            self.rings[shard].woken.remove(&slot);
            self.look_at(shard, slot);
        }
        let starves = (self.famine.0..self.famine.1).contains(&self.now);
        let ring = &mut self.rings[shard];
        if starves && ring.accepts() && !ring.backlog.is_empty() {
            ring.accepting = false;
            self.post(shard, Completion::AcceptStopped { error: Errno::NFILE });
        }
        while self.rings[shard].accepts() && !self.chance(self.chaos.lulls) {
            let ring = &mut self.rings[shard];
            let Some(socket) = ring.backlog.pop_front() else { break };
            ring.permits = ring.permits.map(|permits| permits - 1);
            self.accept_one(shard, socket);
        }
    }

    fn accept_one(&mut self, shard: usize, socket: SocketId) {
        if let Some(slot) = self.place(shard, socket) {
            self.sockets[socket].heard_at = self.now;
            self.note(|| format!("{shard}: accepts socket {socket} into slot {slot}"));
            self.post(shard, Completion::Accepted { slot });
            if self.chance(self.chaos.accept_errors) {
                self.rings[shard].accepting = false;
                let errors = [Errno::CONNABORTED, Errno::MFILE, Errno::AGAIN, Errno::NOMEM];
                let error = errors[self.random.usize(0..errors.len())];
                self.post(shard, Completion::AcceptStopped { error });
            }
            return;
        }
        // A full table drops the connection.
        self.note(|| format!("{shard}: drops socket {socket}, the table is full"));
        self.rings[shard].accepting = false;
        self.sockets[socket].close_server(0);
        self.sockets[socket].server_reset = true;
        self.post(shard, Completion::AcceptStopped { error: Errno::NFILE });
    }

    fn look_at(&mut self, shard: usize, slot: u32) {
        let place = self.slot(shard, slot);
        let id = place.socket;
        let (recv_waits, reads, writes) = (place.recv_waits, place.read_armed, place.write_armed);
        let Some(conn) = place.conn else { return };
        let (readable, writable) = (self.sockets[id].readable().0, self.sockets[id].writable());
        if self.slot(shard, slot).recv_stands && readable {
            self.receive_standing(shard, conn, id);
        }
        if recv_waits && readable {
            self.slot(shard, slot).recv_waits = false;
            self.receive(shard, conn, id);
        }
        // The mask is that of this moment: data and FIN together are one event, and what was
        // received meanwhile makes none.
        if reads && readable {
            self.report_readable(shard, conn);
        }
        if writes && writable {
            self.report_writable(shard, conn);
        }
    }

    pub fn wake(&mut self, id: SocketId) {
        for (shard, slot) in self.sockets[id].places.clone() {
            self.rings[shard].woken.insert(slot);
        }
    }
}
