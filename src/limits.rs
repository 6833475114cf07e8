//! Every bound in one place: what an operator may set (`Limits`), what is fixed, and why.
//!
//! In:    the checked configuration (`config/`), at start and at SIGHUP.
//! Out:   `Limits`, shared by all shards; constants and the relations between them.
//! Never: enforces anything; the module that hits a limit does.

use std::time::Duration;

/// Fewest receive buffers a shard gets.
pub const BUFFERS_MIN: usize = 64;
/// Most receive buffers a shard gets: the kernel counts a ring's buffers in 16 bits, half used.
pub const BUFFERS_MAX: usize = 1 << 15;
/// Most bytes that all receive buffers together may have: they are there from the start.
pub const BUFFERS_BYTES_MAX: usize = 1 << 30;
/// Entries of the smallest submission queue.
pub const RING_ENTRIES_MIN: usize = 256;
/// Entries of the largest: with eight completions an entry, the kernel's bound of 65536 of these.
pub const RING_ENTRIES_MAX: usize = 8192;
/// Connections that a shard lets in a turn while more are waiting than that: about a millisecond
/// of work, in which rooms wait.
pub const ACCEPT_STRIDE: usize = 64;
/// Segments that one SENDMSG carries; the kernel's `UIO_MAXIOV` is 1024.
pub const SEND_SEGMENTS_MAX: usize = 64;
/// What one queued piece of payload costs beside its bytes: a place in the queue, a count, two
/// lists. Reckoned from the structures' sizes; it keeps a queue of tiny pieces honest.
pub const SEGMENT_BYTES: usize = 256;
/// Bytes that one send offers to the kernel at most: what a socket can take at once is less.
pub const SEND_BYTES_MAX: usize = 4 * 1024 * 1024;
/// RFC 6455 section 5.5: a control frame's payload.
pub const CONTROL_BYTES_MAX: usize = 125;
/// Bytes of a room's or a user's name (SPEC section 3).
pub const NAME_BYTES_MAX: usize = 128;
/// Levels of nesting that a message's content may have: what careful JSON parsers stop at.
pub const CONTENT_DEPTH_MAX: usize = 128;
/// Bytes of the parser's own words in an error that is answered to a speaker.
pub const ERROR_BYTES_MAX: usize = 200;
/// Header fields of a request head.
pub const HEADERS_MAX: usize = 100;
/// Bytes of a request target: longer is 414.
pub const TARGET_BYTES_MAX: usize = 4096;
/// Malformed messages that a connection may have in reserve; one comes back each second. A flood
/// beyond closes with 1008.
pub const STRIKES_MAX: u32 = 20;
/// Connections that the heartbeat and the other deadlines look at in one turn.
pub const DEADLINES_PER_TURN: usize = 1024;
/// Connections that a shutdown closes a second at least, all shards together: with fifty of them, a
/// minimum each closed a million in ten seconds, and who answered late was cut.
pub const DRAIN_PER_SECOND_MIN: u64 = 2000;
/// Connections of the process that a shutdown has closed and that have not answered yet, beyond
/// which it closes no more than it must: what one core was seen to close in a second and a half.
pub const DRAIN_UNANSWERED_MAX: u64 = 1 << 14;
/// Share of a table (one in so many) that those who sit leave free: for newcomers, until they are
/// sent to another shard or refused.
pub const TABLE_RESERVE_MOVES: usize = 50;
/// Fewest slots that [`TABLE_RESERVE_MOVES`] is.
pub const TABLE_RESERVE_MOVES_MIN: usize = 6;
/// Share of a table (one in so many) that accepting leaves free: it goes on longer than moves do.
pub const TABLE_RESERVE_ACCEPT: usize = 200;
/// Fewest slots that [`TABLE_RESERVE_ACCEPT`] is.
pub const TABLE_RESERVE_ACCEPT_MIN: usize = 2;
/// Sockets a ring's table can hold (`IORING_MAX_FIXED_FILES`).
pub const TABLE_SLOTS_MAX: usize = 1 << 20;
/// Partitions that carry the rooms between boxes: few, and the same on every box.
pub const PARTITIONS: usize = 64;
/// Shards of one process: queues between them grow with their square.
pub const SHARDS_MAX: usize = 1024;
/// Bytes of a PROXY protocol header: what nginx takes, too; addresses are 36, the rest certificates
/// and the like, which nobody reads here.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;
/// How long a plain HTTP connection may say nothing, and how long a head of its may take.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Slots that those who sit leave free of a table of so many.
#[must_use]
pub const fn moves_reserve(table_slots: usize) -> usize {
    let share = table_slots / TABLE_RESERVE_MOVES;
    if share > TABLE_RESERVE_MOVES_MIN { share } else { TABLE_RESERVE_MOVES_MIN }
}

/// Slots that accepting leaves free of a table of so many; it begins again at twice as many.
#[must_use]
pub const fn accept_reserve(table_slots: usize) -> usize {
    let share = table_slots / TABLE_RESERVE_ACCEPT;
    if share > TABLE_RESERVE_ACCEPT_MIN { share } else { TABLE_RESERVE_ACCEPT_MIN }
}

const _: () = assert!(
    TABLE_RESERVE_ACCEPT > 2 * TABLE_RESERVE_MOVES
        && 2 * TABLE_RESERVE_ACCEPT_MIN < TABLE_RESERVE_MOVES_MIN,
    "a full shard accepts again as soon as its newcomers have been sent on"
);
const _: () = assert!(SEND_SEGMENTS_MAX <= 1024, "UIO_MAXIOV");
const _: () = assert!(BUFFERS_MIN.is_power_of_two() && BUFFERS_MAX <= 32768, "buffer ring");
const _: () = assert!(TABLE_SLOTS_MAX < 1 << crate::id::SLOT_BITS, "a slot fits a tag");

/// How a shard hears what open connections say (`ring.receive`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReceiveMode {
    /// A poll says who is readable, and a receive fetches it: 610 bytes of the kernel's memory a
    /// connection less, and one connection's input a turn is one buffer.
    #[default]
    Poll,
    /// A receive stands armed, and brings what comes.
    Standing,
}

/// The operation that a piece of payload is sent by (`ring.send`). Both are tried once, within the
/// submission, and say nothing where all was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendMode {
    /// `SEND` where a connection is sent one piece, `SENDMSG` where it is several.
    #[default]
    Send,
    /// Always `SENDMSG`.
    SendMsg,
}

/// How a shard's ring is used (section `ring` of the configuration); fixed at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingUse {
    /// `ring.receive`.
    pub receive: ReceiveMode,
    /// `ring.buffer_bytes`: bytes of one receive buffer, and of one connection's input that one
    /// turn takes (or what was left of that when its room was full). Who sends without end waits
    /// for the next turn, like everybody.
    pub buffer_bytes: usize,
    /// `ring.buffers`: receive buffers of the whole process, divided by its shards.
    pub buffers: usize,
    /// `ring.entries`: most entries of a shard's submission queue; a power of two.
    pub entries: usize,
    /// `ring.stride`: receives that are carried out at a time. What they bring is decoded, and
    /// echoes sent, while the sockets and the buffers are still in the core's cache.
    pub stride: usize,
    /// `ring.send`.
    pub send: SendMode,
}

impl RingUse {
    /// Receive buffers of each of so many shards: a power of two, as the kernel wants it.
    #[must_use]
    pub fn buffers_of(&self, shards: usize) -> u16 {
        let share = (self.buffers / shards.max(1)).max(BUFFERS_MIN);
        let each = share.next_power_of_two().min(BUFFERS_MAX);
        u16::try_from(each).unwrap_or(u16::MAX)
    }

    /// Bytes of the receive buffers of so many shards.
    #[must_use]
    pub fn receive_bytes(&self, shards: usize) -> usize {
        let each = self.buffer_bytes.saturating_mul(usize::from(self.buffers_of(shards)));
        each.saturating_mul(shards)
    }
}

impl Default for RingUse {
    fn default() -> Self {
        Self {
            receive: ReceiveMode::Poll,
            // One read of a fast client, half the buffers of a 16 KiB choice.
            buffer_bytes: 8 << 10,
            // 16 MiB, whatever the connections.
            buffers: 2048,
            // A fan-out to 4096 members is one system call.
            entries: 4096,
            stride: 64,
            send: SendMode::Send,
        }
    }
}

/// What happens to a reader whose queue is full (`client.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPolicy {
    /// Closed with 1013 `slow consumer`, by reset.
    Disconnect,
    /// The oldest room messages are dropped and the reader is told how many (`lag`).
    DropOldest,
}

/// Whether a room's members may sit on other shards than its home (`rooms.spread`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Only where the home's table is full or its core saturated by that room.
    Auto,
    /// Never: who finds the home full is refused.
    Never,
    /// Always: a member stays where it was accepted.
    Always,
}

/// What may change while the server runs (SIGHUP).
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `client.queue_bytes`: unsent bytes a connection may have queued before a further payload.
    pub queue_bytes: usize,
    /// `client.policy`.
    pub policy: SlowPolicy,
    /// `client.message_bytes`: longest message of a room member, in bytes, fragments together.
    pub message_bytes: usize,
    /// `client.close_timeout`: wait for the peer's close frame and FIN before the socket is reset.
    pub close_timeout: Duration,
    /// `echo.enabled`.
    pub echo_enabled: bool,
    /// `echo.message_bytes`: longest message on `/echo`, in bytes.
    pub echo_message_bytes: usize,
    /// `rooms.announce_max`: members up to which each join and leave is announced.
    pub announce_max: usize,
    /// `rooms.announce_every`: pause between two summaries of joins and leaves in larger rooms.
    pub announce_every: Duration,
    /// `rooms.spread`.
    pub spread: Spread,
    /// `rooms.members_max`: members of one room.
    pub members_max: Option<usize>,
    /// `rooms.max`: rooms of the whole process.
    pub rooms_max: Option<usize>,
    /// `rooms.tick_bytes`: payload of one room in one turn; the rest waits for the next.
    pub room_tick_bytes: usize,
    /// `heartbeat.ping_after`: silence after which the server pings.
    pub ping_after: Duration,
    /// `heartbeat.timeout`: silence after which the connection is closed.
    pub heartbeat_timeout: Duration,
    /// `handshake.timeout`: from accept to a complete request head.
    pub handshake_timeout: Duration,
    /// `handshake.head_bytes`: longest request head.
    pub head_bytes: usize,
    /// `limits.connections_max`: connections of the whole process.
    pub connections_max: usize,
    /// `limits.memory_reserve`: bytes of memory that are kept back; `None`: `probe` reckons.
    pub memory_reserve: Option<usize>,
    /// `handshake.rate`: connections that the whole process accepts a second; `None`: as many as
    /// the cores have time for, a few a turn.
    pub handshake_rate: Option<usize>,
    /// `limits.connections_per_address`: connections of one remote address.
    pub connections_per_address: Option<usize>,
    /// `limits.queue_bytes`: all clients' queues and half-received messages together.
    pub queue_bytes_total: usize,
    /// `limits.http_connections`: plain HTTP connections of the whole process.
    pub http_connections: usize,
    /// `shutdown.grace`.
    pub shutdown_grace: Duration,
    /// `server.gather_sends`: a turn that sent one room's payload to so many waits a little.
    pub gather_sends: usize,
    /// `server.gather_max`: completions it waits for at most.
    pub gather_max: usize,
    /// `server.gather_wait`: how long it waits at most.
    pub gather_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_bytes: 1 << 20,
            policy: SlowPolicy::Disconnect,
            message_bytes: 64 << 10,
            close_timeout: Duration::from_secs(5),
            echo_enabled: true,
            echo_message_bytes: 16 << 20,
            announce_max: 256,
            announce_every: Duration::from_secs(1),
            spread: Spread::Auto,
            members_max: None,
            rooms_max: None,
            room_tick_bytes: 256 << 10,
            ping_after: Duration::from_secs(54),
            heartbeat_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
            head_bytes: 16 << 10,
            connections_max: TABLE_SLOTS_MAX,
            memory_reserve: None,
            handshake_rate: None,
            connections_per_address: None,
            queue_bytes_total: 256 << 20,
            http_connections: 256,
            shutdown_grace: Duration::from_secs(10),
            gather_sends: 64,
            gather_max: 256,
            gather_wait: Duration::from_micros(500),
        }
    }
}
