//! The Redis engine against real servers: `apt-get install redis-server`, version 7 or later.
//!
//! Not part of `cargo test`: `cargo test --test broker_redis`.
#![cfg(feature = "redis")]

mod support;

#[path = "broker_redis/ordered.rs"]
mod ordered;
#[path = "broker_redis/outage.rs"]
mod outage;
#[path = "broker_redis/pubsub.rs"]
mod pubsub;
#[path = "broker_redis/refusals.rs"]
mod refusals;
#[path = "broker_redis/scene.rs"]
mod scene;
#[path = "support/brokers/redis.rs"]
mod servers;
#[path = "broker_redis/several.rs"]
mod several;
