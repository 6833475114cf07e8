//! One connection to RabbitMQ.
//!
//! In:    parcels; deliveries of the session's queue.
//! Out:   the same, at the server and in the inlet.
//! Never: lets deliveries pile up in the client, or outlives the first trouble.
//!
//! Two channels: what is published waits for its confirms, and no delivery waits behind it.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Consumer, Event, ExchangeKind,
    PublisherConfirm,
};

use super::super::{BrokerError, GivenUp, Inlet, Later, Parcel, Session};
use super::Names;
use super::remedy::explain;
use crate::bridge::Place;
use crate::broker::loss::{Loss, Task};
use crate::id::RoomKey;

/// Messages that the queue of a box may hold while it does not read; the oldest go first, and are
/// counted as gaps there.
const QUEUE_MESSAGES_MAX: i64 = 64 << 10;
/// The same, in bytes.
const QUEUE_BYTES_MAX: i64 = 64 << 20;
/// Deliveries that the server sends ahead of their acknowledgement: the bound of what waits in the
/// client.
const PREFETCH: u16 = 1024;
/// Deliveries that are acknowledged together while more are there: well below the prefetch, so that
/// the server never has to wait for it.
const ACK_EVERY: usize = 256;

/// A connection with its reader.
pub struct RabbitSession {
    names: Arc<Names>,
    publisher: Channel,
    loss: Arc<Loss>,
    // Tasks end before the channels and the connection close.
    _tasks: [Task; 2],
    _reader: Channel,
    _connection: Connection,
}

impl RabbitSession {
    /// Declares the exchange and the queue, binds, and consumes.
    ///
    /// # Errors
    /// The server refuses one of these, or the connection is lost.
    pub async fn open(
        connection: Connection,
        names: Arc<Names>,
        queue: ShortString,
        inlet: Arc<dyn Inlet>,
    ) -> lapin::Result<Self> {
        let loss = Arc::new(Loss::default());
        let watcher = Task::start(watch(connection.events_listener(), loss.clone()));
        let reader = connection.create_channel().await?;
        declare(&reader, &names, &queue).await?;
        reader.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let consumer =
            reader.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        let publisher = connection.create_channel().await?;
        publisher.confirm_select(ConfirmSelectOptions::default()).await?;
        let reading = Task::start(read(consumer, names.clone(), inlet, loss.clone()));
        Ok(Self {
            names,
            publisher,
            loss,
            _tasks: [watcher, reading],
            _reader: reader,
            _connection: connection,
        })
    }

    async fn send(&self, parcel: &Parcel) -> Result<PublisherConfirm, BrokerError> {
        let key = self.names.key(parcel.lane);
        let key = key.ok_or_else(|| BrokerError("there is no such partition".into()))?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = self
            .publisher
            .basic_publish(
                self.names.exchange.clone(),
                key.clone(),
                options,
                &parcel.envelope,
                BasicProperties::default(),
            )
            .await;
        sent.map_err(|error| self.loss.reason(lost(&error)))
    }

    async fn confirmed(&self, sent: PublisherConfirm) -> Result<(), BrokerError> {
        match sent.await.map_err(|error| self.loss.reason(lost(&error)))? {
            Confirmation::Ack(None) => Ok(()),
            // Nobody listens, not even this session: its queue is being taken away. The probe will
            // tell.
            Confirmation::Ack(Some(returned)) => {
                let key = returned.delivery.routing_key.as_str();
                tracing::debug!(key, "RabbitMQ had no queue for a message");
                Ok(())
            }
            Confirmation::Nack(_) => {
                Err(BrokerError("RabbitMQ did not take a message; look into its log".into()))
            }
            Confirmation::NotRequested => {
                Err(BrokerError("RabbitMQ does not confirm what is published".into()))
            }
        }
    }
}

async fn declare(channel: &Channel, names: &Names, queue: &ShortString) -> lapin::Result<()> {
    let exchange = &names.exchange;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let (kind, none) = (ExchangeKind::Direct, FieldTable::default());
    channel.exchange_declare(exchange.clone(), kind, options, none).await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut bounds = FieldTable::default();
    bounds.insert("x-max-length".into(), AMQPValue::LongLongInt(QUEUE_MESSAGES_MAX));
    bounds.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(QUEUE_BYTES_MAX));
    let overflow = LongString::from("drop-head");
    bounds.insert("x-overflow".into(), AMQPValue::LongString(overflow));
    channel.queue_declare(queue.clone(), options, bounds).await?;
    // The server works them off in order: when it answers the last, all are bound.
    for key in &names.said {
        let unanswered = QueueBindOptions { nowait: true };
        let none = FieldTable::default();
        channel.queue_bind(queue.clone(), exchange.clone(), key.clone(), unanswered, none).await?;
    }
    let (answered, none) = (QueueBindOptions { nowait: false }, FieldTable::default());
    channel.queue_bind(queue.clone(), exchange.clone(), names.control.clone(), answered, none).await
}

async fn watch(events: impl futures_util::Stream<Item = Event> + Send, loss: Arc<Loss>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::Error(error) => loss.lose(lost(&error)),
            Event::ConnectionBlocked(reason) => loss.lose(BrokerError(format!(
                "RabbitMQ takes no messages ({reason}): give the server memory or disk, or raise \
                 vm_memory_high_watermark or lower disk_free_limit"
            ))),
            _ => {}
        }
    }
    loss.lose(BrokerError("the connection to RabbitMQ was lost".into()));
}

fn lost(error: &lapin::Error) -> BrokerError {
    explain("its connection", error)
}

async fn read(mut deliveries: Consumer, names: Arc<Names>, inlet: Arc<dyn Inlet>, loss: Arc<Loss>) {
    let mut unacked: Option<(usize, Delivery)> = None;
    loop {
        let ready = deliveries.next().now_or_never();
        let must_ack = match (&unacked, &ready) {
            (Some((count, _)), Some(_)) => *count >= ACK_EVERY,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if must_ack && let Some((_, last)) = unacked.take() {
            let all = BasicAckOptions { multiple: true };
            if let Err(error) = last.acker.ack(all).await {
                return loss.lose(lost(&error));
            }
        }
        let next = match ready {
            Some(next) => next,
            None => deliveries.next().await,
        };
        let delivery = match next {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return loss.lose(lost(&error)),
            None => break,
        };
        if let Some(lane) = names.lane(delivery.routing_key.as_str()) {
            inlet.receive(lane, &delivery.data);
        }
        let count = unacked.map_or(0, |(count, _)| count) + 1;
        unacked = Some((count, delivery));
    }
    // The queue was deleted, or the channel closed.
    loss.lose(BrokerError("RabbitMQ ended the delivery of messages".into()));
}

impl Session for RabbitSession {
    fn publish<'a>(&'a self, parcels: &'a [Parcel]) -> Later<'a, Result<GivenUp, BrokerError>> {
        Box::pin(async move {
            let mut sent = Vec::with_capacity(parcels.len());
            for parcel in parcels {
                sent.push(self.send(parcel).await?);
            }
            for confirm in sent {
                self.confirmed(confirm).await?;
            }
            Ok(GivenUp::new())
        })
    }

    fn place<'a>(&'a self, _room: &'a RoomKey) -> Later<'a, Result<Place, BrokerError>> {
        let nothing = BrokerError("RabbitMQ keeps no log: there are no places".into());
        Box::pin(std::future::ready(Err(nothing)))
    }

    fn lost(&self) -> Later<'_, BrokerError> {
        Box::pin(self.loss.wait())
    }
}
