//! Reads topics from where a session begins, and gives what comes to the inlet.
//!
//! In:    partitions and where to start; records.
//! Out:   envelopes; the reason why there will be no more.
//! Never: reads a partition further than the inlet takes (ordered), or over a record that is not
//!        shown yet, as long as there is hope for it; waits longer than [`GLANCE`]
//!        without looking whether the connection is lost.
//!
//! The library hides a lost connection from its reader: it logs, waits and tries again, for longer
//! and longer. Its count of failed fetches is what tells.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use krafka::Kafka;
use krafka::consumer::{AutoOffsetReset, Consumer, ConsumerRecord, TopicPartition};

use super::fault::fault;
use super::positions::{Positions, Seen, Start, Step, TopicId, face};
use super::writer::is_mark;
use crate::bridge::Place;
use crate::broker::{BrokerError, Inlet, Lane};
use crate::limits::PARTITIONS;

/// Longest wait for a record before the connection is looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// Pause of the library where all partitions wait for room in the inlet.
const OFFER_AGAIN: Duration = Duration::from_millis(1);
/// Bytes of one answer, and of one partition in it; a single record may be larger. They bound what
/// waits here for room in the inlet.
const FETCH_BYTES: i32 = 2 << 20;
const PARTITION_FETCH_BYTES: i32 = 256 << 10;
/// How long to wait for what is known to be there.
const FIRST_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long to ask a broker why it did not answer.
const WHY_TIMEOUT: Duration = Duration::from_millis(200);
/// How often to look whether a topic is still the one it was.
pub(super) const TOPIC_CHECK: Duration = Duration::from_secs(2);

/// A consumer of one topic that ends when it is dropped.
pub(super) struct Reader {
    consumer: Consumer,
    topic: String,
}

impl Reader {
    /// `pace`: how long a broker may hold an answer back until there is something to say.
    pub(super) async fn new(
        kafka: &Kafka,
        topic: &str,
        starts: &[Start],
        pace: Duration,
    ) -> Result<Self, BrokerError> {
        let wrong = |error| fault("starting to read", &error);
        let consumer = kafka
            .consumer_without_group()
            .enable_auto_commit(false)
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .fetch_max_wait(pace)
            .fetch_max_bytes(FETCH_BYTES)
            .max_partition_fetch_bytes(PARTITION_FETCH_BYTES)
            .max_poll_records(-1)
            .max_buffered_records(0)
            .idle_poll_backoff(OFFER_AGAIN)
            .metrics_push(false)
            .build()
            .await
            .map_err(wrong)?;
        let reader = Self { consumer, topic: topic.to_owned() };
        let numbers = (0..).take(starts.len()).collect();
        reader.consumer.assign(topic, numbers).await.map_err(wrong)?;
        let mut offsets = Vec::new();
        for (number, start) in (0..).zip(starts) {
            match start {
                Start::At(offset) => {
                    let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
                    offsets.push((TopicPartition::new(topic, number), offset));
                }
                Start::Beginning => {
                    reader.consumer.seek_to_beginning(topic, number).await.map_err(wrong)?;
                }
            }
        }
        reader.consumer.seek_many(offsets).await.map_err(wrong)?;
        Ok(reader)
    }

    /// Waits for the first records: a session has written some, so that there are any.
    pub(super) async fn first(&self) -> Result<Vec<ConsumerRecord>, BrokerError> {
        let began = Instant::now();
        while began.elapsed() < FIRST_TIMEOUT {
            let records = self.poll(GLANCE).await?;
            if !records.is_empty() {
                return Ok(records);
            }
            self.lost().await?;
        }
        // The library tells its reader no more than that nothing comes.
        Err(BrokerError(format!(
            "topic {}: what was written a moment ago cannot be read; allow the user of broker.url \
             Read on it, or see what the client library says (log.level = \"debug\")",
            self.topic
        )))
    }

    async fn poll(&self, patience: Duration) -> Result<Vec<ConsumerRecord>, BrokerError> {
        self.consumer.poll(patience).await.map_err(|error| fault("reading", &error))
    }

    /// Why reading goes on no more, if so.
    async fn lost(&self) -> Result<(), BrokerError> {
        if self.consumer.metrics().consumer.errors == 0 {
            return Ok(());
        }
        let asked = self.consumer.fetch_watermarks(&self.topic, 0);
        match tokio::time::timeout(WHY_TIMEOUT, asked).await {
            Ok(Err(error)) => Err(fault("reading", &error)),
            Ok(Ok(_)) | Err(_) => Err(BrokerError(format!(
                "reading topic {}: a broker has not answered; see whether all of them run",
                self.topic
            ))),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Without a group there is nobody to tell. The first poll says to the library that the end
        // is meant; the rest would tell brokers what they see from the closed connection.
        if tokio::runtime::Handle::try_current().is_ok() {
            let _ = self.consumer.close().now_or_never();
        }
    }
}

fn partition_of(record: &ConsumerRecord) -> usize {
    usize::try_from(record.partition).unwrap_or(usize::MAX)
}

/// The envelope in a record, if it is no mark.
fn envelope(record: &ConsumerRecord) -> Option<&[u8]> {
    record.value.as_deref().filter(|_| !is_mark(record.key.as_ref()))
}

/// Looks whether the topic is still the one that the session has begun with: made anew under the
/// same name it is another log, whose offsets mean nothing to us.
pub(super) async fn watch(kafka: Kafka, topic: String, id: TopicId) -> BrokerError {
    loop {
        tokio::time::sleep(TOPIC_CHECK).await;
        let admin = kafka.admin();
        let options = krafka::admin::DescribeTopicsOptions::default().timeout(TOPIC_CHECK);
        let described = admin.describe_topics([&topic], options).await;
        match described.map(|mut topics| topics.remove(&topic)) {
            Ok(Some(Ok(found))) if found.topic_id == id => {}
            Ok(Some(Ok(_))) => {
                return BrokerError(format!("topic {topic} has been made anew"));
            }
            Ok(Some(Err(error))) | Err(error) => {
                return fault(&format!("looking at topic {topic}"), &error);
            }
            Ok(None) => return BrokerError(format!("the brokers say nothing of topic {topic}")),
        }
    }
}

/// What has become of a record that was offered.
enum Offered {
    Done,
    NoRoom,
    /// The log is another: its partition is read again.
    Again,
    /// Records before it are missing: its partition is read again from there, after a pause.
    Early {
        missing: u64,
        pause: Duration,
    },
}

/// What is read, and how it is given to the inlet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// What is said, with its places, at the inlet's pace.
    Ordered,
    /// What is said, as it comes.
    LocalFirst,
    /// The one partition of everything else, as it comes.
    Control,
}

/// Reads the logs of partitions.
pub(super) struct Logs {
    reader: Reader,
    positions: Rc<RefCell<Positions>>,
    inlet: Arc<dyn Inlet>,
    way: Way,
    /// What was read and not taken yet, by partition; such a partition is read no further.
    held: [VecDeque<ConsumerRecord>; PARTITIONS],
    /// When a partition is read again for what is missing in it.
    due: [Option<Instant>; PARTITIONS],
    /// How long to wait for a record before what is held is offered again.
    pace: Duration,
}

impl Logs {
    pub(super) fn new(
        reader: Reader,
        positions: Rc<RefCell<Positions>>,
        inlet: Arc<dyn Inlet>,
        way: Way,
        pace: Duration,
    ) -> Self {
        let held = std::array::from_fn(|_| VecDeque::new());
        Self { reader, positions, inlet, way, held, due: [None; PARTITIONS], pace }
    }

    /// Until the connection is lost; the first records have been read before.
    pub(super) async fn run(mut self, mut records: Vec<ConsumerRecord>) -> BrokerError {
        loop {
            records = match self.turn(records).await {
                Ok(records) => records,
                Err(error) => return error,
            };
        }
    }

    /// Takes records, offers again what waits, and reads the next.
    async fn turn(
        &mut self,
        records: Vec<ConsumerRecord>,
    ) -> Result<Vec<ConsumerRecord>, BrokerError> {
        self.take(records).await?;
        self.reader.lost().await?;
        tokio::task::yield_now().await;
        for partition in 0..PARTITIONS {
            if !self.held[partition].is_empty() {
                self.offer_held(partition).await?;
            }
            if self.due[partition].is_some_and(|due| due <= Instant::now()) {
                self.due[partition] = None;
                self.resume(partition).await;
            }
        }
        let holds = self.held.iter().any(|held| !held.is_empty());
        let holds = holds || self.due.iter().any(Option::is_some);
        // Not shorter than the pace: there are brokers that answer nothing to who cannot wait.
        self.reader.poll(if holds { self.pace } else { GLANCE }).await
    }

    async fn take(&mut self, records: Vec<ConsumerRecord>) -> Result<(), BrokerError> {
        // Partitions that are read again: what was read of them counts no more.
        let mut again = [false; PARTITIONS];
        for record in records {
            let partition = partition_of(&record);
            if partition >= PARTITIONS || again[partition] {
                continue;
            }
            if !self.held[partition].is_empty() {
                self.held[partition].push_back(record);
                continue;
            }
            match self.offer(partition, &record) {
                Offered::Done => {}
                Offered::NoRoom => self.hold(partition, record).await,
                Offered::Again => {
                    again[partition] = true;
                    self.rewind(partition).await?;
                }
                Offered::Early { missing, pause } => {
                    again[partition] = true;
                    self.wait_for(partition, missing, pause).await?;
                }
            }
        }
        Ok(())
    }

    fn offer(&self, partition: usize, record: &ConsumerRecord) -> Offered {
        let value = record.value.as_deref().unwrap_or_default();
        let offset = u64::try_from(record.offset).unwrap_or_default();
        let seen = Seen { offset, face: face(value) };
        let step = self.positions.borrow_mut().step(partition, seen);
        match step {
            Step::Known => return Offered::Done,
            Step::Again => return Offered::Again,
            Step::Early { missing, pause } => return Offered::Early { missing, pause },
            Step::New => {}
        }
        if let Some(envelope) = envelope(record)
            && !self.give(partition, offset, envelope)
        {
            return Offered::NoRoom;
        }
        let given_up = self.positions.borrow_mut().took(partition, seen);
        if given_up > 0 {
            let topic = &self.reader.topic;
            tracing::warn!(
                "partition {partition} of topic {topic} has no records at the {given_up} offsets \
                 before {offset}: cleared away or compacted, or the broker has lost them"
            );
        }
        Offered::Done
    }

    /// `false`: there is no room.
    fn give(&self, partition: usize, offset: u64, envelope: &[u8]) -> bool {
        let lane = match self.way {
            Way::Ordered => {
                let place = Place { epoch: self.positions.borrow().epoch(partition), offset };
                return self.inlet.receive_placed(partition, place, envelope);
            }
            Way::LocalFirst => Lane::Partition(partition),
            Way::Control => Lane::Control,
        };
        self.inlet.receive(lane, envelope);
        true
    }

    async fn hold(&mut self, partition: usize, record: ConsumerRecord) {
        self.held[partition].push_back(record);
        self.pause(partition).await;
    }

    async fn pause(&self, partition: usize) {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        self.reader.consumer.pause(&self.reader.topic, &[number]).await;
    }

    async fn resume(&self, partition: usize) {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        self.reader.consumer.resume(&self.reader.topic, &[number]).await;
    }

    /// Lets a partition rest, and reads it then from the first record that is missing.
    async fn wait_for(
        &mut self,
        partition: usize,
        missing: u64,
        pause: Duration,
    ) -> Result<(), BrokerError> {
        self.inlet.count_reread();
        self.held[partition].clear();
        self.due[partition] = Some(Instant::now() + pause);
        self.pause(partition).await;
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let missing = i64::try_from(missing).unwrap_or(i64::MAX);
        let topic = &self.reader.topic;
        tracing::debug!("partition {number} of topic {topic} does not show offset {missing} yet");
        let sought = self.reader.consumer.seek(topic, number, missing).await;
        sought.map_err(|error| fault("reading what is missing again", &error))
    }

    async fn offer_held(&mut self, partition: usize) -> Result<(), BrokerError> {
        while let Some(record) = self.held[partition].pop_front() {
            match self.offer(partition, &record) {
                Offered::Done => {}
                Offered::NoRoom => {
                    self.held[partition].push_front(record);
                    return Ok(());
                }
                Offered::Again => {
                    self.rewind(partition).await?;
                    break;
                }
                Offered::Early { missing, pause } => {
                    return self.wait_for(partition, missing, pause).await;
                }
            }
        }
        self.resume(partition).await;
        Ok(())
    }

    async fn rewind(&mut self, partition: usize) -> Result<(), BrokerError> {
        self.held[partition].clear();
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let topic = &self.reader.topic;
        tracing::warn!("partition {number} of topic {topic} is another log: reading its start");
        let sought = self.reader.consumer.seek_to_beginning(topic, number).await;
        sought.map_err(|error| fault("reading from the start", &error))
    }
}
