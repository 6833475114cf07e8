//! Drives the shards: turns in any order, sleep and bells, orders, plain HTTP.
//!
//! In:    the plan; whom the seed lets go next.
//! Out:   shards that have had their turns.
//! Never: wakes a shard for mail: that is what bells are for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringhall::bridge::Bridge;
use ringhall::http::{HeadLimits, HeadProgress, HeadVerdict, Protocol, Upgrade, read_head};
use ringhall::id::ShardId;
use ringhall::limits::Limits;
use ringhall::mesh::Mesh;
use ringhall::shard::shared::{Order, Shared, take_one};
use ringhall::shard::tick::Next;
use ringhall::shard::{Setup, Shard};
use ringhall::time::Now;
use ringhall::ws::handshake::accept_response;

use crate::kernel::World;
use crate::plan::Plan;
use crate::sim_io::SimIo;
use crate::socket::SocketId;
use crate::wire::PLAIN_ANSWER;

/// Turns in a row that may ask for another without anything having happened.
const SPINS_MAX: u32 = 300;

/// Turns of a shard that has ended, for mail that waits for room in a lane.
const LOOKS_MAX: u32 = 200;

/// What the host of one shard is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Has another turn to do.
    Awake,
    /// Has said that it falls asleep; the last look at mail and completions is to come.
    Drowsy(Option<Now>),
    /// Waits for a completion, an order or a deadline.
    Asleep(Option<Now>),
}

/// One shard and its host.
struct Seat {
    shard: Shard<SimIo>,
    state: State,
    ended: bool,
    looks_on: u32,
    kicked: bool,
    spins: u32,
}

/// A plain HTTP connection.
struct Plain {
    fd: OwnedFd,
    socket: SocketId,
    shard: usize,
    bytes: Vec<u8>,
    progress: HeadProgress,
    /// Its bytes have not been looked at.
    fresh: bool,
    answer: VecDeque<u8>,
    upgrade: Option<(Upgrade, Vec<u8>)>,
    /// The answer is the last.
    parts: bool,
}

/// All shards of the process.
pub struct Host {
    /// What they share.
    pub shared: Arc<Shared>,
    world: Rc<RefCell<World>>,
    seats: Vec<Seat>,
    plain: Vec<Plain>,
    /// Whoever is left was cut.
    is_cut: bool,
    /// Turns so far.
    pub turns: u64,
    /// Connections that came back from plain HTTP.
    pub adopted: u64,
}

impl Host {
    /// Shards that have begun to accept; with a bridge, one server of several.
    pub fn start(
        plan: &Plan,
        shared: Arc<Shared>,
        world: &Rc<RefCell<World>>,
        bridge: Option<&Arc<Bridge>>,
    ) -> Self {
        let limits = Arc::new(plan.limits.clone());
        let seat = |index: usize| {
            let io = SimIo::new(world.clone(), index, plan.buffers);
            let setup = Setup {
                id: ShardId(u16::try_from(index).expect("shards are few")),
                shared: shared.clone(),
                limits: limits.clone(),
                placement: plan.placement,
                bridge: bridge.cloned(),
                ring: plan.ring,
                table_slots: plan.table_slots,
                seed: plan.seed ^ index as u64,
            };
            let mut shard = Shard::new(io, setup);
            shard.start();
            Seat { shard, state: State::Awake, ended: false, looks_on: 0, kicked: false, spins: 0 }
        };
        let seats = (0..plan.shards).map(seat).collect();
        Self {
            shared,
            world: world.clone(),
            seats,
            plain: Vec::new(),
            is_cut: false,
            turns: 0,
            adopted: 0,
        }
    }

    /// What the shards of a plan share.
    pub fn shared(plan: &Plan) -> Arc<Shared> {
        let mesh = Mesh::new(plan.shards, plan.lane_messages, plan.lane_bytes);
        let limits = Arc::new(plan.limits.clone());
        let shared = Shared::new(Arc::new(mesh), plan.shards, plan.seed, limits);
        Arc::new(shared.behind(plan.front()))
    }

    /// Shards.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// One of them.
    pub fn shard(&mut self, index: usize) -> &mut Shard<SimIo> {
        &mut self.seats[index].shard
    }

    /// One of them, to look at.
    pub fn look(&self, index: usize) -> &ringhall::shard::State {
        &self.seats[index].shard.state
    }

    /// Whether all have said that their shutdown is complete.
    pub fn has_ended(&self) -> bool {
        self.seats.iter().all(|seat| seat.ended)
    }

    /// Shards that would do something now.
    pub fn runnable(&self) -> Vec<usize> {
        (0..self.seats.len()).filter(|index| self.is_runnable(*index)).collect()
    }

    fn is_runnable(&self, index: usize) -> bool {
        let seat = &self.seats[index];
        let world = self.world.borrow();
        if seat.ended && !self.is_cut {
            // A process has no such shard any more. What it leaves undone is done by nobody.
            return false;
        }
        match seat.state {
            State::Awake | State::Drowsy(_) => true,
            State::Asleep(until) => {
                let due = until.is_some_and(|until| until.0 <= world.now);
                seat.kicked || due || world.is_pending(index)
            }
        }
    }

    /// The next moment at which a sleeper wakes by itself.
    pub fn next_due(&self) -> Option<u64> {
        let due = |seat: &Seat| match seat.state {
            State::Asleep(until) => until.map(|until| until.0),
            _ => None,
        };
        self.seats.iter().filter_map(due).min()
    }

    /// Gives a shard its next turn, or lets it fall asleep.
    pub fn run(&mut self, index: usize) {
        let now = Now(self.world.borrow().now);
        let id = ShardId(u16::try_from(index).expect("shards are few"));
        let mesh = self.shared.mesh.clone();
        let seat = &mut self.seats[index];
        if let State::Drowsy(until) = seat.state {
            // The last look, behind `fall_asleep`: whoever posts after it sees the sleeper.
            let quiet = seat.shard.io.prepare_sleep();
            let orders = !self.shared.neighbour(id).orders.is_empty();
            let bridge = seat.shard.state.has_bridge_mail();
            let rest = quiet && !orders && !bridge && !mesh.has_mail(id);
            seat.state = if rest { State::Asleep(until) } else { State::Awake };
            return;
        }
        mesh.bell(id).wake_up();
        seat.kicked = false;
        self.world.borrow().note(|| format!("{index}: turn"));
        let before = (seat.shard.io.reaped, seat.shard.io.queued);
        let had_mail = mesh.has_mail(id) || seat.shard.state.has_bridge_mail();
        let next = seat.shard.turn(now);
        self.turns += 1;
        let idle = before == (seat.shard.io.reaped, seat.shard.io.queued) && !had_mail;
        seat.ended |= next == Next::End;
        self.world.borrow().note(|| format!("{index}: {next:?}"));
        match next {
            Next::Turn => seat.state = State::Awake,
            Next::Sleep(until) => {
                mesh.bell(id).fall_asleep();
                seat.state = State::Drowsy(until);
            }
            // Behind a cut nobody waits for anybody, and a process would end. Here everybody looks
            // on, until the last mail has found its way.
            Next::End => {
                mesh.bell(id).fall_asleep();
                seat.looks_on += 1;
                let again = (seat.looks_on < LOOKS_MAX).then(|| Now(now.0 + 1));
                seat.state = State::Drowsy(again);
            }
        }
        let at_once = match next {
            Next::Turn => true,
            Next::Sleep(until) => until.is_some_and(|until| until <= now),
            Next::End => false,
        };
        seat.spins = if idle && at_once { seat.spins + 1 } else { 0 };
        assert!(seat.spins < SPINS_MAX, "shard {index} spins: nothing happens, and it wants turns");
        self.take_handoffs(index);
    }

    /// The main thread orders something.
    pub fn order(&mut self, order: &Order) {
        self.is_cut |= matches!(order, Order::Cut);
        for index in 0..self.seats.len() {
            let id = ShardId(u16::try_from(index).expect("shards are few"));
            self.shared.neighbour(id).orders.push(order.clone());
            if self.shared.mesh.bell(id).must_ring() {
                self.seats[index].kicked = true;
            }
        }
    }

    /// The bridge has mail for a shard.
    pub fn ring(&mut self, shard: ShardId) {
        if self.shared.mesh.bell(shard).must_ring() {
            self.seats[shard.index()].kicked = true;
        }
    }

    /// SIGHUP.
    pub fn reload(&mut self, limits: &Limits) {
        self.order(&Order::Limits(Arc::new(limits.clone())));
    }

    fn take_handoffs(&mut self, index: usize) {
        let state = &mut self.seats[index].shard.state;
        for handoff in std::mem::take(&mut state.handoffs) {
            self.plain.push(Plain {
                socket: self.world.borrow().socket_behind(&handoff.fd),
                fd: handoff.fd,
                shard: index,
                bytes: handoff.bytes,
                progress: HeadProgress::default(),
                fresh: true,
                answer: VecDeque::new(),
                upgrade: None,
                parts: false,
            });
        }
        let limit = state.limits().http_connections;
        for stranger in std::mem::take(&mut state.turned_away) {
            let socket = self.world.borrow().socket_behind(&stranger.fd);
            if !take_one(&self.shared.http_connections, limit) {
                let mut world = self.world.borrow_mut();
                world.sockets[socket].unplaced = true;
                world.drop_descriptor(stranger.fd);
                continue;
            }
            self.plain.push(Plain {
                socket,
                fd: stranger.fd,
                shard: index,
                bytes: Vec::new(),
                progress: HeadProgress::default(),
                fresh: true,
                answer: stranger.words.into(),
                upgrade: None,
                parts: true,
            });
        }
    }

    /// Plain HTTP connections with something to do.
    pub fn plain_can_act(&self) -> Vec<usize> {
        let world = self.world.borrow();
        let can = |index: &usize| {
            let plain = &self.plain[*index];
            let socket = &world.sockets[plain.socket];
            if !plain.answer.is_empty() {
                return socket.down.room() > 0 || socket.client_reset;
            }
            plain.fresh || plain.upgrade.is_some() || socket.readable().0
        };
        (0..self.plain.len()).filter(can).collect()
    }

    /// Lets a plain HTTP connection do one thing.
    pub fn run_plain(&mut self, index: usize) {
        let world = self.world.clone();
        let mut world = world.borrow_mut();
        let plain = &mut self.plain[index];
        let socket = &mut world.sockets[plain.socket];
        if socket.client_reset {
            drop(world);
            return self.close_plain(index);
        }
        if !plain.answer.is_empty() {
            let count = plain.answer.len().min(socket.down.room());
            socket.down.bytes.extend(plain.answer.drain(..count));
            return;
        }
        if plain.parts {
            plain.fresh = false;
            socket.down.fin = true;
            let all = socket.up.bytes.len();
            socket.up.take(all);
            if socket.up.fin || socket.client_closed {
                drop(world);
                self.close_plain(index);
            }
            return;
        }
        if let Some((upgrade, leftover)) = plain.upgrade.take() {
            let plain = self.plain.swap_remove(index);
            drop(world);
            self.shared.http_connections.fetch_sub(1, Ordering::Relaxed);
            // As the real host does when it judges the request.
            self.shared.connections.fetch_add(1, Ordering::Relaxed);
            self.seats[plain.shard].shard.adopt(plain.fd, upgrade, None, leftover);
            self.seats[plain.shard].kicked = true;
            self.adopted += 1;
            return;
        }
        if !plain.fresh && socket.up.bytes.is_empty() {
            // FIN, and nothing asked.
            drop(world);
            return self.close_plain(index);
        }
        let all = socket.up.bytes.len();
        plain.bytes.extend(socket.up.take(all));
        plain.judge();
    }

    /// The plain side lets go of everything.
    pub fn close_all_plain(&mut self) {
        while !self.plain.is_empty() {
            self.close_plain(0);
        }
    }

    fn close_plain(&mut self, index: usize) {
        let plain = self.plain.swap_remove(index);
        self.shared.http_connections.fetch_sub(1, Ordering::Relaxed);
        self.world.borrow_mut().drop_descriptor(plain.fd);
    }
}

impl Plain {
    fn judge(&mut self) {
        let limits = HeadLimits { head_bytes: 16 << 10 };
        self.fresh = false;
        match read_head(&self.bytes, &mut self.progress, limits) {
            HeadVerdict::Incomplete => {}
            HeadVerdict::Plain => {
                let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n");
                self.bytes.drain(..end.expect("a head has an end") + 4);
                self.progress = HeadProgress::default();
                self.fresh = !self.bytes.is_empty();
                self.answer.extend(PLAIN_ANSWER);
            }
            HeadVerdict::Upgrade { request, consumed } => {
                let protocol = request.protocol.map(Protocol::as_str);
                self.answer.extend(accept_response(&request.key, protocol));
                self.upgrade = Some((request, self.bytes.split_off(consumed)));
                self.bytes.clear();
            }
            HeadVerdict::Refuse(refusal) => panic!("plain HTTP is asked for nonsense: {refusal:?}"),
        }
    }
}
