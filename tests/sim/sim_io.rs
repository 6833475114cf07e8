//! `Io` over the simulated kernel, with an eye on what a shard owes to it.
//!
//! In:    operations of one shard.
//! Out:   the same, carried out by the world at the next submit; its completions.
//! Never: forgives: an operation that breaks the rules of `io.rs` panics.
//!
//! # Invariants (of a shard, as `io.rs` has them)
//! - At most one send a connection between two submits.
//! - At most one receive in flight; none in flight and nothing armed where it departs or leaves.
//! - A buffer is released exactly once; a slot is not used after its close.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ringhall::id::{ConnId, ShardId};
use ringhall::io::{BufferId, CloseHow, Completion, Io, Parcel, Patience, Segments, Wait};
use ringhall::limits::{SEND_SEGMENTS_MAX, TABLE_SLOTS_MAX};
use ringhall::payload::{Batch, Payload, Segment};

use crate::chaos::Plant;
use crate::kernel::World;

/// Times that a shard may begin to accept in one millisecond.
const ACCEPTS_MAX: u32 = 30;

/// An operation that waits for its submit.
#[derive(Debug)]
enum Op {
    Accept,
    AcceptSome(usize),
    StopAccepting,
    AskPeer(ConnId),
    Recv(ConnId, Patience),
    RecvStanding(ConnId),
    StopReceiving(ConnId),
    PollReadable(ConnId),
    PollWritable(ConnId),
    Disarm(ConnId),
    Send(ConnId, Segments),
    SendBack(ConnId, BufferId, Segments),
    Shutdown(ConnId),
    Close(ConnId, CloseHow),
    Depart(ConnId, ShardId, Box<Parcel>),
    Doorbell(ShardId),
    Detach(ConnId),
    Adopt(OwnedFd, Box<Parcel>),
}

impl Op {
    fn brief(&self) -> String {
        match self {
            Self::Send(conn, segments) => {
                let bytes: usize = segments.as_slice().iter().map(Segment::len).sum();
                format!("a send of {bytes} bytes to {conn:?}")
            }
            Self::SendBack(conn, buffer, _) => format!("to send {buffer:?} back to {conn:?}"),
            Self::Depart(conn, to, _) => format!("the departure of {conn:?} to {to:?}"),
            Self::Adopt(..) => "an adoption".to_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// What the shard may do with a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Anything.
    #[default]
    Here,
    /// Nothing: it is on its way.
    Departing,
    /// Only to close it.
    Departed,
}

/// A slot as the shard has to see it.
#[derive(Debug, Default)]
struct View {
    conn: Option<ConnId>,
    stage: Stage,
    receiving: bool,
    read_polled: bool,
    write_polled: bool,
    finished: bool,
}

/// One shard's end of the simulated kernel.
#[derive(Debug)]
pub struct SimIo {
    world: Rc<RefCell<World>>,
    me: usize,
    queue: Vec<Op>,
    fell: VecDeque<Completion>,
    done: VecDeque<Completion>,
    /// The bytes of each buffer on loan.
    lent: Vec<Option<Vec<u8>>>,
    lent_count: usize,
    views: BTreeMap<u32, View>,
    sent: BTreeSet<ConnId>,
    accepts: bool,
    /// Times that accepting was begun, and when it was last begun.
    accepted: (u32, u64),
    /// Completions that the shard has taken.
    pub reaped: u64,
    /// Operations that the shard has queued.
    pub queued: u64,
}

impl SimIo {
    /// The end of shard `me`, with so many receive buffers.
    pub fn new(world: Rc<RefCell<World>>, me: usize, buffers: u16) -> Self {
        Self {
            world,
            me,
            queue: Vec::new(),
            fell: VecDeque::new(),
            done: VecDeque::new(),
            lent: (0..buffers).map(|_| None).collect(),
            lent_count: 0,
            views: BTreeMap::new(),
            sent: BTreeSet::new(),
            accepts: false,
            accepted: (0, 0),
            reaped: 0,
            queued: 0,
        }
    }

    /// Enters the kernel, looks, and says whether there is nothing to do: then the shard may sleep.
    pub fn prepare_sleep(&mut self) -> bool {
        if !self.queue.is_empty() {
            // Queued between turns: a socket that comes back from plain HTTP.
            return false;
        }
        self.world.borrow_mut().task_work(self.me);
        self.collect();
        self.fell.is_empty() && self.done.is_empty() && !self.world.borrow().is_pending(self.me)
    }

    /// Buffers on loan, open slots: for the end of a run.
    pub fn leftovers(&self) -> (usize, usize) {
        (self.lent_count, self.views.len())
    }

    fn push(&mut self, op: Op) {
        self.queued += 1;
        self.world.borrow().note(|| format!("{}: queues {}", self.me, op.brief()));
        let is_full = {
            let mut world = self.world.borrow_mut();
            let percent = world.chaos.early_submits;
            world.chance(percent)
        };
        if is_full {
            self.carry_out();
        }
        self.queue.push(op);
    }

    /// The view of a slot that the shard names: open, and of this tenant.
    fn view(&mut self, conn: ConnId, what: &str) -> &mut View {
        let me = self.me;
        let Some(view) = self.views.get_mut(&conn.slot) else {
            panic!("shard {me}: {what} on {conn:?}, whose slot is not open");
        };
        let known = *view.conn.get_or_insert(conn);
        assert_eq!(known, conn, "shard {me}: {what} names another tenant of its slot");
        view
    }

    /// The view of a slot with which the shard may do anything.
    fn view_here(&mut self, conn: ConnId, what: &str) -> &mut View {
        let me = self.me;
        let view = self.view(conn, what);
        assert_eq!(view.stage, Stage::Here, "shard {me}: {what} on {conn:?}, which has left");
        view
    }

    /// Checks that nothing is armed or in flight.
    fn check_bare(&mut self, conn: ConnId, what: &str) {
        let me = self.me;
        let view = self.view_here(conn, what);
        let bare = !view.receiving && !view.read_polled && !view.write_polled;
        assert!(bare, "shard {me}: {what} of {conn:?} with something armed: {view:?}");
    }

    fn carry_out(&mut self) {
        for op in std::mem::take(&mut self.queue) {
            self.execute(op);
        }
        self.world.borrow_mut().task_work(self.me);
        self.collect();
    }

    fn execute(&mut self, op: Op) {
        let me = self.me;
        let mut world = self.world.borrow_mut();
        match op {
            Op::Accept => world.accept(me),
            Op::AcceptSome(count) => world.accept_some(me, count),
            Op::StopAccepting => world.stop_accepting(me),
            Op::AskPeer(conn) => world.ask_peer(me, conn),
            Op::Recv(conn, patience) => world.recv(me, conn, patience),
            Op::RecvStanding(conn) => world.recv_standing(me, conn),
            Op::StopReceiving(conn) => world.stop_receiving(me, conn),
            Op::PollReadable(conn) => world.poll_readable(me, conn),
            Op::PollWritable(conn) => world.poll_writable(me, conn),
            Op::Disarm(conn) => world.disarm(me, conn),
            Op::Shutdown(conn) => world.shutdown(me, conn),
            Op::Close(conn, how) => world.close(me, conn, how == CloseHow::Reset),
            Op::Depart(conn, to, parcel) => world.depart(me, conn, to.index(), parcel),
            Op::Doorbell(to) => world.doorbell(to.index()),
            Op::Detach(conn) => world.detach(me, conn),
            Op::Adopt(fd, parcel) => world.adopt(me, fd, parcel),
            Op::Send(conn, segments) => {
                drop(world);
                self.carry_out_send(conn, segments);
            }
            Op::SendBack(conn, BufferId(id), segments) => {
                world.rings[me].pool.push(id);
                self.lent_count -= 1;
                drop(world);
                self.carry_out_send(conn, segments);
            }
        }
    }

    fn carry_out_send(&mut self, conn: ConnId, segments: Segments) {
        let mut world = self.world.borrow_mut();
        let all: usize = segments.as_slice().iter().map(Segment::len).sum();
        let (sent, error) = match world.send(self.me, conn, segments.as_slice()) {
            Ok(sent) => (sent, None),
            Err(error) => (0, Some(error)),
        };
        if sent == all && world.strikes(Plant::DoubleSend) {
            let _twice = world.send(self.me, conn, segments.as_slice());
        }
        let is_silent = sent < all && world.strikes(Plant::SilentShortSend);
        if sent < all && !is_silent {
            let rest = segments.rest(sent);
            self.fell.push_back(Completion::Fell { conn, rest, error });
        }
    }

    fn collect(&mut self) {
        let posted = std::mem::take(&mut self.world.borrow_mut().rings[self.me].posted);
        for entry in posted {
            if let Completion::Received { outcome: Ok(input), .. } = &entry.completion
                && let Some(BufferId(id)) = input.buffer
            {
                let place = &mut self.lent[usize::from(id)];
                assert!(place.is_none(), "the simulated kernel lends buffer {id} twice");
                *place = Some(entry.bytes);
                self.lent_count += 1;
            }
            self.done.push_back(entry.completion);
        }
    }

    /// Takes note of what the shard gets to know.
    fn witness(&mut self, completion: &Completion) {
        self.reaped += 1;
        self.world.borrow().note(|| format!("{}: reaps {}", self.me, brief(completion)));
        match completion {
            Completion::Accepted { slot } | Completion::Arrived { slot, .. } => {
                let before = self.views.insert(*slot, View::default());
                assert!(before.is_none(), "the simulated kernel gives slot {slot} twice");
            }
            Completion::AcceptStopped { .. } => self.accepts = false,
            Completion::Readable { conn, armed: false, .. } => {
                self.witness_of(*conn, |view| view.read_polled = false);
            }
            Completion::Writable { conn } => {
                self.witness_of(*conn, |view| view.write_polled = false);
            }
            Completion::Received { conn, armed, .. } => {
                self.witness_of(*conn, |view| view.receiving = *armed);
            }
            Completion::Departed { conn } => {
                self.witness_of(*conn, |view| view.stage = Stage::Departed);
            }
            Completion::Stayed { conn, .. } => {
                self.witness_of(*conn, |view| view.stage = Stage::Here);
            }
            _ => {}
        }
    }

    fn witness_of(&mut self, conn: ConnId, note: impl FnOnce(&mut View)) {
        if let Some(view) = self.views.get_mut(&conn.slot)
            && view.conn == Some(conn)
        {
            note(view);
        }
    }
}

impl Io for SimIo {
    fn accept(&mut self) {
        assert!(!self.accepts, "shard {} accepts while it accepts", self.me);
        self.accepts = true;
        let now = self.world.borrow().now;
        self.accepted = if self.accepted.1 == now { (self.accepted.0 + 1, now) } else { (1, now) };
        assert!(self.accepted.0 < ACCEPTS_MAX, "shard {} accepts again and again", self.me);
        self.push(Op::Accept);
    }

    fn accept_some(&mut self, count: usize) {
        assert!(count > 0, "shard {} accepts none", self.me);
        self.accepts = true;
        self.push(Op::AcceptSome(count));
    }

    fn stop_accepting(&mut self) {
        self.accepts = false;
        self.push(Op::StopAccepting);
    }

    fn ask_peer(&mut self, conn: ConnId) {
        self.view_here(conn, "ask_peer");
        self.push(Op::AskPeer(conn));
    }

    fn recv(&mut self, conn: ConnId, patience: Patience) {
        let me = self.me;
        let view = self.view_here(conn, "recv");
        assert!(!view.receiving, "shard {me}: two receives in flight for {conn:?}");
        view.receiving = true;
        self.push(Op::Recv(conn, patience));
    }

    fn recv_standing(&mut self, conn: ConnId) {
        let view = self.view_here(conn, "recv_standing");
        if !std::mem::replace(&mut view.receiving, true) {
            self.push(Op::RecvStanding(conn));
        }
    }

    fn stop_receiving(&mut self, conn: ConnId) {
        self.view_here(conn, "stop_receiving");
        self.push(Op::StopReceiving(conn));
    }

    fn poll_readable(&mut self, conn: ConnId) {
        self.view_here(conn, "poll_readable").read_polled = true;
        self.push(Op::PollReadable(conn));
    }

    fn poll_writable(&mut self, conn: ConnId) {
        self.view_here(conn, "poll_writable").write_polled = true;
        self.push(Op::PollWritable(conn));
    }

    fn disarm(&mut self, conn: ConnId) {
        let view = self.view_here(conn, "disarm");
        view.read_polled = false;
        view.write_polled = false;
        self.push(Op::Disarm(conn));
    }

    fn send(&mut self, conn: ConnId, segments: Segments) {
        let me = self.me;
        let view = self.view_here(conn, "send");
        assert!(!view.finished, "shard {me}: a send behind FIN on {conn:?}");
        assert!(self.sent.insert(conn), "shard {me}: two sends in one turn for {conn:?}");
        assert!(segments.as_slice().len() <= SEND_SEGMENTS_MAX, "shard {me}: too many segments");
        self.push(Op::Send(conn, segments));
    }

    fn send_back(&mut self, conn: ConnId, buffer: BufferId, part: Range<usize>) {
        let me = self.me;
        let view = self.view_here(conn, "send_back");
        assert!(!view.finished, "shard {me}: a send behind FIN on {conn:?}");
        assert!(self.sent.insert(conn), "shard {me}: two sends in one turn for {conn:?}");
        // The shard can no longer look at it; it is in use until the submit.
        let bytes = self.lent[usize::from(buffer.0)].take().expect("a buffer that is on loan");
        let batch = Batch { bytes: bytes[part].to_vec(), frames: Vec::new() };
        let segments = Segments::One(Payload::own(batch).whole());
        self.push(Op::SendBack(conn, buffer, segments));
    }

    fn shutdown(&mut self, conn: ConnId) {
        let me = self.me;
        let view = self.view_here(conn, "shutdown");
        assert!(!view.finished, "shard {me}: FIN twice on {conn:?}");
        view.finished = true;
        self.push(Op::Shutdown(conn));
    }

    fn close(&mut self, conn: ConnId, how: CloseHow) {
        self.view(conn, "close");
        self.views.remove(&conn.slot);
        self.push(Op::Close(conn, how));
    }

    fn depart(&mut self, conn: ConnId, to: ShardId, parcel: Box<Parcel>) {
        self.check_bare(conn, "departure");
        assert_ne!(to.index(), self.me, "a connection departs to where it is");
        self.view(conn, "depart").stage = Stage::Departing;
        self.push(Op::Depart(conn, to, parcel));
    }

    fn doorbell(&mut self, to: ShardId) {
        self.push(Op::Doorbell(to));
    }

    fn detach(&mut self, conn: ConnId) {
        self.check_bare(conn, "detachment");
        self.push(Op::Detach(conn));
    }

    fn adopt(&mut self, fd: OwnedFd, parcel: Box<Parcel>) {
        self.push(Op::Adopt(fd, parcel));
    }

    fn buffer(&mut self, id: BufferId, len: usize) -> &mut [u8] {
        let buffer = self.lent[usize::from(id.0)].as_mut().expect("a buffer that is on loan");
        &mut buffer[..len]
    }

    fn release(&mut self, id: BufferId) {
        let buffer = self.lent[usize::from(id.0)].take();
        assert!(buffer.is_some(), "shard {}: buffer {} is released twice", self.me, id.0);
        self.lent_count -= 1;
        self.world.borrow_mut().rings[self.me].pool.push(id.0);
    }

    fn buffers_free(&self) -> usize {
        self.lent.len() - self.lent_count
    }

    fn submit(&mut self, wait: Wait) {
        if let Wait::Gather { count, .. } = wait {
            assert!(count > 0 && count <= TABLE_SLOTS_MAX, "a wait for {count} completions");
        }
        self.sent.clear();
        self.carry_out();
    }

    fn reap(&mut self) -> Option<Completion> {
        let completion = self.fell.pop_front().or_else(|| self.done.pop_front())?;
        self.witness(&completion);
        Some(completion)
    }
}

fn brief(completion: &Completion) -> String {
    match completion {
        Completion::Fell { conn, rest, error } => {
            let bytes: usize = rest.iter().map(Segment::len).sum();
            format!("{conn:?} fell short, {bytes} bytes are left, {error:?}")
        }
        Completion::Arrived { slot, .. } => format!("an arrival in slot {slot}"),
        Completion::Stayed { conn, error, .. } => format!("{conn:?} stayed, {error:?}"),
        other => format!("{other:?}"),
    }
}
