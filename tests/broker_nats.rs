//! The NATS engine against real servers: `nats-server`, 2.10 or later, on the PATH or in
//! `NATS_SERVER`.
//!
//! Not part of `cargo test`: `cargo test --test broker_nats`.
#![cfg(feature = "nats")]

mod support;

#[path = "support/brokers/certificates.rs"]
mod certificates;
#[path = "support/brokers/ear.rs"]
mod ear;
#[path = "broker_nats/ordered.rs"]
mod ordered;
#[path = "broker_nats/outage.rs"]
mod outage;
#[path = "broker_nats/pubsub.rs"]
mod pubsub;
#[path = "broker_nats/refusals.rs"]
mod refusals;
#[path = "support/brokers/nats.rs"]
mod server;

use ringhall::bridge::Delivery;
use ringhall::broker::{Engine, nats};

use self::server::Nats;

/// The engine of the box with that number.
fn engine(server: &Nats, delivery: Delivery, number: u64) -> Box<dyn Engine> {
    nats::engine(&ear::options(&server.url(), delivery, number)).expect("an engine")
}
