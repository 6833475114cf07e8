//! Redis 7 and later: one server, a cluster, or one behind sentinels.
//!
//! In:    batches of envelopes; what the servers push and what their logs hold.
//! Out:   envelopes; the news that a session is over.
//! Never: connects again by itself, re-orders, or waits without bound.
//!
//! Local first: `PUBLISH` to a channel a partition (`SPUBLISH` in a cluster). In order: a stream a
//! partition, written by one script that numbers each room beside it. The control lane is pub/sub
//! always. Cluster: the client's own cluster connection is not used, since it retries and parks
//! what it cannot send; a plain connection a server keeps the order and fails at once.
//!
//! # Invariants
//! - One pipeline a server and batch: the order of a partition is the order of the batch.
//! - Positions in logs live in the engine: the next session goes on where the last was.

mod address;
mod log;
mod names;
mod nodes;
mod reader;
mod session;
mod trouble;

use std::rc::Rc;
use std::sync::Arc;

use self::address::Address;
use self::log::Log;
use self::names::Names;
use self::session::{RedisSession, Setup};
use super::{BrokerError, Engine, Inlet, Later, Options, Session};

/// Makes sessions of the Redis that `broker.url` names.
#[derive(Debug)]
struct RedisEngine(Rc<Setup>);

/// An engine for a Redis. Its sessions need a current-thread tokio runtime with a `LocalSet`.
///
/// # Errors
/// The URL, `broker.ca` or `broker.prefix` cannot be used; what to write instead.
pub fn engine(options: &Options) -> Result<Box<dyn Engine>, BrokerError> {
    let prefix = &options.prefix;
    if prefix.is_empty() || prefix.contains(|c: char| c.is_whitespace() || "{}".contains(c)) {
        return Err(BrokerError(format!(
            "broker.prefix is {prefix:?}: for Redis it must have no braces and no blanks, since \
             braces choose a cluster's slot"
        )));
    }
    let address = Address::read(options)?;
    // PUBLISH knows no databases: what keeps two of them apart is the name.
    let prefix = match address.database() {
        0 => prefix.clone(),
        database => format!("{prefix}:db{database}"),
    };
    let setup = Setup {
        address,
        names: Arc::new(Names::new(&prefix)),
        delivery: options.delivery,
        log: Rc::new(Log::new(options.keep)),
    };
    Ok(Box::new(RedisEngine(Rc::new(setup))))
}

impl Engine for RedisEngine {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn connect<'a>(
        &'a self,
        inlet: Arc<dyn Inlet>,
    ) -> Later<'a, Result<Box<dyn Session>, BrokerError>> {
        Box::pin(async move {
            let session = RedisSession::open(Rc::clone(&self.0), inlet).await?;
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}
