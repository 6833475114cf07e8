//! One session: a writer, and the tasks that read.
//!
//! In:    parcels; the ends of the tasks.
//! Out:   what the writer says; the first reason why the session is lost.
//! Never: outlives its tasks, or they it.

use std::cell::RefCell;
use std::rc::Rc;

use super::positions::Positions;
use super::writer::Writer;
use crate::bridge::envelope::partition;
use crate::bridge::{Delivery, Place};
use crate::broker::loss::{Loss, Task};
use crate::broker::{BrokerError, GivenUp, Later, Parcel, Session};
use crate::id::RoomKey;

/// A session that is well until one of its tasks ends.
pub(super) struct KafkaSession {
    writer: Writer,
    positions: Rc<RefCell<Positions>>,
    delivery: Delivery,
    loss: Rc<Loss>,
    tasks: Vec<Task>,
}

impl KafkaSession {
    pub(super) fn new(
        writer: Writer,
        positions: Rc<RefCell<Positions>>,
        delivery: Delivery,
    ) -> Self {
        Self { writer, positions, delivery, loss: Rc::default(), tasks: Vec::new() }
    }

    /// Runs a task of the session; when it ends, the session is lost for the reason it gives.
    pub(super) fn run(&mut self, task: impl Future<Output = BrokerError> + 'static) {
        let loss = Rc::clone(&self.loss);
        self.tasks.push(Task::start_local(async move { loss.lose(task.await) }));
    }
}

impl Session for KafkaSession {
    fn publish<'a>(&'a self, parcels: &'a [Parcel]) -> Later<'a, Result<GivenUp, BrokerError>> {
        Box::pin(self.writer.publish(parcels))
    }

    fn place<'a>(&'a self, room: &'a RoomKey) -> Later<'a, Result<Place, BrokerError>> {
        Box::pin(async move {
            if self.delivery != Delivery::Ordered {
                return Err(BrokerError("a room has a place in ordered delivery alone".to_owned()));
            }
            let (positions, partition) = (self.positions.borrow(), partition(&room.name));
            let offset = positions.newest(partition);
            Ok(Place { epoch: positions.epoch(partition), offset })
        })
    }

    fn lost(&self) -> Later<'_, BrokerError> {
        Box::pin(self.loss.wait())
    }
}
