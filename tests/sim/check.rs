//! What has to hold of the server itself: after each turn, at rest, at the end.
//!
//! In:    the simulation.
//! Out:   nothing, or a panic.
//! Never: changes anything.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use ringhall::conn::disconnect::Disconnect;
use ringhall::conn::{Flags, Kind, Phase};
use ringhall::counters::{Counter, REASONS_MAX};
use ringhall::id::{ConnId, ShardId};
use ringhall::limits::{Limits, SEGMENT_BYTES};
use ringhall::shard::Shard;

use crate::plan::Plan;
use crate::run::Sim;
use crate::script::Role;

/// What a connection may be told besides its room, and frame headers, in bytes.
const WORDS: usize = 2000 + 16 * SEGMENT_BYTES;

/// What the timers may be early by, in milliseconds: they count in ticks.
const TICK: u64 = 32;

/// What several timers in a row and the lots that they draw may add, in milliseconds.
const SLACK: u64 = 5000;

/// What a turn is measured by.
#[derive(Debug)]
pub struct Bounds {
    /// Most that may be queued for a client of `/echo`.
    echo: usize,
    /// Most that may be queued for a member.
    member: usize,
    /// What each shard's connections hold, and how many hold something.
    held: Vec<(usize, usize)>,
    /// Who was found dead by the heartbeat.
    dead: BTreeSet<(usize, ConnId)>,
}

impl Bounds {
    /// Those of a plan.
    pub fn of(plan: &Plan) -> Self {
        let most = |of: fn(&Limits) -> usize| plan.all_limits().map(of).max().unwrap_or(0);
        let announcements = 200 * plan.clients;
        let payload = most(|limits| limits.room_tick_bytes) + plan.limits.message_bytes;
        Self {
            // One message, and what else came in the buffer that completed it.
            echo: plan.limits.echo_message_bytes + plan.ring.buffer_bytes + WORDS,
            member: most(|limits| limits.queue_bytes) + payload + announcements + WORDS,
            held: vec![(0, 0); plan.shards],
            dead: BTreeSet::new(),
        }
    }
}

/// After each turn of a shard.
pub fn after_turn(sim: &mut Sim, shard: usize) {
    let Sim { host, bounds, world, plan, .. } = sim;
    let world = world.borrow();
    let timeout = u64::try_from(plan.limits.heartbeat_timeout.as_millis()).unwrap_or(u64::MAX);
    let mut held = (0, 0);
    for (id, conn) in host.shard(shard).state.conns().iter_mut() {
        let queued = conn.queued_bytes();
        let bound = if conn.kind == Kind::Echo { bounds.echo } else { bounds.member };
        assert!(queued <= bound, "shard {shard}: {id:?} has {queued} > {bound} bytes queued");
        assert_eq!(conn.held, conn.weight(), "shard {shard}: {id:?} weighs something else");
        assert_eq!(conn.flags.has(Flags::HOLDING), conn.held > 0, "shard {shard}: {id:?}");
        if conn.phase == Phase::Closing(Disconnect::HeartbeatTimeout)
            && bounds.dead.insert((shard, id))
        {
            let socket = world.socket_at(shard, id.slot).expect("it has a slot");
            let silent = world.now - socket.heard_at;
            assert!(silent + TICK >= timeout, "shard {shard}: {id:?} spoke {silent} ms ago");
            assert!(conn.flags.has(Flags::PINGED), "shard {shard}: {id:?} was never pinged");
        }
        held = (held.0 + conn.held, held.1 + usize::from(conn.held > 0));
    }
    bounds.held[shard] = held;
    let sum = bounds.held.iter().fold((0, 0), |sum, held| (sum.0 + held.0, sum.1 + held.1));
    let budget = &host.shared.budget;
    let counted = (budget.bytes.load(Ordering::Relaxed), budget.holders.load(Ordering::Relaxed));
    assert_eq!(counted, sum, "the budget is the sum over all connections");
}

/// When everything has come to rest, and nobody was told to go.
pub fn at_rest(sim: &mut Sim) {
    let mut members = 0;
    let mut admitted = 0;
    let mut counted = std::collections::HashSet::new();
    for shard in 0..sim.host.len() {
        let state = &mut sim.host.shard(shard).state;
        for (_, conn) in state.conns().iter_mut() {
            members += u64::from(conn.seat.is_some());
            admitted += usize::from(conn.flags.has(Flags::ADMITTED));
            let origin = conn.cold.as_ref().and_then(|cold| cold.origin);
            counted.extend(origin.filter(|origin| origin.is_counted).map(|origin| origin.address));
            let is_kept = conn.phase == Phase::Open && origin.is_some_and(|it| !it.is_counted);
            assert!(!is_kept, "an open connection keeps an address that nobody counts");
        }
        let id = ShardId(u16::try_from(shard).expect("shards are few"));
        assert!(!sim.host.shared.mesh.has_mail(id), "mail for shard {shard} lies about");
    }
    assert_eq!(total(sim, Counter::members), members, "members by seat");
    assert_eq!(sim.host.shared.addresses.len(), counted.len(), "addresses that have connections");
    let connections = sim.host.shared.connections.load(Ordering::Relaxed);
    assert_eq!(connections, admitted, "connections that count against the limit");
    let world = sim.world.borrow();
    for client in &sim.clients {
        let in_backlog =
            world.rings.iter().any(|ring| ring.backlog.iter().any(|s| client.socket == Some(*s)));
        assert!(in_backlog || !client.waits(), "client {} waits in vain", client.id);
        if client.is_alive() {
            assert!(client.log.faults.is_empty(), "client {}: errors never told", client.id);
            assert_eq!(client.log.pongs, client.log.pings.len(), "client {}: pongs", client.id);
        }
    }
}

/// When everybody was left alone for longer than any timeout.
pub fn after_silence(sim: &Sim) {
    let world = sim.world.borrow();
    let limits = &sim.plan.limits;
    let patience = limits.heartbeat_timeout.max(limits.handshake_timeout) + limits.close_timeout;
    let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX) + SLACK;
    for client in &sim.clients {
        let Some(socket) = client.socket else { continue };
        let waits = world.rings.iter().any(|ring| ring.backlog.contains(&socket));
        let socket = &world.sockets[socket];
        let silent = world.now - socket.heard_at.max(socket.drained_at);
        // An echo client is heard, too, when its socket takes bytes: once it may that by chance.
        let chance = u64::from(client.script.role == Role::Echo) * patience;
        let here = !socket.server_closed && !waits && silent > patience + chance;
        assert!(!here || client.is_alive(), "client {} is silent and still there", client.id);
    }
}

fn total(sim: &Sim, counter: Counter) -> u64 {
    sim.host.shared.neighbours.iter().map(|shard| shard.counters.get(counter)).sum()
}

/// When the shutdown is complete.
pub fn at_end(sim: &mut Sim) {
    let seed = sim.plan.seed;
    assert_eq!(sim.world.borrow_mut().descriptors_left(), 0, "descriptors are left");
    for shard in 0..sim.host.len() {
        assert_eq!(sim.world.borrow().slots_taken(shard), 0, "shard {shard}: slots are taken");
        let buffers = sim.plan.buffers;
        assert_eq!(sim.world.borrow().rings[shard].pool.len(), usize::from(buffers), "buffers");
        let Shard { io, state } = sim.host.shard(shard);
        assert_eq!(io.leftovers(), (0, 0), "shard {shard}: buffers on loan, slots open");
        assert!(state.conns().is_empty(), "shard {shard}: connections are left");
        assert!(state.halls().is_empty(), "shard {shard}: halls are left");
        assert!(state.handoffs.is_empty(), "shard {shard}: handoffs are left");
        assert!(state.turned_away.is_empty(), "shard {shard}: somebody waits for last words");
    }
    assert!(sim.host.has_ended(), "seed {seed}: a shard does not end");
    let shared = &sim.host.shared;
    let left = |count: &std::sync::atomic::AtomicUsize| count.load(Ordering::Relaxed);
    assert_eq!(left(&shared.connections), 0, "connections are counted that are gone");
    assert_eq!(left(&shared.rooms), 0, "rooms are counted that are gone");
    assert_eq!(left(&shared.http_connections), 0, "plain connections are counted that are gone");
    assert_eq!(left(&shared.budget.bytes), 0, "bytes are held by nobody");
    assert_eq!(left(&shared.budget.holders), 0, "holders that are gone");
    assert!(shared.addresses.is_empty(), "addresses of nobody");
    for counter in [
        Counter::websockets,
        Counter::closing,
        Counter::rooms,
        Counter::members,
        Counter::queue_bytes,
    ] {
        assert_eq!(total(sim, counter), 0, "gauge {counter:?}");
    }
    let closed = |reason: usize| -> u64 {
        sim.host.shared.neighbours.iter().map(|shard| shard.counters.closed(reason)).sum()
    };
    let all: u64 = (0..REASONS_MAX).map(closed).sum();
    let came = total(sim, Counter::accepted) + total(sim, Counter::arrived);
    assert_eq!(all, came, "every connection ends once, for one reason");
    let departed = closed(Disconnect::Departed.index());
    assert_eq!(departed, total(sim, Counter::departed), "departures");
    assert_eq!(closed(Disconnect::Internal.index()), 0, "internal errors");
    assert_eq!(closed(Disconnect::PlainHttp.index()), total(sim, Counter::http), "handoffs");
}
