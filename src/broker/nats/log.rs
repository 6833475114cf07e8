//! The ordered delivery: one stream of JetStream for all partitions.
//!
//! In:    envelopes of partitions; the stream as it is at the server.
//! Out:   the same envelopes in the stream's order, each with its place, once.
//! Never: reads on while the inlet has no room, or mixes the places of two streams.
//!
//! The stream is named like the prefix (upper case, `stream_name`) and holds `PREFIX.log.NN`. Its
//! sequence is the offset; the time at which it was created names the epoch, so all boxes agree.
//! Every session makes a consumer of its own behind the last message that the inlet took: the
//! consumer dies with the session, the position lives in the engine.
//!
//! # Invariants
//! - A message carries its sender's sequence as its id: the server drops what is published again
//!   within [`TWICE_WITHIN`].
//! - A stream that another took the place of, or that came back shorter, is read from its start,
//!   under an epoch of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{
    Context, ContextBuilder, CreateStreamError, CreateStreamErrorKind, PublishAckFuture,
    PublishErrorKind,
};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{ErrorCode, Message};
use async_nats::{Client, Subject};
use bytes::Bytes;
use futures_util::StreamExt;

use super::super::{BrokerError, Inlet, Options};
use super::partition;
use super::signs::Signs;
use crate::bridge::{Place, envelope};
use crate::broker::loss::Task;
use crate::limits::PARTITIONS;
use crate::room::epoch::Epoch;

/// Within this time a message that is published again is dropped by the server: far longer than an
/// outage after which a box still holds a batch whose fate it does not know.
const TWICE_WITHIN: Duration = Duration::from_secs(120);
/// Shortest that the stream keeps a message: boxes resume from it after an outage.
const KEEP_MIN: Duration = Duration::from_secs(600);
/// Largest that the stream may become, in bytes, where it is created here; the oldest go first.
const LOG_BYTES_MAX: i64 = 1 << 30;
/// Messages asked for at once. A reader that waits for the inlet holds at most 1.5 times as many.
const PULL_MESSAGES: usize = 256;
/// How long the server keeps an unanswered pull.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that a pull is not forgotten.
const PULL_HEARTBEAT: Duration = Duration::from_secs(5);
/// After this time without a pull the server forgets the consumer of a session.
const CONSUMER_IDLE_MAX: Duration = Duration::from_secs(60);
/// Longest that an answer of JetStream may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Publications without an answer: one batch, and one abandoned.
const UNANSWERED_MAX: usize = 1024;
/// Pause before a message is offered to the inlet again.
const OFFER_PAUSE: Duration = Duration::from_millis(1);

/// The log, over all sessions.
pub struct Log {
    stream: String,
    filter: String,
    subjects: Arc<[Subject]>,
    keep: Duration,
    position: Arc<Position>,
}

/// How far this process has read.
#[derive(Debug, Default)]
struct Position {
    /// The stream's identity; none before the first session.
    reading: Mutex<Option<Reading>>,
    /// The sequence of the last message that the inlet took, or that was there before the first.
    last: AtomicU64,
}

/// Which stream is read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    /// When it was created, in nanoseconds since 1970.
    created: u64,
    epoch: Epoch,
}

/// The log in one session.
pub struct LogSession {
    context: Context,
    subjects: Arc<[Subject]>,
    position: Arc<Position>,
    epoch: Epoch,
}

impl Log {
    /// The log of a prefix; nothing of it is looked at yet.
    pub fn new(options: &Options) -> Self {
        let prefix = &options.prefix;
        let subject = |partition| Subject::from(format!("{prefix}.log.{partition:02}"));
        Self {
            stream: stream_name(prefix),
            filter: format!("{prefix}.log.*"),
            subjects: (0..PARTITIONS).map(subject).collect(),
            keep: options.keep.max(KEEP_MIN),
            position: Arc::default(),
        }
    }

    /// Finds or creates the stream and reads on from behind the last message that was taken.
    ///
    /// # Errors
    /// JetStream is not enabled, or refuses; the stream there is of another kind.
    pub async fn follow(
        &self,
        client: &Client,
        inlet: Arc<dyn Inlet>,
        signs: Arc<Signs>,
    ) -> Result<(LogSession, Task), BrokerError> {
        let context = ContextBuilder::new()
            .timeout(ANSWER_TIMEOUT)
            .ack_timeout(ANSWER_TIMEOUT)
            .max_ack_inflight(UNANSWERED_MAX)
            .backpressure_on_inflight(true)
            .build(client.clone());
        let stream = context
            .get_or_create_stream(self.config())
            .await
            .map_err(|error| self.refused(&error))?;
        let found = stream.cached_info();
        self.check(&found.config)?;
        let epoch = self.position.resume(&Found::of(found));
        let consumer = stream
            .create_consumer(pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: self.position.last() + 1,
                },
                ack_policy: AckPolicy::None,
                filter_subject: self.filter.clone(),
                inactive_threshold: CONSUMER_IDLE_MAX,
                memory_storage: true,
                num_replicas: 1,
                ..pull::Config::default()
            })
            .await
            .map_err(|error| self.wrong(&format!("refuses a consumer: {error}")))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_HEARTBEAT)
            .messages()
            .await
            .map_err(|error| self.wrong(&format!("cannot be read: {error}")))?;
        let position = self.position.clone();
        let reader = Task::start(read(messages, position, epoch.clone(), inlet, signs));
        let (subjects, position) = (self.subjects.clone(), self.position.clone());
        Ok((LogSession { context, subjects, position, epoch }, reader))
    }

    fn config(&self) -> Config {
        Config {
            name: self.stream.clone(),
            description: Some("What is said in the rooms of Ringhall, in order".into()),
            subjects: vec![self.filter.clone()],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            max_age: self.keep,
            max_bytes: LOG_BYTES_MAX,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            num_replicas: 1,
            duplicate_window: TWICE_WITHIN,
            ..Config::default()
        }
    }

    /// Whether a stream that is there will do, whoever made it.
    fn check(&self, config: &Config) -> Result<(), BrokerError> {
        let what = if !config.subjects.contains(&self.filter) {
            format!("does not hold `{}`", self.filter)
        } else if config.retention != RetentionPolicy::Limits {
            "does not keep messages by limits (`retention: limits`)".into()
        } else if config.no_ack {
            "does not acknowledge (`no_ack`)".into()
        } else {
            return Ok(());
        };
        Err(self.wrong(&format!("{what}: remove it, or choose another broker.prefix")))
    }

    fn wrong(&self, what: &str) -> BrokerError {
        BrokerError(format!("NATS, stream `{}` {what}", self.stream))
    }

    fn refused(&self, error: &CreateStreamError) -> BrokerError {
        let remedy = match error.kind() {
            CreateStreamErrorKind::JetStreamUnavailable => NOT_ENABLED,
            CreateStreamErrorKind::JetStream(answer) => match answer.error_code() {
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                    NOT_ENABLED
                }
                ErrorCode::STREAM_SUBJECT_OVERLAP => {
                    "another stream holds its subjects: remove it, or choose another broker.prefix"
                }
                ErrorCode::INSUFFICIENT_RESOURCES | ErrorCode::STORAGE_RESOURCES_EXCEEDED => {
                    "raise the server's `jetstream { max_file_store }`: the stream reserves 1 GiB; \
                     or create a smaller one beforehand"
                }
                _ => "look into the server's log",
            },
            CreateStreamErrorKind::TimedOut => "JetStream does not answer: is it still recovering?",
            _ => "look into the server's log",
        };
        self.wrong(&format!("cannot be had: {error}; {remedy}"))
    }
}

const NOT_ENABLED: &str = "ordered delivery needs JetStream: start nats-server with `-js`, enable \
                           it for the account, or set broker.delivery = \"local_first\"";

/// What of a stream decides where to read on.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// In nanoseconds since 1970.
    created: u64,
    /// The oldest message's sequence; one more than the last where there is none.
    first: u64,
    last: u64,
}

impl Found {
    fn of(info: &Info) -> Self {
        let created = u64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(0);
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        Self { created, first, last }
    }
}

impl Position {
    fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    fn take(&self, sequence: u64) {
        self.last.store(sequence, Ordering::Relaxed);
    }

    /// Where to read on in what was found; the epoch of its places.
    fn resume(&self, found: &Found) -> Epoch {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.last();
        let epoch = match &*reading {
            None => {
                self.take(found.last);
                epoch_of(found.created)
            }
            Some(known) if known.created != found.created => {
                tracing::warn!("NATS has a new stream: rooms get a new epoch");
                self.take(0);
                epoch_of(found.created)
            }
            // The server lost the end of its file, at a loss of power perhaps. Other boxes may have
            // read less of it: what they call the epoch cannot be known.
            Some(known) if found.last < last => {
                tracing::warn!("the stream of NATS came back shorter: rooms get a new epoch");
                self.take(0);
                epoch_of(known.created.wrapping_add(last))
            }
            Some(known) => {
                let missed = found.first.saturating_sub(last + 1);
                if missed > 0 {
                    tracing::warn!(
                        missed,
                        "messages left the stream of NATS before they were read"
                    );
                }
                known.epoch.clone()
            }
        };
        *reading = Some(Reading { created: found.created, epoch: epoch.clone() });
        epoch
    }
}

/// The name of a prefix's stream: another for each prefix. A stream may have no dot in its name,
/// and upper case is what people expect; what both would mix up is marked by `_`.
fn stream_name(prefix: &str) -> String {
    let mut name = String::with_capacity(2 * prefix.len());
    for letter in prefix.chars() {
        match letter {
            '.' => name.push_str("_-"),
            '_' => name.push_str("__"),
            'A'..='Z' => name.extend(['_', letter]),
            _ => name.push(letter.to_ascii_uppercase()),
        }
    }
    name
}

fn epoch_of(created: u64) -> Epoch {
    Epoch::parse(&format!("n{created:x}")).unwrap_or_default()
}

async fn read(
    mut messages: pull::Stream,
    position: Arc<Position>,
    epoch: Epoch,
    inlet: Arc<dyn Inlet>,
    signs: Arc<Signs>,
) {
    while let Some(next) = messages.next().await {
        let message = match next {
            Ok(message) => message,
            Err(error) => return signs.lose(&format!("NATS, reading the stream: {error}")),
        };
        let Ok(sequence) = message.info().map(|info| info.stream_sequence) else {
            return signs.lose("NATS sent a message of a stream without its sequence");
        };
        if let Some(partition) = partition(&message.subject) {
            offer(&message, partition, Place { epoch: epoch.clone(), offset: sequence }, &*inlet)
                .await;
        }
        position.take(sequence);
    }
    signs.lose("the connection to NATS was lost");
}

async fn offer(message: &Message, partition: usize, place: Place, inlet: &dyn Inlet) {
    while !inlet.receive_placed(partition, place.clone(), &message.payload) {
        tokio::time::sleep(OFFER_PAUSE).await;
    }
}

impl LogSession {
    /// Sends an envelope; what it gives is for [`LogSession::settle`].
    ///
    /// # Errors
    /// The session is lost, or there is no such partition.
    pub async fn publish(
        &self,
        partition: usize,
        envelope: &Bytes,
    ) -> Result<PublishAckFuture, BrokerError> {
        let subject = self.subjects.get(partition);
        let subject = subject.ok_or_else(|| BrokerError("there is no such partition".into()))?;
        let mut message = PublishMessage::build().payload(envelope.clone());
        if let Ok((node, sequence)) = envelope::sender(envelope) {
            let (id, incarnation) = (node.id, node.incarnation);
            message = message
                .message_id(format!("{id:016x}:{incarnation:08x}:{partition:02}:{sequence}"));
        }
        let sent = self.context.send_publish(subject.clone(), message).await;
        sent.map_err(|error| BrokerError(format!("NATS, publishing to the stream: {error}")))
    }

    /// Waits until the stream has stored all of them.
    ///
    /// # Errors
    /// It has not stored one.
    pub async fn settle(&self, sent: Vec<PublishAckFuture>) -> Result<(), BrokerError> {
        for stored in sent {
            stored.await.map_err(|error| {
                let remedy = match error.kind() {
                    PublishErrorKind::StreamNotFound => "; it is gone",
                    _ => "",
                };
                BrokerError(format!("NATS, publishing to the stream: {error}{remedy}"))
            })?;
        }
        Ok(())
    }

    /// The place of the last message that the inlet took: every later one has a greater offset.
    pub fn place(&self) -> Place {
        Place { epoch: self.epoch.clone(), offset: self.position.last() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: Found = Found { created: 1_764_300_000_000_000_000, first: 1, last: 40 };

    #[test]
    fn every_prefix_has_a_stream_of_its_own() {
        assert_eq!(stream_name("ringhall"), "RINGHALL");
        let prefixes =
            ["ab", "a.b", "a-b", "a_b", "AB", "Ab", "aB", "a_B", "a.B", "a__b", "a._b", "a_.b"];
        let names: std::collections::HashSet<_> =
            prefixes.iter().map(|prefix| stream_name(prefix)).collect();
        assert_eq!(names.len(), prefixes.len(), "{names:?}");
        assert!(names.iter().all(|name| !name.contains('.')), "{names:?}");
    }

    #[test]
    fn the_first_session_starts_at_the_end() {
        let position = Position::default();
        let epoch = position.resume(&FOUND);
        assert_eq!(position.last(), 40);
        assert!(epoch.as_str().starts_with('n') && epoch.as_str().len() <= 32, "{epoch:?}");
    }

    #[test]
    fn a_later_session_reads_on_where_the_last_stopped() {
        let position = Position::default();
        let epoch = position.resume(&FOUND);
        position.take(42);
        assert_eq!(position.resume(&Found { last: 50, ..FOUND }), epoch);
        assert_eq!(position.last(), 42);
        assert_eq!(position.resume(&Found { first: 48, last: 50, ..FOUND }), epoch);
        assert_eq!(position.last(), 42, "what is gone is gone");
    }

    #[test]
    fn a_new_stream_is_read_from_its_start_under_an_epoch_that_all_boxes_know() {
        let position = Position::default();
        let epoch = position.resume(&FOUND);
        let new = Found { created: FOUND.created + 1, first: 1, last: 90 };
        let renewed = position.resume(&new);
        assert_eq!(position.last(), 0);
        assert_ne!(renewed, epoch);
        assert_eq!(Position::default().resume(&new), renewed);
    }

    #[test]
    fn a_stream_that_came_back_shorter_is_read_from_its_start_under_another_epoch() {
        let position = Position::default();
        let epoch = position.resume(&FOUND);
        let shorter = Found { last: 39, ..FOUND };
        let renewed = position.resume(&shorter);
        assert_eq!(position.last(), 0);
        assert_ne!(renewed, epoch);
        position.take(39);
        assert_eq!(position.resume(&shorter), renewed, "and keeps that");
    }
}
