//! Turns plain HTTP requests into answers: health, readiness, files, refusals.
//!
//! In:    connected sockets with the bytes already read; a `HealthSource`; the folder of files.
//! Out:   responses; a socket that asks for an upgrade after all goes back to the shard.
//! Never: on the path of a message; knows a room, a shard's state or the configuration.
//!
//! A listener is crowded while more than half of its connections' bound are open. Then keep-alive
//! is off: a connection closes behind its response, and does not linger. So clients that hold their
//! connections and say nothing have half of the places at most, and a check of `/health` has the
//! other half. The admin listener has first requests to wait for too: when it becomes crowded it
//! lets go of the connections that are idle, and of those that have asked nothing within
//! `CROWDED_HEAD_TIMEOUT`.
//!
//! hyper speaks HTTP, axum routes, tower-http reads files: no home-made server here. This is the
//! only module that uses them.

use std::sync::Arc;
use std::time::Duration;

use crate::limits;

pub mod admin;
mod connection;
pub mod files;
mod gate;
pub mod health;
pub mod metrics;
pub mod public;
mod refusal;
pub mod statsd;
mod wire;

/// The routes of a listener, for whoever hands them on and does not look inside.
pub type Routes = axum::Router;

/// A response that its client takes no byte of for so long is given up, and its socket closed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a closing socket listens on, so that what the client still sends does not make the
/// kernel reset the connection and destroy the answer (RFC 9112 section 9.6).
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that a closing socket takes and drops in that time, at most.
pub const LINGER_BYTES_MAX: usize = 1 << 20;
/// Connections of the admin listener: a scraper, a supervisor and a few people.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// How long a crowded admin listener waits for the first request of a connection.
pub const CROWDED_HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept (no descriptors left), instead of a loop that spins on it.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one plain HTTP connection may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From the end of a response (or the start of the connection) to the first byte of the next
    /// request head, and from there to its end: a silent connection is closed, a slow head is 408.
    pub head_timeout: Duration,
    /// See [`STALL_TIMEOUT`].
    pub stall_timeout: Duration,
    /// See [`LINGER_TIMEOUT`].
    pub linger_timeout: Duration,
    /// Longest request head, in bytes (`handshake.head_bytes`).
    pub head_bytes: usize,
}

/// Bounds that may change while a connection lasts: asked for each of its heads.
pub type BoundsInForce = Arc<dyn Fn() -> Bounds + Send + Sync>;

impl Default for Bounds {
    fn default() -> Self {
        Self {
            head_timeout: limits::HTTP_HEAD_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
            linger_timeout: LINGER_TIMEOUT,
            head_bytes: limits::Limits::default().head_bytes,
        }
    }
}
