//! Turns defaults, a file, the environment and flags into one checked configuration.
//!
//! In:    `Sources`.
//! Out:   `Loaded`: the `Config`, and where each value came from; or every problem there is.
//! Never: opens a socket, writes a file, shows a secret.
//!
//! # Invariants
//! - Later layers win: default, file, environment, flag.
//! - A load that has a problem yields no configuration, and reports all of its problems.

mod check;
pub mod keys;
mod kind;
mod load;
mod problem;
mod raw;
mod show;
mod unit;
mod url;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub use kind::Kind;
pub use load::{DEFAULT_FILE, Differences, Flag, Loaded, Sources, load};
pub use problem::{Origin, Problem};
pub use show::{DEFAULT_TOML, default_toml, markdown};
pub use url::{Broker, BrokerUrl, shown as shown_url};

use crate::bridge::{Delivery, Overflow};
use crate::limits::{Limits, RingUse};
use crate::proxy::Network;

/// A number, or "work it out from the box".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Worked out at start.
    Auto,
    /// As the operator says.
    Count(usize),
}

impl Amount {
    /// The operator's number, if there is one.
    #[must_use]
    pub fn number(self) -> Option<usize> {
        match self {
            Self::Auto => None,
            Self::Count(number) => Some(number),
        }
    }
}

impl From<Option<usize>> for Amount {
    fn from(number: Option<usize>) -> Self {
        number.map_or(Self::Auto, Self::Count)
    }
}

/// Where a connection lives (`server.placement`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the home shard of its room: it moves there after the handshake.
    Home,
    /// On the shard that accepted it.
    Accept,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what will, if nobody acts.
    Warn,
    /// And what changed.
    Info,
    /// And each connection.
    Debug,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A text that no log and no message may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for comparing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(kind::SECRET_SHOWN)
    }
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `server.listen`: where clients connect; at least one.
    pub listen: Vec<SocketAddr>,
    /// `server.shards`: 1 to 1024.
    pub shards: Amount,
    /// `server.placement`.
    pub placement: Placement,
    /// `server.notsent_lowat`: unsent bytes the kernel keeps for a socket.
    pub notsent_lowat: usize,
    /// `server.mesh_messages`: messages that may wait from one shard to another.
    pub mesh_messages: usize,
    /// `server.mesh_bytes`: bytes that may wait from one shard to another.
    pub mesh_bytes: usize,
    /// `server.trusted_proxies`: whose word on a client's address is taken.
    pub trusted_proxies: Vec<Network>,
    /// `server.proxy_protocol`: their connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// `admin.listen`: where the operator connects.
    pub admin_listen: SocketAddr,
    /// `admin.key`: always set where `admin_listen` is off loopback.
    pub admin_key: Option<Secret>,
    /// `log.level`.
    pub log_level: LogLevel,
    /// `log.format`.
    pub log_format: LogFormat,
    /// `broker.url`: `None` where this box is alone.
    pub broker_url: Option<BrokerUrl>,
    /// `broker.delivery`.
    pub broker_delivery: Delivery,
    /// `broker.overflow`.
    pub broker_overflow: Overflow,
    /// `broker.required`.
    pub broker_required: bool,
    /// `broker.prefix`: letters, digits, `-`, `_`, and dots between them.
    pub broker_prefix: String,
    /// `broker.ca`: only where the URL's scheme has TLS.
    pub broker_ca: Option<PathBuf>,
    /// `broker.queue_messages`: mails in one lane between a shard and the bridge.
    pub broker_queue_messages: usize,
    /// `broker.queue_bytes`: bytes in one such lane.
    pub broker_queue_bytes: usize,
    /// `metrics.statsd`: `HOST:PORT`, not looked up yet.
    pub metrics_statsd: Option<String>,
    /// `static.dir`: `None` serves what is built in.
    pub static_dir: Option<PathBuf>,
    /// `limits.connections_max`. With `Auto`, `limits.connections_max` is only a ceiling, and who
    /// starts the server sets it from `probe::Capacity`.
    pub connections_max: Amount,
    /// Section `ring`.
    pub ring: RingUse,
    /// What SIGHUP may change.
    pub limits: Limits,
}

impl Config {
    /// Something to write the defaults of the key table into.
    fn blank() -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            listen: Vec::new(),
            shards: Amount::Auto,
            placement: Placement::Home,
            notsent_lowat: 0,
            mesh_messages: 0,
            mesh_bytes: 0,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            admin_listen: nowhere,
            admin_key: None,
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            broker_url: None,
            broker_delivery: Delivery::LocalFirst,
            broker_overflow: Overflow::Reject,
            broker_required: false,
            broker_prefix: String::new(),
            broker_ca: None,
            broker_queue_messages: 0,
            broker_queue_bytes: 0,
            metrics_statsd: None,
            static_dir: None,
            connections_max: Amount::Auto,
            ring: RingUse::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Loaded::defaults().config
    }
}

#[cfg(test)]
mod tests;
