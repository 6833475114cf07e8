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
use super::log::{Entry, Log, read_entries, read_streams};
use super::names::Names;
use super::nodes::{ANSWER_TIMEOUT, Node, settings};
use super::trouble::explain;
use crate::broker::{BrokerError, Inlet};

/// Longest that a server holds back an answer while there is nothing to read.
const BLOCK: Duration = Duration::from_secs(1);
/// Entries of one partition in one answer: few at first, since 64 partitions of the largest
/// messages must fit in memory; twice as many while answers are full and small, half as many when
/// large.
const READ_ENTRIES: std::ops::RangeInclusive<usize> = 16..=1024;
/// Bytes beyond which an answer is large.
const READ_BYTES: usize = 4 << 20;
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
    /// Entries of one partition in the next answer.
    entries: usize,
}

/// What became of an answer.
#[derive(Debug, Default)]
struct Outcome {
    bytes: usize,
    /// Entries of the partition that had most.
    most: usize,
    /// Something was not taken.
    refused: bool,
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
        Ok(Self { host, connection, names, log, partitions, entries: *READ_ENTRIES.start() })
    }

    /// Reads until something goes wrong.
    pub async fn run(mut self, inlet: Arc<dyn Inlet>) -> BrokerError {
        loop {
            let answer: Result<Value, _> = self.next_read().query_async(&mut self.connection).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return explain(&self.host, "reading the log", &error),
            };
            let outcome = self.hand_over(answer, &*inlet);
            self.entries = entries_after(self.entries, &outcome);
            if outcome.refused {
                // What was refused is read again: the position stands before it.
                tokio::time::sleep(OFFER_PAUSE).await;
            }
        }
    }

    fn next_read(&self) -> redis::Cmd {
        let mut read = redis::cmd("XREAD");
        let block = u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX);
        read.arg("COUNT").arg(self.entries).arg("BLOCK").arg(block).arg("STREAMS");
        for partition in &self.partitions {
            read.arg(&self.names.log[*partition]);
        }
        for partition in &self.partitions {
            read.arg(self.log.position(*partition).to_string());
        }
        read
    }

    fn hand_over(&self, answer: Value, inlet: &dyn Inlet) -> Outcome {
        let mut outcome = Outcome::default();
        for (stream, entries) in read_streams(answer) {
            let Some(partition) = self.names.partition(&stream) else { continue };
            outcome.most = outcome.most.max(entries.len());
            outcome.bytes += entries.iter().map(Entry::len).sum::<usize>();
            for entry in entries {
                let taken = match entry.said {
                    Some((place, envelope)) => inlet.receive_placed(partition, place, &envelope),
                    None => {
                        tracing::debug!(partition, id = %entry.id, "a log entry that is none");
                        true
                    }
                };
                if !taken {
                    outcome.refused = true;
                    break;
                }
                self.log.advance(partition, entry.id);
            }
        }
        outcome
    }
}

/// How many entries to ask for next.
fn entries_after(entries: usize, outcome: &Outcome) -> usize {
    let next = match outcome {
        Outcome { bytes, .. } if *bytes > READ_BYTES => entries / 2,
        Outcome { refused: true, .. } => entries,
        Outcome { most, bytes, .. } if *most == entries && *bytes < READ_BYTES / 4 => entries * 2,
        _ => entries,
    };
    next.clamp(*READ_ENTRIES.start(), *READ_ENTRIES.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_small_answers_grow_and_large_ones_shrink() {
        let after = |entries, most, bytes, refused| {
            entries_after(entries, &Outcome { bytes, most, refused })
        };
        assert_eq!(after(16, 16, 2_000, false), 32);
        assert_eq!(after(16, 15, 2_000, false), 16, "not full");
        assert_eq!(after(16, 16, 2_000, true), 16, "not taken");
        assert_eq!(after(64, 64, READ_BYTES / 2, false), 64);
        assert_eq!(after(64, 1, READ_BYTES + 1, true), 32);
        assert_eq!(after(1024, 1024, 0, false), 1024);
        assert_eq!(after(16, 16, READ_BYTES + 1, false), 16);
    }
}
