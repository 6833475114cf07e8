//! A shard: one thread's connections, rooms and mail. The only place where state meets `Io`.
//!
//! In:    completions, mail from other shards, orders from the main thread, the turn's `now`.
//! Out:   operations for `Io`, mail, sockets that leave for plain HTTP.
//! Never: reads a clock, blocks, or knows which `Io` or host drives it.
//!
//! Read `tick.rs` first: one turn is the whole server.
//!
//! # Invariants
//! - Events are applied first; what became dirty is flushed once, at the end of the turn.
//! - A connection is sent to at most once a turn.

pub mod accept;
pub mod bridge;
pub mod budget;
pub mod closing;
pub mod drain;
pub mod echo;
pub mod egress;
pub mod gate;
pub mod ingress;
pub mod mailbox;
pub mod members;
pub mod meter;
pub mod moving;
pub mod opening;
pub mod origin;
mod pace;
pub mod placing;
pub mod receive;
pub mod shared;
pub mod spread;
pub mod standing;
pub mod tick;
pub mod timers;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::bridge::{Bridge, BridgeEnd, Inbound};
use crate::conn::Flags;
use crate::conn::table::Table;
use crate::counters::{Counter, Counters};
use crate::id::{ConnId, ShardId};
use crate::io::Io;
use crate::limits::{Limits, ReceiveMode, RingUse};
use crate::mesh::{Mail, MeshEnd};
use crate::payload::{Batch, Payload};
use crate::room::epoch::Epochs;
use crate::room::hall::HallId;
use crate::room::registry::Registry;
use crate::time::Now;
use drain::Drain;
use echo::Echo;
use gate::Gate;
use meter::{LowWater, Meter};
use shared::Shared;
use spread::Saturation;
use standing::Arrival;
use timers::Wheel;

/// A request that is no upgrade, with its socket.
#[derive(Debug)]
pub struct Handoff {
    /// The socket; its mode is still blocking.
    pub fd: OwnedFd,
    /// What was received of it so far, from the request's first byte on.
    pub bytes: Vec<u8>,
    /// Who is connected, where that is known already: with the PROXY protocol the socket does not
    /// tell.
    pub peer: Option<IpAddr>,
}

/// A socket that plain HTTP has upgraded and that found no slot.
#[derive(Debug)]
pub struct TurnedAway {
    /// The socket; its mode is blocking.
    pub fd: OwnedFd,
    /// What it is still sent: a close frame.
    pub words: Vec<u8>,
}

/// Whether members are moved to their room's home (`server.placement`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// To the home of their room.
    Home,
    /// They stay where they were accepted.
    Accept,
}

/// What a shard is made with.
#[derive(Debug)]
pub struct Setup {
    /// Which shard.
    pub id: ShardId,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// The limits in force.
    pub limits: Arc<Limits>,
    /// Where members sit.
    pub placement: Placement,
    /// Where boxes share rooms: its lanes to the bridge.
    pub bridge: Option<Arc<Bridge>>,
    /// How its ring is used.
    pub ring: RingUse,
    /// Sockets that its ring's table holds.
    pub table_slots: usize,
    /// Seed of its own jitter.
    pub seed: u64,
}

/// A shard and what it acts through.
#[derive(Debug)]
pub struct Shard<I: Io> {
    /// Sockets.
    pub io: I,
    /// Everything else.
    pub state: State,
}

/// Everything of a shard but its sockets.
#[derive(Debug)]
pub struct State {
    pub(crate) id: ShardId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) placement: Placement,
    pub(crate) ring: RingUse,
    pub(crate) table_slots: usize,
    pub(crate) now: Now,
    pub(crate) conns: Table,
    pub(crate) halls: Registry,
    pub(crate) mesh: MeshEnd,
    /// Where boxes share rooms.
    pub(crate) bridge: Option<BridgeEnd>,
    pub(crate) wheel: Wheel,
    pub(crate) epochs: Epochs,
    pub(crate) random: fastrand::Rng,
    /// Connections with something to receive.
    pub(crate) ready: Vec<ConnId>,
    /// What standing receives have brought; this turn's, or the next one's.
    pub(crate) inbox: Vec<Arrival>,
    /// Whose input of this turn was taken in; empty between turns.
    pub(crate) heard: Vec<ConnId>,
    /// Answers of echoes, in the buffers that they were received in.
    pub(crate) echoes: Vec<Echo>,
    /// Connections with something to send.
    pub(crate) dirty: Vec<ConnId>,
    /// Connections whose last bytes were handed to the kernel: FIN is next.
    pub(crate) finishing: Vec<ConnId>,
    /// Speakers whose input is stashed because their room or its home could not take it; who has
    /// waited longest comes first.
    pub(crate) paused: VecDeque<ConnId>,
    /// Of those who wait for a room, who went first in this turn (`resume`).
    pub(crate) resumes_first: usize,
    /// Echoes with stashed input whose queues were sent.
    pub(crate) drained: Vec<ConnId>,
    /// Rooms with frames to fan out.
    pub(crate) dirty_halls: Vec<u32>,
    /// Payloads of rooms that live elsewhere.
    pub(crate) foreign: Vec<(HallId, Payload)>,
    /// Rooms whose summary of joins and leaves is due, in order.
    pub(crate) summaries: VecDeque<(Now, HallId)>,
    /// Mail that its room could not take yet, by sender.
    pub(crate) held_mail: Vec<Option<Mail>>,
    /// What the bridge has told and its room could not take yet.
    pub(crate) held_inbound: Option<Inbound>,
    /// A join's answer that has to wait for this turn's payloads, by sender.
    pub(crate) held_welcome: Vec<Option<Mail>>,
    /// Sockets that leave for plain HTTP; the host takes them.
    pub handoffs: Vec<Handoff>,
    /// Sockets that came back and found no slot; the host takes them, too.
    pub turned_away: Vec<TurnedAway>,
    pub(crate) drain: Option<Drain>,
    pub(crate) accepting: bool,
    pub(crate) gate: Gate,
    /// Accepting has failed for want of descriptors or memory: not tried again before this.
    pub(crate) accept_after: Now,
    pub(crate) buffers: usize,
    pub(crate) saturation: Saturation,
    pub(crate) sends: usize,
    /// Bytes of all sends so far, less what is known to have fallen short.
    pub(crate) sent_bytes: u64,
    pub(crate) meter: Meter,
    pub(crate) buffers_free_low: LowWater,
    /// The most sends that one payload of a room has taken this turn.
    pub(crate) largest_fan_out: usize,
    pub(crate) recent_completions: usize,
    pub(crate) warnings: crate::warn::Quiet,
}

impl<I: Io> Shard<I> {
    /// A shard that has not begun to accept.
    pub fn new(io: I, setup: Setup) -> Self {
        let shards = setup.shared.neighbours.len();
        let neighbour = setup.shared.neighbour(setup.id);
        let counters = neighbour.counters.clone();
        neighbour.free_slots.store(setup.table_slots, std::sync::atomic::Ordering::Relaxed);
        counters.set(Counter::buffers, io.buffers_free() as u64);
        let state = State {
            id: setup.id,
            counters,
            limits: setup.limits,
            placement: setup.placement,
            ring: setup.ring,
            table_slots: setup.table_slots,
            now: Now::default(),
            conns: Table::default(),
            halls: Registry::default(),
            mesh: MeshEnd::new(setup.shared.mesh.clone(), setup.id),
            bridge: setup.bridge.map(|bridge| BridgeEnd::new(bridge, setup.id)),
            wheel: Wheel::default(),
            epochs: Epochs::new(setup.shared.seed, setup.id.0),
            random: fastrand::Rng::with_seed(setup.seed),
            ready: Vec::new(),
            inbox: Vec::new(),
            heard: Vec::new(),
            echoes: Vec::new(),
            dirty: Vec::new(),
            finishing: Vec::new(),
            paused: VecDeque::new(),
            resumes_first: 0,
            drained: Vec::new(),
            dirty_halls: Vec::new(),
            foreign: Vec::new(),
            summaries: VecDeque::new(),
            held_mail: (0..shards).map(|_| None).collect(),
            held_inbound: None,
            held_welcome: (0..shards).map(|_| None).collect(),
            handoffs: Vec::new(),
            turned_away: Vec::new(),
            drain: None,
            accepting: false,
            gate: Gate::default(),
            accept_after: Now::default(),
            buffers: io.buffers_free(),
            saturation: Saturation::default(),
            sends: 0,
            sent_bytes: 0,
            meter: Meter::default(),
            buffers_free_low: LowWater::default(),
            largest_fan_out: 0,
            recent_completions: 0,
            warnings: crate::warn::Quiet::default(),
            shared: setup.shared,
        };
        Self { io, state }
    }
}

impl State {
    /// Which shard it is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// What it shares with the others.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sockets that its table holds.
    #[must_use]
    pub fn table_slots(&self) -> usize {
        self.table_slots
    }

    pub(crate) fn free_slots(&self) -> usize {
        self.table_slots.saturating_sub(self.conns.len())
    }

    /// Whether a shutdown is under way.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Its connections; for checks by the simulator.
    #[must_use]
    pub fn conns(&mut self) -> &mut Table {
        &mut self.conns
    }

    /// Its halls; for checks by the simulator.
    #[must_use]
    pub fn halls(&self) -> &Registry {
        &self.halls
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Whether open connections are received from by receives that stand.
    pub(crate) fn stands(&self) -> bool {
        self.ring.receive == ReceiveMode::Standing
    }

    pub(crate) fn count(&self, counter: Counter) {
        self.counters.add(counter, 1);
    }

    /// Queues what this connection alone is sent.
    pub(crate) fn push_own(&mut self, id: ConnId, bytes: Vec<u8>) {
        let Some(conn) = self.conns.get(id) else { return };
        conn.egress().push(Payload::own(Batch { bytes, frames: Vec::new() }).whole());
        self.mark_dirty(id);
    }

    /// Sees to it that the connection is looked at when this turn sends.
    pub(crate) fn mark_dirty(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if !conn.flags.has(Flags::DIRTY) {
            conn.flags.set(Flags::DIRTY);
            self.dirty.push(id);
        }
    }

    /// Sees to it that the connection is received from when buffers allow.
    pub(crate) fn mark_ready(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.flags.has(Flags::RECEIVING) {
            conn.flags.set(Flags::AGAIN);
        } else if !conn.flags.has(Flags::READY) {
            conn.flags.set(Flags::READY);
            if !conn.flags.has(Flags::PAUSED) {
                self.ready.push(id);
            }
        }
    }
}
