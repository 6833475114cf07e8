//! Three boxes around a broker of Kafka's protocol (Tansu), in every kind of trouble.
//!
//! Not part of `cargo test`: `cargo test --test cluster_kafka`. Wants Tansu, named by `TANSU` or on
//! the PATH.
#![cfg(feature = "kafka")]

#[path = "support/brokers/mod.rs"]
mod brokers;
#[path = "support/cluster/mod.rs"]
mod cluster;
#[macro_use]
#[path = "support/cluster/every_case.rs"]
mod every_case;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "support/brokers/tansu.rs"]
mod server;
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use brokers::{Broker, Data};
use cluster::cases::{Case, Terms};
use ringhall::bridge::Delivery;
use server::Tansu;

impl Broker for Tansu {
    fn address(&self) -> SocketAddr {
        Self::address(self)
    }

    fn url(&self, address: SocketAddr) -> String {
        format!("kafka://{address}")
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn restart(&mut self, data: Data) {
        assert_eq!(data, Data::Lost, "it holds its log in memory");
        Self::restart(self);
    }

    fn pause(&mut self) {
        Self::pause(self);
    }

    fn resume(&mut self) {
        Self::resume(self);
    }
}

fn run(delivery: Delivery, case: Case) {
    let terms = Terms { delivery, back_within: Duration::from_secs(2) };
    // Clients come to where the broker says that it is.
    cluster::with_own_broker(case, terms, Tansu::behind);
}

cluster_cases! {
    local_first: run(Delivery::LocalFirst);
    ordered: run(Delivery::Ordered);
}
