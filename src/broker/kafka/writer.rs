//! Puts envelopes into the topics, in order.
//!
//! In:    parcels; marks of a new session.
//! Out:   the broker's word that all of them are in the log; the offsets of marks.
//! Never: sends a batch without its predecessor's answer; leaves one under way when it is dropped.
//!
//! The library keeps the order of what is enqueued, a partition's batches one behind the other, and
//! may write a batch twice where its answer was lost: receivers drop what they had. Its idempotent
//! producer would write it once, but fails for good when a log comes back empty.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use krafka::producer::{Acks, DeliveryHandle, Producer};
use krafka::{CloseOptions, Kafka, Record};

use super::fault::{fault, refused_for_good};
use super::positions::{Seen, face};
use super::topics::Topics;
use super::{DELIVERY_TIMEOUT, REQUEST_TIMEOUT};
use crate::bridge::envelope::Node;
use crate::broker::{BrokerError, GivenUp, Lane, Parcel};
use crate::limits::PARTITIONS;

/// Key of the record that a session puts into each partition first; envelopes have no key.
const MARK: &str = "mark";
/// Longer than a batch takes to be put together: it is sent when the last of it is there.
const LINGER: Duration = Duration::from_millis(50);
/// Bytes of one batch of a partition: well below the 1 MiB that brokers take by default.
const BATCH_BYTES: usize = 512 << 10;

const _: () = assert!(DELIVERY_TIMEOUT.as_millis() >= (REQUEST_TIMEOUT.as_millis() + 50));

/// The offsets that a session's marks were given.
pub(super) struct Marks {
    pub(super) said: [Seen; PARTITIONS],
    pub(super) control: Seen,
}

/// Whether a record is a mark rather than an envelope.
pub(super) fn is_mark(key: Option<&Bytes>) -> bool {
    key.is_some()
}

/// A producer that ends when it is dropped.
pub(super) struct Writer {
    /// `None` once it is being dropped.
    producer: Option<Producer>,
    topics: Topics,
}

impl Writer {
    pub(super) async fn new(kafka: &Kafka, topics: Topics) -> Result<Self, BrokerError> {
        let producer = kafka
            .producer()
            .acks(Acks::All)
            .idempotent(false)
            .linger(LINGER)
            .batch_size(BATCH_BYTES)
            .delivery_timeout(DELIVERY_TIMEOUT)
            .max_block(DELIVERY_TIMEOUT)
            .metrics_push(false)
            .build()
            .await
            .map_err(|error| fault("starting to write", &error))?;
        Ok(Self { producer: Some(producer), topics })
    }

    /// Puts a mark into every partition. What is published from now on comes behind them.
    pub(super) async fn mark(&self, node: Node) -> Result<Marks, BrokerError> {
        let mut value = Vec::new();
        value.extend_from_slice(&node.id.to_le_bytes());
        value.extend_from_slice(&node.incarnation.to_le_bytes());
        value.extend_from_slice(&fastrand::u64(..).to_le_bytes());
        let value = Bytes::from(value);
        let face = face(&value);
        let lanes = (0..PARTITIONS).map(Lane::Partition).chain([Lane::Control]);
        let mut handles = Vec::with_capacity(PARTITIONS + 1);
        for lane in lanes {
            handles.push(self.enqueue(lane, value.clone(), Some(MARK)).await?);
        }
        self.seal();
        let mut said = [Seen { offset: 0, face }; PARTITIONS];
        let mut control = said[0];
        for (at, handle) in handles.into_iter().enumerate() {
            let taken = handle.await.map_err(|error| fault("writing a mark", &error))?;
            let offset = u64::try_from(taken.offset).map_err(|_| {
                BrokerError("the broker does not say at which offset it wrote a record".to_owned())
            })?;
            match said.get_mut(at) {
                Some(seen) => seen.offset = offset,
                None => control.offset = offset,
            }
        }
        Ok(Marks { said, control })
    }

    /// Publishes in order; resolves when all of them are in the log but those that it gives.
    pub(super) async fn publish(&self, parcels: &[Parcel]) -> Result<GivenUp, BrokerError> {
        let mut handles = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            handles.push(self.enqueue(parcel.lane, parcel.envelope.clone(), None).await?);
        }
        self.seal();
        let mut given_up = GivenUp::new();
        for (index, (handle, parcel)) in handles.into_iter().zip(parcels).enumerate() {
            match handle.await {
                Ok(_) => {}
                // Offered again it would be refused again, and everything behind it would wait for
                // ever: it is lost, and whoever waits for its sequence counts it.
                Err(error) if refused_for_good(&error) => {
                    let bytes = parcel.envelope.len();
                    let fault = fault("writing", &error);
                    tracing::error!("the broker refuses a message of {bytes} bytes: {fault}");
                    given_up.push(index);
                }
                Err(error) => return Err(fault("writing", &error)),
            }
        }
        Ok(given_up)
    }

    async fn enqueue(
        &self,
        lane: Lane,
        value: Bytes,
        key: Option<&'static str>,
    ) -> Result<DeliveryHandle, BrokerError> {
        let Some(producer) = &self.producer else {
            return Err(BrokerError("the session has ended".to_owned()));
        };
        let (topic, partition) = match lane {
            Lane::Partition(partition) => (&self.topics.said, partition),
            Lane::Control => (&self.topics.control, 0),
        };
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        let mut record = Record::new(topic, value).partition(partition);
        if let Some(key) = key {
            record = record.key(key);
        }
        producer.enqueue(record).await.map_err(|error| fault("writing", &error))
    }

    /// Sends what is enqueued without waiting for more.
    fn seal(&self) {
        if let Some(producer) = &self.producer {
            // The first poll says so to the library; to wait for the answers is the handles' part.
            let _ = producer.flush().now_or_never();
        }
    }
}

impl Drop for Writer {
    /// What has no answer yet is given up: the library would go on offering it for a while.
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(producer), Ok(runtime)) = (self.producer.take(), runtime) {
            runtime.spawn(async move {
                let at_once = CloseOptions::new().timeout(Duration::ZERO);
                let _ = producer.close_with(at_once).await;
            });
        }
    }
}
