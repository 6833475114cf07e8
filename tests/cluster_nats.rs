//! Three boxes around a NATS server, in every kind of trouble.
//!
//! Not part of `cargo test`: `cargo test --test cluster_nats`. Wants `nats-server`, on the PATH
//! or named by `NATS_SERVER`.
#![cfg(feature = "nats")]

#[path = "support/brokers/mod.rs"]
mod brokers;
#[path = "support/brokers/certificates.rs"]
mod certificates;
#[path = "support/cluster/mod.rs"]
mod cluster;
#[macro_use]
#[path = "support/cluster/every_case.rs"]
mod every_case;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "support/brokers/nats.rs"]
mod server;
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use brokers::{Broker, Data};
use cluster::cases::{Case, Terms};
use ringhall::bridge::Delivery;
use server::Nats;

impl Broker for Nats {
    fn address(&self) -> SocketAddr {
        Self::address(self)
    }

    fn url(&self, address: SocketAddr) -> String {
        format!("nats://{address}")
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

fn run(delivery: Delivery, case: Case) {
    let terms = Terms { delivery, back_within: Duration::from_secs(2) };
    // Clients of one server come to the address that they were given.
    cluster::with_own_broker(case, terms, |_| Nats::start());
}

cluster_cases! {
    local_first: run(Delivery::LocalFirst);
    ordered: run(Delivery::Ordered);
}

#[test]
fn local_first_goes_on_where_it_was_after_a_kill() {
    run(Delivery::LocalFirst, Case::KilledWithData);
}

#[test]
fn ordered_goes_on_where_it_was_after_a_kill() {
    run(Delivery::Ordered, Case::KilledWithData);
}
