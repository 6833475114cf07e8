//! Several boxes: what is said in rooms here reaches members elsewhere through a broker.
//!
//! In:    mail from the shards (`bridge`); envelopes from the broker.
//! Out:   envelopes to the broker, mail to the shards; how the broker is.
//! Never: blocks a shard, trusts an envelope, or lets a client library queue without bound.
//!
//! One thread with a runtime of its own. A [`Session`] is made by an [`Engine`] and thrown away at
//! the first sign of trouble; the breaker decides when the next one carries messages.
//!
//! # Invariants
//! - While the breaker is open the client library is not called: nothing piles up in it.
//! - One batch is under way at a time, published as one pipeline: order is the order of the queue.
//! - A message's sequence is used up whether or not it is handed over: others see what they miss.

pub mod authorities;
pub mod breaker;
pub mod cluster;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod loss;
#[cfg(feature = "nats")]
pub mod nats;
pub mod peers;
pub mod presence;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "redis")]
pub mod redis;
mod run;
mod secrets;
mod shared;
pub mod status;

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::bridge::envelope::Node;
use crate::bridge::{Delivery, Place};
use crate::id::RoomKey;

pub use run::{FLUSH_TIMEOUT, Running, Setup, start};
pub use secrets::Secrets;
pub use shared::{BATCH_BYTES, BATCH_MESSAGES, Ring};

/// Longest that a connection to a broker may take, its subscriptions included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Oldest that an unacknowledged batch may become before the breaker opens.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Where an envelope travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What is said in the rooms of one partition, below [`crate::limits::PARTITIONS`].
    Partition(usize),
    /// Signs of life, presence, probes: pub/sub whatever the delivery.
    Control,
}

/// An envelope on its way to the broker, stamped.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Where it travels.
    pub lane: Lane,
    /// The envelope.
    pub envelope: bytes::Bytes,
}

impl Parcel {
    /// Whether it is what somebody said.
    #[must_use]
    pub fn is_message(&self) -> bool {
        self.lane != Lane::Control
    }
}

/// What went wrong with a broker, for the log and `/health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerError(pub String);

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which parcels of a batch were given up, by their index, in order: those that the broker will
/// never take, however often they are offered, such as one that is longer than it allows.
pub type GivenUp = Vec<usize>;

/// A future of the bridge's thread.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Where a session puts what it receives. Cheap to clone behind its `Arc`; never blocks.
pub trait Inlet: Send + Sync {
    /// Takes an envelope that came by pub/sub. Whoever wrote it: it may be one's own, a duplicate,
    /// or nonsense.
    fn receive(&self, lane: Lane, envelope: &[u8]);

    /// Takes an envelope of a partition's log. `false`: the shard has no room for it; offer it
    /// again a millisecond later, and read no further until it is taken.
    #[must_use]
    fn receive_placed(&self, partition: usize, place: Place, envelope: &[u8]) -> bool;

    /// Counts that a log has shown a record before an earlier one, and is read again from there.
    /// Who keeps no count has nothing to do.
    fn count_reread(&self) {}
}

/// A kind of broker: makes sessions. It lives as long as the process, and so holds what the next
/// session must know of the last, such as positions in logs.
pub trait Engine {
    /// What `/health` calls it.
    fn kind(&self) -> &'static str;

    /// Connects and subscribes to the partitions and to the control lane. When it resolves,
    /// whatever any box publishes from now on reaches the inlet. Cancelled after
    /// [`CONNECT_TIMEOUT`].
    ///
    /// With [`Delivery::Ordered`] the partitions come from their logs, each from behind the last
    /// envelope that the inlet has taken; in the first session from the log's end.
    fn connect<'a>(
        &'a self,
        inlet: Arc<dyn Inlet>,
    ) -> Later<'a, Result<Box<dyn Session>, BrokerError>>;
}

/// One connection to a broker, as long as it is well. Dropping it ends it.
pub trait Session {
    /// Publishes in order, as one pipeline; resolves when the broker has taken all of them but
    /// those that it gives. After an error (or when it is cancelled, after [`PUBLISH_TIMEOUT`]) it
    /// is not known which.
    fn publish<'a>(&'a self, parcels: &'a [Parcel]) -> Later<'a, Result<GivenUp, BrokerError>>;

    /// With [`Delivery::Ordered`]: the newest place of a room.
    fn place<'a>(&'a self, room: &'a RoomKey) -> Later<'a, Result<Place, BrokerError>>;

    /// Resolves when the connection is lost.
    fn lost(&self) -> Later<'_, BrokerError>;
}

/// What an engine is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// `broker.url`, whole: scheme, credentials, hosts, path.
    pub url: String,
    /// `broker.delivery`.
    pub delivery: Delivery,
    /// `broker.prefix`: the first part of every name at the broker, so that several clusters can
    /// share one.
    pub prefix: String,
    /// `broker.ca`: PEM file of the authorities that TLS trusts; `None`: the usual ones.
    pub ca: Option<PathBuf>,
    /// This process among its peers: part of names that must be its own.
    pub node: Node,
    /// `history.ttl` once it is there; how long an ordered log is kept at least.
    pub keep: Duration,
}

/// The engine that a URL's scheme names. It opens no connection yet.
///
/// # Errors
/// What is wrong with the options, or that this binary has no such engine.
pub fn engine(options: &Options) -> Result<Box<dyn Engine>, BrokerError> {
    let scheme = options.url.split("://").next().unwrap_or_default();
    // An arm an engine, each behind its feature.
    match scheme {
        "" => Err(BrokerError("broker.url is empty".to_owned())),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+cluster" | "rediss+cluster" | "redis+sentinel"
        | "rediss+sentinel" => redis::engine(options),
        #[cfg(feature = "nats")]
        "nats" | "tls" => nats::engine(options),
        #[cfg(feature = "rabbitmq")]
        "amqp" | "amqps" => rabbitmq::engine(options),
        #[cfg(feature = "kafka")]
        "kafka" | "kafka+tls" => kafka::engine(options),
        other => Err(BrokerError(format!(
            "this binary has no engine for {other}://; build it with the feature of that broker \
             (redis, nats, rabbitmq or kafka), all of which a plain `cargo build` has"
        ))),
    }
}

#[cfg(test)]
mod tests;
