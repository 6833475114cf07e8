//! From the section `broker` of the configuration to a running bridge, or to none.
//!
//! In:    the configuration; the shards' bells.
//! Out:   the lanes for the shards; the bridge's thread.
//! Never: opens a connection itself, or shows a password.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::system::uname;

use super::RunError;
use crate::bridge::envelope::Node;
use crate::bridge::{Bounds, Bridge};
use crate::broker::status::Status;
use crate::broker::{self, Engine, Options, Running, Secrets, Setup};
use crate::config::Config;
use crate::id::ShardId;
use crate::mesh::Mesh;

/// What an ordered log keeps at least: a box that was away for so long misses nothing.
const KEEP: Duration = Duration::from_secs(300);
/// Where systemd keeps a number that a box has for life.
const MACHINE_ID: &str = "/etc/machine-id";

/// A bridge that runs.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) bridge: Arc<Bridge>,
    pub(super) required: bool,
    pub(super) running: Running,
}

/// What health is asked of.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) bridge: Arc<Bridge>,
    pub(super) status: Arc<Status>,
    pub(super) required: bool,
}

impl Joined {
    pub(super) fn watched(&self) -> Watched {
        let (bridge, status) = (self.bridge.clone(), self.running.status.clone());
        Watched { bridge, status, required: self.required }
    }
}

/// Says what is wrong with the section before any socket is open: what only an engine knows.
///
/// # Errors
/// What it refuses, and what to write instead.
pub(super) fn check(config: &Config) -> Result<(), RunError> {
    let nobody = Node { id: 0, incarnation: 0 };
    let Some(options) = options(config, nobody) else { return Ok(()) };
    make(&options).map(drop).map_err(|error| RunError(error.to_string()))
}

/// Makes the lanes, and starts the thread behind them.
pub(super) fn start(
    config: &Config,
    address: SocketAddr,
    mesh: &Arc<Mesh>,
    eventfds: Vec<OwnedFd>,
) -> Result<Option<Joined>, RunError> {
    let (machine, host) = names();
    let node = Node { id: node_id(&machine, address), incarnation: fastrand::u32(..) };
    let Some(options) = options(config, node) else { return Ok(None) };
    let bounds = Bounds {
        shards: eventfds.len(),
        messages: config.broker_queue_messages,
        bytes: config.broker_queue_bytes,
    };
    let bridge = Arc::new(Bridge::new(config.broker_delivery, config.broker_overflow, bounds));
    let mesh = mesh.clone();
    let ring = move |shard: ShardId| {
        if mesh.bell(shard).must_ring()
            && let Err(error) = rustix::io::write(&eventfds[shard.index()], &1u64.to_ne_bytes())
        {
            tracing::warn!(%error, "a shard could not be woken");
        }
    };
    let setup = Setup {
        bridge: bridge.clone(),
        node,
        name: format!("{host} {address}"),
        url: options.url.clone(),
        ring: Box::new(ring),
    };
    let running = broker::start(setup, move || make(&options));
    let running = running.map_err(|error| RunError(error.to_string()))?;
    Ok(Some(Joined { bridge, required: config.broker_required, running }))
}

fn options(config: &Config, node: Node) -> Option<Options> {
    let url = config.broker_url.as_ref()?.expose().to_owned();
    Some(Options {
        url,
        delivery: config.broker_delivery,
        prefix: config.broker_prefix.clone(),
        ca: config.broker_ca.clone(),
        node,
        keep: KEEP,
    })
}

fn make(options: &Options) -> Result<Box<dyn Engine>, broker::BrokerError> {
    broker::engine(options).map_err(|error| {
        let secrets = Secrets::of(&options.url);
        broker::BrokerError(format!("{}: {}", secrets.shown(), secrets.hide(&error.0)))
    })
}

/// What tells this box from others, and what people call it.
fn names() -> (String, String) {
    let system = uname();
    let host = system.nodename().to_string_lossy().into_owned();
    let machine = std::fs::read_to_string(MACHINE_ID).unwrap_or_default();
    (format!("{} {host}", machine.trim()), host)
}

/// The same at every start of one server (FNV-1a, 64 bit).
fn node_id(machine: &str, address: SocketAddr) -> u64 {
    let name = format!("{machine} {address}");
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, fold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_keeps_its_number_and_two_servers_of_one_box_differ() {
        let of = |machine, port| node_id(machine, SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(of("m", 1), of("m", 1));
        assert_ne!(of("m", 1), of("m", 2));
        assert_ne!(of("m", 1), of("n", 1));
    }
}
