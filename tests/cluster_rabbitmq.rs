//! Three boxes around a RabbitMQ, in every kind of trouble.
//!
//! Not part of `cargo test`: `cargo test --test cluster_rabbitmq`. Wants Debian's
//! `rabbitmq-server`: one for all cases, which takes ten seconds to start, so they are one test.
#![cfg(feature = "rabbitmq")]

#[path = "support/brokers/mod.rs"]
mod brokers;
#[path = "support/brokers/certificates.rs"]
mod certificates;
#[path = "support/cluster/mod.rs"]
mod cluster;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "support/brokers/rabbitmq.rs"]
mod server;
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use brokers::{Broker, Data};
use cluster::cases::{Case, Terms};
use ringhall::bridge::Delivery;
use server::RabbitMq;

impl Broker for RabbitMq {
    fn address(&self) -> SocketAddr {
        Self::address(self)
    }

    fn url(&self, address: SocketAddr) -> String {
        format!("amqp://guest:guest@{address}")
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn restart(&mut self, data: Data) {
        match data {
            Data::Kept => Self::restart(self),
            Data::Lost => self.restart_empty(),
        }
    }

    fn pause(&mut self) {
        Self::pause(self);
    }

    fn resume(&mut self) {
        Self::resume(self);
    }
}

#[test]
fn every_case_holds_around_one_server() {
    let back_within = Duration::from_secs(5);
    let terms = Terms { delivery: Delivery::LocalFirst, back_within };
    let mut server = RabbitMq::start();
    let cases = Case::ALL.iter().filter(|case| **case != Case::KilledWithData);
    cluster::every_one(cases.copied(), terms, &mut server);
}
