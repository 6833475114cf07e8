//! One connection to NATS.
//!
//! In:    parcels; messages of the subscriptions.
//! Out:   the same, at the server and in the inlet.
//! Never: publishes two batches at once, or outlives the first trouble.
//!
//! NATS acknowledges nothing that is published. So a marker follows each batch on a subject that
//! this session alone listens to: the server takes what a connection sends in order, so when the
//! marker is back, it has taken the batch. (The client's own `flush` waits for the socket only.)

use std::cell::Cell;
use std::sync::Arc;

use async_nats::{Client, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

use super::super::{BrokerError, GivenUp, Inlet, Lane, Later, Parcel, Session};
use super::log::{Log, LogSession};
use super::signs::Signs;
use super::{Names, partition};
use crate::bridge::Place;
use crate::broker::loss::Task;
use crate::id::RoomKey;

/// What NATS adds to an envelope in its own limit: the headers of a message of a log.
const HEADERS_BYTES: usize = 256;

/// A connection with its readers.
pub struct NatsSession {
    client: Client,
    names: Arc<Names>,
    signs: Arc<Signs>,
    ack: Subject,
    /// Markers sent.
    markers: Cell<u64>,
    log: Option<LogSession>,
    readers: Vec<Task>,
}

impl NatsSession {
    /// A session that hears nothing yet.
    pub fn new(client: Client, names: Arc<Names>, signs: Arc<Signs>) -> Self {
        let ack = Subject::from_static("");
        let markers = Cell::new(0);
        Self { client, names, signs, ack, markers, log: None, readers: Vec::new() }
    }

    /// Subscribes to the control lane, to `ack` and, where `partitions`, to what is said; resolves
    /// when the server has taken the subscriptions.
    ///
    /// # Errors
    /// The session is lost, or the server does not permit a subject.
    pub async fn subscribe(
        &mut self,
        ack: String,
        partitions: bool,
        inlet: &Arc<dyn Inlet>,
    ) -> Result<(), BrokerError> {
        let markers = self.subscriber(&ack).await?;
        let signs = self.signs.clone();
        self.read(markers, move |_, payload| {
            if let Ok(number) = payload.try_into() {
                signs.ack(u64::from_le_bytes(number));
            }
        });
        self.ack = ack.into();
        let control = self.subscriber(&self.names.control.clone()).await?;
        let heard = inlet.clone();
        self.read(control, move |_, payload| heard.receive(Lane::Control, payload));
        if partitions {
            let said = self.subscriber(&self.names.every_said.clone()).await?;
            let heard = inlet.clone();
            self.read(said, move |subject, payload| {
                if let Some(partition) = partition(subject) {
                    heard.receive(Lane::Partition(partition), payload);
                }
            });
        }
        self.settle().await
    }

    /// Follows the log from where the last session stopped.
    ///
    /// # Errors
    /// JetStream is not there, or refuses the stream.
    pub async fn follow(&mut self, log: &Log, inlet: Arc<dyn Inlet>) -> Result<(), BrokerError> {
        let (following, reader) = log.follow(&self.client, inlet, self.signs.clone()).await?;
        self.log = Some(following);
        self.readers.push(reader);
        Ok(())
    }

    async fn subscriber(&self, subject: &str) -> Result<Subscriber, BrokerError> {
        let subscribed = self.client.subscribe(subject.to_owned()).await;
        subscribed.map_err(|error| self.signs.reason(&format!("NATS, `{subject}`: {error}")))
    }

    fn read(
        &mut self,
        mut messages: Subscriber,
        mut take: impl FnMut(&str, &[u8]) + Send + 'static,
    ) {
        let signs = self.signs.clone();
        self.readers.push(Task::start(async move {
            while let Some(message) = messages.next().await {
                take(&message.subject, &message.payload);
            }
            // The client's task has ended. Its events may have been lost among others.
            signs.lose("the connection to NATS was lost");
        }));
    }

    /// Waits until the server has taken whatever was sent before.
    async fn settle(&self) -> Result<(), BrokerError> {
        let number = self.markers.get() + 1;
        self.markers.set(number);
        self.send(self.ack.clone(), Bytes::copy_from_slice(&number.to_le_bytes())).await?;
        self.signs.acked(number).await
    }

    async fn send(&self, subject: Subject, payload: Bytes) -> Result<(), BrokerError> {
        let sent = self.client.publish(subject, payload).await;
        sent.map_err(|error| self.signs.reason(&format!("NATS: {error}")))
    }

    /// Whether the server takes a message of this size. One that it never takes must not end every
    /// session that tries; it is given up.
    fn fits(&self, parcel: &Parcel) -> bool {
        let (bytes, bytes_max) = (parcel.envelope.len(), self.client.max_payload());
        let fits = bytes + HEADERS_BYTES <= bytes_max;
        if !fits {
            tracing::warn!(
                bytes,
                bytes_max,
                "NATS takes no message of this size: raise the server's max_payload, or lower \
                 client.message_bytes"
            );
        }
        fits
    }
}

impl Session for NatsSession {
    fn publish<'a>(&'a self, parcels: &'a [Parcel]) -> Later<'a, Result<GivenUp, BrokerError>> {
        Box::pin(async move {
            let (mut logged, mut given_up) = (Vec::new(), GivenUp::new());
            let mut must_settle = false;
            for (index, parcel) in parcels.iter().enumerate() {
                if !self.fits(parcel) {
                    given_up.push(index);
                } else if let (Lane::Partition(partition), Some(log)) = (parcel.lane, &self.log) {
                    logged.push(log.publish(partition, &parcel.envelope).await?);
                } else if let Some(subject) = self.names.subject(parcel.lane) {
                    self.send(subject.clone(), parcel.envelope.clone()).await?;
                    must_settle = true;
                }
            }
            if let Some(log) = &self.log {
                log.settle(logged).await?;
            }
            if must_settle {
                self.settle().await?;
            }
            Ok(given_up)
        })
    }

    fn place<'a>(&'a self, _room: &'a RoomKey) -> Later<'a, Result<Place, BrokerError>> {
        Box::pin(async move {
            let log = self.log.as_ref();
            let nothing = || BrokerError("the delivery is not ordered: there are no places".into());
            log.map(LogSession::place).ok_or_else(nothing)
        })
    }

    fn lost(&self) -> Later<'_, BrokerError> {
        Box::pin(self.signs.lost())
    }
}
