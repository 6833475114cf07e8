//! Turns a seed into a configuration: how many shards, which limits, how unkind the world is.
//!
//! In:    a seed.
//! Out:   `Plan`.
//! Never: makes a configuration that `config/check.rs` would refuse for its relations (its ranges
//!        are left on purpose: small bounds are hit more often).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use ringhall::id::{Mode, RoomKey};
use ringhall::limits::{Limits, ReceiveMode, RingUse, SlowPolicy, Spread};
use ringhall::proxy::Front;
use ringhall::shard::Placement;
use ringhall::shard::shared::{MemoryLeft, Shared};

use crate::chaos::Chaos;

/// Times that all clients' pipes may have to be filled: bounds the steps of a run.
const BYTES_A_PIPE: usize = 10_000;

/// How trusted proxies name their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxies {
    /// In `X-Forwarded-For`.
    Forward,
    /// In a PROXY protocol header.
    Preface,
}

/// Where trusted proxies connect from, and some of those who are none.
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// One simulated world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// Shards.
    pub shards: usize,
    /// See `server.placement`.
    pub placement: Placement,
    /// Slots of each table.
    pub table_slots: usize,
    /// Receive buffers of each shard.
    pub buffers: u16,
    /// How the rings are used.
    pub ring: RingUse,
    /// Mails of a lane between two shards.
    pub lane_messages: usize,
    /// Bytes of these.
    pub lane_bytes: usize,
    /// In force at the beginning.
    pub limits: Limits,
    /// What an operator changes them to, one after the other.
    pub reloads: Vec<Limits>,
    /// What stands in front, if anything does.
    pub front: Option<Proxies>,
    /// Clients that connect.
    pub clients: usize,
    /// Rooms that they go to: how they talk there, and on which shard each room lives.
    pub rooms: Vec<(Mode, usize)>,
    /// Bytes that a socket takes, either way: least and most.
    pub pipe_bytes: (usize, usize),
    /// See [`Chaos`].
    pub chaos: Chaos,
    /// Whether the clock leaps now and then.
    pub leaps: bool,
    /// Whether everybody is left alone for two minutes before the end.
    pub long_idle: bool,
    /// Whether a shard is sometimes said to be saturated.
    pub saturates: bool,
    /// Messages of one client at most.
    pub messages: usize,
    /// Bytes of one at most, as far as the limits allow.
    pub message_bytes: usize,
    /// After so many steps the shutdown begins, whatever is under way.
    pub abrupt: Option<u64>,
    /// When no descriptor is to be had for accepting: from and until, in milliseconds.
    pub famine: (u64, u64),
    /// Whether memory is short for a while, and then nearly gone.
    pub scarce: bool,
    /// Within so many milliseconds everybody connects.
    pub rush: u64,
    /// Whether the shutdown is for good.
    pub for_good: bool,
    /// After so many milliseconds of it, whoever is left is cut.
    pub grace: u64,
}

fn pick<T: Copy>(random: &mut Rng, choices: &[T]) -> T {
    choices[random.usize(0..choices.len())]
}

fn rarely(random: &mut Rng, choices: &[usize]) -> Option<usize> {
    (random.u8(0..7) == 0).then(|| pick(random, choices))
}

impl Plan {
    /// What a seed stands for.
    pub fn of(seed: u64) -> Self {
        let random = &mut Rng::with_seed(seed);
        let shards = pick(random, &[1, 2, 2, 3, 4]);
        let spread = pick(random, &[Spread::Auto, Spread::Auto, Spread::Never, Spread::Always]);
        let stays = spread != Spread::Never && random.u8(0..3) == 0;
        let mut limits = limits(random, spread);
        limits.handshake_rate = seed.is_multiple_of(6).then_some(1000);
        let reloads = (0..random.usize(0..3)).map(|_| reload(random, &limits)).collect();
        let least_lane = limits.message_bytes.max(limits.room_tick_bytes);
        let rooms = (0..random.usize(1..=4)).map(|_| {
            let mode = if random.u8(0..3) == 0 { Mode::Raw } else { Mode::Json };
            (mode, random.usize(0..shards))
        });
        let rooms: Vec<_> = rooms.collect();
        let least_pipe = pick(random, &[16, 200, 2000]);
        let most_pipe = least_pipe * pick(random, &[1, 4, 50]);
        let clients = pick(random, &[2, 6, 12, 24, 40]);
        let messages = pick(random, &[3, 10, 30]);
        let crowd = clients / rooms.len() + 1;
        let affordable = BYTES_A_PIPE * (least_pipe + most_pipe) / (clients * messages * crowd);
        let message_bytes =
            pick(random, &[10, 200, 3000, 20_000, 100_000]).min(limits.message_bytes / 2);
        Self {
            seed,
            shards,
            placement: if stays { Placement::Accept } else { Placement::Home },
            table_slots: pick(random, &[10, 16, 24, 64]),
            buffers: pick(random, &[1, 2, 4, 16]),
            ring: RingUse::default(),
            lane_messages: pick(random, &[1, 2, 4, 64]),
            lane_bytes: pick(random, &[least_lane, 2 * least_lane, 1 << 20]),
            clients,
            rooms,
            pipe_bytes: (least_pipe, most_pipe),
            chaos: chaos(random),
            leaps: random.u8(0..4) == 0,
            long_idle: random.u8(0..3) == 0,
            saturates: random.u8(0..3) == 0,
            messages,
            message_bytes: message_bytes.min(affordable.max(10)),
            abrupt: (random.u8(0..4) == 0).then(|| random.u64(1..2000)),
            famine: if random.u8(0..6) == 0 { (5, random.u64(6..400)) } else { (0, 0) },
            // Nothing is drawn for this: what other seeds stand for stays.
            scarce: seed.is_multiple_of(12),
            rush: pick(random, &[1, 20, 200, 3000]),
            for_good: random.bool(),
            grace: pick(random, &[0, 5, 100, 12_000, 12_000]),
            limits,
            reloads,
            front: pick(random, &[None, None, Some(Proxies::Forward), Some(Proxies::Preface)]),
        }
    }

    /// The same world with receives that stand.
    #[must_use]
    pub fn standing(self) -> Self {
        let random = &mut Rng::with_seed(!self.seed);
        let ring = RingUse {
            receive: ReceiveMode::Standing,
            buffer_bytes: pick(random, &[100, 1000, 8 << 10]),
            stride: pick(random, &[1, 3, 64]),
            ..self.ring
        };
        Self { ring, ..self }
    }

    /// What the main thread would say of the memory.
    pub fn memory_left(&self, now: u64) -> MemoryLeft {
        match now {
            5..150 if self.scarce => MemoryLeft::Short,
            150..300 if self.scarce => MemoryLeft::Dire,
            _ => MemoryLeft::Enough,
        }
    }

    /// As the server is told of it.
    pub fn front(&self) -> Front {
        let trusted = "10.0.0.1/32".parse().expect("a network");
        match self.front {
            None => Front::default(),
            Some(proxies) => Front::new(vec![trusted], proxies == Proxies::Preface),
        }
    }

    /// Whether a reader may ever be told `lag`.
    pub fn may_lag(&self) -> bool {
        self.all_limits().any(|limits| limits.policy == SlowPolicy::DropOldest)
    }

    /// Whether a slow reader may ever be closed.
    pub fn may_close_slow(&self) -> bool {
        self.all_limits().any(|limits| limits.policy == SlowPolicy::Disconnect)
    }

    /// Everything that is in force at one time or another.
    pub fn all_limits(&self) -> impl Iterator<Item = &Limits> {
        self.reloads.iter().chain([&self.limits])
    }

    /// Names for the rooms of one server or several. A name's home depends on the process's secret,
    /// which is random: so that the seed decides, a name is drawn until it lives where the seed
    /// wants it. A raw room behind a JSON room, or a JSON room behind a raw one, has its name: they
    /// are two rooms all the same.
    pub fn room_names(&self, servers: &[Arc<Shared>]) -> Vec<RoomKey> {
        let lives = |mode: Mode, name: &str, wanted: usize| {
            let key = RoomKey { mode, name: name.into() };
            let lives = |shared: &Arc<Shared>| {
                shared.home(&key).index() == wanted % shared.neighbours.len()
            };
            servers.iter().all(lives)
        };
        let mut keys: Vec<RoomKey> = Vec::new();
        let mut rooms = self.rooms.iter().peekable();
        while let Some((mode, home)) = rooms.next() {
            let twin = rooms.next_if(|(other, _)| other != mode);
            let index = keys.len();
            let names = (0..100_000).map(|draw| format!("r\u{e9}{index}-{draw:05}"));
            let name = names.into_iter().find(|name| {
                let twin_lives = twin.is_none_or(|(mode, home)| lives(*mode, name, *home));
                lives(*mode, name, *home) && twin_lives
            });
            let name = name.expect("every shard is some room's home");
            keys.push(RoomKey { mode: *mode, name: name.as_str().into() });
            keys.extend(twin.map(|(mode, _)| RoomKey { mode: *mode, name: name.as_str().into() }));
        }
        keys
    }
}

fn limits(random: &mut Rng, spread: Spread) -> Limits {
    let queue_bytes = pick(random, &[300, 2000, 20_000, 1 << 20]);
    let message_bytes = pick(random, &[300, 4000, 64 << 10, 256 << 10]);
    let room_tick_bytes = pick(random, &[100, 1000, 256 << 10]).min(queue_bytes / 2);
    let echo_message_bytes = pick(random, &[2000, 40_000, 300_000]);
    let least = queue_bytes.max(message_bytes).max(echo_message_bytes);
    let beats = [(54_000, 60_000), (54_000, 60_000), (500, 1500)];
    let (ping_after, heartbeat_timeout) = pick(random, &beats);
    Limits {
        queue_bytes,
        message_bytes,
        room_tick_bytes,
        echo_message_bytes,
        policy: pick(random, &[SlowPolicy::Disconnect, SlowPolicy::DropOldest]),
        echo_enabled: random.u8(0..8) != 0,
        announce_max: pick(random, &[0, 1, 2, 4, 256, 256, 256]),
        announce_every: pick(random, &[Duration::from_millis(100), Duration::from_secs(1)]),
        spread,
        members_max: rarely(random, &[2, 5]),
        rooms_max: rarely(random, &[1, 2]),
        connections_max: rarely(random, &[5]).unwrap_or(1000),
        connections_per_address: rarely(random, &[2, 100]),
        queue_bytes_total: pick(random, &[least, 3 * least, 1 << 28, 1 << 28]),
        http_connections: pick(random, &[1, 100]),
        head_bytes: pick(random, &[1024, 16 << 10]),
        ping_after: Duration::from_millis(ping_after),
        heartbeat_timeout: Duration::from_millis(heartbeat_timeout),
        handshake_timeout: pick(random, &[Duration::from_millis(500), Duration::from_secs(10)]),
        close_timeout: pick(random, &[Duration::from_millis(300), Duration::from_secs(5)]),
        gather_sends: pick(random, &[1, 64]),
        gather_wait: pick(random, &[Duration::ZERO, Duration::from_millis(1)]),
        ..Limits::default()
    }
}

/// What SIGHUP may bring. What clients were told to keep to stays.
fn reload(random: &mut Rng, first: &Limits) -> Limits {
    let other = limits(random, first.spread);
    Limits {
        message_bytes: first.message_bytes,
        echo_message_bytes: first.echo_message_bytes,
        head_bytes: first.head_bytes,
        ping_after: first.ping_after,
        heartbeat_timeout: first.heartbeat_timeout,
        handshake_timeout: first.handshake_timeout,
        close_timeout: first.close_timeout,
        echo_enabled: first.echo_enabled,
        queue_bytes: other.queue_bytes.min(first.queue_bytes),
        room_tick_bytes: other.room_tick_bytes.min(other.queue_bytes.min(first.queue_bytes) / 2),
        queue_bytes_total: first.queue_bytes_total,
        ..other
    }
}

fn chaos(random: &mut Rng) -> Chaos {
    if random.u8(0..8) == 0 {
        return Chaos::default();
    }
    Chaos {
        short_reads: pick(random, &[0, 20, 80]),
        short_sends: pick(random, &[0, 5, 40]),
        early_submits: pick(random, &[0, 1, 20]),
        lulls: pick(random, &[0, 20, 50]),
        multishot_ends: pick(random, &[0, 5, 30]),
        travel: pick(random, &[0, 3, 20]),
        full_tables: pick(random, &[0, 0, 10, 50]),
        detach_errors: pick(random, &[0, 30]),
        accept_errors: pick(random, &[0, 0, 5]),
    }
}
