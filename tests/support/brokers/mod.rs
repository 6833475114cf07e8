//! Real brokers, started by the tests themselves on free ports.
//!
//! In:    what a test does to a broker: kill it, stop it, start it again, make it slow.
//! Out:   where it is.
//! Never: outlives the test.
#![allow(dead_code, reason = "each test file uses its part of this")]

pub mod proxy;

use std::net::SocketAddr;

/// What a broker finds when it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Everything that it had acknowledged.
    Kept,
    /// Nothing.
    Lost,
}

/// A broker of the test's own. Dropping it ends it.
pub trait Broker {
    /// Where it listens, now and after a restart.
    fn address(&self) -> SocketAddr;

    /// What `broker.url` has to be for a box that reaches it at `address`.
    fn url(&self, address: SocketAddr) -> String;

    /// Ends it with SIGKILL, and waits until it is gone.
    fn kill(&mut self);

    /// Starts it again where it was; returns when it answers.
    fn restart(&mut self, data: Data);

    /// SIGSTOP.
    fn pause(&mut self);

    /// SIGCONT.
    fn resume(&mut self);
}
