//! Several servers and the broker between them, from a seed: from the first connection to the last.
//!
//! In:    a seed.
//! Out:   what came to pass, or a panic that says which invariant was broken.
//! Never: shares anything between two servers but what the hub carries.

use std::sync::Arc;

use fastrand::Rng;
use ringhall::bridge::{Bounds, Bridge, Delivery, Overflow};
use ringhall::limits::{Limits, SlowPolicy};
use ringhall::shard::shared::{Farewell, Order, Shared};

use crate::client::Client;
use crate::host::Host;
use crate::hub::{Hub, Sights};
use crate::plan::Plan;
use crate::run::{Membership, Sim};
use crate::{check, oracle_cluster, verdict};

/// Steps in which everything has to be through.
const STEPS_MAX: u64 = 600_000;
/// Deadlines that lie nearer than this belong to work that is under way, in milliseconds.
const SOON: u64 = 5;

/// Servers, their broker, and what befalls it.
pub struct Cluster {
    /// The servers; clients are numbered through.
    pub servers: Vec<Sim>,
    /// What is between them.
    pub hub: Hub,
    /// Who gives a message its place.
    pub delivery: Delivery,
    /// Messages may be refused or stay on their server.
    pub lossy: bool,
    /// Servers that have ended.
    pub ended: usize,
    random: Rng,
    /// Whether the broker fails now and then, and whether it comes back empty.
    fails: bool,
    forgets: bool,
}

/// Runs a seed; what came to pass.
pub fn run(seed: u64, trace: bool) -> Sights {
    let mut cluster = Cluster::new(seed, trace);
    cluster.live();
    cluster.hub.set_closed(true);
    cluster.settle();
    oracle_cluster::check(&cluster, true);
    for server in &mut cluster.servers {
        check::at_rest(server);
    }
    for server in 0..cluster.servers.len() {
        cluster.shut_down(server);
        oracle_cluster::check(&cluster, false);
    }
    for server in &mut cluster.servers {
        verdict::check(server);
        check::at_end(server);
    }
    cluster.sights()
}

/// A plan for one of several servers: what one server alone is tried with is left to its own test.
fn plan(seed: u64, server: usize, first: &Plan) -> Plan {
    let own = Plan::of(seed.wrapping_mul(31).wrapping_add(server as u64));
    let limits = Limits {
        policy: SlowPolicy::Disconnect,
        members_max: None,
        rooms_max: None,
        announce_max: first.limits.announce_max,
        connections_max: 1000,
        message_bytes: first.limits.message_bytes,
        ..own.limits
    };
    Plan {
        limits,
        reloads: Vec::new(),
        rooms: first.rooms.clone(),
        clients: own.clients.min(10),
        abrupt: None,
        leaps: false,
        long_idle: false,
        message_bytes: own.message_bytes.min(first.message_bytes).min(300),
        messages: first.messages,
        famine: (0, 0),
        scarce: false,
        grace: 12_000,
        ..own
    }
}

impl Cluster {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = Rng::with_seed(seed ^ 0x0c10_57e5);
        let first = Plan::of(seed);
        let count = random.usize(2..=3);
        let plans: Vec<_> = (0..count).map(|server| plan(seed, server, &first)).collect();
        let ordered = random.bool();
        let delivery = if ordered { Delivery::Ordered } else { Delivery::LocalFirst };
        let may_drop = !ordered && random.bool();
        let overflow = if may_drop { Overflow::Drop } else { Overflow::Reject };
        let messages = [2, 16, 4096, 4096][random.usize(0..4)];
        let shared: Vec<Arc<Shared>> = plans.iter().map(Host::shared).collect();
        let bridges: Vec<_> = plans
            .iter()
            .map(|plan| {
                let bounds = Bounds { shards: plan.shards, messages, bytes: 1 << 20 };
                Arc::new(Bridge::new(delivery, overflow, bounds))
            })
            .collect();
        let rooms = first.room_names(&shared);
        let ends: Vec<_> = bridges.iter().cloned().zip(shared.iter().cloned()).collect();
        let hub = Hub::new(delivery, &ends, seed);
        let mut clients = 0;
        let servers = plans.into_iter().zip(ends).map(|(plan, (bridge, shared))| {
            let membership = Membership { rooms: rooms.clone(), shared, bridge, first: clients };
            clients += plan.clients;
            Sim::of_cluster(plan, trace, membership)
        });
        let servers = servers.collect();
        let fails = random.u8(0..3) == 0;
        let forgets = ordered && random.u8(0..3) == 0;
        let lossy = fails || messages < 4096;
        Self { servers, hub, delivery, lossy, ended: 0, random, fails, forgets }
    }

    /// Every client, by its number.
    pub fn clients(&self) -> Vec<&Client> {
        self.servers.iter().flat_map(|server| &server.clients).collect()
    }

    fn live(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.clients().iter().all(|client| client.is_through()) {
                return;
            }
            let lot = self.random.u16(..);
            if self.fails && lot < 100 {
                let closed = self.hub.is_closed();
                self.hub.set_closed(!closed);
            } else if self.forgets && lot > 65_400 {
                self.hub.forget();
            }
            if !self.step() && !self.jump(SOON) {
                return;
            }
        }
        panic!("the scripts are not through after {STEPS_MAX} steps");
    }

    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.step() && !self.jump(SOON) {
                return;
            }
        }
        panic!("no rest after {STEPS_MAX} steps: somebody waits in vain, again and again");
    }

    /// Lets somebody do one thing; whether there was any.
    fn step(&mut self) -> bool {
        let count = self.servers.len() + 1;
        // A slow broker's turn comes when no server does anything, or by a small lot.
        let waits = self.hub.is_slow() && self.random.u8(..) > 4;
        let first = self.random.usize(0..count - usize::from(waits));
        let rest = count - usize::from(waits);
        let servers_first = (first..first + rest).map(|at| at % rest).chain(rest..count);
        for at in servers_first {
            if let Some(server) = self.servers.get_mut(at) {
                if server.step() {
                    return true;
                }
            } else if let Some((server, shard)) = self.hub.step() {
                self.servers[server].host.ring(shard);
                return true;
            }
        }
        false
    }

    /// Goes on to what happens next, by each server's own clock.
    fn jump(&mut self, horizon: u64) -> bool {
        let mut jumped = false;
        for server in &mut self.servers {
            jumped |= server.jump(horizon);
        }
        jumped
    }

    /// Ends one server; the others hear of every member that leaves.
    fn shut_down(&mut self, at: usize) {
        let server = &mut self.servers[at];
        let began = server.now();
        server.drained_at = Some(began);
        let farewell = if server.plan.for_good { Farewell::ForGood } else { Farewell::ComeBack };
        server.host.order(&Order::Drain(farewell));
        let until = began + server.plan.grace;
        while !self.servers[at].host.has_ended() && self.servers[at].now() < until {
            if !self.step() && !self.jump(500) {
                self.servers[at].pass(500);
            }
        }
        if self.servers[at].host.has_ended() {
            self.settle();
            self.hub.check_deserted(at);
        }
        let server = &mut self.servers[at];
        server.cut_at = Some(server.now());
        server.host.close_all_plain();
        server.host.order(&Order::Cut);
        self.settle();
        self.servers[at].pass(5000);
        self.settle();
        self.hub.see_off(at);
        self.ended += 1;
        self.settle();
    }

    /// What came to pass, by the hub's eyes and the clients'.
    fn sights(&self) -> Sights {
        let mut sights = self.hub.sights.clone();
        let clients = self.clients();
        let unavailable = clients.iter().map(|client| client.log.unavailable as u64).sum();
        sights.insert("unavailable", unavailable);
        let renumbered = |client: &&Client| {
            let again =
                |entry: &&crate::log::Entry| matches!(entry, crate::log::Entry::Renumbered { .. });
            client.log.entries.iter().filter(again).count() as u64
        };
        sights.insert("renumbered", clients.iter().map(renumbered).sum());
        sights
    }
}
