//! The engine for Kafka's protocol, against the broker Tansu and against a fake one with faults.
//!
//! `tests/run` installs Tansu and runs this; plain `cargo test` leaves it out. Apache Kafka itself
//! is not among the servers that the tests can start.

#![cfg(feature = "kafka")]

mod support;

#[path = "support/brokers/certificates.rs"]
mod certificates;
#[path = "broker_kafka/delivery.rs"]
mod delivery;
#[path = "broker_kafka/faults.rs"]
mod faults;
#[path = "broker_kafka/gaps.rs"]
mod gaps;
#[path = "broker_kafka/outages.rs"]
mod outages;
#[path = "broker_kafka/peer.rs"]
mod peer;
#[path = "broker_kafka/refusals.rs"]
mod refusals;
#[path = "support/brokers/tansu.rs"]
mod tansu;
#[path = "broker_kafka/tls.rs"]
mod tls;
