//! What the tests against the real server stand on: the server, and clients with total control.
//!
//! In:    the binary that cargo built; what a test wants to send, down to the single byte.
//! Out:   what came back, or a panic that says what did not come.
//! Never: hangs (everything has a deadline), uses a fixed port, leaves a process running.
//!
//! A test file says `mod support;` and takes what it needs:
//!
//! ```ignore
//! let server = Server::start(&["--set", "client.message_bytes=1024"]);
//! let mut alice = Client::connect(server.address(), "/ws/lobby/alice");
//! alice.recv_type("joined");
//! ```
#![allow(dead_code, unused_imports, reason = "each test file uses its part of this")]

mod bystander;
mod client;
mod frame;
mod http;
mod notices;
pub mod promise;
mod server;

use std::time::{Duration, Instant};

pub use bystander::Bystander;
pub use client::{Client, End, upgrade_request};
pub use frame::{Frame, decode, encode, opcode};
pub use http::{Response, get, http};
pub use notices::Notices;
pub use server::Server;

/// How long anything may take before a test fails: far above what it takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Pause between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(5);

/// A temporary folder whose files a server that runs as somebody else may read too.
///
/// # Panics
/// If there is none to be had.
pub fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).expect("a folder of our own");
    folder
}

/// Looks again and again until the condition holds: the only place where tests poll.
///
/// For what a test cannot be told of, such as a counter of the server. It never makes a test pass
/// by waiting: a condition that holds is seen at once.
///
/// # Panics
/// If the condition does not hold within the deadline.
#[track_caller]
pub fn eventually(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < until, "not within {deadline:?}: {what}");
        std::thread::park_timeout(GLANCE);
    }
}
