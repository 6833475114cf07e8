//! Reads the logs of partitions, each entry until it is taken.
//!
//! In:    positions; entries as they are written.
//! Out:   entries to the inlet, in order; how far it came.
//! Never: reads on behind an entry that was not taken.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::address::Host;
use super::log::{Log, read_entries, read_streams};
use super::names::Names;
use super::nodes::{ANSWER_TIMEOUT, Node, settings};
use super::trouble::explain;
use crate::broker::{BrokerError, Inlet};

/// Longest that a server holds back an answer while there is nothing to read.
const BLOCK: Duration = Duration::from_secs(1);
/// Entries of one partition in one answer: 64 partitions of the largest messages must fit in memory.
const READ_ENTRIES: usize = 32;
/// Pause before a refused entry is offered again.
const OFFER_PAUSE: Duration = Duration::from_millis(1);

/// Reads some partitions over a connection of its own: a blocked `XREAD` blocks its connection.
#[derive(Debug)]
pub struct Reader {
    host: Host,
    connection: MultiplexedConnection,
    names: Arc<Names>,
    log: Rc<Log>,
    partitions: Vec<usize>,
}

impl Reader {
    /// Connects, and looks where these partitions' logs end and where to go on. What is written
    /// from now on will be read.
    ///
    /// # Errors
    /// The server cannot be used.
    pub async fn open(
        node: &Node,
        names: &Arc<Names>,
        log: &Rc<Log>,
        partitions: Vec<usize>,
    ) -> Result<Self, BrokerError> {
        let settings = settings().set_response_timeout(Some(BLOCK + ANSWER_TIMEOUT));
        let connection = node.client.get_multiplexed_async_connection_with_config(&settings).await;
        let trouble = |error| explain(&node.host, "connecting to read the log", &error);
        let mut connection = connection.map_err(trouble)?;
        let mut ask = redis::pipe();
        for partition in &partitions {
            ask.cmd("XREVRANGE").arg(&names.log[*partition]).arg("+").arg("-").arg("COUNT").arg(1);
        }
        let ends: Vec<Value> = ask.query_async(&mut connection).await.map_err(trouble)?;
        for (partition, end) in partitions.iter().zip(ends) {
            let last = read_entries(end).first().map(|entry| entry.id);
            if log.begin(*partition, last) {
                tracing::warn!(partition, "the broker's log is shorter than it was; read anew");
            }
        }
        let (host, names, log) = (node.host.clone(), Arc::clone(names), Rc::clone(log));
        Ok(Self { host, connection, names, log, partitions })
    }

    /// Reads until something goes wrong.
    pub async fn run(mut self, inlet: Arc<dyn Inlet>) -> BrokerError {
        loop {
            let answer: Result<Value, _> = self.next_read().query_async(&mut self.connection).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return explain(&self.host, "reading the log", &error),
            };
            if !self.hand_over(answer, &*inlet) {
                // What was refused is read again: the position stands before it.
                tokio::time::sleep(OFFER_PAUSE).await;
            }
        }
    }

    fn next_read(&self) -> redis::Cmd {
        let mut read = redis::cmd("XREAD");
        let block = u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX);
        read.arg("COUNT").arg(READ_ENTRIES).arg("BLOCK").arg(block).arg("STREAMS");
        for partition in &self.partitions {
            read.arg(&self.names.log[*partition]);
        }
        for partition in &self.partitions {
            read.arg(self.log.position(*partition).to_string());
        }
        read
    }

    /// `false`: something was refused.
    fn hand_over(&self, answer: Value, inlet: &dyn Inlet) -> bool {
        let mut all = true;
        for (stream, entries) in read_streams(answer) {
            let Some(partition) = self.names.partition(&stream) else { continue };
            for entry in entries {
                let taken = match entry.said {
                    Some((place, envelope)) => inlet.receive_placed(partition, place, &envelope),
                    None => {
                        tracing::debug!(partition, id = %entry.id, "a log entry that is none");
                        true
                    }
                };
                if !taken {
                    all = false;
                    break;
                }
                self.log.advance(partition, entry.id);
            }
        }
        all
    }
}
