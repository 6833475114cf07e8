//! One seed from its first connection to an empty house.
//!
//! In:    a seed.
//! Out:   nothing, or a panic that says which invariant was broken.
//! Never: looks at a clock but the simulated one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use fastrand::Rng;
use ringhall::bridge::Bridge;
use ringhall::counters::{ALL, REASONS_MAX};
use ringhall::id::RoomKey;
use ringhall::shard::shared::{Farewell, Order, Shared};

use crate::chaos::Plant;
use crate::check::{self, Bounds};
use crate::client::Client;
use crate::host::Host;
use crate::kernel::World;
use crate::plan::Plan;
use crate::script::{Role, Script};
use crate::{oracle, oracle_raw, oracle_users, verdict};

/// Steps in which all scripts have to be through.
const STEPS_MAX: u64 = 400_000;
/// Deadlines that lie nearer than this belong to work that is under way, in milliseconds.
const SOON: u64 = 5;
/// How long everybody is left alone: longer than any timeout of the defaults, in milliseconds.
const LONG: u64 = 150_000;

/// What shards have counted: by counter, and closes and refusals by reason.
pub type Tally = [Vec<u64>; 3];

/// A world, its server and its clients.
pub struct Sim {
    /// What the seed stands for.
    pub plan: Plan,
    /// The rooms' names.
    pub rooms: Vec<RoomKey>,
    /// Everything outside of the shards.
    pub world: Rc<RefCell<World>>,
    /// The shards.
    pub host: Host,
    /// Whoever connects.
    pub clients: Vec<Client>,
    /// When the shutdown began.
    pub drained_at: Option<u64>,
    /// When whoever was left was cut.
    pub cut_at: Option<u64>,
    /// What each turn is measured by.
    pub bounds: Bounds,
    random: Rng,
}

/// Runs a seed, perhaps with a planted bug.
///
/// What its shards have counted, and their closes by reason.
pub fn run(seed: u64, plant: Option<(Plant, u32)>, trace: bool) -> Tally {
    run_plan(Plan::of(seed), plant, trace)
}

/// Runs a seed with receives that stand; see [`run`].
pub fn run_standing(seed: u64, plant: Option<(Plant, u32)>, trace: bool) -> Tally {
    run_plan(Plan::of(seed).standing(), plant, trace)
}

fn run_plan(plan: Plan, plant: Option<(Plant, u32)>, trace: bool) -> Tally {
    let mut sim = Sim::new(plan, plant, trace);
    sim.live();
    if sim.plan.abrupt.is_none() {
        sim.settle();
        sim.judge(true);
        check::at_rest(&mut sim);
        if sim.plan.long_idle {
            sim.leave_alone();
            sim.settle();
            check::after_silence(&sim);
        }
    }
    sim.shut_down();
    sim.judge(false);
    verdict::check(&sim);
    check::at_end(&mut sim);
    sim.tally()
}

/// What a server of several has been given.
pub struct Membership {
    /// What all of them call the rooms.
    pub rooms: Vec<RoomKey>,
    /// What its shards share.
    pub shared: Arc<Shared>,
    /// Its bridge.
    pub bridge: Arc<Bridge>,
    /// Number of its first client.
    pub first: usize,
}

impl Sim {
    fn new(plan: Plan, plant: Option<(Plant, u32)>, trace: bool) -> Self {
        let shared = Host::shared(&plan);
        let rooms = plan.room_names(std::slice::from_ref(&shared));
        Self::build(plan, plant, trace, (rooms, shared, 0, None))
    }

    /// One server of several.
    pub fn of_cluster(plan: Plan, trace: bool, membership: Membership) -> Self {
        let Membership { rooms, shared, bridge, first } = membership;
        Self::build(plan, None, trace, (rooms, shared, first, Some(bridge)))
    }

    fn build(
        plan: Plan,
        plant: Option<(Plant, u32)>,
        trace: bool,
        (rooms, shared, first, bridge): (Vec<RoomKey>, Arc<Shared>, usize, Option<Arc<Bridge>>),
    ) -> Self {
        let Plan { seed, shards, table_slots, buffers, chaos, .. } = plan;
        let mut world = World::new(seed, shards, table_slots, buffers, chaos);
        world.buffer_bytes = plan.ring.buffer_bytes;
        world.pipe_bytes = plan.pipe_bytes;
        world.famine = plan.famine;
        world.plant = plant;
        world.trace = trace;
        world.note(|| format!("{plan:#?}"));
        let mut random = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let clients = (first..first + plan.clients).map(|id| {
            let script = Script::write(&mut random, &plan, &rooms, id);
            let room = match script.role {
                Role::Member { room, .. } => rooms[room].name.to_string(),
                _ => String::new(),
            };
            Client::new(id, script, room, random.u64(..))
        });
        let clients = clients.collect();
        let world = Rc::new(RefCell::new(world));
        let host = Host::start(&plan, shared, &world, bridge.as_ref());
        let bounds = Bounds::of(&plan);
        Self { plan, rooms, world, host, clients, drained_at: None, cut_at: None, bounds, random }
    }

    /// Milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.world.borrow().now
    }

    pub fn tally(&self) -> Tally {
        let shards = || self.host.shared.neighbours.iter().map(|shard| &shard.counters);
        let reasons = 0..REASONS_MAX;
        [
            ALL.iter().map(|counter| shards().map(|shard| shard.get(*counter)).sum()).collect(),
            reasons
                .clone()
                .map(|reason| shards().map(|shard| shard.closed(reason)).sum())
                .collect(),
            reasons.map(|reason| shards().map(|shard| shard.refused(reason)).sum()).collect(),
        ]
    }

    fn judge(&self, at_rest: bool) {
        oracle::check(self, at_rest);
        oracle_raw::check(self, at_rest);
        oracle_users::check(self, at_rest);
    }

    /// Lets the clients do what their scripts say.
    fn live(&mut self) {
        let mut reloads = self.plan.reloads.clone();
        for _ in 0..self.plan.abrupt.unwrap_or(STEPS_MAX) {
            if self.clients.iter().all(Client::is_through) {
                return;
            }
            if self.random.u16(..) < 20
                && let Some(limits) = reloads.pop()
            {
                self.host.reload(&limits);
            }
            if self.plan.leaps && self.random.u16(..) < 10 {
                let leap = self.random_leap();
                self.pass(leap);
            }
            if self.plan.saturates && self.random.u16(..) < 100 {
                let (shard, busy) =
                    (self.random.usize(0..self.host.len()), self.random.usize(0..=100));
                for _ in 0..3 {
                    self.host.shard(shard).state.note_busy(busy);
                }
            }
            if !self.step() && !self.jump(SOON) {
                return;
            }
        }
        if self.plan.abrupt.is_some() {
            return;
        }
        panic!("the scripts are not through after {STEPS_MAX} steps");
    }

    fn random_leap(&mut self) -> u64 {
        let longest = [50, 2000, 20_000, 90_000][self.random.usize(0..4)];
        self.random.u64(1..longest)
    }

    /// Runs until nothing more happens by itself.
    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.step() && !self.jump(SOON) {
                return;
            }
        }
        panic!("no rest after {STEPS_MAX} steps: somebody waits in vain, again and again");
    }

    /// Lets a long time pass.
    fn leave_alone(&mut self) {
        let until = self.now() + LONG;
        while self.now() < until {
            if !self.step() && !self.jump(500) {
                self.pass(500);
            }
        }
        // The timeouts of plain HTTP are not simulated.
        self.host.close_all_plain();
    }

    fn shut_down(&mut self) {
        self.drained_at = Some(self.now());
        let farewell = if self.plan.for_good { Farewell::ForGood } else { Farewell::ComeBack };
        self.host.order(&Order::Drain(farewell));
        let until = self.now() + self.plan.grace;
        while !self.host.has_ended() && self.now() < until {
            if !self.step() && !self.jump(500) {
                self.pass(500);
            }
        }
        self.cut_at = Some(self.now());
        self.host.close_all_plain();
        self.host.order(&Order::Cut);
        self.settle();
        // Late deadlines of what is gone: summaries that nobody is there to hear.
        self.pass(5000);
        self.settle();
    }

    pub fn pass(&mut self, wait: u64) {
        let mut world = self.world.borrow_mut();
        world.now += wait;
        world.note(|| format!("{wait} ms pass"));
    }

    /// Goes on to the next moment at which a client does something, or a shard within `horizon`.
    pub fn jump(&mut self, horizon: u64) -> bool {
        let now = self.now();
        if self.world.borrow().is_travelling() {
            return true;
        }
        let clients = self.clients.iter().filter_map(|client| client.wakes_at(now));
        let due = self.host.next_due().filter(|due| due - now <= horizon);
        let Some(next) = clients.chain(due).min() else { return false };
        self.pass(next - now);
        true
    }

    /// Lets one shard, client or message do one thing; whether there was any.
    pub fn step(&mut self) -> bool {
        self.world.borrow_mut().tick();
        self.host.shared.set_memory_left(self.plan.memory_left(self.now()));
        if self.random.u8(..) < 32 {
            self.world.borrow_mut().now += self.random.u64(0..3);
        }
        let shards = self.host.runnable();
        let plain = self.host.plain_can_act();
        let clients: Vec<_> = {
            let world = self.world.borrow();
            let all = self.clients.iter().enumerate();
            all.filter(|(_, client)| client.can_act(&world)).map(|(at, _)| at).collect()
        };
        let turns = shards.len() * 2;
        let all = turns + clients.len() + plain.len();
        if all == 0 {
            return false;
        }
        let drawn = self.random.usize(0..all);
        if drawn < turns {
            let shard = shards[drawn / 2];
            self.host.run(shard);
            check::after_turn(self, shard);
        } else if drawn < turns + clients.len() {
            let client = clients[drawn - turns];
            self.clients[client].act(&mut self.world.borrow_mut());
        } else {
            self.host.run_plain(plain[drawn - turns - clients.len()]);
        }
        true
    }
}
