//! Every key: what it takes, its default, what it is for, and the field that it sets.
//!
//! In:    nothing.
//! Out:   `KEYS`, the one table behind parsing, `default.toml`, did-you-mean and the README.
//! Never: reads a value (`kind` does) or relates two keys (`check` does).
//!
//! # Invariants
//! - Keys of a section stand together; sections stand in the order of SPEC section 2.

use std::time::Duration;

use super::kind::Kind;
use super::{Amount, Config, LogFormat, LogLevel, Placement};
use crate::bridge::{Delivery, Overflow};
use crate::limits::{
    BUFFERS_MAX, BUFFERS_MIN, RING_ENTRIES_MAX, RING_ENTRIES_MIN, ReceiveMode, SHARDS_MAX,
    SendMode, SlowPolicy, Spread, TABLE_SLOTS_MAX,
};

/// One key of the configuration.
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// Default, as an environment variable would give it.
    pub default: &'static str,
    /// What it takes and which field it sets.
    pub kind: Kind,
    /// Whether SIGHUP puts a change in force (else a restart does).
    pub reloadable: bool,
    /// What it is for: one line for `default.toml` and the README.
    pub doc: &'static str,
}

impl Key {
    /// The part before the dot.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    /// The part behind the dot.
    #[must_use]
    pub fn leaf(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    /// The environment variable that sets it: `RINGHALL_CLIENT_QUEUE_BYTES`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("RINGHALL_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

/// The sections, in order, each once.
#[must_use]
pub fn sections() -> Vec<&'static str> {
    let mut all: Vec<_> = KEYS.iter().map(Key::section).collect();
    all.dedup();
    all
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// Bound of a message: several of them fit a batch, whose length is a `u32`.
const MESSAGE_MAX: usize = 256 * MIB;
/// Connections that as many shards' tables could hold.
const CONNECTIONS_MAX: usize = SHARDS_MAX * TABLE_SLOTS_MAX;
/// Connections a second: more than any box accepts.
const RATE_MAX: usize = 1_000_000_000;
/// Rooms, and members of one: an index of 32 bits with room to spare.
const ROOMS_MAX: usize = 1 << 30;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn restart(name: &'static str, default: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, default, kind, reloadable: false, doc }
}

const fn reload(name: &'static str, default: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, default, kind, reloadable: true, doc }
}

/// All keys of this version.
pub static KEYS: &[Key] = &[
    restart(
        "server.listen",
        "127.0.0.1:8000",
        Kind::Addresses(|c, v| c.listen = v),
        "Where clients connect.",
    ),
    restart(
        "server.shards",
        "auto",
        Kind::CountOr("auto", 1, SHARDS_MAX, |c, v| c.shards = Amount::from(v)),
        "Threads, each with a ring and its share of rooms; auto: one a CPU this process may use.",
    ),
    restart(
        "server.placement",
        "home",
        Kind::Words(&[
            ("home", |c| c.placement = Placement::Home),
            ("accept", |c| c.placement = Placement::Accept),
        ]),
        "Where a connection lives: on its room's shard, or on the shard that accepted it.",
    ),
    restart(
        "server.notsent_lowat",
        "16KiB",
        Kind::Bytes(4 * KIB, 64 * MIB, |c, v| c.notsent_lowat = v),
        "Unsent bytes the kernel keeps for a socket (TCP_NOTSENT_LOWAT); more waits in a queue.",
    ),
    restart(
        "server.mesh_messages",
        "4096",
        Kind::Count(16, MIB, |c, v| c.mesh_messages = v),
        "Messages that may wait between two shards, each way; then their senders are not read.",
    ),
    restart(
        "server.mesh_bytes",
        "4MiB",
        Kind::Bytes(64 * KIB, GIB, |c, v| c.mesh_bytes = v),
        "Bytes that may wait between two shards, each way; then their senders are not read.",
    ),
    restart(
        "server.trusted_proxies",
        "none",
        Kind::Networks(|c, v| c.trusted_proxies = v),
        "Proxies in front: X-Forwarded-For (and a PROXY header) is believed from these alone.",
    ),
    restart(
        "server.proxy_protocol",
        "false",
        Kind::Flag(|c, v| c.proxy_protocol = v),
        "Every connection from a trusted proxy begins with a PROXY protocol header, version 2.",
    ),
    reload(
        "server.gather_sends",
        "64",
        Kind::Count(1, MIB, |c, v| c.limits.gather_sends = v),
        "A turn that sent one room's payload to so many members waits a little for more input.",
    ),
    reload(
        "server.gather_max",
        "256",
        Kind::Count(1, 64 * KIB, |c, v| c.limits.gather_max = v),
        "Completions it waits for at most.",
    ),
    reload(
        "server.gather_wait",
        "500us",
        Kind::Time(ms(0), ms(100), |c, v| c.limits.gather_wait = v),
        "How long it waits at most; 0s: never.",
    ),
    restart(
        "ring.receive",
        "poll",
        Kind::Words(&[
            ("poll", |c| c.ring.receive = ReceiveMode::Poll),
            ("standing", |c| c.ring.receive = ReceiveMode::Standing),
        ]),
        "How input is heard: polled for and fetched, or by receives that stand (610 B more each).",
    ),
    restart(
        "ring.buffer_bytes",
        "8KiB",
        Kind::Bytes(KIB, MIB, |c, v| c.ring.buffer_bytes = v),
        "Bytes of a receive buffer, and of one connection's input that one turn takes.",
    ),
    restart(
        "ring.buffers",
        "2048",
        Kind::Count(BUFFERS_MIN, BUFFERS_MAX, |c, v| c.ring.buffers = v),
        "Receive buffers of all shards together; each has at least 64, and a power of two.",
    ),
    restart(
        "ring.entries",
        "4096",
        Kind::Count(RING_ENTRIES_MIN, RING_ENTRIES_MAX, |c, v| c.ring.entries = v),
        "Operations that one system call carries out at most; a power of two. Locked memory.",
    ),
    restart(
        "ring.stride",
        "64",
        Kind::Count(1, RING_ENTRIES_MAX, |c, v| c.ring.stride = v),
        "Connections that are received from at a time; at most half of ring.entries.",
    ),
    restart(
        "ring.send",
        "send",
        Kind::Words(&[
            ("send", |c| c.ring.send = SendMode::Send),
            ("sendmsg", |c| c.ring.send = SendMode::SendMsg),
        ]),
        "The operation for what is sent in one piece; several pieces are always a sendmsg.",
    ),
    restart(
        "admin.listen",
        "127.0.0.1:8001",
        Kind::Address(|c, v| c.admin_listen = v),
        "Where the operator connects; off loopback only with admin.key.",
    ),
    restart(
        "admin.key",
        "none",
        Kind::Secret(|c, v| c.admin_key = v),
        "What `Authorization: Bearer` must carry there; never shown. RINGHALL_ADMIN_KEY suits it.",
    ),
    restart(
        "log.level",
        "info",
        Kind::Words(&[
            ("error", |c| c.log_level = LogLevel::Error),
            ("warn", |c| c.log_level = LogLevel::Warn),
            ("info", |c| c.log_level = LogLevel::Info),
            ("debug", |c| c.log_level = LogLevel::Debug),
        ]),
        "The least important line that is logged, to stderr; debug has one a connection.",
    ),
    restart(
        "log.format",
        "text",
        Kind::Words(&[
            ("text", |c| c.log_format = LogFormat::Text),
            ("json", |c| c.log_format = LogFormat::Json),
        ]),
        "For people, or one JSON object a line.",
    ),
    reload(
        "client.queue_bytes",
        "1MiB",
        Kind::Bytes(4 * KIB, GIB, |c, v| c.limits.queue_bytes = v),
        "Unsent bytes a connection may have queued before a further payload is too much.",
    ),
    reload(
        "client.policy",
        "disconnect",
        Kind::Words(&[
            ("disconnect", |c| c.limits.policy = SlowPolicy::Disconnect),
            ("drop_oldest", |c| c.limits.policy = SlowPolicy::DropOldest),
        ]),
        "What then happens: the reader is dropped (1013), or misses messages and is told (`lag`).",
    ),
    reload(
        "client.message_bytes",
        "64KiB",
        Kind::Bytes(KIB, MESSAGE_MAX, |c, v| c.limits.message_bytes = v),
        "Longest message of a room member, all its fragments together; longer closes with 1009.",
    ),
    reload(
        "client.close_timeout",
        "5s",
        Kind::Time(ms(100), secs(300), |c, v| c.limits.close_timeout = v),
        "Wait for the peer's part of a closing handshake; then the socket is reset.",
    ),
    reload(
        "rooms.announce_max",
        "256",
        Kind::Count(0, ROOMS_MAX, |c, v| c.limits.announce_max = v),
        "Members up to which each join and leave is announced; larger rooms get summaries.",
    ),
    reload(
        "rooms.announce_every",
        "1s",
        Kind::Time(ms(100), secs(3600), |c, v| c.limits.announce_every = v),
        "Pause between two such summaries of a room.",
    ),
    reload(
        "rooms.spread",
        "auto",
        Kind::Words(&[
            ("auto", |c| c.limits.spread = Spread::Auto),
            ("never", |c| c.limits.spread = Spread::Never),
            ("always", |c| c.limits.spread = Spread::Always),
        ]),
        "Whether a room may sit on several shards; auto: when its own is full or saturated.",
    ),
    reload(
        "rooms.members_max",
        "none",
        Kind::CountOr("none", 1, ROOMS_MAX, |c, v| c.limits.members_max = v),
        "Members of one room.",
    ),
    reload(
        "rooms.max",
        "none",
        Kind::CountOr("none", 1, ROOMS_MAX, |c, v| c.limits.rooms_max = v),
        "Rooms of the whole process.",
    ),
    reload(
        "rooms.tick_bytes",
        "256KiB",
        Kind::Bytes(KIB, 512 * MIB, |c, v| c.limits.room_tick_bytes = v),
        "Payload of one room in one turn; the rest waits. At most half of client.queue_bytes.",
    ),
    reload(
        "heartbeat.ping_after",
        "54s",
        Kind::Time(ms(100), secs(86_400), |c, v| c.limits.ping_after = v),
        "Silence of a client after which the server pings it.",
    ),
    reload(
        "heartbeat.timeout",
        "60s",
        Kind::Time(ms(200), secs(172_800), |c, v| c.limits.heartbeat_timeout = v),
        "Silence of a client after which its connection is closed.",
    ),
    reload(
        "handshake.timeout",
        "10s",
        Kind::Time(ms(100), secs(600), |c, v| c.limits.handshake_timeout = v),
        "From accept to a complete request head; then 408.",
    ),
    reload(
        "handshake.head_bytes",
        "16KiB",
        Kind::Bytes(KIB, MIB, |c, v| c.limits.head_bytes = v),
        "Longest request head; longer is 431.",
    ),
    reload(
        "handshake.rate",
        "auto",
        Kind::CountOr("auto", 1, RATE_MAX, |c, v| c.limits.handshake_rate = v),
        "Connections accepted a second, the rest wait; auto: what rooms leave of the cores' time.",
    ),
    reload(
        "limits.connections_max",
        "auto",
        Kind::CountOr("auto", 1, CONNECTIONS_MAX, |c, v| c.set_connections_max(v)),
        "Connections of the whole process; auto: what the shards' tables and the memory hold.",
    ),
    reload(
        "limits.connections_per_address",
        "none",
        Kind::CountOr("none", 1, CONNECTIONS_MAX, |c, v| c.limits.connections_per_address = v),
        "Connections of one remote address; more are refused with 429.",
    ),
    reload(
        "limits.memory_reserve",
        "auto",
        Kind::BytesOr("auto", MIB, 1024 * GIB, |c, v| c.limits.memory_reserve = v),
        "Memory kept back: with less left, newcomers get 503; auto: limits.queue_bytes, or a 64th.",
    ),
    reload(
        "limits.queue_bytes",
        "256MiB",
        Kind::Bytes(MIB, 1024 * GIB, |c, v| c.limits.queue_bytes_total = v),
        "All clients' queues and half-received messages together; the slowest pay first.",
    ),
    reload(
        "limits.http_connections",
        "256",
        Kind::Count(1, 64 * KIB, |c, v| c.limits.http_connections = v),
        "Plain HTTP connections (pages, health) of the whole process.",
    ),
    reload(
        "echo.enabled",
        "true",
        Kind::Flag(|c, v| c.limits.echo_enabled = v),
        "Whether /echo exists.",
    ),
    reload(
        "echo.message_bytes",
        "16MiB",
        Kind::Bytes(KIB, MESSAGE_MAX, |c, v| c.limits.echo_message_bytes = v),
        "Longest message on /echo, all its fragments together; longer closes with 1009.",
    ),
    reload(
        "shutdown.grace",
        "10s",
        Kind::Time(ms(0), secs(600), |c, v| c.limits.shutdown_grace = v),
        "Time that clients have to leave at a shutdown; then they are cut.",
    ),
    restart(
        "broker.url",
        "none",
        Kind::Broker(|c, v| c.broker_url = v),
        "The broker that joins several boxes; a password in it is never shown.",
    ),
    restart(
        "broker.delivery",
        "local_first",
        Kind::Words(&[
            ("local_first", |c| c.broker_delivery = Delivery::LocalFirst),
            ("ordered", |c| c.broker_delivery = Delivery::Ordered),
        ]),
        "local_first: members here at once, other boxes by the broker; ordered: by its log.",
    ),
    restart(
        "broker.overflow",
        "reject",
        Kind::Words(&[
            ("reject", |c| c.broker_overflow = Overflow::Reject),
            ("drop", |c| c.broker_overflow = Overflow::Drop),
        ]),
        "Too much for the broker: refuse it (`unavailable`), or drop it for the other boxes.",
    ),
    restart(
        "broker.required",
        "false",
        Kind::Flag(|c, v| c.broker_required = v),
        "Whether /health is 503, and /ready too, while the broker is out of reach.",
    ),
    restart(
        "broker.prefix",
        "ringhall",
        Kind::Name(|c, v| c.broker_prefix = v),
        "What every name at the broker begins with: one for each cluster that shares it.",
    ),
    restart(
        "broker.ca",
        "none",
        Kind::File(|c, v| c.broker_ca = v),
        "PEM file of the authorities that TLS to the broker trusts; none: the usual ones.",
    ),
    restart(
        "broker.queue_messages",
        "8192",
        Kind::Count(64, MIB, |c, v| c.broker_queue_messages = v),
        "Messages that may wait between a shard and the bridge to the broker, each way.",
    ),
    restart(
        "broker.queue_bytes",
        "8MiB",
        Kind::Bytes(64 * KIB, GIB, |c, v| c.broker_queue_bytes = v),
        "Bytes that may wait there, each way; then broker.overflow says what happens.",
    ),
    restart(
        "metrics.statsd",
        "none",
        Kind::Target(|c, v| c.metrics_statsd = v),
        "StatsD server that is sent every metric by UDP, each ten seconds; none: nobody.",
    ),
    restart(
        "static.dir",
        "none",
        Kind::Folder(|c, v| c.static_dir = v),
        "Folder whose files are served at /; none: the chat page that is built in.",
    ),
];

/// The key of this name, and its place in [`KEYS`].
pub(super) fn find(name: &str) -> Option<(usize, &'static Key)> {
    KEYS.iter().enumerate().find(|(_, key)| key.name == name)
}

impl Config {
    fn set_connections_max(&mut self, number: Option<usize>) {
        self.connections_max = Amount::from(number);
        self.limits.connections_max = number.unwrap_or(TABLE_SLOTS_MAX);
    }
}
